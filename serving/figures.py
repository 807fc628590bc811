"""What a run of the load generator amounts to."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from serving.load import Answer

ENOUGH = {50: 1, 90: 10, 99: 100}
"""Samples without which a percentile would only repeat the largest one."""


def summary(answers: Sequence[Answer]) -> dict[str, Any]:
    """Counts, throughput and seconds; null is "not measured".

    latency  from arrival to the whole answer, waiting for a slot included: what a user feels
    service  from sending to the whole answer
    Throughput is good pictures over the time from the first arrival to the last answer.
    """
    good = [answer for answer in answers if not answer.kind]
    span = max((a.done for a in answers), default=0.0) - min((a.due for a in answers), default=0.0)
    return {
        "requests": len(answers),
        "pictures": len(good),
        "failures": dict(sorted(Counter(a.kind for a in answers if a.kind).items())),
        "seconds": span,
        "pictures_per_second": len(good) / span if good and span > 0 else None,
        "latency_seconds": spread([a.done - a.due for a in good]),
        "service_seconds": spread([a.done - a.sent for a in good]),
    }


def spread(seconds: Sequence[float]) -> dict[str, float | None]:
    """Mean, median, p90, p99 and largest; a percentile of too few samples is null."""
    values = np.asarray(seconds, dtype=float)
    found: dict[str, float | None] = {"mean": float(values.mean()) if len(values) else None}
    for q, least in ENOUGH.items():
        found["median" if q == 50 else f"p{q}"] = float(np.percentile(values, q)) if len(values) >= least else None
    return found | {"max": float(values.max()) if len(values) else None}
