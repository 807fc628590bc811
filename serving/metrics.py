"""What `/metrics` tells, in Prometheus' text format."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

BUCKETS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300)


class Metrics:
    """Counters of one server; a registry of its own, so that two servers in a process do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.responses = Counter(
            "motbench_responses", "Responses by route and status", ("route", "status"), registry=self.registry
        )
        self.pictures = Counter("motbench_pictures", "Pictures made", ("route",), registry=self.registry)
        self.waited = Histogram(
            "motbench_waited_seconds", "Time in line", ("route",), registry=self.registry, buckets=BUCKETS
        )
        self.worked = Histogram(
            "motbench_worked_seconds", "Time of work on a request", ("route",), registry=self.registry, buckets=BUCKETS
        )
        self.waiting = Gauge("motbench_waiting", "Requests in line or at work", registry=self.registry)

    def text(self) -> bytes:
        """The page."""
        return generate_latest(self.registry)
