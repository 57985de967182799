"""Training losses: a sum over what is valid, and the count that it is to be divided by.

The two are kept apart so that many processes, uneven batches and masks give the same loss as one process with all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from stpredict import extensions
from stpredict.configuration import build
from stpredict.errors import UserError

LOSSES = {
    "l2": "stpredict.losses:L2",
    "l1": "stpredict.losses:L1",
    "l1+l2": "stpredict.losses:L1AndL2",
}


class Loss(Protocol):
    """A training loss; one of your own is any object that can be called like this."""

    def __call__(self, predictions: Tensor, targets: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of the loss and its count, both scalars, of scaled frames ``(B, T, C, H, W)``.

        Targets may be NaN where ``valid`` is False; neither the sum nor a gradient may depend on such a pixel.
        """


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


def make_loss(settings: Mapping[str, Any]) -> Loss:
    """Create a loss from its name and settings.

    Raises:
        UserError: the name or a setting is unknown.
    """
    settings = dict(settings)
    target = extensions.find("losses", str(settings.pop("name", "l2")), LOSSES)
    loss = build(target, settings, where="loss", read_elsewhere=["name", "over"])
    if not callable(loss):
        raise UserError("A loss is an object that can be called with predictions, targets and valid")
    made: Loss = loss
    return made
