"""Errors of rain: weighted by how hard it rained, or taken where it rained alone.

Source of the weights: Shi et al., Deep learning for precipitation nowcasting: a benchmark and a new model (NeurIPS 2017), and the
evaluation that belongs to its data set HKO-7.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stpredict.frames import FrameSpec
from stpredict.metrics.contingency import chosen_thresholds
from stpredict.metrics.pixels import errors, frame_sums, scored_frames
from stpredict.rain import in_units

RATES = (0.5, 2.0, 5.0, 10.0, 30.0)
"""Rain rates in mm/h at which the weight changes."""

WEIGHTS = (1.0, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Weight of a pixel below the first rate, from the first on, ..., from the last on."""

LOWEST_DBZ, SPAN_DBZ = -10.0, 70.0
"""HKO-7's images: 0 is -10 dBZ or less, 1 is 60 dBZ."""


def balancing_weights(rate: Tensor) -> Tensor:
    """Return the weight of each pixel by its true rain rate in mm/h."""
    bins = torch.bucketize(rate, torch.tensor(RATES, dtype=rate.dtype, device=rate.device), right=True)
    return torch.tensor(WEIGHTS, dtype=torch.float32, device=rate.device)[bins]


def balanced_errors(prediction: Tensor, truth: Tensor, spec: FrameSpec) -> tuple[Tensor, Tensor, Tensor]:
    """Return errors in parts of 70 dBZ, 0 where the truth is missing; weights; and where it is not missing: ``(B, T, C, H, W)``.

    Raises:
        UserError: the spec does not say how its values become rain rates and reflectivities.
    """
    forecast, seen = ((in_units(field, spec, "dBZ").clamp(min=LOWEST_DBZ) - LOWEST_DBZ) / SPAN_DBZ for field in (prediction, truth))
    error, valid = errors(forecast, seen)
    return error, torch.where(valid, balancing_weights(torch.nan_to_num(in_units(truth, spec, "mm/h"))), 0.0), valid


class BalancedSquaredError:
    """HKO-7's balanced MSE: weighted squared errors, summed over the valid pixels of a frame, mean over frames.

    Errors are those of HKO-7's images, in which 0 is -10 dBZ or less and 1 is 60 dBZ; weights are 1, 1, 2, 5, 10, 30 by the true rain
    rate, cut at 0.5, 2, 5, 10, 30 mm/h. Values in mm/h or mm become dBZ by the card's Z-R pair.
    """

    name = "balanced_mse"
    better = "lower"
    perfect = 0.0

    def __call__(self, prediction: Tensor, truth: Tensor, spec: FrameSpec) -> tuple[Tensor, Tensor]:
        """Return the weighted sum of squared errors of each frame, and 1."""
        error, weights, valid = balanced_errors(prediction, truth, spec)
        return frame_sums(weights * error.square()), scored_frames(valid)


class BalancedAbsoluteError:
    """HKO-7's balanced MAE: weighted absolute errors, as :class:`BalancedSquaredError` has squared ones."""

    name = "balanced_mae"
    better = "lower"
    perfect = 0.0

    def __call__(self, prediction: Tensor, truth: Tensor, spec: FrameSpec) -> tuple[Tensor, Tensor]:
        """Return the weighted sum of absolute errors of each frame, and 1."""
        error, weights, valid = balanced_errors(prediction, truth, spec)
        return frame_sums(weights * error.abs()), scored_frames(valid)


class RainSquaredError:
    """Squared error where the truth is at or above a threshold, mean over these pixels; in squared units, for each threshold."""

    name = "rain_mse"
    better = "lower"
    perfect = 0.0
    power = 2

    def __init__(self, thresholds: tuple[float, ...] | None = None) -> None:
        """Take the thresholds in physical units; None: those of the frame spec."""
        self.thresholds = thresholds

    def parts(self, spec: FrameSpec) -> tuple[str, ...]:
        """Return the thresholds as text."""
        return tuple(f"{threshold:g}" for threshold in chosen_thresholds(self.name, self.thresholds, spec))

    def __call__(self, prediction: Tensor, truth: Tensor, spec: FrameSpec) -> tuple[Tensor, Tensor]:
        """Return the sum of errors of each frame over such pixels, and their number: ``(B, T, thresholds)``."""
        thresholds = chosen_thresholds(self.name, self.thresholds, spec)
        error = (prediction - truth).abs() ** self.power
        fields = [truth >= threshold for threshold in thresholds]
        totals = [frame_sums(torch.where(rain, error, 0.0)) for rain in fields]
        return torch.stack(totals, -1), torch.stack([rain.flatten(2).sum(2).double() for rain in fields], -1)


class RainAbsoluteError(RainSquaredError):
    """Absolute error where the truth is at or above a threshold, mean over these pixels; in units, for each threshold."""

    name = "rain_mae"
    power = 1
