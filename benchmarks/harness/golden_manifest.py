"""What a golden was asked for, and which changes of that a reason must name: one step more was once called drift."""

from __future__ import annotations

from benchmarks.harness.golden_case import GoldenCase, checkpoint_sha256

NAMED = {
    "steps": ("step",),
    "schedule": ("schedule", "shift"),
    "checkpoint": ("checkpoint",),
    "request": ("request",),
}
"""What may have changed, and the words of which a reason must have one."""


def asked(case: GoldenCase) -> dict[str, str]:
    """What decides a picture beside prompt and seed, as it is kept with the golden."""
    return {
        "steps": str(case.request.steps),
        "schedule": f"shift {case.request.timestep_shift:g}",
        "checkpoint": f"{case.request.checkpoint} {checkpoint_sha256(case.checkpoint)[:12]}",
    }


def unnamed(case: GoldenCase, reason: str) -> str:
    """Why this reason may not change the golden or its limits, or nothing."""
    before = case.approval
    if before is None:
        return ""
    now, then = asked(case), dict(before.asked)
    if not then:  # a golden of before this was kept: its hashes still tell checkpoint and request
        then = {"checkpoint": f"{case.request.checkpoint} {before.checkpoint_sha256[:12]}"}
        now |= {"request": case.request_sha256[:12]}
        then |= {"request": before.request_sha256[:12]}
    missing = [
        f"{name} is {now[name]} but was {then[name]} when the golden was approved"
        for name, words in NAMED.items()
        if name in then and now[name] != then[name] and not any(word in reason.lower() for word in words)
    ]
    if not missing:
        return ""
    return f"{case.name}: {'; '.join(missing)}, and the reason does not say so; restore it, or name it in --reason"
