"""Approving a golden: only with a reason, from a clean tree, and with a picture that an independent witness confirms.

The witness is the reference implementation in a wider dtype (float64 for a float32 golden): it shares neither kernels
nor rounding with the picture that it confirms.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.harness import environment, images
from benchmarks.harness.golden_approval import Approval, Overlay
from benchmarks.harness.golden_case import (
    CASE,
    EXPECTED,
    GOLDENS,
    INPUT,
    STACKS,
    GoldenCase,
    checkpoint_sha256,
    write_approval,
    write_overlay,
)
from benchmarks.harness.golden_manifest import asked, unnamed
from benchmarks.harness.golden_rates import measured
from benchmarks.harness.goldens import Finding, Made, Plan, compare, painter
from benchmarks.harness.records import Rate, write_atomic
from benchmarks.harness.stack import Stack
from reference_impl.tolerance import truth_dtype


@dataclass(frozen=True)
class Approver:
    """Who approves, why, and at which commit. Made by `approver`, which refuses what may not approve."""

    name: str
    reason: str
    commit: str


@dataclass(frozen=True)
class Proposal:
    """A new picture: what the witness found, and the old golden with the new picture's metrics against it.

    agreed    the picture against the witness's, judged by the case's parity limits
    rates     false alarms and detected faults of its limits with this picture; else `unmeasured` says why not
    previous  fingerprint of the old golden, empty if there is none; `change` is empty then, and for another size
    """

    case: GoldenCase
    plan: Plan
    agreed: Finding
    witness: str
    previous: str
    change: dict[str, float]
    rates: dict[str, Rate]
    unmeasured: str

    @property
    def refusal(self) -> str:
        """Why the picture may not become the golden, or nothing."""
        if self.agreed.status != "pass":
            return f"{self.case.name}: {self.witness} does not confirm the picture: {self.agreed.reason}"
        return f"{self.case.name}: {self.unmeasured}" if self.unmeasured else ""


def approver(root: Path, reason: str, cases: Sequence[str] = ()) -> Approver:
    """The person that git names, at HEAD. Raises ValueError without a reason, without a name, or for a dirty tree.

    A tree is dirty if a tracked file outside golden_images/, or the request or input of one of `cases` differs from
    HEAD: the commit would not say how the picture was made.
    """
    if not reason.strip():
        raise ValueError("a golden needs a reason: --reason says why the new picture is right, and is kept with it")
    changed = environment.git(
        root, "status", "--porcelain", "--untracked-files=no", "--", ".", f":(exclude){GOLDENS}"
    ).splitlines()
    if named := [f"{GOLDENS}/{case}/{file}" for case in cases for file in (CASE, INPUT)]:
        changed += environment.git(root, "status", "--porcelain", "--untracked-files=all", "--", *named).splitlines()
    if changed:
        files = ", ".join(line[3:] for line in changed[:5])
        raise ValueError(f"the tree is dirty: {len(changed)} files differ from HEAD ({files}); commit them first")
    identity = environment.git(root, "var", "GIT_AUTHOR_IDENT")
    name = identity[: identity.index(">") + 1]
    return Approver(name, " ".join(reason.split()), environment.git(root, "rev-parse", "HEAD"))


def propose(case: GoldenCase, plan: Plan) -> Proposal:
    """Make the case's picture, in the case's own dtype, and ask the witness. Nothing is written.

    Raises OSError or ValueError for a case that cannot be read.
    """
    plan = dataclasses.replace(plan, dtype=getattr(torch, case.request.dtype))
    wider = dataclasses.replace(plan, dtype=truth_dtype(plan.dtype))
    made, confirmed = painter(plan.ops, plan)(case), painter(plan.witness, wider)(case)
    agreed = compare(confirmed, made, case.limits_of("parity", plan.dtype_name))
    witness = f"{plan.witness.name} in {wider.dtype_name} on {plan.device.type}"
    previous, change = _against_old(case, made)
    rates, unmeasured = ({}, "") if made.picture is None else measured(case, plan.dtype_name, made.picture)
    return Proposal(case, plan, agreed, witness, previous, change, rates, unmeasured)


def _against_old(case: GoldenCase, made: Made) -> tuple[str, dict[str, float]]:
    """Fingerprint of the old golden, whatever its state, and the new picture's metrics against it if it can be read."""
    before = case.approval.rgb if case.approval else ""
    try:
        old = case.expected()
        if old is None or made.picture is None:
            return before, {}
        return images.fingerprint(old), images.compare(old, made.picture).values
    except ValueError:
        # A damaged golden, or one of another size, is what accepting repairs.
        return before, {}


def accept(proposals: list[Proposal], by: Approver, own: Stack | None = None) -> None:
    """Write the pictures and their provenance, all of them or none; as the goldens of stack `own` alone, if given.

    Raises ValueError if one is refused: by the witness, for want of rates, or for a change that the reason leaves out.
    """
    refusals = [proposal.refusal for proposal in proposals if proposal.refusal]
    refusals += [said for proposal in proposals if (said := unnamed(proposal.case, by.reason))]
    if refusals:
        raise ValueError(f"{'; '.join(refusals)}; nothing was accepted")
    for proposal in proposals:
        _write(proposal, by, own)


def _write(proposal: Proposal, by: Approver, own: Stack | None) -> None:
    case, plan, agreed = proposal.case, proposal.plan, proposal.agreed
    picture, found, source = agreed.actual, agreed.comparison, case.input()
    if picture is None or found is None:
        raise ValueError(f"{case.name} has no picture to accept")
    png = images.encode_png(picture)
    approval = Approval(
        approved_by=by.name,
        reason=by.reason,
        created=environment.now(),
        commit=by.commit,
        made_by=f"{plan.impl} in {plan.dtype_name} on {plan.device.type}",
        environment=environment.here(),
        checkpoint_sha256=checkpoint_sha256(case.checkpoint),
        request_sha256=case.request_sha256,
        input_rgb="" if source is None else images.fingerprint(source),
        png_sha256=hashlib.sha256(png).hexdigest(),
        rgb=images.fingerprint(picture),
        definition=images.DEFINITION,
        metrics=found.versions,
        witness=proposal.witness,
        agreement=_finite(agreed.values),
        previous=proposal.previous,
        change=_finite(proposal.change),
        asked=asked(case),
        rates=proposal.rates,
    )
    # The picture first: cut short in between, its hash is not the approved one, and `check` refuses it.
    if own is None:
        write_atomic(case.folder / EXPECTED, png)
        write_approval(case, approval)
    else:
        write_atomic(case.folder / STACKS / f"{own.name}.png", png)
        old = case.overlays.get(own.name) or Overlay(own, {"parity": {}, "drift": {}}, None, None)
        write_overlay(case, dataclasses.replace(old, golden=approval))


def _finite(values: dict[str, float]) -> dict[str, float]:
    """Without the PSNR of identical pictures, which is infinite and no number in JSON."""
    return {name: value for name, value in values.items() if math.isfinite(value)}
