"""What a run leaves behind: plain records as JSON, readable without torch.

A run is one folder, `results/runs/<run id>/`:

    run.json           Run: when, what was asked, each step's outcome, provenance
    doctor.json        list of Check
    conformance.jsonl  Conformance, one line per case: against the original BAGEL
    parity.jsonl       Parity, one line per op and case: fused against reference
    golden.jsonl       Golden, one line per judged picture
    drift.jsonl        Drift, one line per traced picture: those outside their limits, or else one that is not
    golden_watch.json  GoldenWatch: pictures that must differ, and limits that no run comes near
    selftest.json      Selftest: which injected faults the gate saw, and how often it cried wolf
    series.json        Profile: which series this machine is expected to measure, and which lie outside
    timing.jsonl       Timing, one line per benchmark process
    values.jsonl       Value, one line per benchmark process that measured something other than time
    stages.jsonl       Stages, one line per benchmark process that made whole pictures
    ops.jsonl          Stages, likewise: seconds by op of the contract
    <step>.log         what a step printed
    verdict.json       written by reports
    pictures/          what golden.jsonl names, relative to the run folder

A comparison of two commits is one folder, `results/comparisons/<id>/`: comparison.json (what was asked), timing.jsonl,
failures.jsonl (Failure, one line per process without a number), ops.jsonl, looks.jsonl (Look), decision.json; of a gate
also run.json, parity.jsonl, golden.jsonl and pictures/ as above, summary.md and junit.xml.

Every file is written to a temporary name and renamed; a JSON-lines file grows by whole lines, and a line cut short by a
kill is skipped by the reader and counted.
"""

import dataclasses
import functools
import hashlib
import json
import math
import os
import statistics
import tempfile
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

SCHEMA = 1
"""Version of every record below; readers refuse another."""

Status = Literal["pass", "regressed", "improved", "inconclusive", "not-measured"]
EXIT_CODES: dict[Status, int] = {"pass": 0, "improved": 0, "regressed": 1, "inconclusive": 3, "not-measured": 4}

T = TypeVar("T")


class SchemaError(ValueError):
    """A record of another schema version: never guessed at."""


@dataclass(frozen=True)
class Environment:
    """The machine and software that a number belongs to. Numbers of different fingerprints are never compared."""

    profile: Literal["cpu", "gpu"]
    os: str
    cpu: str
    cores: int
    python: str
    torch: str
    triton: str
    numpy: str
    gpu: str | None = None
    driver: str | None = None
    cuda: str | None = None
    pillow: str = ""

    @property
    def fingerprint(self) -> str:
        """12 hexadecimal digits that change with any field."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Provenance:
    """How a result was made. `created` is UTC, ISO 8601; `command` is what a person would type to repeat it."""

    commit: str
    dirty: bool
    environment: Environment
    protocol: int
    seed: int
    created: str
    command: str


@dataclass(frozen=True)
class Check:
    """One line of `motbench doctor`: what was looked at, what was found, and what to do if it is wrong."""

    name: str
    status: Literal["ok", "warning", "failed"]
    found: str
    cure: str = ""


@dataclass(frozen=True)
class Difference:
    """One compared field: largest and RMS difference beside their limits; a limit of None is not judged."""

    field: str
    worst: float
    rms: float
    limit_worst: float | None
    limit_rms: float | None
    ok: bool


@dataclass(frozen=True)
class Conformance:
    """One stored case of the original BAGEL replayed by `motbench parity`.

    not_compared  stored fields that the implementation was given, or has no counterpart of
    skipped       why the case cannot be judged in this dtype; `ok` is then False, because nothing was shown
    error         what the implementation raised instead of a result; nothing is compared then
    """

    case: str
    impl: str
    device: str
    dtype: str
    ok: bool
    seconds: float
    differences: list[Difference]
    not_compared: list[str] = field(default_factory=list)
    skipped: str = ""
    error: str = ""


@dataclass(frozen=True)
class Parity:
    """One op on one case: `impl` against the reference at one commit; reference_impl/tolerance.py sets the limits.

    reason  what the op raised instead of a result that can be compared; its errors are then infinite, its limits 0
    """

    op: str
    case: str
    impl: str
    device: str
    dtype: str
    tile: str
    worst: float
    rms: float
    limit_worst: float
    limit_rms: float
    ok: bool
    reason: str = ""


@dataclass(frozen=True)
class LatentError:
    """How far the latents (x_t: after the update) or the velocity (v_t) of one update, counted from 0, lie apart.

    relative_l2 and cosine are over all values of the update, worst is the largest difference; all in float64.
    """

    field: Literal["x_t", "v_t"]
    step: int
    relative_l2: float
    cosine: float
    worst: float


@dataclass(frozen=True)
class Rate:
    """`seen` of `runs`, and the share's one-sided Clopper-Pearson bounds: at least `low`, at most `high`, each at 95 %.

    Example: 0 of 299 has high = 0.00997. Both are NaN without runs.
    """

    seen: int
    runs: int
    low: float
    high: float


@dataclass(frozen=True)
class KnownGood:
    """The known-good runs that the limits of a golden rest on: reorderings that `motbench golden calibrate` measured.

    A run's score is the largest share of a limit that any of its metrics used: over 1 is outside.

    stack   device, attention backend and torch on which they were measured; "base" for the widest of all such stacks
    note    what a reader must know of these limits, such as that this machine's stack was never measured; else empty
    runs    how many there are, over the whole set of cases; `prompts` is of how many prompts
    alarms  how many of them are outside limits that were set without their own prompt
    by_prompt  the same with a prompt as the unit: prompts with any alarm
    scores  of this case's own runs, for a histogram
    """

    stack: str
    runs: int
    prompts: int
    alarms: Rate
    by_prompt: Rate
    scores: list[float]
    note: str = ""


@dataclass(frozen=True)
class Golden:
    """One picture or answer judged: `against` the reference implementation (parity) or the approved golden (drift).

    metrics and limits share names; a metric without a limit is reported only. `reason` says what failed, `reproduce`
    is one line to type. pictures: "expected", "actual", "difference", "flip" (FLIP's error of every pixel),
    "side by side" -> path relative to the run folder; the difference is multiplied by `amplified`. latents: one error
    per update and field, where both trajectories are known (parity).

    words       the verdict in words: "identical", "compatible with reordering (p = 0.2, 320 known-good runs)",
                "outside: first at step 7, layer 3, image expert, o, conditional branch (...)" or "not measured: ..."
    score       largest share of a limit that any metric used: over 1 is outside; None if nothing was judged
    p           share of known-good runs, this one among them, that used at least as much of their limits
    known_good  what the limits rest on; None for limits that were set by hand
    texts       of a question about a picture: "expected" and "actual" answer; its picture is "input"
    """

    case: str
    task: Literal["t2i", "img2img", "understand"]
    prompt: str
    impl: str
    against: Literal["reference", "golden"]
    status: Status
    reason: str
    reproduce: str
    metrics: dict[str, float]
    limits: dict[str, float]
    metric_versions: dict[str, str]
    identical: bool
    pictures: dict[str, str]
    seconds: float
    golden_provenance: dict[str, str] = field(default_factory=dict)
    device: str = ""
    dtype: str = ""
    amplified: int = 1
    latents: list[LatentError] = field(default_factory=list)
    words: str = ""
    score: float | None = None
    p: float | None = None
    known_good: KnownGood | None = None
    texts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DriftStep:
    """One update of a trace, relative L2 against the truth (harness/trace.py), and what known-good runs allow.

    local  of the guided velocity, from the truth's latent; free: of the latent, running freely; gain: by what the
           update multiplied the free error, NaN at first
    """

    step: int
    local: float
    limit_local: float
    free: float
    limit_free: float
    gain: float


@dataclass(frozen=True)
class Drift:
    """Where a picture of `impl` comes apart from the truth, update by update.

    branches  name of a guidance branch -> local error of its velocity, per update
    between   relative L2 between the free-running latents of `impl` and `against`, per update
    outside   tensors over their limit in the first update that has one, in words, first ones first
    """

    case: str
    impl: str
    against: str
    device: str
    dtype: str
    truth: str
    verdict: Literal["identical", "compatible with reordering", "outside", "not measured"]
    sentence: str
    reproduce: str
    steps: list[DriftStep]
    branches: dict[str, list[float]]
    between: list[float]
    outside: list[str]


@dataclass(frozen=True)
class Control:
    """Two pictures that must differ, judged as any other: a gate that passes them is blind.

    outside  whether they were told apart; None if they could not be judged, and `reason` says why
    """

    name: str
    what: str
    outside: bool | None
    reason: str


@dataclass(frozen=True)
class StaleLimit:
    """A limit that the last `runs` pictures that moved at all stayed far below: it no longer says what is normal.

    p99, largest  of their scores (Golden.score)
    """

    case: str
    impl: str
    against: str
    device: str
    dtype: str
    runs: int
    p99: float
    largest: float


@dataclass(frozen=True)
class GoldenWatch:
    """What is watched about the gate itself, beside its self-test."""

    controls: list[Control]
    stale: list[StaleLimit]
    schema: int = SCHEMA


Tier = Literal["op parity", "fp32 trace", "picture"]
TIERS: tuple[Tier, ...] = ("op parity", "fp32 trace", "picture")
"""What may see a fault: an op against the reference on named inputs (motbench ops), the tensors of a golden case in
float32 against the truth (motbench trace), and the picture and its latents (motbench golden check).
"""


@dataclass(frozen=True)
class Detection:
    """Runs of one kind: an injected fault, or a family of held-out runs that are right by construction.

    name     of the fault or the family; what says what is changed, in words
    part     what a fault changes: the implementation (ops) or the pipeline around it; "" for a good family
    tier     which must see a fault; "" for a good family, which none may see
    seen     runs seen by that tier; of a good family by any: false alarms
    tiers    the same for every tier alone
    metrics  for every metric of the picture tier alone, by the case's limit for it
    gates    for other projects' rules for pictures (benchmarks/harness/public_gates.py)
    wrong    one line to type for each fault that was missed, or for each false alarm
    """

    name: str
    what: str
    part: Literal["implementation", "pipeline", ""]
    tier: Literal["op parity", "fp32 trace", "picture", ""]
    seen: Rate
    tiers: dict[str, Rate]
    metrics: dict[str, Rate]
    gates: dict[str, Rate]
    wrong: list[str] = field(default_factory=list)


Form = Literal["full", "reduced", "some faults", "some cases"]
"""What a self-test ran: every fault on every case; each on one case, which fits a night; the faults that were named on
every case; and on the cases that were named, every fault or those. Older records call the last two "reduced"."""


@dataclass(frozen=True)
class Selftest:
    """The gate's own test: every class of injected fault, and held-out good runs, on golden cases.

    form        what was run: all there is, each fault once, or what was named
    good        families of held-out good runs
    alarms      false alarms of all good runs together, by any tier, with the same split by tier, metric and gate
    identical   further good runs that are the reference bit for bit: they test no limit, and count nowhere
    status      pass: every fault is seen by its tier in at least 95 % of its runs, and at most 1 % of the good runs
                alarm; reason says what is missed
    """

    form: Form
    impl: str
    device: str
    dtype: str
    cases: list[str]
    faults: list[Detection]
    good: list[Detection]
    alarms: Detection
    status: Status
    reason: str
    reproduce: str
    seconds: float
    identical: int = 0
    schema: int = SCHEMA


@dataclass(frozen=True)
class Clock:
    """What the GPU did during each sample that counts (harness/gpu_clock.py); the lists are as long as the samples.

    usual_mhz  SM clock of the warm-up, the median
    reasons    why the clock was held down, in words; empty where it was not
    discarded  how many samples do not count, by reason
    others     other processes that computed on the device before or after; None where that could not be seen
    """

    usual_mhz: float
    sm_mhz: list[int]
    temperature_c: list[int]
    power_w: list[float]
    reasons: list[str]
    discarded: dict[str, int]
    others: list[str] | None = None


@dataclass(frozen=True)
class Timing:
    """The samples that one benchmark process returned, with what asv's flat list loses. Samples in seconds.

    side, order  in a comparison (harness/rounds.py): which side of the round this process measured, and its place in
                 the round, counted from 0; elsewhere empty
    kernels      hash of every kernel that was compiled for it; empty where none was, or on a CPU
    compile_seconds  of these kernels together; None if none was compiled anew
    clock        of the GPU; None where it was not measured
    """

    benchmark: str
    params: dict[str, str]
    commit: str
    fingerprint: str
    protocol: int
    round: int
    pid: int
    created: str
    samples: list[float]
    tile: str
    peak_memory_bytes: int | None = None
    side: str = ""
    order: int = 0
    kernels: str = ""
    compile_seconds: float | None = None
    clock: Clock | None = None


@dataclass(frozen=True)
class Failure:
    """A process of a comparison that returned no number. kind: the commit lacks it, it broke, or it took too long."""

    benchmark: str
    params: dict[str, str]
    commit: str
    side: str
    round: int
    kind: Literal["absent", "broken", "timeout"]
    reason: str


@dataclass(frozen=True)
class Look:
    """What one side of a comparison runs in a series, looked at before anything is timed (`--skip-unchanged`).

    kernels   as Timing.kernels
    launches  hash of what one call launches, in order: names, grids and blocks; empty where that cannot be seen
    """

    benchmark: str
    params: dict[str, str]
    commit: str
    fingerprint: str
    side: str
    kernels: str
    launches: str


@dataclass(frozen=True)
class Series:
    """One benchmark with one set of parameters; `reason` says why it lies outside a profile.

    `benchmark` is asv's name (`linear.Linear.track_time`), `params` its parameters by name, as plain text.
    """

    benchmark: str
    params: dict[str, str]
    reason: str = ""

    @property
    def label(self) -> str:
        """The text that asv matches --bench with: `linear.track_seconds('qkv', 'reference', 'small', 'hot')`."""
        return f"{self.benchmark}({', '.join(repr(value) for value in self.params.values())})"


@dataclass(frozen=True)
class Profile:
    """What a machine is expected to measure. A missing expected series is not-measured; one outside is only listed.

    A series is measured when it has a line in timing.jsonl or, for what is not a time, in values.jsonl.
    """

    expected: list[Series]
    outside: list[Series]
    schema: int = SCHEMA


@dataclass(frozen=True)
class Value:
    """One number that a benchmark process returned and that is not a time: a difference, a similarity, bytes."""

    benchmark: str
    params: dict[str, str]
    commit: str
    fingerprint: str
    protocol: int
    round: int
    pid: int
    created: str
    value: float
    unit: str


@dataclass(frozen=True)
class Stages:
    """Where the time of a whole picture went in one benchmark process: stage -> seconds, in order."""

    benchmark: str
    params: dict[str, str]
    commit: str
    fingerprint: str
    protocol: int
    round: int
    pid: int
    created: str
    seconds: dict[str, float]


@dataclass(frozen=True)
class Step:
    """One step of the main job. `reason` is one sentence when the status is not pass."""

    name: str
    status: Status
    seconds: float
    reason: str = ""


@dataclass(frozen=True)
class Run:
    """One run of the main job. `stored` is False for a dirty tree: shown, but never a baseline."""

    run_id: str
    started: str
    finished: str
    stored: bool
    provenance: Provenance
    steps: list[Step]
    schema: int = SCHEMA


FUSED, DENSE, GATHER, COPY = "fused", "dense", "gather/scatter", "copy"
"""Ways to compute a routed layer that a roofline always has; gather/scatter is the reference implementation."""


@dataclass(frozen=True)
class Ceilings:
    """What the card does at best: a large product in flop/s, and a large copy in bytes/s, read and written.

    matrix is of the roofline's dtype, fp8 of 8-bit floats; None where that was not asked for.
    """

    matrix: float
    copy: float
    fp8: float | None = None

    def rate(self, kind: str) -> float:
        """flop/s of products with experts of this kind. Raises ValueError if that was not measured."""
        if kind != "fp8":
            return self.matrix
        if self.fp8 is None:
            raise ValueError("no fp8 product was measured on this card; measure the roofline again with --kind fp8")
        return self.fp8


@dataclass(frozen=True)
class Explanation:
    """Where the time of a routed layer goes, in parts that add up: fused = arithmetic + all parts, and
    fused / rival - 1 = (all parts - rival_beyond) / rival. Seconds, but where a name says otherwise.

    blocks, tiles, pieces     thread blocks; tiles of the image rows; ranges of K that the last of them are cut into
    longest_steps, mean_steps steps of K of the block with most, and of all blocks on average, padding left out
    step_seconds, step_cycles how time grows with each step; None: no clock was read
    needed_cycles             of the tensor cores for a step; None in records from before it was kept
    rival, rival_beyond       all rows through one expert, by its name in the samples; what it takes beyond arithmetic
    mhz                       the SM clock, of fused and rival
    text_bytes                the text expert's weights, which the rival does not read
    cold_seconds              what image rows take beyond the same with weights that L2 holds, as far as it can
    arithmetic                the image rows' products at the card's measured matrix rate
    parts                     what fused takes beyond, by name (benchmarks/harness/explain.py)
    samples                   of each variant of the launch
    """

    blocks: int
    tiles: int
    pieces: int
    longest_steps: int
    mean_steps: float
    step_seconds: float
    step_cycles: float | None
    mhz: dict[str, float]
    text_bytes: float
    cold_seconds: float
    arithmetic: float
    parts: dict[str, float]
    rival: str
    rival_beyond: float
    samples: dict[str, list[float]]
    needed_cycles: float | None = None


@dataclass(frozen=True)
class RooflinePoint:
    """One layer or op at one size. samples: seconds per call, by candidate, in the order of the rounds.

    flops and bytes are the least that the fused way must do: every row times its expert, every operand once. kind is
    the experts'.
    """

    m: int
    n_text: int
    name: str
    tile: str
    flops: float
    bytes: float
    samples: dict[str, list[float]]
    kind: str = "dense"
    explained: Explanation | None = None

    def median(self, candidate: str) -> float:
        """Seconds."""
        return statistics.median(self.samples[candidate])

    def floor(self, ceilings: Ceilings) -> float:
        """Seconds below which nothing can be: the larger of arithmetic and memory."""
        return max(self.flops / ceilings.rate(self.kind), self.bytes / ceilings.copy)


@dataclass(frozen=True)
class Roofline:
    """Everything of one `motbench roofline`, which keeps it in `results/roofline/<time>.json`."""

    provenance: Provenance
    dtype: str
    ceilings: Ceilings
    points: list[RooflinePoint]


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` so that `path` holds either the old content or all of the new one."""
    write_together({path: data})


def write_together(files: Mapping[Path, bytes]) -> None:
    """Write files that belong together: each in full beside its place, then all are renamed.

    What cannot be written leaves every path as it was. Only the renames are one by one: a kill between two of them, or
    one that is refused, leaves old files beside new ones, each of them whole.
    """
    waiting: dict[Path, str] = {}
    try:
        for path, data in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, waiting[path] = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(waiting[path], 0o644)
        for path in files:
            os.replace(waiting[path], path)
            del waiting[path]
    except BaseException:
        for temporary in waiting.values():
            os.unlink(temporary)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write a record, or a list or dict of records, as indented JSON. NaN is written as null."""
    write_atomic(path, (json.dumps(plain(value), indent=1, allow_nan=False) + "\n").encode())


def append_line(path: Path, record: Any) -> None:
    """Append one record as one line of JSON in a single write; half a line that a kill left behind is closed first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(plain(record), allow_nan=False) + "\n"
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else f"\n{line}"
        file.write(line.encode())


def read_json(path: Path, kind: type[T]) -> T:
    """Read one record. Raises SchemaError, or ValueError naming the file if it is not JSON or not of that kind."""
    try:
        record: T = from_dict(kind, json.loads(path.read_text()))
    except SchemaError as error:
        raise SchemaError(f"{path}: {error}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is not a {kind.__name__} record: {error}; delete it and run again") from error
    return record


def read_lines(path: Path, kind: type[T]) -> tuple[list[T], int]:
    """All whole records of a JSON-lines file, and how many lines could not be read. A missing file is empty."""
    records: list[T] = []
    broken = 0
    if not path.exists():
        return records, broken
    for line in path.read_text(errors="replace").splitlines():
        try:
            records.append(from_dict(kind, json.loads(line)))
        except (ValueError, TypeError, KeyError, AttributeError):
            broken += 1
    return records, broken


def from_dict(kind: Any, value: Any) -> Any:
    """Rebuild a record, checking names and the types of scalars. A null float becomes NaN."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        if value not in args:
            raise TypeError(f"{value!r} is not one of {args}")
        return value
    if origin in (typing.Union, types.UnionType):
        return None if value is None else from_dict(next(arg for arg in args if arg is not type(None)), value)
    if origin is list:
        return [from_dict(args[0], item) for item in value]
    if origin is tuple:
        return tuple(from_dict(arg, item) for arg, item in zip(args, value, strict=True))
    if origin is dict:
        return {str(key): from_dict(args[1], item) for key, item in value.items()}
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise TypeError(f"{type(value).__name__} is not an object")
        if "schema" in value and value["schema"] != SCHEMA:
            raise SchemaError(f"schema {value['schema']} is not {SCHEMA}; use the motbench version that wrote it")
        hints = _fields(typing.cast(type, kind))
        if unknown := value.keys() - hints.keys():
            raise TypeError(f"unknown fields {sorted(unknown)}")
        return kind(**{name: from_dict(hints[name], item) for name, item in value.items()})  # type: ignore[operator]
    if kind is float:
        return float("nan") if value is None else float(value)
    if kind in (int, str, bool) and not isinstance(value, kind):
        raise TypeError(f"{value!r} is not {kind.__name__}")
    return value


@functools.cache
def _fields(kind: type) -> dict[str, Any]:
    """Name and type of every field; looked up once, because a results folder holds a hundred thousand records."""
    hints = typing.get_type_hints(kind)
    return {f.name: hints[f.name] for f in dataclasses.fields(kind)}


def plain(value: Any) -> Any:
    """A record, or a list or dict of records, as what json writes; a number that is none is null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
