"""Training losses: a sum over what is valid, and the count that it is to be divided by.

The two are kept apart so that many processes, uneven batches and masks give the same loss as one process with all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from stpredict import extensions
from stpredict.configuration import build, convert, settings_of
from stpredict.errors import UserError
from stpredict.frames import FrameSpec
from stpredict.losses.pixels import error

__all__ = ["LOSSES", "Loss", "WeightedSum", "by_member", "error", "make_loss", "members_of"]

LOSSES = {
    "l2": "stpredict.losses.pixels:L2",
    "l1": "stpredict.losses.pixels:L1",
    "l1+l2": "stpredict.losses.pixels:L1AndL2",
    "quantile": "stpredict.losses.pixels:Quantile",
    "balanced": "stpredict.losses.rain:Balanced",
    "events": "stpredict.losses.events:Events",
    "rain-weighted": "stpredict.losses.rain:RainWeighted",
    "multi-scale": "stpredict.losses.structure:MultiScale",
    "ssim": "stpredict.losses.structure:Dissimilarity",
    "crps": "stpredict.losses.probabilistic:RankedProbability",
    "almost-fair-crps": "stpredict.losses.probabilistic:AlmostFair",
    "sum": "stpredict.losses:WeightedSum",
}


class Loss(Protocol):
    """A training loss; one of your own is any object that can be called like this.

    A loss with an attribute ``members`` above 1 is given predictions ``(B, M, T, C, H, W)`` of so many members, and targets and mask as
    ever (:mod:`stpredict.losses.probabilistic`).
    """

    def __call__(self, predictions: Tensor, targets: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of the loss and its count, both scalars, of scaled frames ``(B, T, C, H, W)``.

        Targets may be NaN where ``valid`` is False; neither the sum nor a gradient may depend on such a pixel.
        """


class WeightedSum:
    """Several losses, each with a weight; all of them are divided by the same count, that of the valid pixels.

    Where one of them takes members, those that take none see the mean of the members.

    Attributes:
        members: how many members the terms that take any are given; 1 if none does.
    """

    def __init__(self, terms: list[dict[str, Any]], spec: FrameSpec) -> None:
        """Make the losses.

        Args:
            terms: each a ``name``, what that loss takes, and its ``weight`` (1).
            spec: what the numbers of a frame mean.

        Raises:
            UserError: there is no term, or one cannot be made.
        """
        if not terms:
            raise UserError("loss.terms lists at least one loss, such as {name: l2, weight: 1}")
        self.terms = []
        for term in terms:
            settings = dict(term)
            weight = convert(float, settings.pop("weight", 1.0), "loss.terms.weight")
            self.terms.append((weight, make_loss(settings, spec)))
        sizes = sorted({members_of(loss) for _, loss in self.terms} - {1})
        if len(sizes) > 1:
            raise UserError(f"All terms of a loss see the same members: set their 'members' to {sizes[0]} or to {sizes[1]}, not to both")
        self.members = sizes[0] if sizes else 1

    def __call__(self, predictions: Tensor, targets: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weighted sum and the number of valid pixels."""
        mean = predictions.mean(1) if predictions.ndim > targets.ndim else predictions
        sums = [weight * loss(mean if members_of(loss) == 1 else predictions, targets, valid)[0] for weight, loss in self.terms]
        return sum(sums[1:], sums[0]), valid.sum()


def members_of(loss: Loss) -> int:
    """Return how many members a loss is given of each clip; 1 for one that takes single predictions."""
    return int(getattr(loss, "members", 1))


def by_member(predictions: Tensor, members: int) -> Tensor:
    """Return the predictions ``(B * M, T, C, H, W)`` of clips as a loss takes them; of one member, as they are."""
    return predictions if members == 1 else predictions.reshape(-1, members, *predictions.shape[1:])


def make_loss(settings: Mapping[str, Any], spec: FrameSpec) -> Loss:
    """Create a loss from its name and settings; one that has a parameter ``spec`` is given the frame spec.

    Raises:
        UserError: the name or a setting is unknown, or the loss does not suit these frames.
    """
    settings = dict(settings)
    target = extensions.find("losses", str(settings.pop("name", "l2")), LOSSES)
    given = {"spec": spec} if "spec" in settings_of(target)[0] else {}
    loss = build(target, settings, where="loss", read_elsewhere=["name", "over"], **given)
    if not callable(loss):
        raise UserError("A loss is an object that can be called with predictions, targets and valid")
    made: Loss = loss
    return made
