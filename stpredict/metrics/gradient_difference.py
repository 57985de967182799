"""The gradient difference: are edges as sharp in the forecast as in the truth?

Source: Mathieu, Couprie and LeCun, Deep multi-scale video prediction beyond mean square error (ICLR 2016), with alpha = 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stpredict.frames import FrameSpec
from stpredict.metrics.pixels import any_missing, frame_sums, scored_frames


class GradientDifference:
    """Absolute difference of the absolute steps from pixel to pixel, mean over the steps down and across; in units.

    A step counts where the truth has both of its pixels.
    """

    name = "gradient_difference"
    better = "lower"
    perfect = 0.0

    def __call__(self, prediction: Tensor, truth: Tensor, spec: FrameSpec) -> tuple[Tensor, Tensor]:
        """Return the sum over the steps of each frame, and their number."""
        spoilt = any_missing(truth)
        total = weight = torch.zeros(truth.shape[:2], dtype=torch.float64, device=truth.device)
        for axis in (-2, -1):
            told, came = (frames.diff(dim=axis).abs_() for frames in (prediction, truth))
            difference = told.sub_(came).abs_()
            if spoilt:
                there = ~torch.isnan(came)
                total = total + frame_sums(torch.where(there, difference, 0.0))
                weight = weight + frame_sums(there)
            else:
                total = total + frame_sums(difference)
                weight = weight + came.shape[2:].numel()
        if spoilt:
            # A pixel without a valid neighbour is in no step, but a forecast that is NaN there is so all the same.
            undefined = (torch.isnan(prediction) & ~torch.isnan(truth)).flatten(2).any(2)
            total = torch.where(undefined, math.nan, total)
            weight = torch.where(undefined, torch.maximum(weight, scored_frames(~torch.isnan(truth))), weight)
        return total, weight
