"""The pictures of one comparison: expected, actual, difference, and where FLIP sees it."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.harness import images
from benchmarks.harness.images import RGB, Comparison


def draw(
    expected: RGB | None, actual: RGB | None, found: Comparison | None, out: Path, stem: str
) -> tuple[dict[str, str], int]:
    """Write the pictures that there are below out/pictures: their names and paths, and the difference's factor."""
    factor = 1
    drawn = {name: picture for name, picture in (("expected", expected), ("actual", actual)) if picture is not None}
    if expected is not None and actual is not None and expected.shape == actual.shape:
        drawn["difference"], factor = images.amplified(expected, actual)
        titled = {f"difference x {factor}" if name == "difference" else name: drawn[name] for name in drawn}
        drawn["side by side"] = images.side_by_side(titled)
    if found is not None and found.flip is not None:
        drawn["flip"] = images.heat(found.flip)
    paths = {name: f"pictures/{re.sub(r'[^a-zA-Z0-9_.-]+', '_', f'{stem}-{name}')}.png" for name in drawn}
    for name, path in paths.items():
        images.write_png(out / path, drawn[name])
    return paths, factor
