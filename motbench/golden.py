"""`motbench golden`: judge pictures against approved ones, approve new ones, list them."""

from __future__ import annotations

import shlex
import typing
from pathlib import Path

import typer

from motbench.exits import Exit

if typing.TYPE_CHECKING:
    from rich.table import Table

    from benchmarks.harness.golden_accept import Proposal
    from benchmarks.harness.golden_case import GoldenCase
    from benchmarks.harness.goldens import Plan
    from benchmarks.harness.records import Golden

Opt = typer.Option
OUT = Path("results/golden")
COLUMNS = {
    "absmax": "max",
    "share_over_0": "share",
    "psnr": "PSNR",
    "ssim_worst_tile": "SSIM",
    "flip_worst_tile": "FLIP",
    "latent_relative_l2": "latents",
}
"""Metrics of the table (SSIM and FLIP of the worst tile) and their titles; all others are in the JSON."""

golden = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)


@golden.command()
def check(
    case: typing.Annotated[list[str] | None, Opt(metavar="NAME", help="only this case; may be repeated")] = None,
    impl: typing.Annotated[
        str | None, Opt(help="reference, fused or package.module:OPS; reference and then fused unless given")
    ] = None,
    device: typing.Annotated[str, Opt(help="cpu or cuda")] = "cpu",
    dtype: typing.Annotated[str, Opt(help="float32, bfloat16 or float16")] = "float32",
    tiles: typing.Annotated[Path | None, Opt(metavar="FOLDER", help="tile files that fused asks first")] = None,
    out: typing.Annotated[Path, Opt(metavar="DIR", help="where pictures/ goes")] = OUT,
    json: typing.Annotated[Path | None, Opt(metavar="FILE", help="also write all records as JSON")] = None,
) -> None:
    """Judge golden cases: against the reference (parity) and the approved picture (drift).

    On a CPU the fused kernels are interpreted and get the short cases, unless --case names others. Exit code 0 if all
    are within their limits, 1 if one is not, 4 if one could not be measured.
    """
    from rich.console import Console

    from benchmarks.harness import goldens, records
    from benchmarks.harness.golden_case import read_cases

    root = _root()
    console, waiting = Console(), Console(stderr=True)
    plans = [_plan(name, device, dtype, tiles) for name in ([impl] if impl else ["reference", "fused"])]
    cases = read_cases(root, case)
    results: list[Golden] = []
    left: list[str] = []
    for plan in plans:
        chosen = cases if case else goldens.selected(cases, plan.impl, plan.device)
        left += [f"{plan.impl} {one.name}" for one in cases if one not in chosen]
        with waiting.status(f"judging {plan.impl}") as status:
            for result in goldens.check(chosen, plan, out):
                results.append(result)
                status.update(f"judging {plan.impl}: {len({r.case for r in results})} cases done")
                print(_line(result), flush=True)
    for one, against in dict.fromkeys((r.impl, r.against) for r in results):
        console.print("", _table([r for r in results if (r.impl, r.against) == (one, against)]))
    for result in results:
        if result.status != "pass":
            print(_hints(result, out, tiles))
    if left:
        print(f"\nnot judged, too long for the interpreter: {', '.join(left)}")
    if json is not None:
        records.write_json(json, results)
    within = sum(result.status == "pass" for result in results)
    print(f"\n{within} of {len(results)} within their limits; pictures in {out / 'pictures'}")
    raise typer.Exit(exit_code(results))


@golden.command()
def accept(
    case: typing.Annotated[list[str], typer.Argument(metavar="CASE...", help="names of folders in golden_images/")],
    reason: typing.Annotated[str, Opt(help="why the new picture is right; kept with it")] = "",
    impl: typing.Annotated[str, Opt(help="what makes the picture")] = "reference",
    device: typing.Annotated[str, Opt(help="cpu or cuda")] = "cpu",
) -> None:
    """Approve today's pictures as the golden ones, if the reference in a wider dtype confirms them.

    Exit code 0 if all were accepted, 1 if one was not confirmed (nothing is written then), 2 for no reason or a dirty
    tree.
    """
    from benchmarks.harness import golden_accept
    from benchmarks.harness.golden_case import read_cases

    root = _root()
    cases = read_cases(root, case)
    by = golden_accept.approver(root.parent, reason, [one.name for one in cases])
    plan = _plan(impl, device, "float32")
    _prove_origin(root.parent)
    proposals = []
    for one in cases:
        proposals.append(golden_accept.propose(one, plan))
        print(_proposal_line(proposals[-1]), flush=True)
    if any(proposal.refusal for proposal in proposals):
        print("nothing was accepted")
        raise typer.Exit(Exit.REGRESSED)
    golden_accept.accept(proposals, by)
    print(f"accepted by {by.name} at {by.commit[:12]}: {by.reason}\nnow commit golden_images/")


@golden.command("list")
def list_cases() -> None:
    """Every golden case: what it asks, and who approved it when."""
    from benchmarks.harness.golden_case import read_cases

    for one in read_cases(_root()):
        ask, approval = one.request, one.approval
        short = ", interpreter" if one.interpreter else ""
        print(f"{one.name}: {ask.task}, {_size(one)}, {ask.steps} steps, seed {ask.seed}{short}")
        print(f"  prompt    {ask.prompt!r}\n  for       {one.exercises}")
        if approval is None:
            print("  approved  no golden yet")
        else:
            print(f"  approved  {approval.created[:10]} by {approval.approved_by}, at commit {approval.commit[:12]}")
            print(f"  because   {approval.reason}\n  made by   {approval.made_by}; {approval.witness} confirmed it")


@golden.command()
def metrics(
    out: typing.Annotated[Path | None, Opt(metavar="FILE", help="also write the tables as Markdown")] = None,
) -> None:
    """Nine faults and two harmless changes of three photographs: what our metrics see, beside other projects' gates.

    Exit code 0 if ours catch every fault without a false alarm, 1 otherwise.
    """
    from rich.console import Console

    from benchmarks.harness import picture_faults, records

    results = []
    with Console(stderr=True).status("judging") as status:
        for result in picture_faults.judge_all(picture_faults.subjects()):
            results.append(result)
            status.update(f"judging {result.subject}: {len(results)} changes done")
    text = picture_faults.markdown(results)
    print(text, end="")
    if out is not None:
        records.write_atomic(out, text.encode())
    wrong = [f"{result.change.name} ({result.subject})" for result in results if not result.right]
    named = f"; wrong: {', '.join(wrong)}" if wrong else ""
    print(f"\n{len(results) - len(wrong)} of {len(results)} told right{named}")
    raise typer.Exit(Exit.REGRESSED if wrong else Exit.PASS)


def exit_code(results: typing.Sequence[Golden]) -> Exit:
    """Disagreeing weighs more than missing; nothing judged is not measured."""
    found = {result.status for result in results}
    if "regressed" in found:
        return Exit.REGRESSED
    return Exit.PASS if found == {"pass"} else Exit.NOT_MEASURED


def _root() -> Path:
    from benchmarks.harness.environment import repository_root
    from benchmarks.harness.golden_case import GOLDENS

    return repository_root() / GOLDENS


def _plan(impl: str, device: str, dtype: str, tiles: Path | None = None) -> Plan:
    import reference_impl
    from benchmarks.harness.goldens import Plan
    from motbench.implementation import one_thread_on_a_cpu, resolve

    ops, place, precision = resolve(impl, device, dtype, tiles)
    one_thread_on_a_cpu(place)
    return Plan(impl, ops, reference_impl.OPS, place, precision)


def _prove_origin(root: Path) -> None:
    """Refuse to approve a picture of packages that the commit does not hold."""
    import bagel
    import reference_impl

    for package in (bagel, reference_impl):
        found = Path(str(package.__file__)).resolve().parents[1]
        if found != root.resolve():
            raise ValueError(f"{package.__name__} was imported from {found} but must be from {root}; unset PYTHONPATH")


def _size(case: GoldenCase) -> str:
    height, width = case.request.height, case.request.width
    if height and width:
        return f"{width} x {height}"
    if case.approval is None:
        return "its input's"
    rows, columns, _ = case.approval.rgb.split(":")[0].split("x")
    return f"{columns} x {rows}"


def _line(result: Golden) -> str:
    same = ", identical" if result.identical else ""
    return (
        f"  {result.case:32} {result.impl} against {result.against:9}  {result.status}{same} ({result.seconds:.1f} s)"
    )


def _hints(result: Golden, out: Path, tiles: Path | None) -> str:
    """What failed, the picture to look at, and the lines to type: judging it again, and where it comes apart."""
    shown = result.pictures.get("side by side") or next(reversed(result.pictures.values()), None)
    of_fused = ["--tiles", str(tiles)] if tiles else []
    again = shlex.join(of_fused + (["--out", str(out)] if out != OUT else []))
    lines = [
        f"\n{result.status}: {result.case} {result.impl} against {result.against}: {result.reason}",
        f"  look at {out / shown if shown else 'nothing: no picture'}",
        f"  type    {result.reproduce} {again}".rstrip(),
    ]
    if result.impl != "reference" and result.status == "regressed":
        words = ["motbench", "trace", result.case, "--impl", result.impl, "--device", result.device]
        lines.append(f"  or      {shlex.join([*words, '--dtype', result.dtype, *of_fused])}")
    return "\n".join(lines)


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


def _table(results: typing.Sequence[Golden]) -> Table:
    from rich.table import Table

    first = results[0]
    table = Table(title=f"{first.impl} against {first.against}", title_justify="left", box=None, pad_edge=False)
    table.add_column("case", no_wrap=True)
    table.add_column("", no_wrap=True)
    for title in COLUMNS.values():
        table.add_column(title, justify="right", no_wrap=True)
    for r in results:
        numbers = (f"{r.metrics[name]:.3g}" if name in r.metrics else "" for name in COLUMNS)
        table.add_row(r.case, r.status, *numbers)
    return table
