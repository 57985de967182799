"""How sure is a difference between two ways to train? Two kinds of luck are told apart: that of the seed, and that of the clips.

Over seeds: the weights that a run starts from and the order of its clips are drawn by its seed, and a study has a few of them, so its
interval is Student's, of the mean of a sample whose deviation is estimated from itself. Over clips: all runs are scored on the same
clips, so that differences are taken clip by clip, and the bootstrap of :mod:`stpredict.metrics.bootstrap` draws clips again.

Source: Student, The probable error of a mean (Biometrika, 1908); the distribution for whole degrees of freedom as in Abramowitz and
Stegun, Handbook of mathematical functions (1964), 26.7.3 and 26.7.4.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stpredict.metrics.bootstrap import LEVEL, REPLICATES, draw_units, interval_of

Numbers = NDArray[np.float64]

_AT_ONCE = 1000
"""Clips whose draws are in memory at a time."""


@dataclass(frozen=True)
class OverSeeds:
    """A number over several seeds.

    Attributes:
        mean: of all.
        low: lower end of the 95 % interval of the mean; NaN for one seed.
        high: upper end.
        least: the smallest of all.
        most: the largest.
    """

    mean: float
    low: float
    high: float
    least: float
    most: float


@dataclass(frozen=True)
class Difference:
    """The score of one variant minus that of another, over the seeds that both have.

    Attributes:
        seeds: these.
        per_seed: the difference of each.
        over_seeds: their mean with its interval over seeds: what another seed would give.
        clips_low: lower end of the 95 % interval of the mean over clips: what other clips would give these very runs. NaN if unknown.
        clips_high: upper end.
    """

    seeds: tuple[int, ...]
    per_seed: tuple[float, ...]
    over_seeds: OverSeeds
    clips_low: float
    clips_high: float

    @property
    def verdict(self) -> str:
        """Return in a word what may be said: ``clear``, ``luck of seeds``, ``luck of clips``, ``luck of both`` or ``unknown``."""
        ends = [(self.over_seeds.low, self.over_seeds.high), (self.clips_low, self.clips_high)]
        if any(math.isnan(end) for pair in ends for end in pair):
            return "unknown"
        seeds, clips = (low > 0 or high < 0 for low, high in ends)
        return "clear" if seeds and clips else "luck of seeds" if clips else "luck of clips" if seeds else "luck of both"


def over_seeds(values: Sequence[float]) -> OverSeeds:
    """Return mean, interval and range of what several seeds gave."""
    mean = statistics.fmean(values)
    half = math.nan
    if len(values) > 1 and all(map(math.isfinite, values)):
        half = student_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return OverSeeds(mean, mean - half, mean + half, min(values), max(values))


def difference_of(
    own: Mapping[int, float], other: Mapping[int, float], own_clips: Mapping[int, Numbers], other_clips: Mapping[int, Numbers]
) -> Difference | None:
    """Return the difference of two variants, paired by seed and by clip; None where they have no seed in common.

    Args:
        own: seed -> score over all clips.
        other: the same of the other variant.
        own_clips: seed -> ``(N,)`` the score of each clip alone; the interval over clips is of the mean of these.
        other_clips: the same of the other variant, on the same clips.
    """
    seeds = tuple(seed for seed in own if seed in other)
    if not seeds:
        return None
    per_seed = tuple(own[seed] - other[seed] for seed in seeds)
    low = high = math.nan
    if all(seed in own_clips and seed in other_clips for seed in seeds):
        low, high = _over_clips(np.mean([own_clips[seed] - other_clips[seed] for seed in seeds], axis=0))
    return Difference(seeds, per_seed, over_seeds(per_seed), low, high)


def _over_clips(differences: Numbers) -> tuple[float, float]:
    """Return the 95 % interval of the mean of ``(N,)`` differences; clips without one are left out."""
    there = np.flatnonzero(np.isfinite(differences))
    if len(there) < 2:
        return math.nan, math.nan
    sums, counts = np.zeros(REPLICATES), np.zeros(REPLICATES)
    for start in range(0, len(there), _AT_ONCE):
        part = there[start : start + _AT_ONCE]
        times = draw_units(part).times
        sums += times @ differences[part]
        counts += times.sum(axis=1)
    with np.errstate(invalid="ignore"):
        low, high = interval_of(sums / counts)
    return float(low), float(high)


def student_quantile(freedom: int, level: float = LEVEL) -> float:
    """Return t such that Student's variable of so many degrees of freedom lies between -t and t with the chance ``level``."""
    low, high = 0.0, 1.0
    while _within(high, freedom) < level:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < level else (low, middle)
    return high


def _within(t: float, freedom: int) -> float:
    """Return the chance that Student's variable lies between -t and t."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = freedom % 2
    term, total = (cosine if odd else 1.0), 0.0
    for number in range(freedom // 2):
        total += term
        step = 2 * number + 1 + odd
        term *= step / (step + 1) * cosine**2
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
