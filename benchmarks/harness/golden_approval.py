"""Who approved a golden or its limits, and why: what is written beside them, and what one stack has of its own."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.harness import records
from benchmarks.harness.golden_limits import Kind, Limits
from benchmarks.harness.stack import Stack

AllLimits = Mapping[Kind, Mapping[str, Limits]]
"""Parity and drift -> dtype -> limits."""


@dataclass(frozen=True)
class Approval:
    """Who approved the picture and why, how it was made, and every hash that must still hold.

    rgb               images.fingerprint of the picture: shape and sha256 of its raw RGB bytes
    metrics           metric -> implementation and version; definition is images.DEFINITION
    witness           who confirmed the picture, and `agreement` how closely, metric by metric
    previous, change  fingerprint of the golden before, and the new picture's metrics against it; empty at first
    asked             steps, schedule and checkpoint of the request, in words; empty in goldens before this was kept
    rates             false alarms and detected faults of the case's limits when it was approved; the same
    """

    approved_by: str
    reason: str
    created: str
    commit: str
    made_by: str
    environment: records.Environment
    checkpoint_sha256: str
    request_sha256: str
    input_rgb: str
    png_sha256: str
    rgb: str
    definition: int
    metrics: dict[str, str]
    witness: str
    agreement: dict[str, float]
    previous: str
    change: dict[str, float]
    asked: dict[str, str] = field(default_factory=dict)
    rates: dict[str, records.Rate] = field(default_factory=dict)

    @property
    def summary(self) -> dict[str, str]:
        """What a report shows of it."""
        return {
            "approved by": self.approved_by,
            "reason": self.reason,
            "created": self.created,
            "commit": self.commit,
            "made by": self.made_by,
            "confirmed by": self.witness,
            "torch": self.environment.torch,
            "machine": self.environment.gpu or self.environment.cpu,
            "checkpoint": self.checkpoint_sha256,
            "picture": self.rgb,
        }


@dataclass(frozen=True)
class LimitsRecord:
    """Who set limits and why, what they rest on, and what they were before.

    limits_sha256  of the limits that were set: limits that were edited since are refused
    figures        dtype -> hash of the known-good figures they were set from (calibrate_files.Figures.sha256)
    alarms         "parity float32" -> known-good runs outside, of all runs of the set, a prompt's own left out
    detection      dtype -> injected faults whose picture is outside these limits, and outside the old ones
    witness        who agrees that the reference's picture is right, within the new parity limits, and how closely
    old            the limits before, as kind -> dtype -> metric -> limit
    """

    set_by: str
    reason: str
    created: str
    commit: str
    stacks: list[str]
    request_sha256: str
    checkpoint_sha256: str
    definition: int
    limits_sha256: str
    figures: dict[str, str]
    alarms: dict[str, records.Rate]
    detection: dict[str, records.Rate]
    detection_before: dict[str, records.Rate]
    witness: str
    agreement: dict[str, float]
    old: dict[str, dict[str, dict[str, float]]]


@dataclass(frozen=True)
class Overlay:
    """What one stack has instead of the case's own: limits and, if its picture is another, a golden."""

    stack: Stack
    limits: dict[Kind, dict[str, Limits]]
    record: LimitsRecord | None
    golden: Approval | None


def given(limits: AllLimits) -> dict[str, dict[str, dict[str, float]]]:
    """Limits as case.json has them, without those that are not given."""
    return {kind: {dtype: one.given for dtype, one in of_kind.items()} for kind, of_kind in limits.items()}


def limits_sha256(limits: AllLimits) -> str:
    """A hash of limits, whatever the order of their names."""
    return hashlib.sha256(json.dumps(given(limits), sort_keys=True).encode()).hexdigest()


def edited(limits: AllLimits, record: LimitsRecord | None) -> str:
    """What is wrong if limits are not those of their record, or nothing. Limits without a record are set by hand."""
    if record is None or limits_sha256(limits) == record.limits_sha256:
        return ""
    return (
        f"its limits are {limits_sha256(limits)[:12]} but its record says {record.limits_sha256[:12]}: they were "
        "edited without measuring how often they fail; restore them, or use `motbench golden calibrate --reason`"
    )


def overlay_json(overlay: Overlay) -> dict[str, object]:
    """An overlay for records.write_json, limits without those that are not given."""
    own = {field.name: getattr(overlay, field.name) for field in dataclasses.fields(overlay)}
    return own | {"limits": given(overlay.limits)}
