"""A case with a prompt that is no case's, judged by limits that are measured on it as calibration measures them.

A limit belongs to its case: the same harmless change moves one prompt's latents fourteen times as far as another's. So
good runs of another prompt say nothing of this case's limits. What they test is the way to limits: known-good runs of
the request, times the factor that all cases have, as `motbench golden calibrate` would set them.
"""

from __future__ import annotations

import dataclasses
import random

import torch

from benchmarks.harness import calibrate
from benchmarks.harness.calibrate_files import stored
from benchmarks.harness.calibrate_limits import Spread, limits
from benchmarks.harness.calibrate_propose import factors
from benchmarks.harness.golden_case import GoldenCase
from benchmarks.harness.golden_known import base_factor
from benchmarks.harness.golden_limits import Limits
from benchmarks.harness.goldens import Plan
from benchmarks.harness.stack import BASE

PROMPTS = {
    "t2i": (
        "a blue star above a red ring on a white background",
        "a green diamond on the left on an orange background",
        "a white cross to the right of a purple circle on a black background",
        "a small yellow square at the top on a cyan striped background",
    ),
    "img2img": (
        "make the background orange",
        "add a small blue star at the top",
        "make the square white",
        "turn the circle into a triangle",
    ),
}
"""Task -> prompts of the small model's world that no case asks for, so that no factor was measured on them."""

LATE_SEED = 1000
"""Added to a case's seed for another picture of it."""

RUNS = 16
"""Known-good runs that the limits are measured on: as many as the committed ones rest on."""


def another(case: GoldenCase, number: int) -> GoldenCase:
    """The case with another prompt and seed, and so without a golden; number 0 is the case itself."""
    if number == 0:
        return case
    prompt = random.Random(f"{case.name}/{number}").choice(PROMPTS[case.request.task])
    request = dataclasses.replace(case.request, prompt=prompt, seed=case.request.seed + number * LATE_SEED)
    return dataclasses.replace(case, request=request, approval=None)


def with_limits(case: GoldenCase, plan: Plan) -> GoldenCase:
    """Such a case with limits of parity of its own, in the plan's dtype and in float32; without a golden no drift is
    judged. Takes RUNS known-good runs in each dtype. Raises OSError or ValueError if it cannot be read or made.
    """
    parity = {}
    for dtype in dict.fromkeys((torch.float32, plan.dtype)):
        task = calibrate.Task(case, plan.device, dtype, RUNS, (), anew=True)
        figures = calibrate.measure(task)
        reach = Spread(figures.prompt, figures.good.parity).reach
        parity[task.dtype_name] = Limits(**limits(reach, _factor(case, task.dtype_name)))
    return dataclasses.replace(case, limits={"parity": parity, "drift": {}})


def _factor(case: GoldenCase, dtype: str) -> float:
    """By what the limits that judge the case exceed the farthest of its known-good runs."""
    populations, basis = stored(case.folder.parent), case.basis("parity", dtype)
    if basis == BASE:
        return base_factor(populations, "parity", dtype)
    (own,) = (one for one in populations if one.stack.name == basis)
    return factors(own, [dtype])["parity", dtype]
