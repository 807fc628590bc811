"""The measuring steps of the main job, each in a process of its own: `motbench step NAME RUN_FOLDER PACKAGES ROOT`.

A step appends records to the run folder and returns its Status. The process must have the packages under test from
PACKAGES (the overlay of one commit) and the ruler from the checkout ROOT; anything else is an error, not a number.
"""

from __future__ import annotations

import importlib.util
import itertools
import typing
from pathlib import Path

import typer

from motbench.exits import REFUSALS, internal
from motbench.implementation import one_thread_on_a_cpu

if typing.TYPE_CHECKING:
    import torch

    from benchmarks.harness.golden_answers import AnswerCase
    from benchmarks.harness.golden_case import GoldenCase
    from benchmarks.harness.records import Status

ORACLE = Path("tests/data/bagel_oracle")


def step(name: str, folder: Path, packages: Path, root: Path) -> None:
    """Run one measuring step (hidden: `motbench nightly` starts it). A fault of ours leaves its traceback in folder."""
    from benchmarks.harness.records import EXIT_CODES

    if name not in STEPS:
        raise ValueError(f"step {name!r} is unknown; use one of {', '.join(STEPS)}")
    prove_packages(packages, root)
    try:
        one_thread_on_a_cpu()
        status = STEPS[name](folder)
    except REFUSALS:
        raise
    except Exception as error:
        raise typer.Exit(internal(error, folder)) from error
    raise typer.Exit(EXIT_CODES[status])


def prove_packages(packages: Path, root: Path) -> None:
    """Refuse packages under test that are not under `packages`, and a ruler that is not of the checkout `root`."""
    from benchmarks.harness.overlay import PACKAGES

    for name, home in [("motbench", root), ("benchmarks", root), *((name, packages) for name in PACKAGES)]:
        # Looked up, not imported: importing mot_impl chooses between Triton's interpreter and its compiler.
        spec = importlib.util.find_spec(name)
        found = Path(spec.origin).resolve().parents[1] if spec and spec.origin else None
        if found != home.resolve():
            place = found or "nowhere"
            raise ValueError(
                f"{name} is imported from {place} but must come from {home.resolve()}; unset PYTHONPATH, and give each "
                "checkout a .venv of its own (make install)"
            )


def conformance(folder: Path) -> Status:
    """The reference implementation against the original BAGEL: float32 on the CPU, every stored case."""
    import torch

    import reference_impl
    from benchmarks.harness.conformance import replay
    from benchmarks.harness.records import append_line

    ok: list[bool] = []
    for result in replay(ORACLE, None, reference_impl.OPS, torch.device("cpu"), torch.float32):
        append_line(folder / "conformance.jsonl", result)
        print(f"  {result.case:28} {'within' if result.ok else 'OUTSIDE'}  {result.seconds:5.1f} s", flush=True)
        ok.append(result.ok)
    return _all(ok)


def parity(folder: Path) -> Status:
    """Every op of the fused implementation against the reference, every case, in every dtype that runs here."""
    from benchmarks.harness.gate import op_parity
    from benchmarks.harness.impls import load_impl
    from benchmarks.harness.inputs import BAGEL_CASES, CASES
    from benchmarks.harness.records import append_line
    from motbench.implementation import say_if_untuned

    ops = load_impl("fused")
    device, dtypes = _places()
    say_if_untuned(device, dtypes[0])
    cases = [*CASES.values(), *(BAGEL_CASES.values() if device.type == "cuda" else ())]
    ok: list[bool] = []
    for dtype in dtypes:
        before, told = len(ok), 0
        for done, case in enumerate(cases, 1):
            for result in op_parity(ops, case, dtype, device):
                append_line(folder / "parity.jsonl", result)
                ok.append(result.ok)
                if not result.ok:
                    print(f"  {result.op} {result.case}: worst {result.worst:.3g}, limit {result.limit_worst:.3g}")
            if done * 10 // len(cases) > told:
                told = done * 10 // len(cases)
                within = f"{sum(ok[before:])} of {len(ok) - before} within their limits"
                print(f"  {dtype}: {done:3} of {len(cases)} cases, {within}", flush=True)
    return _all(ok)


def golden(folder: Path) -> Status:
    """Pictures and answers: the reference on every golden case; fused on all on a GPU, on the short ones interpreted.

    Raises, when every other case has been judged, what is wrong with a case.json.
    """
    import reference_impl
    from benchmarks.harness import goldens, night_traces
    from benchmarks.harness.golden_answers import check_answers
    from benchmarks.harness.golden_case import GOLDENS
    from benchmarks.harness.records import append_line
    from motbench.implementation import resolve

    device, _ = _places()
    fused_in = ("float32", "bfloat16") if device.type == "cuda" else ("float32",)
    cases, questions, broken = _golden_cases(Path(GOLDENS))
    statuses: list[Status] = []
    for impl, dtype in [("reference", "float32"), *(("fused", name) for name in fused_in)]:
        ops, device, torch_dtype = resolve(impl, device.type, dtype)
        plan = goldens.Plan(impl, ops, reference_impl.OPS, device, torch_dtype)
        pictures = goldens.check_all(goldens.selected(cases, impl, device), plan, folder)
        answers = check_answers(goldens.selected(questions, impl, device), plan, folder)
        tracer = night_traces.Tracer(plan, cases)
        for judged in itertools.chain(pictures, answers):
            result = tracer.explained(judged)
            append_line(folder / "golden.jsonl", result)
            statuses.append(result.status)
            line = f"  {result.case:24} {impl:9} {dtype:8} against {result.against:9} {result.status:12}"
            print(f"{line} {result.seconds:5.1f} s  {result.words or result.reason}".rstrip(), flush=True)
        for found in tracer.finished():
            append_line(folder / "drift.jsonl", found)
            print(f"  traced {found.case} {found.impl} {found.dtype}: {found.sentence}", flush=True)
    statuses.append(_watch(folder, cases))
    if broken:
        raise broken[0]
    order: tuple[Status, ...] = ("regressed", "not-measured", "inconclusive")
    return next((status for status in order if status in statuses), "pass" if statuses else "not-measured")


def _watch(folder: Path, cases: list[GoldenCase]) -> Status:
    """Negative controls and stale limits. A control that passes is a gate that is blind."""
    import reference_impl
    from benchmarks.harness import golden_watch, goldens
    from benchmarks.harness.records import write_json
    from motbench.implementation import resolve

    device, _ = _places()
    ops, device, dtype = resolve("reference", device.type, "float32")
    found = golden_watch.watch(cases, goldens.Plan("reference", ops, reference_impl.OPS, device, dtype), folder.parent)
    write_json(folder / "golden_watch.json", found)
    for line in golden_watch.lines(found):
        print(f"  {line}", flush=True)
    return golden_watch.status(found)


def _golden_cases(goldens: Path) -> tuple[list[GoldenCase], list[AnswerCase], list[Exception]]:
    """Every case that can be read, those that make a picture and those that ask, and what is wrong with the others."""
    from benchmarks.harness.golden_answers import read_answer_case
    from benchmarks.harness.golden_case import read_case
    from benchmarks.harness.golden_folders import asks, case_folders

    cases: list[GoldenCase] = []
    questions: list[AnswerCase] = []
    broken: list[Exception] = []
    for folder in case_folders(goldens):
        try:
            if asks(folder):
                questions.append(read_answer_case(folder))
            else:
                cases.append(read_case(folder))
        except (OSError, ValueError) as error:
            broken.append(error)
    return cases, questions, broken


def selftest(folder: Path) -> Status:
    """The gate's own test, reduced: every injected fault once, into what is judged here."""
    from benchmarks.harness.records import write_json
    from motbench.golden.selftest import Chosen, Judged, growing, sentence

    device, _ = _places()
    judged = Judged("fused", "cuda", "bfloat16") if device.type == "cuda" else Judged("reference", "cpu", "float32")
    status: Status = "not-measured"
    said = "nothing was tested"
    for found in growing(judged, Chosen(full=False)):
        write_json(folder / "selftest.json", found)
        status, said = found.status, sentence(found)
    print(f"  {said}", flush=True)
    return status


STEPS = {"conformance": conformance, "parity": parity, "golden": golden, "selftest": selftest}


def _places() -> tuple[torch.device, list[torch.dtype]]:
    """Where the fused kernels run here: all three dtypes on a GPU, what the interpreter gets right on a CPU."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda"), [torch.bfloat16, torch.float16, torch.float32]
    return torch.device("cpu"), [torch.float32, torch.float16]


def _all(ok: list[bool]) -> Status:
    return "not-measured" if not ok else "pass" if all(ok) else "regressed"
