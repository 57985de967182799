"""A loss and a score."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stpredict import FrameSpec
from stpredict.losses import error


@dataclass(frozen=True)
class Charbonnier:
    """A smooth absolute error: sqrt(error^2 + knee^2) - knee."""

    knee: float = 0.1

    def __call__(self, predictions: Tensor, targets: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        return (torch.sqrt(error(predictions, targets, valid).square() + self.knee**2) - self.knee).sum(), valid.sum()


class Bias:
    """The mean of forecast minus truth."""

    name = "bias"

    def __call__(self, prediction: Tensor, truth: Tensor, spec: FrameSpec) -> tuple[Tensor, Tensor]:
        valid = ~torch.isnan(truth)
        differences = torch.where(valid, prediction - truth, 0.0)
        return differences.double().sum(dim=(2, 3, 4)), valid.sum(dim=(2, 3, 4)).double()
