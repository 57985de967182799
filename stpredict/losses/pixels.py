"""Losses that look at each pixel by itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


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


def error(predictions: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """Return ``predictions - targets`` in float32, 0 where not valid; chosen by selection, so that NaN cannot leak."""
    predictions = predictions.float()
    return predictions - torch.where(valid, targets, predictions.detach())
