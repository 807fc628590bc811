"""The whole model as data: denoising steps, pictures by stage and servers under load, one record per measurement.

`motbench step-time`, `picture-time` and `serve-bench` write results/step/, results/pictures/ and results/serving/.
Their records live beside the code that measures, which needs torch; here only what is shown is read of them, so that a
record with more in it can be shown too. What a record lacks is not measured.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.harness.records import FUSED, Environment, Provenance, from_dict

RECORDS = 20
"""Records of each kind that are shown, newest first; older ones stay in the results folder."""
SPREAD = ("mean", "median", "p90", "p99", "max")
DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}

T = TypeVar("T")


@dataclass(frozen=True)
class Way:
    """One way to make a step or a picture. seconds: the median; None where it was not measured, and `why` may say why.

    to_fused  how many times as long as the fused way; share: of the slowest way, for the bar
    of_floor  how much of what the card can do it reaches; None without a floor, or with another one
    """

    name: str
    seconds: float | None
    samples: int
    why: str = ""
    to_fused: float | None = None
    share: float = 0.0
    of_floor: float | None = None


@dataclass(frozen=True)
class Staged:
    """Seconds by stage of one picture, and their sum; share: of the longest such picture of its job."""

    way: str
    seconds: dict[str, float]
    total: float
    share: float


@dataclass(frozen=True)
class Job:
    """One step of a size, or one picture of a task. floor: seconds that the card's limits allow; None: has none.

    floor_share  of the slowest way, for the mark on the bars
    """

    name: str
    ways: list[Way]
    floor: float | None = None
    floor_share: float = 0.0
    facts: list[str] = field(default_factory=list)
    stages: list[Staged] = field(default_factory=list)

    @property
    def stage_names(self) -> list[str]:
        """Every stage that any way has, in order."""
        return list(dict.fromkeys(name for one in self.stages for name in one.seconds))


@dataclass(frozen=True)
class Measured:
    """One record of steps or pictures."""

    name: str
    provenance: Provenance
    dtype: str
    layers: int
    jobs: list[Job]

    @property
    def machine(self) -> str:
        """The card."""
        return self.provenance.environment.gpu or self.provenance.environment.cpu


@dataclass(frozen=True)
class Load:
    """One run of the load generator. latency and service: name of a statistic -> seconds, None if not measured.

    dots  the same latencies as shares of the largest that its table has
    """

    name: str
    server: str
    created: str
    commit: str
    task: str
    asked: str
    requests: int
    pictures: int
    failures: dict[str, int]
    per_second: float | None
    latency: dict[str, float | None]
    service: dict[str, float | None]
    dots: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Whole:
    """Everything that was measured of the whole model, newest first; damage: what cannot be read."""

    steps: list[Measured]
    pictures: list[Measured]
    loads: list[Load]
    damage: list[str]


def read(results: Path) -> Whole:
    """Every record below the results folder."""
    damage: list[str] = []
    steps = _read(results, "step", damage, _measured(_step))
    pictures = _read(results, "pictures", damage, _measured(_picture))
    loads = _read(results, "serving", damage, _load)
    longest = max((value for load in loads for value in load.latency.values() if value), default=math.inf)
    return Whole(steps, pictures, [_dotted(load, longest) for load in loads], damage)


def dtype_of(dtype: str, kind: str = "dense") -> str:
    """bf16, fp16, fp8 or int8: the kind of quantised experts, else the dtype in short."""
    return DTYPES.get(dtype, dtype) if kind == "dense" else kind


def _read(results: Path, folder: str, damage: list[str], make: Callable[[str, Any], T]) -> list[T]:
    found: list[tuple[str, T]] = []
    for path in sorted((results / folder).rglob("*.json")):
        name = path.relative_to(results).as_posix()
        try:
            record = json.loads(path.read_text())
            created = str((record.get("provenance") or record["client"])["created"])
            found.append((created, make(name, record)))
        except (ValueError, OSError, KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
            said = f"it has no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
            damage.append(f"{name} cannot be read: {said}")
    return [one for _, one in sorted(found, key=lambda pair: pair[0], reverse=True)[:RECORDS]]


def _measured(job: Callable[[Any, Any], Job]) -> Callable[[str, Any], Measured]:
    def make(name: str, record: Any) -> Measured:
        provenance: Provenance = from_dict(Provenance, record["provenance"])
        jobs = [job(record, point) for point in record["points"]]
        return Measured(name, provenance, str(record["dtype"]), int(record["layers"]), jobs)

    return make


def _step(record: Any, point: Any) -> Job:
    floor = float(point["flops"]) / float(record["ceilings"]["matrix"])
    facts = [f"{int(point['context'])} rows of context"]
    if point.get("errors"):
        facts.append(_errors(point["errors"]))
    if point.get("span"):
        facts.append(f"kernels run {float(point['busy']) / float(point['span']):.1%} of the fused step")
    facts += _memory(point)
    facts += [
        f"{kind}: {float(one['truth']):.2g} from the truth, the reference {float(one['truth_of_reference']):.2g}"
        for kind, one in point.get("quantised", {}).items()
    ]
    ways = _ways(point["samples"], point.get("failed", {}), floor)
    return Job(f"{int(point['m'])} rows", ways, floor, floor / _slowest(ways), facts)


def _picture(record: Any, point: Any) -> Job:
    facts = [_errors(point["errors"]) + " in one step"] if point.get("errors") else []
    facts += _memory(point)
    stages = {str(way): {str(k): float(v) for k, v in each.items()} for way, each in point.get("stages", {}).items()}
    longest = max((sum(each.values()) for each in stages.values()), default=0.0)
    staged = [Staged(way, each, sum(each.values()), sum(each.values()) / longest) for way, each in stages.items()]
    name = f"{point['task']}, {int(point['steps'])} steps"
    return Job(name, _ways(point["samples"], {}, None), facts=facts, stages=staged)


def _errors(errors: Any) -> str:
    return "error against float32: " + ", ".join(f"{name} {float(value):.2g}" for name, value in errors.items())


def _memory(point: Any) -> list[str]:
    return [f"{float(point['peak_bytes']) / 2**30:.1f} GiB at the most"] if point.get("peak_bytes") else []


def _ways(samples: Any, failed: Any, floor: float | None) -> list[Way]:
    medians = {str(name): statistics.median(map(float, values)) for name, values in samples.items() if values}
    fused, slowest = medians.get(FUSED), max(medians.values(), default=math.inf)
    ways = [
        Way(
            name,
            seconds,
            len(samples[name]),
            "",
            seconds / fused if fused else None,
            seconds / slowest,
            # Another precision and another amount of work have another floor.
            floor / seconds if floor and not name.startswith(f"{FUSED}, ") else None,
        )
        for name, seconds in medians.items()
    ]
    return ways + [Way(str(name), None, 0, str(why)) for name, why in failed.items()]


def _slowest(ways: Sequence[Way]) -> float:
    return max((way.seconds for way in ways if way.seconds is not None), default=math.inf)


def _load(name: str, record: Any) -> Load:
    summary, load, client, server = record["summary"], record["load"], record["client"], record["server"] or {}
    rate = load.get("request_rate")
    asked = f"{int(load['concurrency'])} at once" + (f", {float(rate):g} a second" if rate else "")
    fields = load.get("fields") or {}
    asked += "".join(f", {fields[key]}{unit}" for key, unit in _FIELDS.items() if fields.get(key))
    told = server.get("provenance") or {}
    environment: Environment = from_dict(Environment, (told or client)["environment"])
    machine = environment.gpu or environment.cpu if told else "a server that does not say where it runs"
    words = [server.get("impl"), dtype_of(str(server.get("dtype", "")), str(server.get("kind", "dense")))]
    what = ", ".join(str(word) for word in (server.get("model"), *words, machine) if word)
    latency, service = (_spread(summary[key]) for key in ("latency_seconds", "service_seconds"))
    return Load(
        name,
        what,
        str(client["created"]),
        str((told or client)["commit"]),
        str(record["task"]),
        asked,
        int(summary["requests"]),
        int(summary["pictures"]),
        {str(kind): int(number) for kind, number in summary["failures"].items()},
        _number(summary["pictures_per_second"]),
        latency,
        service,
    )


_FIELDS = {"size": "", "num_inference_steps": " steps"}


def _spread(values: Any) -> dict[str, float | None]:
    return {name: _number(values.get(name)) for name in SPREAD}


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _dotted(load: Load, longest: float) -> Load:
    dots = {name: value / longest for name, value in load.latency.items() if value is not None}
    return Load(**{**vars(load), "dots": dots})
