"""The structural similarity index, with each of the windows and ranges that published figures mean by that name.

Source: Wang et al., Image quality assessment: from error visibility to structural similarity (IEEE TIP 2004): Gaussian window
of 11 x 11 pixels and deviation 1.5, K1 = 0.01, K2 = 0.03, population covariance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stpredict.errors import UserError
from stpredict.frames import FrameSpec
from stpredict.metrics.pixels import any_missing, frame_counts, scored_frames

K1, K2 = 0.01, 0.03
# Images are smoothed a few at a time, and large ones in strips, so that what is worked on stays in the processor's cache.
PIXELS_AT_ONCE, PIXELS_AT_ONCE_OF_GPU = 1 << 15, 1 << 24


@dataclass(frozen=True)
class Window:
    """The weights with which the pixels around one count.

    Attributes:
        weights: along either axis, an odd number of them; their sum is 1.
        correction: what a weighted variance is multiplied by: 1 for that of a population.
    """

    weights: tuple[float, ...]
    correction: float = 1.0

    @property
    def radius(self) -> int:
        """Return how far the window reaches from its centre."""
        return len(self.weights) // 2

    @classmethod
    def gaussian(cls, radius: int = 5, deviation: float = 1.5) -> Window:
        """Return the window of the paper."""
        weights = [math.exp(-0.5 * (position / deviation) ** 2) for position in range(-radius, radius + 1)]
        return cls(tuple(weight / sum(weights) for weight in weights))

    @classmethod
    def uniform(cls, side: int = 7) -> Window:
        """Return a window in which all pixels count alike, with the covariance of a sample."""
        return cls((1.0 / side,) * side, side**2 / (side**2 - 1))

    def smooth(self, images: Tensor, room: Sequence[Tensor | None] = (None, None)) -> Tensor:
        """Return the means ``(..., H - 2 radius, W - 2 radius)`` of ``(..., H, W)`` around each pixel whose window lies inside.

        ``room`` is what to write to after the first and the second axis, in place of new memory.
        """
        first, *others = self.weights
        for axis, there in zip((-2, -1), room, strict=True):
            length = images.shape[axis] - 2 * self.radius
            smoothed = torch.mul(images.narrow(axis, 0, length), first, out=there)
            for shift, weight in enumerate(others, start=1):
                smoothed.add_(images.narrow(axis, shift, length), alpha=weight)
            images = smoothed
        return images


GAUSSIAN, UNIFORM = Window.gaussian(), Window.uniform()
RADIUS = GAUSSIAN.radius


def similarity(first: Tensor, second: Tensor, offset: float = 0.0) -> Tensor:
    """Return the index of the paper, ``(N, H - 10, W - 10)``, around each inner pixel of images ``(N, H, W)`` of value range 1."""
    total, difference = first + second, first - second
    means = GAUSSIAN.smooth(torch.stack([total, difference, total.square(), difference.square()]))
    return index_of_means(means, offset)


def index_of_means(means: Tensor, offset: float = 0.0, peak: float = 1.0, correction: float = 1.0) -> Tensor:
    """Return the index ``(N, H, W)`` of the smoothed sum p and difference d of two images, and of their squares, ``(4, N, H, W)``.

    The images may be given less a constant ``offset``: variances stay the same and lose fewer digits. ``peak`` is the range of values,
    ``correction`` what variances are multiplied by.

    Written in the sum and the difference, the index is
    ``(mean(p)^2 - mean(d)^2 + 2 (K1 peak)^2) / (mean(p)^2 + mean(d)^2 + 2 (K1 peak)^2)`` times the same with variances and K2. What
    rounding makes of a variance, where images are bright and flat, then cancels unless they differ.
    """
    squares = means[:2].square()
    variances = means[2:] - squares
    bright = (means[0] + 2.0 * offset).square() if offset else squares[0]
    luminance = _contrast(bright, squares[1], K1 * peak)
    return luminance.mul_(_contrast(variances[0], variances[1], K2 * peak / math.sqrt(correction)))


def _contrast(total: Tensor, difference: Tensor, constant: float) -> Tensor:
    stabilised = total + 2.0 * constant**2
    return (stabilised - difference) / (stabilised + difference)


class _Room:
    """Memory that is used again for every few images: fresh memory costs more time than the sums that go into it."""

    def __init__(self, images: int, height: int, width: int, margin: int, dtype: torch.dtype, device: torch.device) -> None:
        shapes = [(4, images, *shape) for shape in ((height, width), (height - margin, width), (height - margin, width - margin))]
        # In one piece, since C libraries give pieces back at once if they are large beside the largest one there was.
        sizes = [math.prod(shape) for shape in shapes]
        pieces = torch.split(torch.empty(sum(sizes), dtype=dtype, device=device), sizes)
        self.rooms = [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]

    def means(self, first: Tensor, second: Tensor, window: Window) -> Tensor:
        """Return what :func:`index_of_means` takes; the next call writes over it."""
        images, height, _ = first.shape
        margin = 2 * window.radius
        stack, columns, means = (
            room[:, :images, :rows] for room, rows in zip(self.rooms, (height, height - margin, height - margin), strict=True)
        )
        torch.add(first, second, out=stack[0])
        torch.sub(first, second, out=stack[1])
        torch.square(stack[:2], out=stack[2:])
        return window.smooth(stack, (columns, means))


@torch.no_grad()
def index_sums(first: Tensor, second: Tensor, counted: Tensor | None, window: Window, offset: float, peak: float) -> Tensor:
    """Return the sum of the index over each image, ``(N,)`` float64, of two stacks of images ``(N, H, W)`` of value range 1.

    Args:
        first: of the images, less ``offset``.
        second: the others.
        counted: which windows count, ``(N, H - 2 radius, W - 2 radius)`` by their centres; None: all of them.
        window: around each pixel.
        offset: what was taken off the images.
        peak: in place of the range 1.
    """
    number, height, width = first.shape
    margin = 2 * window.radius
    pixels = PIXELS_AT_ONCE_OF_GPU if first.is_cuda else PIXELS_AT_ONCE
    images = min(max(1, pixels // (height * width)), max(number, 1))
    rows = min(max(1, pixels // (images * width) - margin), height - margin)
    room = _Room(images, rows + margin, width, margin, torch.result_type(first, second), first.device)
    sums = torch.zeros(number, dtype=torch.float64, device=first.device)
    for start in range(0, number, images):
        some = slice(start, start + images)
        for top in range(0, height - margin, rows):
            one, other = (stack[some, top : top + rows + margin] for stack in (first, second))
            index = index_of_means(room.means(one, other, window), offset, peak, window.correction)
            if counted is not None:
                index = torch.where(counted[some, top : top + rows], index, 0.0)
            sums[some] += index.flatten(1).sum(1, dtype=torch.float64)
    return sums


class StructuralSimilarity:
    """Structural similarity of each frame, mean over its channels and pixels, then mean over frames; 1 = equal.

    Equals scikit-image's ``structural_similarity(..., gaussian_weights=True, sigma=1.5, use_sample_covariance=False)`` with
    the value range of the frame spec as ``data_range``. Pixels missing in the truth are set to the spec's fill in both
    frames, and a window counts when the pixel at its centre is valid.

    Attributes:
        window: around each pixel.
        ranges: by how many value ranges the constants are scaled.
    """

    name = "ssim"
    better = "higher"
    perfect = 1.0
    window = GAUSSIAN
    ranges = 1.0

    def __call__(self, prediction: Tensor, truth: Tensor, spec: FrameSpec) -> tuple[Tensor, Tensor]:
        """Return the similarity of each frame, and 1 (0 for a frame without a valid window).

        Raises:
            UserError: the frames are smaller than the window.
        """
        *lead, height, width = truth.shape
        radius = self.window.radius
        side = 2 * radius + 1
        if min(height, width) < side:
            raise UserError(
                f"SSIM needs frames of at least {side} x {side} pixels, not {height} x {width}: leave '{self.name}' out of the scores"
            )
        valid = ~torch.isnan(truth) if any_missing(truth) else None
        films = [_scaled(frames if valid is None else torch.where(valid, frames, spec.fill), spec) for frames in (prediction, truth)]
        first, second = (film.flatten(0, 2) for film in films)
        centres = None if valid is None else valid[..., radius : height - radius, radius : width - radius]
        counted = None if centres is None else centres.flatten(0, 2)
        sums = index_sums(first, second, counted, self.window, spec.transform.low / spec.value_range, self.ranges)
        sums = sums.reshape(lead).sum(2)
        if valid is None or centres is None:
            return sums / (lead[2] * (height - 2 * radius) * (width - 2 * radius)), torch.ones_like(sums)
        count = frame_counts(centres)
        # A NaN near the edge reaches no window whose centre is valid when those centres are masked: it counts all the same.
        undefined = (torch.isnan(prediction) & valid).flatten(2).any(2)
        scored = torch.where(undefined, scored_frames(valid), (count > 0).double())
        return torch.where(undefined, math.nan, sums / count.clamp(min=1.0)), scored


def _scaled(films: Tensor, spec: FrameSpec) -> Tensor:
    """Return films of value range 1."""
    return films if (spec.transform.low, spec.value_range) == (0.0, 1.0) else (films - spec.transform.low) / spec.value_range


class UniformSimilarity(StructuralSimilarity):
    """Structural similarity with scikit-image's default window: 7 x 7 pixels that count alike, and the covariance of a sample.

    Equals ``structural_similarity(..., data_range=R)`` with R the value range of the frame spec.
    """

    name = "ssim_uniform"
    window = UNIFORM


class DoubleRangeSimilarity(UniformSimilarity):
    """The same with twice the value range, as ``structural_similarity(..., data_range=2)`` has it of images in [0, 1].

    scikit-image before 0.20 took 2 for the range of all floats, from -1 to 1, unless it was told another, and so do figures of that time.
    """

    name = "ssim_range2"
    ranges = 2.0
