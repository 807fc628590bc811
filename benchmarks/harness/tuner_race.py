"""Which of several candidates is fastest: interleaved rounds, from which those that cannot win drop out.

A round measures every candidate that is left once, in turn, so that a drifting clock moves all of them alike; what is
compared is the ratio to the leader within each round.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

K = TypeVar("K")


@dataclass(frozen=True)
class Rule:
    """When a candidate drops out and when a race ends.

    hopeless     slower than the leader by this factor in one round: out at once
    least, most  rounds before the statistics may drop a candidate, and rounds of a race
    confidence   that a dropped candidate is slower than the leader, by Student's t on the logarithms of the ratios
    """

    hopeless: float = 1.5
    least: int = 3
    most: int = 12
    confidence: float = 0.99


RULE = Rule()


def race(
    candidates: Mapping[K, Callable[[], float]],
    rule: Rule = RULE,
    until: float = math.inf,
    now: Callable[[], float] = time.monotonic,
) -> dict[K, list[float]]:
    """Seconds by candidate, a sample for each round that it took part in; each was called once more before, to warm up.

    It ends with one candidate left, after `rule.most` rounds, or with the first round that ends after `until`.
    """
    for measure in candidates.values():
        measure()
    samples: dict[K, list[float]] = {candidate: [] for candidate in candidates}
    running = list(candidates)
    for _ in range(rule.most):
        for candidate in running:
            samples[candidate].append(candidates[candidate]())
        running = _left({candidate: samples[candidate] for candidate in running}, rule)
        if len(running) == 1 or now() >= until:
            break
    return samples


def winner(samples: Mapping[K, Sequence[float]]) -> K:
    """The candidate with the lowest median among those that took part to the end. Raises ValueError without any."""
    rounds = max(map(len, samples.values()), default=0)
    if not rounds:
        raise ValueError("no candidate was measured; name others")
    last = [candidate for candidate, seconds in samples.items() if len(seconds) == rounds]
    return min(last, key=lambda candidate: statistics.median(samples[candidate]))


def ratio(seconds: Sequence[float], other: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """How many times as long as `other` it takes, round by round: the geometric mean, and the ends of its interval.

    The interval is Student's on the logarithms, (0, infinity) for fewer than two rounds. Raises ValueError unless there
    are equally many rounds.
    """
    from scipy import stats

    logs = [math.log(a / b) for a, b in zip(seconds, other, strict=True)]
    mean = statistics.fmean(logs)
    if len(logs) < 2:
        return math.exp(mean), 0.0, math.inf
    t = float(stats.t.ppf(0.5 + confidence / 2, len(logs) - 1))
    half = t * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def _left(samples: dict[K, list[float]], rule: Rule) -> list[K]:
    """Those that may still win, the leader first among equals; in their old order."""
    leader = min(samples, key=lambda candidate: statistics.median(samples[candidate]))
    rounds = len(samples[leader])
    # Two-sided at 2c - 1 is one-sided at c.
    confidence = 2 * rule.confidence - 1

    def slower(candidate: K) -> bool:
        if candidate == leader:
            return False
        if samples[candidate][-1] > rule.hopeless * samples[leader][-1]:
            return True
        return rounds >= rule.least and ratio(samples[candidate], samples[leader], confidence)[1] > 1

    return [candidate for candidate in samples if not slower(candidate)]
