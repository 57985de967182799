"""The mean of a score over clips that come batch by batch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class RunningScore:
    """Sums of totals and weights per lead, in float64: the same mean for any batches, in any order, from any processes.

    Attributes:
        totals: ``(T,)`` sum of totals over the clips seen.
        weights: ``(T,)`` sum of weights.
    """

    def __init__(self, horizon: int) -> None:
        self.totals: NDArray[np.float64] = np.zeros(horizon)
        self.weights: NDArray[np.float64] = np.zeros(horizon)

    def add(self, total: Tensor, weight: Tensor) -> None:
        """Add what a score returned for a batch: ``(B, T)`` and ``(B, T)``."""
        self.totals += total.double().sum(0).cpu().numpy()
        self.weights += weight.double().sum(0).cpu().numpy()

    def merge(self, other: RunningScore) -> None:
        """Add what another process, or another part of the clips, has seen."""
        self.totals += other.totals
        self.weights += other.weights

    def per_lead(self) -> NDArray[np.float64]:
        """Return the mean at each lead, ``(T,)``; NaN where nothing was valid."""
        return _ratio(self.totals, self.weights)

    def mean(self) -> float:
        """Return the mean over clips and leads; NaN where nothing was valid."""
        return float(_ratio(self.totals.sum(), self.weights.sum()))


def _ratio(total: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(weight > 0, total / weight, np.nan)
