"""Losses of ensembles: how far their members, as a distribution, are from the truth.

A loss with ``members`` M is given the predictions of M members ``(B, M, T, C, H, W)``. A training step then goes along each clip M times,
each time with draws of its own, and holds M times the memory; ``trainer.accumulate`` works through fewer clips at once.

Sources: Gneiting and Raftery, Strictly proper scoring rules, prediction, and estimation (JASA 2007); Ferro, Fair scores for ensemble
forecasts (QJRMS 2014); Lang et al., AIFS-CRPS (2024, arXiv 2412.15832).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stpredict.errors import UserError
from stpredict.losses.pixels import error
from stpredict.losses.structure import square_sums


@dataclass(frozen=True)
class RankedProbability:
    """The continuous ranked probability score of M members: ``mean |x - y| - sum |x - x'| / (2 M^2)``.

    It is lowest for an ensemble that is a little too narrow, as M members that are drawn from the truth's own distribution do not fill it.

    Pixel by pixel, members that are the truth's blur with grain on it do as well as sharp ones in several places; means over larger squares
    tell them apart, since grain has none.

    Attributes:
        members: M, at least 2.
        sizes: of squares, in pixels, of whose means the score is; a square counts as many times as it has valid pixels, the sizes alike.
    """

    members: int = 4
    sizes: tuple[int, ...] = (1,)

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1:
            raise UserError(f"loss.sizes are numbers of pixels, at least 1: not {list(self.sizes)}")
        if self.members < 2:
            raise UserError(f"loss.members is the size of the ensemble that is trained, at least 2, not {self.members}")

    def __call__(self, predictions: Tensor, targets: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of the scores of all pixels and the number of valid ones; a prediction without members is an ensemble of one."""
        members = predictions if predictions.ndim > targets.ndim else predictions.unsqueeze(1)
        difference = torch.where(valid.unsqueeze(1), error(members, targets.unsqueeze(1), valid.unsqueeze(1)), 0.0)
        total = difference.new_zeros(())
        for size in self.sizes:
            means, counts = difference, valid.to(difference.dtype)
            if size > 1:
                counts = _over_squares(counts, size)
                means = _over_squares(difference, size) / counts.clamp(min=1.0).unsqueeze(1)
            total = total + (counts * self._score(means)).sum()
        return total / len(self.sizes), valid.sum()

    def _score(self, difference: Tensor) -> Tensor:
        """Return the score ``(B, ...)`` of members less the truth ``(B, M, ...)``."""
        count, score = difference.shape[1], difference.abs().mean(1)
        return score if count == 1 else score - self.share(count) * _differences(difference) / 2

    def share(self, members: int) -> float:
        """Return the weight of the sum of the differences between all pairs of members."""
        return 1.0 / members**2


@dataclass(frozen=True)
class AlmostFair(RankedProbability):
    """The almost fair score: ``alpha`` times the fair one, whose sum is over ``2 M (M - 1)``, and ``1 - alpha`` times the one above.

    The fair score is lowest for members drawn from the truth's own distribution, but cares nothing for one member where all others equal
    the truth; a little of the other one mends that. It is ``mean |x - y| - (1 - epsilon) sum |x - x'| / (2 M (M - 1))`` with ``epsilon =
    (1 - alpha) / M``.

    Attributes:
        members: M, at least 2.
        sizes: as above.
        alpha: how fair, 0 to 1.
    """

    alpha: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.alpha <= 1.0:
            raise UserError(f"loss.alpha is a share from 0 to 1, not {self.alpha:g}")

    def share(self, members: int) -> float:
        """Return the weight of the sum of the differences between all pairs of members."""
        return (1.0 - (1.0 - self.alpha) / members) / (members * (members - 1))


def _over_squares(films: Tensor, size: int) -> Tensor:
    """Return the sums of ``(..., C, H, W)`` over squares, smaller ones at the right and at the bottom."""
    sums = square_sums(films.flatten(0, -4), size)
    return sums.reshape(*films.shape[:-2], *sums.shape[-2:])


def _differences(members: Tensor) -> Tensor:
    """Return the sum over all pairs ``|x - x'|``, each pair twice, of ``(B, M, ...)``: ``(B, ...)``.

    It is twice the sum of the members, each times how many others it is above less how many it is below; these numbers have no gradient,
    so that nothing but the members is kept for it, and members that are equal are not driven apart.
    """
    with torch.no_grad():
        above = torch.zeros_like(members)
        for other in members.unbind(1):
            above += torch.sign(members - other.unsqueeze(1))
    return 2.0 * (above * members).sum(1)
