"""The fractions skill score: is there as much of an event around each pixel as was forecast around it?

Source: Roberts and Lean, Scale-selective verification of rainfall accumulations (Monthly Weather Review 2008); sums over all frames
before the division, as pysteps accumulates them.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.linalg import vecdot
from torch.nn.functional import pad

from stpredict.frames import FrameSpec
from stpredict.metrics.contingency import chosen_thresholds


def window_sums(fields: Tensor, windows: tuple[int, ...]) -> Iterator[Tensor]:
    """Yield, for each window, how many of the ``window`` x ``window`` pixels around each are set: int32, ``(..., H, W)`` as the fields.

    Outside the image nothing is set. The middle of a window of even size is the pixel right of, or below, its centre.
    """
    height, width = fields.shape[-2:]
    margin = max(windows)
    padded = pad(fields.int(), (margin, margin, margin, margin))
    corners = pad(padded.cumsum(-1, dtype=torch.int32).cumsum(-2, dtype=torch.int32), (1, 0, 1, 0))  # what is set above and left of each
    for window in windows:
        first = margin - window // 2
        columns = corners.narrow(-1, first + window, width) - corners.narrow(-1, first, width)
        yield columns.narrow(-2, first + window, height) - columns.narrow(-2, first, height)


class FractionsSkill:
    """The fractions skill score ``1 - sum (f - o)^2 / sum (f^2 + o^2)`` for each threshold and window; 1 is perfect.

    f and o are the fractions of a square window around a pixel in which the event, a value at or above the threshold, was forecast and
    came. What is missing in the truth is no event in either; a forecast that is missing is none either. Equals ``pysteps.verification``'s
    ``fss_accum`` over all frames, given forecasts that are missing where the truth is.
    """

    name = "fss"
    better = "higher"
    perfect = 1.0

    def __init__(self, thresholds: tuple[float, ...] | None = None, windows: tuple[int, ...] = (3, 9, 27)) -> None:
        """Take the thresholds in physical units (None: those of the frame spec) and the sides of the windows in pixels."""
        self.thresholds, self.windows = thresholds, windows

    def parts(self, spec: FrameSpec) -> tuple[str, ...]:
        """Return threshold and window of each number, such as ``0.5, 9 px``."""
        thresholds = chosen_thresholds(self.name, self.thresholds, spec)
        return tuple(f"{threshold:g}, {window} px" for threshold in thresholds for window in self.windows)

    def __call__(self, prediction: Tensor, truth: Tensor, spec: FrameSpec) -> tuple[Tensor, Tensor]:
        """Return ``sum 2 f o`` and ``sum f^2 + o^2`` of each frame, ``(B, T, thresholds * windows)``; their ratio is the score.

        Windows' numbers of pixels stand for fractions: the same factor is in both sums.
        """
        valid = ~torch.isnan(truth)
        totals, weights = [], []
        for threshold in chosen_thresholds(self.name, self.thresholds, spec):
            told, came = (prediction >= threshold) & valid, truth >= threshold
            for sums in zip(window_sums(told, self.windows), window_sums(came, self.windows), strict=True):
                forecast, observed = (one.double().flatten(2) for one in sums)
                totals.append(2.0 * vecdot(forecast, observed))
                weights.append(vecdot(forecast, forecast) + vecdot(observed, observed))
        return torch.stack(totals, -1), torch.stack(weights, -1)
