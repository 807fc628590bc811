"""Where a picture that is outside begins to differ, in words: through the trace, which only such cases cost."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, field

import torch

from benchmarks.harness.golden_case import GoldenCase
from benchmarks.harness.impls import said
from benchmarks.harness.records import Golden
from benchmarks.harness.trace import Subject, trace
from benchmarks.harness.trace_runs import Bench
from reference_impl.contract import MoTOps

if typing.TYPE_CHECKING:  # commits from before there were quantised experts have no Kind
    from reference_impl.contract import Kind

TRACED = 3
"""Cases of one check that are traced: a trace costs some dozen pictures, and a broken kernel is outside everywhere."""

RUNS = 4
"""Reordered runs that a trace's limits are measured on here; `motbench trace` takes more."""


@dataclass
class Locator:
    """Adds to records what a trace says. Counts the cases that it has traced.

    impl, ops  what is judged, beside the reference `witness`
    quantise   the kind of its linear layers; a trace knows dense ones only
    """

    impl: str
    ops: MoTOps
    witness: MoTOps
    device: torch.device
    dtype: torch.dtype
    quantise: Kind | None = None
    sentences: dict[str, str] = field(default_factory=dict)

    def __call__(self, record: Golden, case: GoldenCase) -> Golden:
        """The record with the place in its words, if it is outside."""
        if record.status != "regressed":
            return record
        said_of = self._of_parity if record.against == "reference" else self._of_drift
        return dataclasses.replace(record, words=said_of(record, case))

    def _of_parity(self, record: Golden, case: GoldenCase) -> str:
        if self.quantise is not None:
            self.sentences[case.name] = f"outside: {self.quantise} layers are not traced; {record.reason}"
        elif len(self.sentences) >= TRACED:
            self.sentences[case.name] = f"outside: not traced, as {TRACED} other cases were; {record.reason}"
        else:
            self.sentences[case.name] = self._traced(record, case)
        return self.sentences[case.name]

    def _traced(self, record: Golden, case: GoldenCase) -> str:
        bench = Bench(case, self.device, self.dtype)
        try:
            found = trace(bench, Subject(self.impl, self.ops), Subject("reference", self.witness), RUNS)
        except Exception as error:
            # A check must say what it has found, whatever an implementation does to the trace.
            return f"outside: {record.reason}; the trace fails: {said(error)}"
        if found.verdict == "outside":
            return found.sentence
        return f"outside: {record.reason}; of the trace no tensor is over its limit: {found.sentence}"

    def _of_drift(self, record: Golden, case: GoldenCase) -> str:
        """A golden holds no latents to trace. What parity says of the same picture tells a kernel from the rest."""
        if case.name in self.sentences:
            return self.sentences[case.name]
        who = "it is the reference itself" if self.ops is self.witness else "the reference agrees with it"
        return f"outside: {who}, so the model or the environment moved, not a kernel ({record.reason})"
