"""The structural similarity index.

Source: Wang et al., Image quality assessment: from error visibility to structural similarity (IEEE TIP 2004): Gaussian window
of 11 x 11 pixels and deviation 1.5, K1 = 0.01, K2 = 0.03, population covariance.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stpredict.errors import UserError
from stpredict.frames import FrameSpec
from stpredict.metrics.pixels import frame_counts, frame_sums, scored_frames

RADIUS = 5
DEVIATION = 1.5
K1, K2 = 0.01, 0.03
# Images are smoothed a few at a time, so that what is worked on stays in the processor's cache.
PIXELS_AT_ONCE = 1 << 17


def gaussian_window() -> list[float]:
    """Return the 11 weights of the window along one axis; their sum is 1."""
    weights = [math.exp(-0.5 * (position / DEVIATION) ** 2) for position in range(-RADIUS, RADIUS + 1)]
    return [weight / sum(weights) for weight in weights]


def smooth(images: Tensor) -> Tensor:
    """Return the Gaussian means ``(..., H - 10, W - 10)`` of ``(..., H, W)`` around each pixel whose window lies inside."""
    for axis in (-2, -1):
        length = images.shape[axis] - 2 * RADIUS
        first, *others = gaussian_window()
        smoothed = images.narrow(axis, 0, length) * first
        for shift, weight in enumerate(others, start=1):
            smoothed.add_(images.narrow(axis, shift, length), alpha=weight)
        images = smoothed
    return images


def similarity(first: Tensor, second: Tensor, offset: float = 0.0) -> Tensor:
    """Return the index ``(N, H - 10, W - 10)`` around each inner pixel of two stacks of images ``(N, H, W)`` of value range 1.

    The images may be given less a constant ``offset``: variances stay the same and lose fewer digits.

    Written in the sum p and the difference d of the images, the index is
    ``(mean(p)^2 - mean(d)^2 + 2 K1^2) / (mean(p)^2 + mean(d)^2 + 2 K1^2)`` times the same with variances and K2. What
    rounding makes of a variance, where images are bright and flat, then cancels unless they differ.
    """
    total, difference = first + second, first - second
    means = smooth(torch.stack([total, difference, total.square(), difference.square()]))
    mean_total, mean_difference = means[0], means[1]
    variance_total, variance_difference = means[2] - mean_total.square(), means[3] - mean_difference.square()
    luminance = _contrast((mean_total + 2.0 * offset).square(), mean_difference.square(), K1)
    return luminance.mul_(_contrast(variance_total, variance_difference, K2))


def _contrast(total: Tensor, difference: Tensor, constant: float) -> Tensor:
    stabilised = total + 2.0 * constant**2
    return (stabilised - difference) / (stabilised + difference)


class StructuralSimilarity:
    """Structural similarity of each frame, mean over its channels and pixels, then mean over frames; 1 = equal.

    Equals scikit-image's ``structural_similarity(..., gaussian_weights=True, sigma=1.5, use_sample_covariance=False)`` with
    the value range of the frame spec as ``data_range``. Pixels missing in the truth are set to the spec's fill in both
    frames, and a window counts when the pixel at its centre is valid.
    """

    name = "ssim"
    better = "higher"
    perfect = 1.0

    def __call__(self, prediction: Tensor, truth: Tensor, spec: FrameSpec) -> tuple[Tensor, Tensor]:
        """Return the similarity of each frame, and 1 (0 for a frame without a valid window).

        Raises:
            UserError: the frames are smaller than the window.
        """
        *lead, height, width = truth.shape
        if min(height, width) <= 2 * RADIUS:
            raise UserError(f"SSIM needs frames of at least 11 x 11 pixels, not {height} x {width}: leave 'ssim' out of the scores")
        valid = ~torch.isnan(truth)
        low = spec.transform.low
        first, second = ((torch.where(valid, frames, spec.fill) - low) / spec.value_range for frames in (prediction, truth))
        at_once = max(1, PIXELS_AT_ONCE // (height * width))
        pairs = zip(torch.split(first.flatten(0, 2), at_once), torch.split(second.flatten(0, 2), at_once), strict=True)
        index = torch.cat([similarity(one, other, low / spec.value_range) for one, other in pairs])
        index = index.reshape(*lead, height - 2 * RADIUS, width - 2 * RADIUS)

        centres = valid[..., RADIUS:-RADIUS, RADIUS:-RADIUS]
        count = frame_counts(centres)
        total = frame_sums(torch.where(centres, index, 0.0)) / count.clamp(min=1.0)
        # A NaN near the edge reaches no window whose centre is valid when those centres are masked: it counts all the same.
        undefined = (torch.isnan(prediction) & valid).flatten(2).any(2)
        scored = torch.where(undefined, scored_frames(valid), (count > 0).double())
        return torch.where(undefined, math.nan, total), scored
