"""Plots as SVG files, one for a light page and one for a dark one. Labels are text in the reader's own system font."""

from __future__ import annotations

import hashlib
import io
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from reports.words import seconds

LABEL = 28
"""Characters of a row's label."""

WIDTH = 480
ROW = 26
"""Pixels: small enough to be read on a telephone without scaling the text away."""

INK, MUTED, LINE, REFERENCE, OTHER, BAD = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
PALETTES = {
    "light": {
        INK: "#24211d",
        MUTED: "#6d675f",
        LINE: "#dcd7cd",
        REFERENCE: "#8a8378",
        OTHER: "#0b6bcb",
        BAD: "#c0272d",
    },
    "dark": {
        INK: "#e8e4dc",
        MUTED: "#a09a90",
        LINE: "#3a3d44",
        REFERENCE: "#a8a196",
        OTHER: "#62a8f5",
        BAD: "#ff7b72",
    },
}
"""A figure is drawn once in placeholder colours; each theme then replaces them."""

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "motbench",
    "text.parse_math": False,
    "font.size": 9,
    "font.sans-serif": ["DejaVu Sans"],
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": INK,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
}


@dataclass(frozen=True)
class Shelf:
    """Where plots go, and where those of the report being replaced lie: an unchanged plot is not drawn again."""

    new: Path
    earlier: Path


@dataclass(frozen=True)
class TimePoint:
    """One implementation's time on one row: median and range over processes, seconds."""

    row: str
    impl: str
    low: float
    median: float
    high: float


@dataclass(frozen=True)
class SharePoint:
    """One comparison: its largest difference as a share of the limit; above 1 is outside, NaN is not drawn."""

    row: str
    share: float
    ok: bool


def times(points: list[TimePoint], shelf: Shelf) -> str:
    """Dots per row and implementation on a logarithmic axis. Returns the file's name up to `-light.svg`."""

    def draw(axes: Axes) -> None:
        rows = list(dict.fromkeys(p.row for p in points))
        for p in points:
            y, colour = rows.index(p.row), REFERENCE if p.impl == "reference" else OTHER
            axes.plot([p.low, p.high], [y, y], color=colour, linewidth=3, alpha=0.35, solid_capstyle="round")
        for row in rows:
            here = [p for p in points if p.row == row]
            span = [min(p.median for p in here), max(p.median for p in here)]
            axes.plot(span, [rows.index(row)] * 2, color=LINE, linewidth=1, zorder=0)
        for impl in dict.fromkeys(p.impl for p in points):
            mine = [p for p in points if p.impl == impl]
            colour, marker = (REFERENCE, "o") if impl == "reference" else (OTHER, "D")
            where = [p.median for p in mine], [rows.index(p.row) for p in mine]
            axes.scatter(*where, s=34, color=colour, marker=marker, label=impl, zorder=3)
        axes.set_xscale("log")
        low, high = min(p.low for p in points) / 1.8, max(p.high for p in points) * 1.8
        axes.set_xlim(low, high)
        axes.xaxis.set_major_locator(FixedLocator(_ticks(low, high)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: seconds(value)))
        _rows(axes, rows)
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=4, frameon=False, borderpad=0, handletextpad=0.2)

    return _write(draw, len({p.row for p in points}), repr(points), shelf)


def shares(points: list[SharePoint], shelf: Shelf) -> str:
    """One dot per comparison against its limit at 100 %. Returns the file's name as `times` does."""
    edge = 3.0 if any(p.share > 1.15 for p in points) else 1.15

    def draw(axes: Axes) -> None:
        rows = list(dict.fromkeys(p.row for p in points))
        axes.axvline(1, color=BAD, linewidth=1, zorder=1)
        axes.text(1, -0.8, "limit", color=BAD, ha="center", va="bottom", fontsize=8)
        for ok, colour in ((True, OTHER), (False, BAD)):
            mine = [p for p in points if p.ok is ok and not math.isnan(p.share)]
            for marker, part in (
                ("o", [p for p in mine if p.share <= edge]),
                (">", [p for p in mine if p.share > edge]),
            ):
                where = [min(p.share, edge) for p in part], [rows.index(p.row) for p in part]
                axes.scatter(
                    *where, s=26, color=colour, marker=marker, alpha=0.6, linewidths=0, zorder=3, clip_on=False
                )
        axes.set_xlim(0, edge)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
        _rows(axes, rows)

    return _write(draw, len({p.row for p in points}), repr(points), shelf)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers within the range: as many as fit side by side."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for mantissas in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1,)):
        ticks = [m * 10.0**p for p in powers for m in mantissas if low <= m * 10.0**p <= high]
        if len(ticks) <= 6:
            break
    return ticks


def _rows(axes: Axes, rows: list[str]) -> None:
    axes.set_yticks(range(len(rows)), [_short(row) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.8)
    axes.tick_params(length=0, pad=6)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _short(label: str) -> str:
    """A label that leaves room for the plot; control characters, which SVG forbids, are left out."""
    label = "".join(c for c in label if c.isprintable())
    return label if len(label) <= LABEL else label[: LABEL - 1] + "…"


def _write(draw: Callable[[Axes], None], n_rows: int, data: str, shelf: Shelf) -> str:
    """Draw unless a plot of the same data by the same drawing code is there already."""
    name = hashlib.sha256(Path(__file__).read_bytes() + data.encode()).hexdigest()[:16]
    files = [f"{name}-{theme}.svg" for theme in PALETTES]
    shelf.new.mkdir(parents=True, exist_ok=True)
    for folder in (shelf.new, shelf.earlier):
        if all((folder / file).exists() for file in files):
            for file in files if folder == shelf.earlier else ():
                shutil.copyfile(folder / file, shelf.new / file)
            return name
    height = 62 + ROW * n_rows
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH / 96, height / 96), layout="constrained", facecolor="none")
        axes = figure.subplots()
        axes.set_facecolor("none")
        draw(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    for theme, palette in PALETTES.items():
        svg = buffer.getvalue().replace("'DejaVu Sans'", "system-ui")
        for placeholder, colour in palette.items():
            svg = svg.replace(placeholder, colour)
        (shelf.new / f"{name}-{theme}.svg").write_text(svg)
    return name
