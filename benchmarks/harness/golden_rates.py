"""Whether both rates of a case's limits were measured for the picture that is to become its golden."""

from __future__ import annotations

from benchmarks.harness import images
from benchmarks.harness.calibrate_files import stored
from benchmarks.harness.calibrate_propose import fitting
from benchmarks.harness.golden_case import GoldenCase
from benchmarks.harness.images import RGB
from benchmarks.harness.records import Rate


def measured(case: GoldenCase, dtype: str, picture: RGB) -> tuple[dict[str, Rate], str]:
    """The rates of false alarms and of detected faults of the limits that judge this case, or why there are none.

    The known-good runs must be of what the case asks today, and their drift be measured from this very picture.
    """
    cure = (
        f'; type: motbench golden calibrate --new-golden --dtype {dtype} --case {case.name} --reason "...", then commit'
    )
    record = case.record_of("drift", dtype)
    if record is None:
        return {}, f"its limits were set by hand, and how often they fail was never measured{cure}"
    if void := case.void("drift", dtype):
        return {}, void
    found = [fitting(case, one, dtype) for one in stored(case.folder.parent) if one.stack.name in record.stacks]
    pictures = {figures.picture for figures in found if figures}
    if images.fingerprint(picture) not in pictures:
        return {}, f"its rates were measured from another picture than this one{cure}"
    alarms, detection = record.alarms.get(f"drift {dtype}"), record.detection.get(dtype)
    if alarms is None or detection is None or not alarms.runs:
        return {}, f"its record holds no rates for {dtype}{cure}"
    return {"false alarms": alarms, "detected faults": detection}, ""
