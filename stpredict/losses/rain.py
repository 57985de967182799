"""Losses that give heavy rain, of which there is little, the weight that it has for people."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from stpredict.devices import carry
from stpredict.errors import UserError
from stpredict.frames import FrameSpec
from stpredict.losses.pixels import error, scaled_thresholds
from stpredict.metrics.balanced import RATES, WEIGHTS
from stpredict.rain import rain_to_dbz


class Balanced:
    """Absolute and squared error, weighted by the rain that fell: B-MAE and B-MSE (Shi et al. 2017, arXiv 1706.03458)."""

    def __init__(
        self,
        spec: FrameSpec,
        l1: float = 1.0,
        l2: float = 1.0,
        thresholds: tuple[float, ...] | None = None,
        weights: tuple[float, ...] = WEIGHTS,
    ) -> None:
        """Choose the weights.

        Args:
            spec: of the frames.
            l1: weight of the absolute error.
            l2: weight of the squared error.
            thresholds: physical values at which the weight changes; None: 0.5, 2, 5, 10 and 30 mm/h.
            weights: below the first threshold, from the first on, and so on; a pixel counts with that of the true value.

        Raises:
            UserError: the numbers do not fit together, or the thresholds are needed since the frames are no rain.
        """
        thresholds = _rain_thresholds(spec) if thresholds is None else thresholds
        if len(weights) != len(thresholds) + 1 or any(later <= earlier for earlier, later in pairwise(thresholds)):
            raise UserError(f"loss.weights are one more than loss.thresholds, which increase: not {len(weights)} for {list(thresholds)}")
        if min(weights) < 0:
            raise UserError(f"loss.weights must not be negative: {list(weights)}")
        self.spec, self.l1, self.l2 = spec, l1, l2
        self.weights = torch.tensor(weights)
        # In float32, as the frames are: a value at a threshold is none below.
        self.thresholds = scaled_thresholds(thresholds, spec)

    def __call__(self, predictions: Tensor, targets: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weighted sum and the number of valid pixels."""
        difference = error(predictions, targets, valid)
        known = torch.where(valid, targets, 0.0).float()
        weights = carry(self.weights, known.device)[torch.bucketize(known, carry(self.thresholds, known.device), right=True)]
        total = difference.new_zeros(())
        if self.l1:
            total = total + self.l1 * (weights * difference.abs()).sum()
        if self.l2:
            total = total + self.l2 * (weights * difference.square()).sum()
        return total, valid.sum()


class RainWeighted:
    """Absolute error with a weight that grows with the rain that fell, ``min(R + 1, most)`` (Ravuri et al. 2021, DGMR)."""

    def __init__(self, spec: FrameSpec, most: float = 24.0) -> None:
        """Choose the largest weight.

        Raises:
            UserError: the frames are no rain rates, or the weight is below 1.
        """
        if spec.units != "mm/h":
            raise UserError(f"The loss rain-weighted takes rain rates in mm/h, and these frames are in {spec.units}: choose 'balanced'")
        if most < 1:
            raise UserError(f"loss.most, the largest weight, is at least 1, not {most:g}")
        self.spec, self.most = spec, most

    def __call__(self, predictions: Tensor, targets: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weighted sum and the number of valid pixels."""
        rates = self.spec.transform.unscale(torch.where(valid, targets, self.spec.scaled_fill).float())
        weights = (rates + 1.0).clamp(0.0, self.most)
        return (weights * error(predictions, targets, valid).abs()).sum(), valid.sum()


def _rain_thresholds(spec: FrameSpec) -> tuple[float, ...]:
    if spec.units == "mm/h":
        return RATES
    if spec.units == "dBZ" and spec.z_r is not None:
        return tuple(rain_to_dbz(torch.tensor(RATES), spec.z_r).tolist())
    need = "no Z-R pair that makes them rain rates" if spec.units == "dBZ" else "no rain rates in mm/h"
    raise UserError(f"The loss balanced has thresholds in mm/h, and these frames, in {spec.units}, are {need}: give loss.thresholds")
