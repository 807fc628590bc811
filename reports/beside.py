"""A series beside the others of the same nights: what the machine does to all of them at once, taken out.

    night            1     2     3     4
    norm           0.0  +2.1  +3.0  +5.2   percent of its own mean
    the others     0.0  +2.0   0.0  +2.0   the median of theirs
    beside them    0.0  +0.1  +3.0  +3.2   a step at 3, which night 2 would have hidden

It only ever raises a suspicion, for paired rounds to decide: a commit that slows every series cannot be seen here, and
where many step, those that did not seem to step the other way.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from reports.decide import Key, key
from reports.history import Line, Point

LEAST = 4
"""Other series of a night, at least: the median of fewer wanders more than it takes out."""

Group = tuple[str, str, int]
"""Hardware, environment and protocol: what can be compared."""


@dataclass(frozen=True)
class Nights:
    """By group and night (a commit on one occasion): how far each series lies from its own mean, as a logarithm."""

    far: dict[Group, dict[tuple[str, str], dict[Key, float]]]

    def beside(self, line: Line, points: Sequence[Point]) -> list[float] | None:
        """The logarithms of the points of one era beside the others' median; None if a night has fewer than LEAST."""
        own, found = key(line.series), []
        for point in points:
            night = self.far.get(_group(line, point), {}).get((point.commit, point.occasion), {})
            others = [value for name, value in night.items() if name != own]
            if len(others) < LEAST:
                return None
            found.append(math.log(point.center) - statistics.median(others))
        return found


def nights(lines: Sequence[Line]) -> Nights:
    """All series of time."""
    far: dict[Group, dict[tuple[str, str], dict[Key, float]]] = defaultdict(lambda: defaultdict(dict))
    for line in lines:
        if line.unit != "seconds":
            continue
        eras: dict[Group, list[Point]] = defaultdict(list)
        for point in line.points:
            if not point.failed and point.center > 0:
                eras[_group(line, point)].append(point)
        for group, points in eras.items():
            mean = statistics.fmean(math.log(point.center) for point in points)
            for point in points:
                name = key(line.series)
                far[group][point.commit, point.occasion][name] = math.log(point.center) - mean
    return Nights(far)


def _group(line: Line, point: Point) -> Group:
    return line.hardware, point.fingerprint[:6], point.protocol
