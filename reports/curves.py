"""Small line and bar plots as SVG inside the page: they take its colours, so one drawing serves light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 400, 170
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 24, 24
"""Units of the drawing, which is as wide as the page lets it be."""


@dataclass(frozen=True)
class Curve:
    """One line: a value per step; what is not a positive number is left out of a logarithmic plot."""

    name: str
    values: Sequence[float]


@dataclass(frozen=True)
class Bar:
    """One bar of a histogram: from, to, and how many."""

    low: float
    high: float
    count: int


@dataclass(frozen=True)
class _Frame:
    """Maps x in 0..last and y (logarithmic or not) to the drawing."""

    last: float
    low: float
    high: float
    log: bool

    def x(self, value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (value / self.last if self.last else 0.5)

    def y(self, value: float) -> float:
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low)


def svg(title: str, lines: Sequence[Curve], limit: Sequence[float], bounds: str = "limit") -> Markup:
    """Lines over steps 0, 1, ... on a logarithmic axis, and the limit dashed. A legend follows for more than one.

    bounds: what the limit is called where it does not hold for every line.
    """
    values = [v for line in [*(line.values for line in lines), limit] for v in line if _drawn(v)]
    if not values:
        return Markup("")
    low, high = min(values) / 1.5, max(values) * 1.5
    frame = _Frame(max(len(line.values) for line in lines) - 1, low, high, log=True)
    parts = [_text(2, 12, title, "title"), *_rules(frame, _decades(low, high)), *_steps(frame)]
    for i, line in enumerate(lines):
        parts.append(_line(frame, line.values, f"line line{i}"))
        parts.append(_text(WIDTH - RIGHT, 12 + 12 * i, line.name, f"key line{i}", "end") if len(lines) > 1 else "")
    if drawn := [v for v in limit if _drawn(v)]:
        parts += [_line(frame, limit, "limit"), _text(WIDTH - RIGHT, frame.y(drawn[-1]) - 3, bounds, "key bad", "end")]
    return _figure(title, parts)


def histogram(title: str, bars: Sequence[Bar], marks: Sequence[tuple[str, float, str]]) -> Markup:
    """Bars over a linear axis; marks are (label, value, class) drawn as vertical lines, such as limit and tonight."""
    if not bars:
        return Markup("")
    start = min(0.0, bars[0].low)
    end = max([bars[-1].high, *(value for _, value, _ in marks if math.isfinite(value))]) * 1.05 or 1.0
    frame = _Frame(end - start, 0, max(bar.count for bar in bars) * 1.1, log=False)
    parts = [_text(2, 12, title, "title"), *_rules(frame, [0, max(bar.count for bar in bars)])]
    for bar in bars:
        left, right, top = frame.x(bar.low - start), frame.x(bar.high - start), frame.y(bar.count)
        size = f'width="{max(right - left - 1, 1):.1f}" height="{HEIGHT - BOTTOM - top:.1f}"'
        parts.append(f'<rect class="bar" x="{left:.1f}" y="{top:.1f}" {size}/>')
    for value in (start, start + (end - start) / 2, end):
        parts.append(_text(frame.x(value - start), HEIGHT - 6, _tick(value), "tick", "middle"))
    for i, (label, value, name) in enumerate(marks):
        if math.isfinite(value):
            x = frame.x(value - start)
            parts.append(f'<path class="{name}" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
            left = x > WIDTH / 2
            place = (x - 4, "end") if left else (x + 4, "start")
            parts.append(_text(place[0], TOP + 10 + 12 * i, label, f"key {name}", place[1]))
    return _figure(title, parts)


def _drawn(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _figure(title: str, parts: Sequence[str]) -> Markup:
    body = "".join(parts)
    return Markup(
        f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{body}</svg>'
    )


def _text(x: float, y: float, text: str, name: str, place: str = "start") -> str:
    text = "".join(c for c in text if c.isprintable())
    return f'<text class="{name}" x="{x:.1f}" y="{y:.1f}" text-anchor="{place}">{escape(text)}</text>'


def _rules(frame: _Frame, ticks: Sequence[float]) -> list[str]:
    parts = []
    for tick in ticks:
        y = frame.y(tick)
        parts.append(f'<path class="rule" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(_text(LEFT - 5, y + 3, _tick(tick), "tick", "end"))
    return parts


def _steps(frame: _Frame) -> list[str]:
    every = max(1, math.ceil(frame.last / 8))
    return [
        _text(frame.x(step), HEIGHT - 6, str(step), "tick", "middle") for step in range(0, int(frame.last) + 1, every)
    ]


def _line(frame: _Frame, values: Sequence[float], name: str) -> str:
    """A path with a gap where nothing can be drawn, and a dot per value where there are few."""
    pieces, pen, dots = [], "M", []
    for step, value in enumerate(values):
        if not _drawn(value):
            pen = "M"
            continue
        x, y = frame.x(step), frame.y(value)
        pieces.append(f"{pen}{x:.1f} {y:.1f}")
        dots.append(f'<circle class="{name}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>')
        pen = "L"
    few = len(values) <= 20 and name != "limit"
    return f'<path class="{name}" d="{"".join(pieces)}"/>' + ("".join(dots) if few else "")


def _decades(low: float, high: float) -> list[float]:
    """Powers of ten within the range; 1, 2 and 5 of each where there are too few; at most five ticks."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for mantissas in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        ticks = [m * 10.0**p for p in powers for m in mantissas if low <= m * 10.0**p <= high]
        if len(ticks) >= 2:
            break
    return ticks[:: math.ceil(len(ticks) / 5)]


def _tick(value: float) -> str:
    return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e") if 0 < value < 0.001 else f"{value:.3g}"
