"""Rank histograms: how often the truth lies below all members of an ensemble, between the first and the second, and so on.

Source: Hamill, Interpretation of rank histograms for verifying ensemble forecasts (Monthly Weather Review 2001); for the one number,
Delle Monache et al., Probabilistic aspects of meteorological and ozone regional ensemble forecasts (JGR 2006).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stpredict.frames import FrameSpec
from stpredict.metrics.bootstrap import Numbers
from stpredict.metrics.crps import as_members


class RankHistogram:
    """The share of pixels in which as many members lie below the truth as the rank says, 0 to M; flat if the ensemble is reliable.

    Where members equal the truth, the pixel is shared evenly by the ranks that it may have. If the frame spec has thresholds, what lies
    below the lowest is dry, all of it equal, and a pixel that is dry in the truth and in all members counts nowhere. The one number is
    the reliability index, the sum of the distances of the shares from 1 / (M + 1): 0 is flat.
    """

    name = "rank_histogram"
    better = "lower"
    perfect = 0.0
    takes_members = True

    def __call__(self, prediction: Tensor, truth: Tensor, spec: FrameSpec) -> tuple[Tensor, Tensor]:
        """Return how many pixels of each frame have each rank, ``(B, T, M + 1)``, and how many there are, ``(B, T, 1)``."""
        members = as_members(prediction, truth)
        counted = ~torch.isnan(truth)
        spoilt = (torch.isnan(members).any(1) & counted).flatten(2).any(2)
        if spec.thresholds:
            wet = min(spec.thresholds)
            counted = counted & ((truth >= wet) | (members >= wet).any(1))
            truth, members = (torch.where(field < wet, -torch.inf, field) for field in (truth, members))
        below = (members < truth.unsqueeze(1)).sum(1)
        equal = (members == truth.unsqueeze(1)).sum(1)
        share = torch.where(counted, 1.0 / (equal + 1).double(), 0.0)
        ranks = range(members.shape[1] + 1)
        total = torch.stack([torch.where((below <= rank) & (rank <= below + equal), share, 0.0).flatten(2).sum(2) for rank in ranks], -1)
        weight = torch.where(spoilt, 1.0, counted.flatten(2).sum(2).double())
        return torch.where(spoilt[..., None], torch.nan, total), weight[..., None]

    def summary(self, values: Numbers) -> Numbers:
        """Return the reliability index."""
        index: Numbers = np.abs(values - 1.0 / values.shape[-1]).sum(-1)
        return index
