"""Losses that look at each pixel by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stpredict.errors import UserError
from stpredict.frames import FrameSpec


@dataclass(frozen=True)
class L2:
    """Squared error."""

    def __call__(self, predictions: Tensor, targets: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of squared errors and the number of valid pixels."""
        return error(predictions, targets, valid).square().sum(), valid.sum()


@dataclass(frozen=True)
class L1:
    """Absolute error."""

    def __call__(self, predictions: Tensor, targets: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of absolute errors and the number of valid pixels."""
        return error(predictions, targets, valid).abs().sum(), valid.sum()


@dataclass(frozen=True)
class L1AndL2:
    """A weighted sum of absolute and squared error.

    Attributes:
        l1: weight of the absolute error.
        l2: weight of the squared error. (OpenSTL's E3D-LSTM has 1 and 1; e3d_lstm 1 and 0.5.)
    """

    l1: float = 1.0
    l2: float = 1.0

    def __call__(self, predictions: Tensor, targets: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weighted sum and the number of valid pixels."""
        difference = error(predictions, targets, valid)
        return self.l1 * difference.abs().sum() + self.l2 * difference.square().sum(), valid.sum()


@dataclass(frozen=True)
class Quantile:
    """Absolute error that weighs a forecast too low by ``q`` and one too high by ``1 - q``: the pinball loss (Koenker & Bassett 1978).

    The forecast that does best says of each pixel what it exceeds with probability ``1 - q``; half of the absolute error is that of ``q``
    0.5. An event that is to be called where its probability is above p, as the critical success index c is highest with
    p = c / (1 + c), wants ``q`` = 1 - p, whatever its threshold.

    Attributes:
        q: the quantile, between 0 and 1.

    Raises:
        UserError: it is not between 0 and 1.
    """

    q: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 < self.q < 1.0:
            raise UserError(f"loss.q, the quantile, lies between 0 and 1, not at {self.q:g}")

    def __call__(self, predictions: Tensor, targets: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weighted sum and the number of valid pixels."""
        difference = error(predictions, targets, valid)
        return ((1.0 - self.q) * difference.relu() + self.q * (-difference).relu()).sum(), valid.sum()


def scaled_thresholds(thresholds: Sequence[float], spec: FrameSpec, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return physical thresholds as they are scaled, ``(thresholds,)``.

    Raises:
        UserError: the transform makes the same of two of them, in float32 as the frames are.
    """
    scaled = spec.transform.scale(torch.tensor(thresholds, dtype=dtype))
    if len(torch.unique(scaled.float())) < len(scaled):
        raise UserError(f"The transform of the frames tells no values apart at the thresholds {list(thresholds)}: give loss.thresholds")
    return scaled


def error(predictions: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """Return ``predictions - targets`` in float32, 0 where not valid; chosen by selection, so that NaN cannot leak."""
    predictions = predictions.float()
    return predictions - torch.where(valid, targets, predictions.detach())
