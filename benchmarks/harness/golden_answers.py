"""Understanding as a golden case: a question, perhaps about a picture, and the approved answer, token by token.

The best token is taken each time, so an answer is exact in every dtype and on every machine, unless the two best tokens
are nearer than rounding. How near they come is kept with the approval as its lead. A case is a folder
`golden_images/<name>/` with case.json (this file's dataclasses) and input.png, the picture that is asked about.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import time
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

import torch
from PIL import Image

from bagel.pipeline import BagelPipeline, TextRequest
from bagel.probe import Probe, Site
from benchmarks.harness import environment, images, records
from benchmarks.harness.golden_accept import Approver
from benchmarks.harness.golden_case import GoldenCase, checkpoint_sha256, read_case
from benchmarks.harness.golden_folders import (
    CASE,
    INPUT,
    asks,
    case_folders,
    facts_of,
    refused_in_one_line,
    request_sha256,
)
from benchmarks.harness.golden_limits import judge, score
from benchmarks.harness.golden_words import words
from benchmarks.harness.goldens import Against, Plan, loaded, reproduce
from benchmarks.harness.images import RGB
from benchmarks.harness.impls import said
from benchmarks.harness.records import Golden
from reference_impl.contract import MoTOps
from reference_impl.tolerance import truth_dtype

WRONG = "wrong_tokens"
"""The metric: at how many places the answers' tokens differ, the longer answer's end counted."""
LIMITS = {WRONG: 0.0}


@dataclass(frozen=True)
class Question:
    """What is asked of the model; checkpoint as in golden_case.Request. Changing any of it makes the answer stale."""

    task: typing.Literal["understand"]
    checkpoint: str
    prompt: str
    max_tokens: int


@dataclass(frozen=True)
class ApprovedAnswer:
    """Who approved the answer and why, how it was made, and every hash that must still hold.

    ids      the answer's tokens, and `text` what they say
    witness  who gave the same answer
    lead     the least difference, over all tokens, between the witness's best logit and its second
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
    ids: list[int]
    text: str
    witness: str
    lead: float

    @property
    def summary(self) -> dict[str, str]:
        """What a report shows of it."""
        return {
            "approved by": self.approved_by,
            "reason": self.reason,
            "created": self.created,
            "commit": self.commit,
            "made by": self.made_by,
            "confirmed by": f"{self.witness}, its best token ahead by {self.lead:.3g} or more",
            "torch": self.environment.torch,
            "machine": self.environment.gpu or self.environment.cpu,
            "checkpoint": self.checkpoint_sha256,
        }


@dataclass(frozen=True)
class AnswerCase:
    """One case. `exercises` says what it is for; `interpreter`: short enough for fused kernels in the interpreter."""

    folder: Path
    exercises: str
    interpreter: bool
    request: Question
    request_sha256: str
    approval: ApprovedAnswer | None

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def checkpoint(self) -> Path:
        """The checkpoint's folder."""
        return self.folder.parents[1] / self.request.checkpoint

    def input(self) -> RGB:
        """The picture that is asked about. Raises OSError or ValueError."""
        return images.read_png(self.folder / INPUT)

    def stale(self) -> str:
        """Why the approved answer no longer belongs to the case, or nothing. Raises OSError or ValueError."""
        if self.approval is None:
            return f'there is no answer yet; type: motbench golden accept {self.name} --reason "..."'
        held = {
            "case.json's request": (self.request_sha256, self.approval.request_sha256),
            INPUT: (images.fingerprint(self.input()), self.approval.input_rgb),
            f"checkpoint {self.request.checkpoint}": (
                checkpoint_sha256(self.checkpoint),
                self.approval.checkpoint_sha256,
            ),
        }
        changed = [f"{name} is {now[:20]} but was {then[:20]}" for name, (now, then) in held.items() if now != then]
        if not changed:
            return ""
        return f"since the answer was approved {'; '.join(changed)}; restore it, or accept a new answer"


@dataclass(frozen=True)
class Answer:
    """Tokens and what they say; or why there are none.

    lead    as in ApprovedAnswer
    judged  False if what lies on disk, not the implementation, is why there are none
    """

    ids: list[int] = field(default_factory=list)
    text: str = ""
    lead: float = math.inf
    error: str = ""
    judged: bool = True


def read_answer_case(folder: Path) -> AnswerCase:
    """One case. Raises OSError, or ValueError naming the file and what is wrong in it."""
    with refused_in_one_line(folder / CASE):
        facts = facts_of(folder / CASE, {"format", "exercises", "interpreter", "request", "provenance"})
        return AnswerCase(
            folder=folder,
            exercises=str(facts["exercises"]),
            interpreter=records.from_dict(bool, facts["interpreter"]),
            request=records.from_dict(Question, facts["request"]),
            request_sha256=request_sha256(facts),
            approval=records.from_dict(ApprovedAnswer | None, facts["provenance"]),
        )


def read_all(goldens: Path, names: Sequence[str] | None = None) -> tuple[list[GoldenCase], list[AnswerCase]]:
    """The cases of a folder of goldens, those that make a picture and those that ask, by name; all for None or nothing.

    Raises OSError or ValueError for a case that cannot be read, an unknown name, and a folder without cases.
    """
    folders = case_folders(goldens, names)
    pictures = [read_case(folder) for folder in folders if not asks(folder)]
    return pictures, [read_answer_case(folder) for folder in folders if asks(folder)]


def check_answers(cases: Iterable[AnswerCase], plan: Plan, out: Path) -> Iterator[Golden]:
    """Judge each case and yield its records: against the reference, then the approved answer.

    `out` is the folder that the records' pictures are relative to. A case that cannot be read, and whatever an
    implementation raises, is a record that says so.
    """
    judged, witness = answerer(plan.ops, plan), answerer(plan.witness, plan)
    for case in cases:
        start = time.perf_counter()
        made = judged(case)
        if plan.ops is not plan.witness:
            yield _record(case, plan, "reference", witness(case), made, out, start)
            start = time.perf_counter()
        yield _record(case, plan, "golden", _approved(case), made, out, start)


def answerer(ops: MoTOps, plan: Plan) -> Callable[[AnswerCase], Answer]:
    """A function that answers a case with `ops`. Each checkpoint is loaded once."""

    @functools.cache
    def load(checkpoint: Path) -> BagelPipeline:
        return loaded(checkpoint, ops, plan)

    def answer(case: AnswerCase) -> Answer:
        try:
            ask = case.request
            request = TextRequest(ask.prompt, Image.fromarray(case.input()), ask.max_tokens)
            pipeline = load(case.checkpoint)
        except (OSError, ValueError) as error:
            return Answer(error=said(error), judged=False)
        leads: list[float] = []
        try:
            found = pipeline.understand(request, Probe(_leads(leads)))
        except Exception as error:
            # What an implementation raises, of whatever type, is a finding about it.
            return Answer(error=said(error))
        return Answer(found.ids, found.text, min(leads))

    return answer


def _leads(found: list[float]) -> Callable[[Site, torch.Tensor], None]:
    """A sink that keeps how far each best logit is ahead of the second."""

    def sink(site: Site, tensor: torch.Tensor) -> None:
        if site.phase == "decode" and site.op == "logits":
            first, second = tensor.double().topk(2).values.tolist()
            found.append(first - second)

    return sink


def _approved(case: AnswerCase) -> Answer:
    try:
        stale = case.stale()
    except (OSError, ValueError) as error:
        stale = said(error)
    held = case.approval
    return Answer(error=stale) if held is None else Answer(held.ids, held.text, held.lead, stale)


def _record(
    case: AnswerCase, plan: Plan, against: Against, expected: Answer, made: Answer, out: Path, start: float
) -> Golden:
    values, reason = {}, ""
    if made.error:
        status: records.Status = "regressed" if made.judged else "not-measured"
        reason = f"no answer was given: {made.error}" if made.judged else made.error
    elif expected.error:
        status, reason = "not-measured", expected.error
    else:
        values = {WRONG: float(sum(a != b for a, b in zip_longest(expected.ids, made.ids)))}
        status, _ = judge(values, LIMITS, {})
        reason = "" if status == "pass" else f"the answer is {made.text!r} but {expected.text!r} is expected"
    identical = status == "pass"
    pictures = {"input": f"pictures/{case.name}-input.png"} if made.judged else {}
    if pictures:
        images.write_png(out / pictures["input"], case.input())
    return Golden(
        case=case.name,
        task="understand",
        prompt=case.request.prompt,
        impl=plan.impl,
        against=against,
        status=status,
        reason=reason,
        reproduce=reproduce(case.name, plan),
        metrics=values,
        limits=LIMITS,
        metric_versions=dict.fromkeys(values, f"motbench {images.DEFINITION}"),
        identical=identical,
        pictures=pictures,
        seconds=time.perf_counter() - start,
        golden_provenance=case.approval.summary if case.approval else {},
        device=plan.device.type,
        dtype=plan.dtype_name,
        words=words(status, reason, identical, None, None),
        score=score(values, LIMITS),
        texts={name: one.text for name, one in (("expected", expected), ("actual", made)) if one.text},
    )


@dataclass(frozen=True)
class AnswerProposal:
    """A new answer, and what the witness answered."""

    case: AnswerCase
    plan: Plan
    made: Answer
    confirmed: Answer
    witness: str

    @property
    def refusal(self) -> str:
        """Why the answer may not become the golden, or nothing."""
        if error := self.made.error or self.confirmed.error:
            return f"{self.case.name}: no answer was given: {error}"
        if self.made.ids == self.confirmed.ids:
            return ""
        return f"{self.case.name}: the answer is {self.made.text!r} but {self.witness}'s is {self.confirmed.text!r}"


def propose_answer(case: AnswerCase, plan: Plan) -> AnswerProposal:
    """Answer the case in float32, and ask the witness. Nothing is written."""
    plan = dataclasses.replace(plan, dtype=torch.float32)
    wider = dataclasses.replace(plan, dtype=truth_dtype(plan.dtype))
    made, confirmed = answerer(plan.ops, plan)(case), answerer(plan.witness, wider)(case)
    return AnswerProposal(case, plan, made, confirmed, f"{plan.witness.name} in {wider.dtype_name}")


def accept_answers(proposals: list[AnswerProposal], by: Approver) -> None:
    """Write the answers and their provenance, all or none. Raises ValueError if the witness refused one."""
    if refusals := [proposal.refusal for proposal in proposals if proposal.refusal]:
        raise ValueError(f"{'; '.join(refusals)}; nothing was accepted")
    for proposal in proposals:
        case, plan = proposal.case, proposal.plan
        approval = ApprovedAnswer(
            approved_by=by.name,
            reason=by.reason,
            created=environment.now(),
            commit=by.commit,
            made_by=f"{plan.impl} in {plan.dtype_name} on {plan.device.type}",
            environment=environment.here(),
            checkpoint_sha256=checkpoint_sha256(case.checkpoint),
            request_sha256=case.request_sha256,
            input_rgb=images.fingerprint(case.input()),
            ids=proposal.made.ids,
            text=proposal.made.text,
            witness=f"{proposal.witness} on {plan.device.type}",
            lead=proposal.confirmed.lead,
        )
        path = case.folder / CASE
        records.write_json(path, json.loads(path.read_text(encoding="utf-8")) | {"provenance": approval})
