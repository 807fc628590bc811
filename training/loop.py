"""The loop that every stage runs in: resume, plan, step, log, save, stop in time."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.files import append_json, load_state, save_state
from training.optim import Schedule
from training.steps import Stage, Steps

SETTLED = 40
"""Steps of a call before its speed is measured: kernels are chosen, caches fill, each kind of step is captured."""
EARLY = (1, 10)
"""Steps of a call that are logged whatever their number: the first one tells how long it took to get there."""
RESERVE = 8.0
"""Seconds kept for saving and for what a stage does at its end."""


@dataclass(frozen=True)
class Run:
    """How a stage is run.

    folder   holds its state, its log and what it makes
    minutes  of wall clock for this call, counted from `started`, a reading of time.monotonic()
    steps    of the whole plan; if None, as many as fit into the minutes, measured on the way
    captured replay steps as CUDA graphs, on a GPU
    """

    folder: Path
    minutes: float
    steps: int | None
    seed: int
    device: torch.device
    captured: bool = True
    log_every: int = 50
    save_seconds: float = 60.0
    started: float = 0.0


def train(stage: Stage, run: Run, clock: Callable[[], float] = time.monotonic) -> bool:
    """Run to the end of the plan or of the minutes, whichever comes first; True if the plan is complete.

    A plan counted in steps goes on exactly as if it had not been interrupted. Raises ValueError for a state of another
    model or seed, and if a loss is not finite: what was saved before that stays.
    """
    step, total = _resume(stage, run)
    steps = Steps(stage, run.seed, run.device, run.captured)
    began, first, saved = clock(), step, clock()
    deadline = run.started + 60 * run.minutes - RESERVE
    while step < total and clock() < deadline:
        losses = steps(step, Schedule(total).factor(step))
        step += 1
        done = step - first
        if done == SETTLED:
            _wait(run.device)
            began = clock()
        if done in EARLY or step % run.log_every == 0 or step == total:
            _log(run, step, total, losses, clock())
            if run.steps is None and done > SETTLED:
                total = _planned(step, total, deadline, clock(), (clock() - began) / (done - SETTLED))
        if clock() - saved > run.save_seconds:
            _save(stage, run, step, total)
            saved = clock()
    _save(stage, run, step, total)
    return step >= total


UNKNOWN = 10**9


def _planned(step: int, total: int, deadline: float, now: float, seconds: float) -> int:
    """The steps that the minutes hold at this speed. Once half of the plan is done it stands: the cooldown is near."""
    if total != UNKNOWN and step > 0.5 * total:
        return total
    return step + max(int(0.98 * (deadline - now) / seconds), 1)


def _resume(stage: Stage, run: Run) -> tuple[int, int]:
    """(steps done, steps planned)."""
    found = load_state(run.folder)
    if found is None:
        return 0, run.steps or UNKNOWN
    tensors, progress = found
    if progress["seed"] != run.seed:
        raise ValueError(
            f"{run.folder} was begun with seed {progress['seed']} but {run.seed} is asked for; keep to one"
        )
    stage.optimizer.load(tensors)
    planned = progress["total"]
    if run.steps is None and progress["step"] >= planned:
        planned = UNKNOWN  # more minutes for a finished plan: a new one, from where it ended
    print(f"resuming {run.folder} at step {progress['step']}", file=sys.stderr, flush=True)
    return progress["step"], run.steps or planned


def _save(stage: Stage, run: Run, step: int, total: int) -> None:
    about = {"step": step, "total": total, "seed": run.seed}
    save_state(run.folder, stage.optimizer.state(), about)


def _log(run: Run, step: int, total: int, losses: dict[str, Tensor], now: float) -> None:
    values: dict[str, Any] = {name: round(float(value.detach()), 5) for name, value in losses.items()}
    broken = [name for name, value in values.items() if value != value or abs(value) == float("inf")]
    if broken:
        raise ValueError(
            f"the loss {broken[0]} is not finite at step {step}; go on from the saved state at lower rates"
        )
    line = {
        "step": step,
        "total": None if total == UNKNOWN else total,
        "seconds": round(now - run.started, 1),
        **values,
    }
    append_json(run.folder / "log.jsonl", line)
    print(" ".join(f"{key} {value}" for key, value in line.items()), file=sys.stderr, flush=True)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def describe(run: Run, **more: Any) -> None:
    """Write what a stage was run with, as one more line of its log: for the model card."""
    gpu = torch.cuda.get_device_name(run.device) if run.device.type == "cuda" else "none (CPU)"
    fields = {"folder": run.folder.name, "minutes": run.minutes, "steps": run.steps, "seed": run.seed}
    ready = round(time.monotonic() - run.started, 1)
    line = {"run": fields, "gpu": gpu, "torch": torch.__version__, "ready": ready, **more}
    append_json(run.folder / "log.jsonl", line)
    print(f"{fields['folder']}: ready to train after {ready} s", file=sys.stderr, flush=True)
