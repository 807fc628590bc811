"""The curves of a trace as one picture."""

from __future__ import annotations

import io
from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.harness.trace import Trace
from benchmarks.harness.trace_errors import NAMES, StepError

FLOOR = 1e-12
"""Drawn for a difference of nothing, which has no logarithm."""

Figures = Callable[[StepError], float]

STYLES = {"impl": "o-", "against": "s--"}


def png(trace: Trace) -> bytes:
    """A PNG: local and free-running error and gain per step, branches, and every tensor of the detailed step."""
    figure = Figure(figsize=(13, 9), layout="constrained")
    (local, free, gain), (branches, *_) = (axes := figure.subplots(2, 3))
    # The lower right two thirds are one wide panel.
    for spare in axes[1, 1:]:
        spare.remove()
    sites = figure.add_subplot(axes[1, 1].get_gridspec()[1, 1:])
    _curves(local, trace, "local: velocity, from the truth's latent", lambda e: e.local_v, lambda e: e.limit_local_v)
    _curves(free, trace, "free-running: latent after the update", lambda e: e.free_x, lambda e: e.limit_free_x)
    _curves(gain, trace, "gain of the free-running error", lambda e: e.gain, None)
    for branch in sorted({branch for error in trace.steps["impl"] for branch in error.branches}):
        points = [
            (error.step, max(error.branches[branch], FLOOR))
            for error in trace.steps["impl"]
            if branch in error.branches
        ]
        branches.semilogy(*zip(*points, strict=True), "o-", label=NAMES[branch])
    _finish(branches, f"{trace.impl}: local, by branch", "relative L2")
    _sites(sites, trace)
    figure.suptitle(
        f"{trace.case}, {trace.dtype} on {trace.device}, truth: {trace.truth}\n{trace.sentence}", fontsize=9, wrap=True
    )
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()


def _curves(axes: Axes, trace: Trace, title: str, value: Figures, limit: Figures | None) -> None:
    for side, name in (("impl", trace.impl), ("against", trace.against)):
        errors = trace.steps[side]
        axes.semilogy([e.step for e in errors], [max(value(e), FLOOR) for e in errors], STYLES[side], label=name)
    if limit is not None and trace.steps["impl"]:
        errors = trace.steps["impl"]
        axes.semilogy([e.step for e in errors], [limit(e) for e in errors], "k:", label="limit")
    _finish(axes, title, "relative L2" if limit is not None else "factor")


def _sites(axes: Axes, trace: Trace) -> None:
    for side, name in (("impl", trace.impl), ("against", trace.against)):
        seen = [site for site in trace.sites[side] if site.step in (None, trace.detailed)]
        used = [max(site.relative_l2 / site.limit_l2, site.worst_row / site.limit_row, 1e-4) for site in seen]
        axes.semilogy(range(len(used)), used, STYLES[side][0], markersize=3, label=name)
    axes.axhline(1, color="black", linestyle=":", label="limit")
    _finish(axes, f"every tensor before step 0 and of step {trace.detailed}, in order", "error over limit")
    axes.set_xlabel("tensor")


def _finish(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(unit)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7)
