"""Writing new limits: refused without a reason, in a dirty tree, without both rates, or if the witness disagrees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch

import reference_impl
from benchmarks.harness import calibrate_files, goldens, images
from benchmarks.harness.calibrate import Maker, candidate
from benchmarks.harness.calibrate_files import Population
from benchmarks.harness.calibrate_propose import Change, Signed, overlay_of, rates, records_of
from benchmarks.harness.golden_accept import Approver
from benchmarks.harness.golden_approval import given
from benchmarks.harness.golden_case import write_fields, write_overlay
from benchmarks.harness.golden_manifest import unnamed
from benchmarks.harness.goldens import Made
from benchmarks.harness.stack import here
from reference_impl.tolerance import truth_dtype


def refusals(changes: Sequence[Change], population: Population, reason: str) -> list[str]:
    """Why these limits may not be set, one sentence each."""
    found = []
    dtypes = sorted({dtype for change in changes for dtype in change.detection})
    for name, alarm in rates([population], dtypes).alarms.items():
        if alarm.runs == 0:
            found.append(
                f"the rate of false alarms in {name} was not measured: it takes known-good runs of two prompts at "
                "least; type: motbench golden calibrate, without --case"
            )
    total = {dtype: sum(change.detection[dtype].runs for change in changes) for dtype in dtypes}
    found += [
        f"the rate of detected faults in {dtype} was not measured: no fault was injected; measure all cases together"
        for dtype, runs in total.items()
        if runs == 0
    ]
    for change in changes:
        if lost := sorted({name for name in change.lost if name not in reason}):
            found.append(
                f"{change.case.name}: the new limits no longer see {', '.join(lost)}, which the old ones see; name it "
                "in --reason if it is meant"
            )
        if said := unnamed(change.case, reason):
            found.append(said)
    return found


def witnessed(change: Change, stack: str) -> tuple[str, str, dict[str, float]]:
    """Who confirms the golden under the new limits, why not if not, and how closely.

    The witness is the reference on a CPU in a wider dtype than the golden's. Where drift was not measured from the
    golden, it is the picture that would become it.
    """
    case, cpu = change.case, torch.device("cpu")
    wider = truth_dtype(getattr(torch, case.request.dtype))
    make = Maker(case, cpu)
    approved = goldens.approved(case).picture
    held = approved is not None and images.fingerprint(approved) in change.pictures
    golden = approved if approved is not None and held else candidate(make)
    own = change.overlay if here(cpu).name == stack else change.base
    limits = own["drift"].get(case.request.dtype) or change.base["drift"].get(case.request.dtype)
    found = goldens.compare(Made(golden), make(reference_impl.OPS, wider), limits.given if limits else None)
    name = f"reference in {str(wider).removeprefix('torch.')} on cpu"
    refusal = "" if found.status == "pass" else f"{case.name}: {name} does not confirm the golden: {found.reason}"
    return name, refusal, {metric: value for metric, value in found.values.items() if math.isfinite(value)}


def apply(root: Path, changes: Sequence[Change], populations: Sequence[Population], by: Approver) -> None:
    """Write figures, overlays, base limits and records below `root`, the folder of goldens.

    populations: the new one first, then those of other stacks. Raises ValueError, and writes nothing, if it is refused.
    """
    refused = refusals(changes, populations[0], by.reason)
    agreed = [witnessed(change, populations[0].stack.name) for change in changes]
    refused += [refusal for _, refusal, _ in agreed if refusal]
    if refused:
        raise ValueError(f"no limit was changed: {'; '.join(refused)}")
    calibrate_files.write(calibrate_files.path_of(root, populations[0].stack), populations[0])
    for change, (witness, _, agreement) in zip(changes, agreed, strict=True):
        signed = Signed(by.name, by.reason, by.commit, witness)
        own, base = records_of(change, populations, signed, agreement)
        write_overlay(change.case, overlay_of(change, populations[0], own))
        write_fields(change.case, limits=given(change.base), limits_record=base)
