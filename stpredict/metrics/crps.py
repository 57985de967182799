"""The continuous ranked probability score: how far an ensemble is from the truth as a distribution.

Sources: Gneiting and Raftery, Strictly proper scoring rules, prediction, and estimation (JASA 2007); for the fair one, Ferro, Fair
scores for ensemble forecasts (QJRMS 2014).
"""

from __future__ import annotations

import torch
from torch import Tensor

from stpredict.errors import UserError
from stpredict.frames import FrameSpec
from stpredict.metrics.pixels import frame_counts, frame_sums


def as_members(prediction: Tensor, truth: Tensor) -> Tensor:
    """Return members ``(B, M, T, C, H, W)``: a single forecast is an ensemble of one."""
    return prediction if prediction.ndim > truth.ndim else prediction.unsqueeze(1)


def ranked_probability(prediction: Tensor, truth: Tensor, pairs: int) -> Tensor:
    """Return the score of each pixel, ``mean |x - y| - sum |x - x'| / (2 pairs)``, float64 ``(B, T, C, H, W)``.

    Args:
        prediction: x, members ``(B, M, T, C, H, W)``.
        truth: y, ``(B, T, C, H, W)``.
        pairs: by how many the sum over all pairs of members is divided; 0 where there is but one member.
    """
    members = prediction.shape[1]
    error = prediction.double() - truth.unsqueeze(1).double()
    score = error.abs().mean(1)
    if pairs > 0:
        # Sorted, x_1 <= ... <= x_M, the sum over all pairs |x - x'| is twice the sum of (2 i - M - 1) x_i.
        ordered = error.sort(1).values
        places = torch.arange(1 - members, members, 2, dtype=torch.float64, device=error.device).view(1, -1, 1, 1, 1, 1)
        score = score - (places * ordered).sum(1) / pairs
    return score


class RankedProbability:
    """The continuous ranked probability score of M members, mean over valid pixels; in units. Of a single forecast it is the MAE.

    The members are taken as the whole distribution: ``mean |x - y| - sum |x - x'| / (2 M^2)``.
    """

    name = "crps"
    better = "lower"
    perfect = 0.0
    takes_members = True

    def __call__(self, prediction: Tensor, truth: Tensor, spec: FrameSpec) -> tuple[Tensor, Tensor]:
        """Return the sum over the valid pixels of each frame, and their number; a prediction may be members ``(B, M, T, C, H, W)``."""
        members = as_members(prediction, truth)
        valid = ~torch.isnan(truth)
        score = ranked_probability(members, truth, self.pairs(members.shape[1]))
        return frame_sums(torch.where(valid, score, 0.0)), frame_counts(valid)

    def pairs(self, members: int) -> int:
        """Return by how many pairs of members their differences are averaged."""
        return members**2


class FairRankedProbability(RankedProbability):
    """The same, as it would be for infinitely many members drawn alike: ``mean |x - y| - sum |x - x'| / (2 M (M - 1))``."""

    name = "crps_fair"

    def pairs(self, members: int) -> int:
        """Return by how many pairs of members their differences are averaged.

        Raises:
            UserError: there is but one member.
        """
        if members < 2:
            raise UserError("The score 'crps_fair' needs at least 2 members: ask for them (--members 10), or take 'crps'")
        return members * (members - 1)
