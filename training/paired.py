"""The same samples scored twice: does another precision or implementation make other pictures right?"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from training.checkpoints import same_origin
from training.evaluate import describe_share
from training.files import write_json

MAY_DIFFER = {"device", "processes", "pictures", "minutes", "dtype", "quantise", "ops", "tasks"}
"""Options of two evaluations of the same samples that may differ."""
Z = 1.959964
"""Standard normal quantile of 97.5 %."""


@dataclass(frozen=True)
class Pairs:
    """n samples: how many are right in both, in the first only, in the second only."""

    n: int
    both: int
    first: int
    second: int

    @classmethod
    def of(cls, first: Sequence[int], second: Sequence[int]) -> "Pairs":
        """1 is right. A run that was cut short has fewer: the samples that both have are compared."""
        each = list(zip(first, second, strict=False))
        return cls(len(each), each.count((1, 1)), each.count((1, 0)), each.count((0, 1)))

    @property
    def difference(self) -> float:
        """The second's share of right samples minus the first's."""
        return (self.second - self.first) / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """95 % of the difference. Source: Bonett and Price, 2012, adjusted Wald interval for paired proportions."""
        lost, won = (self.first + 1) / (self.n + 2), (self.second + 1) / (self.n + 2)
        half = Z * math.sqrt((lost + won - (won - lost) ** 2) / (self.n + 2))
        return won - lost - half, won - lost + half

    @property
    def p(self) -> float:
        """Of at least so uneven a split of the samples that differ, if neither is better (exact McNemar, two-sided)."""
        differing = self.first + self.second
        return float(binomtest(self.second, differing).pvalue) if differing else 1.0


def compare(files: Sequence[Path], out: Path) -> None:
    """Hold every other evaluation against the first one, sample by sample; print tables and write both as JSON.

    Raises OSError or ValueError for a file that is none, or evaluations of other samples or checkpoints.
    """
    results = [read(path) for path in files]
    first, *others = results
    names = [name_of(one) for one in results]
    for other in others:
        _same(first, other)
    found = {name_of(other): _paired(first, other) for other in others}
    shares = dict(zip(names, (one["scores"] for one in results), strict=True))
    write_json(out, {"first": names[0], "options": [one["options"] for one in results], "scores": shares} | told(found))
    print("\n".join(table(names[0], shares, found)))


def pairs_of(kept: dict[str, Any]) -> Pairs:
    """What `told` kept of a task. Raises ValueError."""
    try:
        return Pairs(*(int(kept[name]) for name in ("n", "both", "first", "second")))
    except (KeyError, TypeError) as error:
        raise ValueError(f"pairs lack {error}; make them with: python -m training compare") from error


def told(found: dict[str, dict[str, Pairs]]) -> dict[str, Any]:
    """Pairs as JSON."""
    return {
        "pairs": {
            name: {
                task: asdict(one) | {"difference": one.difference, "interval": list(one.interval), "p": one.p}
                for task, one in tasks.items()
            }
            for name, tasks in found.items()
        }
    }


def table(first: str, shares: dict[str, Any], found: dict[str, dict[str, Pairs]]) -> list[str]:
    """Markdown: every share of every evaluation; then pictures that are all right, pair by pair."""
    names = list(shares)
    lines = [f"| task | what is right | {' | '.join(names)} |", "|---|" + "---|" * (1 + len(names))]
    for task, by_name in shares[first].items():
        for what in by_name:
            told = [describe_share(one) if (one := shares[n].get(task, {}).get(what)) else "" for n in names]
            lines.append(f"| {task} | {what} | {' | '.join(told)} |")
    lines += ["", f"| all right, beside {first} | pairs | lost | won | difference (95 %) | p |", "|---|" + "---|" * 5]
    for name, tasks in found.items():
        for task, one in tasks.items():
            low, high = (100 * value for value in one.interval)
            share = f"{100 * one.difference:+.1f} % ({low:+.1f} to {high:+.1f})"
            lines.append(f"| {name}, {task} | {one.n} | {one.first} | {one.second} | {share} | {one.p:.2g} |")
    return lines


def read(path: Path) -> dict[str, Any]:
    """What `evaluate` wrote. Raises OSError or ValueError."""
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or "right" not in found:
        raise ValueError(f"{path} does not say which samples are right; make it with: python -m training evaluate")
    return found


def name_of(result: dict[str, Any]) -> str:
    """ "bfloat16 fp8, mot_impl on cpu"; "fp8 checkpoint" if it was not quantised while loading."""
    options = result["options"]
    kind = f" {options['quantise']}" if options["quantise"] else ""
    kind += f" {result['quantised']['kind']} checkpoint" if "quantised" in result else ""
    return f"{options['dtype']}{kind}, {options['ops'].partition(':')[0]} on {options['device']}"


def _same(first: dict[str, Any], other: dict[str, Any]) -> None:
    if not same_origin(first, other):
        raise ValueError(
            "the evaluations are of different checkpoints; evaluate one folder, or what motbench quantise made of it"
        )
    for name in sorted(set(first["options"]) - MAY_DIFFER):
        ours, theirs = first["options"][name], other["options"].get(name)
        if ours != theirs:
            raise ValueError(f"the evaluations have {name} {ours} and {theirs}; samples would differ: evaluate alike")


def _paired(first: dict[str, Any], other: dict[str, Any]) -> dict[str, Pairs]:
    common = [task for task in first["right"] if first["right"][task] and other["right"].get(task)]
    return {task: Pairs.of(first["right"][task], other["right"][task]) for task in common}
