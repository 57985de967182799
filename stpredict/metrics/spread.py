"""The spread of an ensemble beside the error of its mean: in a reliable one they are equal.

Source: Fortin et al., Why should ensemble spread match the RMSE of the ensemble mean? (Journal of Hydrometeorology 2014).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stpredict.errors import UserError
from stpredict.frames import FrameSpec
from stpredict.metrics.bootstrap import Numbers
from stpredict.metrics.crps import as_members
from stpredict.metrics.pixels import frame_counts, frame_errors, frame_sums
from stpredict.metrics.running import ratio


def expected_error(prediction: Tensor, truth: Tensor, name: str) -> Tensor:
    """Return the squared error that the mean of members has in a reliable ensemble, summed over the valid pixels: ``(B, T)`` float64.

    It is ``(M + 1) / M`` times the variance of the members, which is taken over ``M - 1``.

    Raises:
        UserError: there is but one member; ``name`` is of the score.
    """
    members = as_members(prediction, truth)
    count = members.shape[1]
    if count < 2:
        raise UserError(f"The score '{name}' needs at least 2 members: ask for them (--members 10)")
    away = members.double() - members[:, :1].double()  # so that the variance of equal members is 0
    return frame_sums(torch.where(torch.isnan(truth), 0.0, away.var(1) * ((count + 1) / count)))


class Spread:
    """The root of the mean variance of the members, times ``(M + 1) / M``: what ``rmse``, that of their mean, is if they are reliable."""

    name = "spread"
    takes_members = True

    def __call__(self, prediction: Tensor, truth: Tensor, spec: FrameSpec) -> tuple[Tensor, Tensor]:
        """Return the sum over the valid pixels of each frame, and their number."""
        return expected_error(prediction, truth, self.name), frame_counts(~torch.isnan(truth))

    def value(self, totals: Numbers, weights: Numbers) -> Numbers:
        """Return the root of the mean."""
        root: Numbers = np.sqrt(ratio(totals, weights))
        return root


class SpreadSkill:
    """The spread over the root mean squared error of the mean of members; 1 is reliable, less is too sure of itself."""

    name = "spread_skill"
    takes_members = True

    def __call__(self, prediction: Tensor, truth: Tensor, spec: FrameSpec) -> tuple[Tensor, Tensor]:
        """Return the squared error that is expected of each frame, and the one that came."""
        expected = expected_error(prediction, truth, self.name)
        first = prediction[:, :1]
        return expected, frame_errors((first + (prediction - first).mean(1, keepdim=True))[:, 0], truth, 2)[0]

    def value(self, totals: Numbers, weights: Numbers) -> Numbers:
        """Return the root of the one over the other."""
        root: Numbers = np.sqrt(ratio(totals, weights))
        return root
