"""Skill over a reference, such as a baseline, and the difference from it, with intervals.

Both forecasts are scored on the same clips, and each replicate of the bootstrap (:mod:`stpredict.metrics.bootstrap`) draws the same clips
for both. So what makes a clip hard for both cancels, and the interval of a difference is as narrow as the clips allow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
        per_lead: the number at each lead alone.
        per_lead_interval: the lower ends of its intervals, and the upper ones; NaN also where the replicates hold no single leads.
    """

    value: float
    low: float
    high: float
    per_lead: list[float]
    per_lead_interval: list[list[float]]


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
        per_lead = compare(running.per_lead(), reference.per_lead())
        low, high = _interval(running.replicates(), reference.replicates(), compare, value)
        lows, highs = _interval(running.per_lead_replicates(), reference.per_lead_replicates(), compare, per_lead)
    return Estimate(value, float(low), float(high), per_lead.tolist(), [lows.tolist(), highs.tolist()])


def _interval(own: Numbers | None, other: Numbers | None, compare: Callable[[Numbers, Numbers], Numbers], like: Any) -> Numbers:
    """Return the ends ``(2, ...)`` of the interval of what is compared; NaN, of the shape of ``like``, without replicates."""
    return np.full((2, *np.shape(like)), np.nan) if own is None or other is None else interval_of(compare(own, other))
