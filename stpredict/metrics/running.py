"""The mean of a score over clips that come batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Numbers = NDArray[np.float64]


class RunningScore:
    """Sums of totals and weights per lead, in float64: the same mean for any batches, in any order, from any processes.

    Attributes:
        score: whose sums they are; it says what becomes of them (see :class:`stpredict.metrics.Score`). None: totals over weights.
        totals: ``(T, ...)`` sum of totals over the clips seen.
        weights: ``(T, ...)`` sum of weights.
        clips: totals and weights of each clip as they came, ``(B, T, ...)``, where they are kept; else empty.
    """

    def __init__(self, horizon: int, score: Any = None, keep_clips: bool = False) -> None:
        """Start with nothing seen.

        Args:
            horizon: T, the number of leads.
            score: whose sums these are.
            keep_clips: keep each clip's own, which costs memory for each, so that clips can be drawn again at random.
        """
        self.score, self._keep_clips = score, keep_clips
        self.totals: Numbers = np.zeros(horizon)
        self.weights: Numbers = np.zeros(horizon)
        self.clips: list[tuple[Numbers, Numbers]] = []

    def add(self, total: Tensor, weight: Tensor) -> None:
        """Add what a score returned for a batch: ``(B, T, ...)`` and ``(B, T, ...)``."""
        totals, weights = (tensor.double().cpu().numpy() for tensor in (total, weight))
        self._take(totals.sum(0), weights.sum(0))
        if self._keep_clips:
            self.clips.append((totals, weights))

    def merge(self, other: RunningScore) -> None:
        """Add what another process, or another part of the clips, has seen."""
        self._take(other.totals, other.weights)
        self.clips += other.clips

    def _take(self, totals: Numbers, weights: Numbers) -> None:
        self.totals = _widened(self.totals, totals.ndim) + _widened(totals, self.totals.ndim)
        self.weights = _widened(self.weights, weights.ndim) + _widened(weights, self.weights.ndim)

    def per_lead(self) -> Numbers:
        """Return the score at each lead, ``(T,)``; NaN where nothing was valid."""
        values = values_of(self.score, self.totals, self.weights)
        return summary_of(self.score, values) if values.ndim > 1 else values

    def mean(self) -> float:
        """Return the score over clips and leads; NaN where nothing was valid."""
        return float(overall(self.score, self.totals[None], self.weights[None])[0])

    def parts_per_lead(self) -> Numbers | None:
        """Return each of the several numbers of a score at each lead, ``(T, N)``; None for a score of one number."""
        values = values_of(self.score, self.totals, self.weights)
        return values if values.ndim > 1 else None

    def parts(self) -> Numbers | None:
        """Return each of the several numbers of a score over clips and leads, ``(N,)``; None for a score of one number."""
        values = _over_leads(self.score, self.totals[None], self.weights[None])[0]
        return values if values.ndim > 0 else None


def overall(score: Any, totals: Numbers, weights: Numbers) -> Numbers:
    """Return a score over all leads, ``(R,)``, of R sets of sums ``(R, T, ...)``."""
    values = _over_leads(score, totals, weights)
    return summary_of(score, values) if values.ndim > 1 else values


def values_of(score: Any, totals: Numbers, weights: Numbers) -> Numbers:
    """Return what a score makes of sums ``(..., N, ...)``: ``(..., N)``; unless it says otherwise, totals over weights."""
    value: Numbers = getattr(score, "value", ratio)(totals, weights)
    return value


def summary_of(score: Any, values: Numbers) -> Numbers:
    """Return the one number for several, ``(..., N)`` to ``(...,)``: the mean, unless the score says otherwise."""
    summary: Numbers = getattr(score, "summary", _mean_of_parts)(values)
    return summary


def ratio(totals: Numbers, weights: Numbers) -> Numbers:
    """Return totals over weights; NaN where there is no weight."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(weights > 0, totals / weights, np.nan)


def names_of_parts(score: Any, spec: Any, count: int) -> Sequence[str]:
    """Return what the several numbers of a score are called: as it says, else by their position."""
    parts = getattr(score, "parts", None)
    return tuple(parts(spec)) if callable(parts) else tuple(str(number) for number in range(count))


def _mean_of_parts(values: Numbers) -> Numbers:
    mean: Numbers = values.mean(-1)
    return mean


def _over_leads(score: Any, totals: Numbers, weights: Numbers) -> Numbers:
    if getattr(score, "mean_over_leads", False):
        mean: Numbers = values_of(score, totals, weights).mean(1)
        return mean
    return values_of(score, totals.sum(1), weights.sum(1))


def _widened(sums: Numbers, dimensions: int) -> Numbers:
    """Return the zeros that sums start as with as many axes as those that are added to them."""
    return sums.reshape(sums.shape + (1,) * (dimensions - sums.ndim))
