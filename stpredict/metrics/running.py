"""The mean of a score over clips that come batch by batch, and how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from stpredict.metrics.bootstrap import Draw, Numbers, interval_of

MOST_NUMBERS = 1 << 13
"""Numbers of a score, over leads and parts, above which the replicates hold sums over leads alone: 64 MiB in 1000 replicates."""

_AT_ONCE = 50
"""Replicates that are worked on together, so that what is made of them on the way stays small."""


class RunningScore:
    """Sums of totals and weights per lead, in float64: the same mean for any batches, in any order, from any processes.

    Where clips come with a draw, as many sums are kept again as there are replicates, which takes 8 kB for each number of a score
    and lead, however many clips there are.

    Attributes:
        score: whose sums they are; it says what becomes of them (see :class:`stpredict.metrics.Score`). None: totals over weights.
        totals: ``(T, ...)`` sum of totals over the clips seen.
        weights: ``(T, ...)`` sum of weights.
    """

    def __init__(self, horizon: int, score: Any = None) -> None:
        """Start with nothing seen.

        Args:
            horizon: T, the number of leads.
            score: whose sums these are.
        """
        self.score = score
        self.totals: Numbers = np.zeros(horizon)
        self.weights: Numbers = np.zeros(horizon)
        self._replicates: tuple[Numbers, Numbers] | None = None  # totals and weights, (R, T, ...), or (R, 1, ...) summed over leads
        self._units: tuple[int, int] | None = None  # the least and the greatest number of a unit

    def add(self, total: Tensor | Numbers, weight: Tensor | Numbers, draw: Draw | None = None) -> None:
        """Add what a score returned for a batch, ``(B, T, ...)`` and ``(B, T, ...)``; with a draw, also to the replicates."""
        totals, weights = as_numbers(total), as_numbers(weight)
        self._take(totals.sum(0), weights.sum(0))
        if draw is not None:
            if max(totals[0].size, weights[0].size) > MOST_NUMBERS:
                totals, weights = totals.sum(1, keepdims=True), weights.sum(1, keepdims=True)
            self._take_replicates((_drawn(draw, totals), _drawn(draw, weights)))
            self._take_units((int(draw.units.min()), int(draw.units.max())))

    def merge(self, other: RunningScore) -> None:
        """Add what another process, or another part of the clips, has seen."""
        self._take(other.totals, other.weights)
        if other._replicates is not None and other._units is not None:
            self._take_replicates(other._replicates)
            self._take_units(other._units)

    def __getstate__(self) -> dict[str, Any]:
        """Return what goes to another process, which has the score itself."""
        return {**self.__dict__, "score": None}

    def _take(self, totals: Numbers, weights: Numbers) -> None:
        self.totals = _widened(self.totals, totals.ndim) + _widened(totals, self.totals.ndim)
        self.weights = _widened(self.weights, weights.ndim) + _widened(weights, self.weights.ndim)

    def _take_replicates(self, sums: tuple[Numbers, Numbers]) -> None:
        if self._replicates is None:
            self._replicates = sums[0].copy(), sums[1].copy()
            return
        with np.errstate(invalid="ignore"):
            for ours, theirs in zip(self._replicates, sums, strict=True):
                ours += theirs

    def _take_units(self, ends: tuple[int, int]) -> None:
        self._units = ends if self._units is None else (min(ends[0], self._units[0]), max(ends[1], self._units[1]))

    def mean(self) -> float:
        """Return the score over clips and leads; NaN where nothing was valid."""
        return float(overall(self.score, self.totals[None], self.weights[None])[0])

    def per_lead(self) -> Numbers:
        """Return the score at each lead, ``(T,)``; NaN where nothing was valid."""
        (values,) = _per_lead(self.score, self.totals[None], self.weights[None])
        return np.asarray(values)

    def parts(self) -> Numbers | None:
        """Return each of the several numbers of a score over clips and leads, ``(N,)``; None for a score of one number."""
        values = _over_leads(self.score, self.totals[None], self.weights[None])[0]
        return values if values.ndim > 0 else None

    def parts_per_lead(self) -> Numbers | None:
        """Return each of the several numbers of a score at each lead, ``(T, N)``; None for a score of one number."""
        values = values_of(self.score, self.totals, self.weights)
        return values if values.ndim > 1 else None

    def replicates(self) -> Numbers | None:
        """Return :meth:`mean` in each replicate, ``(R,)``; None where clips came without a draw, or all are of one unit."""
        return self._in_replicates(overall) if self._leads_suffice(getattr(self.score, "mean_over_leads", False)) else None

    def per_lead_replicates(self) -> Numbers | None:
        """Return :meth:`per_lead` in each replicate, ``(R, T)``; None also where the replicates hold no single leads."""
        return self._in_replicates(_per_lead) if self._leads_suffice(True) else None

    def interval(self) -> Numbers:
        """Return the ends ``(2,)`` of the 95 % interval of :meth:`mean`; NaN where there are less than two units to draw from."""
        values = self.replicates()
        return np.full(2, np.nan) if values is None else interval_of(values)

    def per_lead_interval(self) -> Numbers:
        """Return the ends ``(2, T)`` of the intervals of :meth:`per_lead`; NaN also where the replicates hold no single leads."""
        values = self.per_lead_replicates()
        return np.full((2, len(self.totals)), np.nan) if values is None else interval_of(values)

    def parts_interval(self) -> Numbers | None:
        """Return the ends ``(2, N)`` of the intervals of :meth:`parts`; None for a score of one number."""
        parts = self.parts()
        if parts is None:
            return None
        if not self._leads_suffice(getattr(self.score, "mean_over_leads", False)):
            return np.full((2, len(parts)), np.nan)
        return interval_of(self._in_replicates(_over_leads))

    def _leads_suffice(self, single: bool) -> bool:
        """Whether there are replicates to draw from, with ``single`` leads kept apart."""
        if self._replicates is None or self._units is None or self._units[0] == self._units[1]:
            return False
        return not single or self._replicates[0].shape[1] == len(self.totals)

    def _in_replicates(self, make: Any) -> Numbers:
        """Return what ``make(score, totals, weights)`` makes of the sums of all replicates."""
        assert self._replicates is not None
        totals, weights = self._replicates
        starts = range(0, len(totals), _AT_ONCE)
        return np.concatenate([make(self.score, totals[start : start + _AT_ONCE], weights[start : start + _AT_ONCE]) for start in starts])


def as_numbers(sums: Tensor | Numbers) -> Numbers:
    """Return a tensor, wherever it is, as a float64 array; of an array, itself."""
    numbers: Numbers = sums.double().cpu().numpy() if isinstance(sums, Tensor) else sums
    return numbers


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
    name_parts = getattr(score, "name_parts", None)
    if callable(name_parts):
        return tuple(name_parts(spec, count))
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


def _per_lead(score: Any, totals: Numbers, weights: Numbers) -> Numbers:
    """Return a score at each lead, ``(R, T)``, of R sets of sums ``(R, T, ...)``."""
    values = values_of(score, totals, weights)
    return summary_of(score, values) if values.ndim > 2 else values


def _drawn(draw: Draw, sums: Numbers) -> Numbers:
    """Return the sums ``(R, ...)`` of ``(B, ...)`` in each replicate."""
    with np.errstate(invalid="ignore"):  # of a sum that is infinite, no time is NaN
        drawn: Numbers = (draw.times @ sums.reshape(len(sums), -1)).reshape(len(draw.times), *sums.shape[1:])
    return drawn


def _widened(sums: Numbers, dimensions: int) -> Numbers:
    """Return the zeros that sums start as with as many axes as those that are added to them."""
    return sums.reshape(sums.shape + (1,) * (dimensions - sums.ndim))
