"""Skill over a reference, such as a baseline, and the difference from it, with intervals.

Both forecasts are scored on the same clips, and each replicate of the bootstrap (:mod:`stpredict.metrics.bootstrap`) draws the same clips
for both. So what makes a clip hard for both cancels, and the interval of a difference is as narrow as the clips allow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stpredict.metrics.bootstrap import Numbers, interval_of
from stpredict.metrics.running import RunningScore


@dataclass(frozen=True)
class Estimate:
    """A number and how sure it is.

    Attributes:
        value: from all clips.
        low: lower end of its 95 % interval; NaN where there are less than two clips, or films, to draw from. Replicates in which the
            number is not finite, such as a skill over a perfect reference, say nothing and are left out.
        high: upper end.
    """

    value: float
    low: float
    high: float


def skill_over(running: RunningScore, reference: RunningScore) -> Estimate | None:
    """Return by how much one forecast is better than another: 1 is perfect, 0 as good, below 0 worse.

    It is ``(score - reference's) / (perfect - reference's)``; for an error, of which 0 is perfect, 1 - score / reference's.

    Args:
        running: of the forecast.
        reference: of the other, scored on the same clips with the same draws.

    Returns:
        The skill, or None for a score that does not say what is perfect.
    """
    perfect = getattr(running.score, "perfect", None)
    if perfect is None:
        return None
    return _paired(running, reference, lambda own, other: (own - other) / (perfect - other))


def difference_from(running: RunningScore, reference: RunningScore) -> Estimate:
    """Return the score of one forecast minus that of another, both scored on the same clips with the same draws."""
    return _paired(running, reference, lambda own, other: own - other)


def _paired(running: RunningScore, reference: RunningScore, compare: Callable[[Numbers, Numbers], Numbers]) -> Estimate:
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(compare(np.array(running.mean()), np.array(reference.mean())))
        own, other = running.replicates(), reference.replicates()
        if own is None or other is None:
            return Estimate(value, float("nan"), float("nan"))
        low, high = interval_of(compare(own, other))
    return Estimate(value, float(low), float(high))
