"""Scores that compare pixel with pixel."""

from __future__ import annotations

import torch
from torch import Tensor

from stpredict.frames import FrameSpec


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


class MeanSquaredError:
    """Squared error, mean over valid pixels; in squared units."""

    name = "mse"
    better = "lower"
    perfect = 0.0

    def __call__(self, prediction: Tensor, truth: Tensor, spec: FrameSpec) -> tuple[Tensor, Tensor]:
        """Return the sum of squared errors of each frame and its number of valid pixels."""
        error, valid = errors(prediction, truth)
        return frame_sums(error.square()), frame_counts(valid)


class MeanAbsoluteError:
    """Absolute error, mean over valid pixels; in units."""

    name = "mae"
    better = "lower"
    perfect = 0.0

    def __call__(self, prediction: Tensor, truth: Tensor, spec: FrameSpec) -> tuple[Tensor, Tensor]:
        """Return the sum of absolute errors of each frame and its number of valid pixels."""
        error, valid = errors(prediction, truth)
        return frame_sums(error.abs()), frame_counts(valid)


class SummedSquaredError:
    """Squared error, summed over the channels and valid pixels of a frame, mean over frames: the "MSE" of Moving MNIST tables."""

    name = "mse_sum"
    better = "lower"
    perfect = 0.0

    def __call__(self, prediction: Tensor, truth: Tensor, spec: FrameSpec) -> tuple[Tensor, Tensor]:
        """Return the sum of squared errors of each frame, and 1."""
        error, valid = errors(prediction, truth)
        return frame_sums(error.square()), scored_frames(valid)


class SummedAbsoluteError:
    """Absolute error, summed over the channels and valid pixels of a frame, mean over frames: the "MAE" of Moving MNIST tables."""

    name = "mae_sum"
    better = "lower"
    perfect = 0.0

    def __call__(self, prediction: Tensor, truth: Tensor, spec: FrameSpec) -> tuple[Tensor, Tensor]:
        """Return the sum of absolute errors of each frame, and 1."""
        error, valid = errors(prediction, truth)
        return frame_sums(error.abs()), scored_frames(valid)


class PeakSignalToNoise:
    """Peak signal-to-noise ratio in dB, ``10 log10(peak^2 / MSE)`` of each frame, then mean over frames.

    The peak is the value range of the frame spec, the mean squared error that of the frame's valid pixels. A perfect frame
    has an infinite ratio, and so has then the mean.
    """

    name = "psnr"
    better = "higher"

    def __call__(self, prediction: Tensor, truth: Tensor, spec: FrameSpec) -> tuple[Tensor, Tensor]:
        """Return the ratio of each frame, and 1."""
        error, valid = errors(prediction, truth)
        count = frame_counts(valid)
        ratio = 10.0 * torch.log10(spec.value_range**2 * count / frame_sums(error.square()))
        return torch.where(count > 0, ratio, 0.0), (count > 0).double()
