"""Scores that compare pixel with pixel."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stpredict.frames import FrameSpec
from stpredict.metrics.bootstrap import Numbers
from stpredict.metrics.running import ratio


def errors(prediction: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Return prediction minus truth, 0 where the truth is missing, and where it is not: both ``(B, T, C, H, W)``."""
    valid = ~torch.isnan(truth)
    return torch.where(valid, prediction - truth, 0.0), valid


def frame_sums(values: Tensor) -> Tensor:
    """Return the float64 sums ``(B, T)`` of ``(B, T, C, H, W)`` over the channels and pixels of each frame."""
    return values.flatten(2).sum(2, dtype=torch.float64)


def frame_counts(valid: Tensor) -> Tensor:
    """Return the float64 number ``(B, T)`` of the valid pixels of each frame, over its channels."""
    return valid.flatten(2).sum(2).double()


def scored_frames(valid: Tensor) -> Tensor:
    """Return float64 ``(B, T)``: 1 for a frame that holds any valid pixel, else 0."""
    return (frame_counts(valid) > 0).double()


def any_missing(films: Tensor) -> bool:
    """Return whether any pixel of ``(B, T, C, H, W)`` may be missing: True if one is NaN, or if infinities hide it."""
    return bool(films.flatten(2).sum(2).isnan().any())


def frame_errors(prediction: Tensor, truth: Tensor, power: int) -> tuple[Tensor, Tensor]:
    """Return the absolute or squared errors of films ``(B, T, C, H, W)``, summed over each frame, and its number of valid pixels."""
    if any_missing(truth):
        error, valid = errors(prediction, truth)
        count = frame_counts(valid)
    else:
        error = prediction - truth
        count = torch.full(truth.shape[:2], truth.shape[2:].numel(), dtype=torch.float64, device=truth.device)
    return frame_sums(error.abs_() if power == 1 else error.square_()), count


class MeanSquaredError:
    """Squared error, mean over valid pixels; in squared units."""

    name = "mse"
    better = "lower"
    perfect = 0.0

    def __call__(self, prediction: Tensor, truth: Tensor, spec: FrameSpec) -> tuple[Tensor, Tensor]:
        """Return the sum of squared errors of each frame and its number of valid pixels."""
        return frame_errors(prediction, truth, 2)


class MeanAbsoluteError:
    """Absolute error, mean over valid pixels; in units."""

    name = "mae"
    better = "lower"
    perfect = 0.0

    def __call__(self, prediction: Tensor, truth: Tensor, spec: FrameSpec) -> tuple[Tensor, Tensor]:
        """Return the sum of absolute errors of each frame and its number of valid pixels."""
        return frame_errors(prediction, truth, 1)


class SummedSquaredError:
    """Squared error, summed over the channels and valid pixels of a frame, mean over frames: the "MSE" of Moving MNIST tables."""

    name = "mse_sum"
    better = "lower"
    perfect = 0.0

    def __call__(self, prediction: Tensor, truth: Tensor, spec: FrameSpec) -> tuple[Tensor, Tensor]:
        """Return the sum of squared errors of each frame, and 1."""
        total, count = frame_errors(prediction, truth, 2)
        return total, (count > 0).double()


class SummedAbsoluteError:
    """Absolute error, summed over the channels and valid pixels of a frame, mean over frames: the "MAE" of Moving MNIST tables."""

    name = "mae_sum"
    better = "lower"
    perfect = 0.0

    def __call__(self, prediction: Tensor, truth: Tensor, spec: FrameSpec) -> tuple[Tensor, Tensor]:
        """Return the sum of absolute errors of each frame, and 1."""
        total, count = frame_errors(prediction, truth, 1)
        return total, (count > 0).double()


class RootMeanSquaredError(MeanSquaredError):
    """The root of the mean squared error over all valid pixels of all frames; in units. Not the mean of the frames' roots."""

    name = "rmse"

    def value(self, totals: Numbers, weights: Numbers) -> Numbers:
        """Return the root of totals over weights."""
        return np.sqrt(ratio(totals, weights))


class RootSummedSquaredError(SummedSquaredError):
    """The root of ``mse_sum``: of squared errors, summed over a frame, mean over frames. The "RMSE" of OpenSTL."""

    name = "rmse_sum"

    def value(self, totals: Numbers, weights: Numbers) -> Numbers:
        """Return the root of totals over weights."""
        return np.sqrt(ratio(totals, weights))


class PeakSignalToNoise:
    """Peak signal-to-noise ratio in dB, ``10 log10(peak^2 / MSE)`` of each frame, then mean over frames.

    The peak is the value range of the frame spec, the mean squared error that of the frame's valid pixels. A perfect frame
    has an infinite ratio, and so has then the mean.
    """

    name = "psnr"
    better = "higher"

    def __call__(self, prediction: Tensor, truth: Tensor, spec: FrameSpec) -> tuple[Tensor, Tensor]:
        """Return the ratio of each frame, and 1."""
        squared, count = frame_errors(prediction, truth, 2)
        decibels = 10.0 * torch.log10(spec.value_range**2 * count / squared)
        return torch.where(count > 0, decibels, 0.0), (count > 0).double()
