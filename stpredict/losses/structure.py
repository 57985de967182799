"""Losses that look beyond the single pixel: at means over areas, and at structure."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from stpredict.errors import UserError
from stpredict.losses.pixels import error
from stpredict.metrics.ssim import RADIUS, similarity


@dataclass(frozen=True)
class MultiScale:
    """Absolute and squared error of means over squares of several sizes, so that rain in nearly the right place counts for something.

    A square's error is the mean over its valid pixels, and counts as many times as it has of them; the sizes count alike.

    Attributes:
        sizes: of the squares, in pixels; what is left over at the edges makes smaller ones.
        l1: weight of the absolute error.
        l2: weight of the squared error.
    """

    sizes: tuple[int, ...] = (1, 2, 4, 8)
    l1: float = 0.0
    l2: float = 1.0

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1:
            raise UserError(f"loss.sizes are numbers of pixels, at least 1: not {list(self.sizes)}")

    def __call__(self, predictions: Tensor, targets: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weighted sum and the number of valid pixels."""
        difference, there = error(predictions, targets, valid).flatten(0, 1), valid.flatten(0, 1).to(torch.float32)
        total = difference.new_zeros(())
        for size in self.sizes:
            counts, sums = square_sums(there, size), square_sums(difference, size)
            means = sums / counts.clamp(min=1.0)
            total = total + (counts * (self.l1 * means.abs() + self.l2 * means.square())).sum()
        return total / len(self.sizes), valid.sum()


def square_sums(images: Tensor, size: int) -> Tensor:
    """Return the sums of ``(N, C, H, W)`` over squares, smaller ones at the right and at the bottom."""
    height, width = images.shape[-2:]
    padded = functional.pad(images, (0, -width % size, 0, -height % size))
    return functional.avg_pool2d(padded, size) * size**2


@dataclass(frozen=True)
class Dissimilarity:
    """One minus the structural similarity (Wang et al. 2004, the score ``ssim``) of frames scaled to [0, 1].

    A frame counts as many times as it has valid pixels; those that are missing are set to 0 in both frames, and a window counts when
    the pixel at its centre is valid. Best beside an error, by the loss ``sum``: by itself it cares little for brightness.
    """

    def __call__(self, predictions: Tensor, targets: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum and the number of valid pixels.

        Raises:
            UserError: the frames are smaller than the window.
        """
        height, width = targets.shape[-2:]
        if min(height, width) <= 2 * RADIUS:
            raise UserError(f"The loss ssim needs frames of at least {2 * RADIUS + 1} pixels each way, not {height} x {width}")
        shown, true = (torch.where(valid, frames, 0.0).float().flatten(0, 2) for frames in (predictions, targets))
        index = similarity(shown, true).reshape(*targets.shape[:2], -1)
        centres = valid[..., RADIUS:-RADIUS, RADIUS:-RADIUS].reshape(*targets.shape[:2], -1)
        counted = centres.sum(dim=2)
        means = torch.where(centres, 1.0 - index, 0.0).sum(dim=2) / counted.clamp(min=1)
        pixels = valid.flatten(2).sum(dim=2)
        return (means * pixels).sum(), valid.sum()
