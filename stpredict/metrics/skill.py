"""Skill over a baseline, with an interval by the bootstrap: what would it have been on other clips of the same kind?

Source: Efron and Tibshirani, An introduction to the bootstrap (1993): percentiles over sets drawn with replacement.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stpredict import draws
from stpredict.metrics.running import Numbers, RunningScore, overall

REPLICATES = 1000
LEVEL = 0.95
AT_ONCE = 50


@dataclass(frozen=True)
class Skill:
    """By how much a forecast is better than a baseline: 1 is perfect, 0 as good, below 0 worse.

    Attributes:
        value: ``(score - baseline's) / (perfect - baseline's)``; for an error, of which 0 is perfect, 1 - score / baseline's.
        low: lower end of its 95 % interval; NaN where there are less than two units to draw. Draws in which a score is empty or the
            baseline perfect say nothing and are left out.
        high: upper end.
    """

    value: float
    low: float
    high: float


def skill_over(running: RunningScore, baseline: RunningScore, units: NDArray[np.int64] | None = None, seed: int = 0) -> Skill | None:
    """Return the skill of one forecast over another, both scored on the same clips in the same order, which were kept.

    Args:
        running: of the forecast.
        baseline: of the other.
        units: ``(clips,)`` which unit, 0 to U - 1, each clip belongs to; units are drawn again as a whole, which is right where clips
            of one event resemble each other. None: each clip is a unit.
        seed: of the draws.

    Returns:
        The skill, or None for a score that does not say what is perfect. Each draw holds as many units as there are, the same for both.
    """
    perfect = getattr(running.score, "perfect", None)
    if perfect is None:
        return None

    def relative(own: Numbers, other: Numbers) -> Numbers:
        with np.errstate(divide="ignore", invalid="ignore"):
            skill: Numbers = (own - other) / (perfect - other)
        return skill

    value = float(relative(np.array(running.mean()), np.array(baseline.mean())))
    sums = [_unit_sums(one, units) for one in (running, baseline)]
    count = len(sums[0][0])
    if count < 2:
        return Skill(value, float("nan"), float("nan"))
    replicates = []
    for first in range(0, REPLICATES, AT_ONCE):
        times = np.stack([_times_drawn(seed, number, count) for number in range(first, first + AT_ONCE)])
        own, other = (overall(running.score, *(np.tensordot(times, part, 1) for part in parts)) for parts in sums)
        replicates.append(relative(own, other))
    drawn = np.concatenate(replicates)
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return Skill(value, float("nan"), float("nan"))
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return Skill(value, float(low), float(high))


def _times_drawn(seed: int, replicate: int, count: int) -> Numbers:
    """Return how often each of ``count`` units is in a draw of as many with replacement."""
    drawn = (draws.uniform(seed, "bootstrap", 0, replicate, count) * count).astype(np.int64)
    return np.bincount(drawn, minlength=count).astype(np.float64)


def _unit_sums(running: RunningScore, units: NDArray[np.int64] | None) -> tuple[Numbers, Numbers]:
    """Return totals and weights ``(U, T, ...)`` of each unit."""
    assert running.clips, "skill needs the clips of a running score"
    totals, weights = (np.concatenate([clips[part] for clips in running.clips]) for part in (0, 1))
    if units is None:
        return totals, weights
    sums = []
    for part in (totals, weights):
        summed = np.zeros((int(units.max()) + 1, *part.shape[1:]))
        np.add.at(summed, units, part)
        sums.append(summed)
    return sums[0], sums[1]
