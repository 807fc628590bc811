"""`motbench golden list`: what each case asks, and who approved it."""

from __future__ import annotations

import typing

from motbench.golden.common import goldens_folder

if typing.TYPE_CHECKING:
    from benchmarks.harness.golden_answers import AnswerCase
    from benchmarks.harness.golden_case import GoldenCase


def list_cases() -> None:
    """Every golden case: what it asks, and who approved it when."""
    from benchmarks.harness.golden_answers import read_all

    pictures, questions = read_all(goldens_folder())
    for one in pictures:
        ask = one.request
        _print(one, f"{ask.task}, {_size(one)}, {ask.steps} steps, seed {ask.seed}")
    for question in questions:
        _print(question, f"{question.request.task}, at most {question.request.max_tokens} tokens")
        if question.approval is not None:
            print(f"  answer    {question.approval.text!r}")


def _print(one: GoldenCase | AnswerCase, asked: str) -> None:
    approval, short = one.approval, ", interpreter" if one.interpreter else ""
    print(f"{one.name}: {asked}{short}\n  prompt    {one.request.prompt!r}\n  for       {one.exercises}")
    if approval is None:
        print("  approved  no golden yet")
    else:
        print(f"  approved  {approval.created[:10]} by {approval.approved_by}, at commit {approval.commit[:12]}")
        print(f"  because   {approval.reason}\n  made by   {approval.made_by}; {approval.witness} confirmed it")


def _size(case: GoldenCase) -> str:
    height, width = case.request.height, case.request.width
    if height and width:
        return f"{width} x {height}"
    if case.approval is None:
        return "its input's"
    rows, columns, _ = case.approval.rgb.split(":")[0].split("x")
    return f"{columns} x {rows}"
