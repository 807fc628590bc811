"""`motbench golden accept`: approve new pictures."""

from __future__ import annotations

import typing
from pathlib import Path

import typer

from motbench.exits import Exit
from motbench.golden.common import goldens_folder, plan_of

if typing.TYPE_CHECKING:
    from benchmarks.harness.golden_accept import Proposal
    from benchmarks.harness.golden_answers import AnswerProposal

Opt = typer.Option


def accept(
    case: typing.Annotated[list[str], typer.Argument(metavar="CASE...", help="names of folders in golden_images/")],
    reason: typing.Annotated[str, Opt(help="why the new picture is right; kept with it")] = "",
    impl: typing.Annotated[str, Opt(help="what makes the picture")] = "reference",
    device: typing.Annotated[str, Opt(help="cpu or cuda")] = "cpu",
    overlay: typing.Annotated[
        bool, Opt("--overlay", help="as goldens of this device, attention and torch only, beside the case's own")
    ] = False,
) -> None:
    """Approve today's pictures and answers as the golden ones, if the reference in a wider dtype confirms them.

    Exit code 0 if all were accepted, 1 if one was not confirmed or its rates were not measured (nothing is written
    then), 2 for no reason, one that leaves out what has changed, or a dirty tree.
    """
    from benchmarks.harness import golden_accept, golden_answers, stack

    root = goldens_folder()
    pictures, questions = golden_answers.read_all(root, case)
    by = golden_accept.approver(
        root.parent, reason, [*(one.name for one in pictures), *(one.name for one in questions)]
    )
    plan = plan_of(impl, device, "float32")
    here = stack.here(plan.device)
    _prove_origin(root.parent)
    proposals, answers = [], []
    for one in pictures:
        proposals.append(golden_accept.propose(one.on(here), plan))
        print(_proposal_line(proposals[-1]), flush=True)
    for question in questions:
        answers.append(golden_answers.propose_answer(question, plan))
        print(_answer_line(answers[-1]), flush=True)
    if any(one.refusal for one in proposals) or any(one.refusal for one in answers):
        print("nothing was accepted")
        raise typer.Exit(Exit.REGRESSED)
    golden_accept.accept(proposals, by, here if overlay else None)
    golden_answers.accept_answers(answers, by)
    print(f"accepted by {by.name} at {by.commit[:12]}: {by.reason}\nnow commit golden_images/")


def _prove_origin(root: Path) -> None:
    """Refuse to approve a picture of packages that the commit does not hold."""
    import bagel
    import reference_impl

    for package in (bagel, reference_impl):
        found = Path(str(package.__file__)).resolve().parents[1]
        if found != root.resolve():
            raise ValueError(f"{package.__name__} was imported from {found} but must be from {root}; unset PYTHONPATH")


def _proposal_line(proposal: Proposal) -> str:
    if proposal.refusal:
        return f"  refused: {proposal.refusal}"
    change = proposal.change
    moved = "another picture than before" if proposal.previous else "the first golden"
    if change:
        similar = f"SSIM of the worst tile {change['ssim_worst_tile']:.4f}"
        moved = f"against the old golden absmax {change['absmax']:.0f}, {similar}"
    confirmed = f"{proposal.witness} confirms it, absmax {proposal.agreed.values['absmax']:.0f}"
    return f"  {proposal.case.name}: {confirmed}; {moved}"


def _answer_line(proposal: AnswerProposal) -> str:
    if proposal.refusal:
        return f"  refused: {proposal.refusal}"
    lead = f"its best token ahead by {proposal.confirmed.lead:.3g} or more"
    return f"  {proposal.case.name}: {proposal.made.text!r}; {proposal.witness} confirms it, {lead}"
