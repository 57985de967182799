"""A loss for scores of events, such as the critical success index: rain of at least so much, that falls or not."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from stpredict.devices import carry
from stpredict.errors import UserError
from stpredict.frames import FrameSpec
from stpredict.losses.pixels import error, scaled_thresholds


class Events:
    """What wrong calls of events cost: ``1 - p`` for one that is missed, ``p`` for one that does not come, over all thresholds.

    The forecast that does best exceeds a threshold where the truth does so with a probability above p. A critical success index is highest
    with p = c / (1 + c), c being the index itself, so p falls with the threshold and with the lead, as c does. Where both are the same
    everywhere this is ``quantile`` with ``q`` = 1 - p.

    A threshold t between two that are given counts as the nearer, as scaled. The loss of a forecast x and a truth y is the integral, over
    scaled t, of ``w (1 - p)`` from x to y if x is below, of ``w p`` from y to x if it is above: a mixture of elementary scores (Ehm et al.,
    Of quantiles and expectiles, JRSS B 2016, eq. 7), with a level of its own for each threshold.

    Attributes:
        thresholds: increasing, physical.
        indices: c in (0, 1) by lead and threshold, as may be had: ``(leads, thresholds)``.
        leads: the predictions that these are for, 1 the first that the loss is of, increasing; between two it is linear.
        weights: w of each threshold. A mean of indices weighs an event the more the rarer it is.
    """

    def __init__(
        self,
        spec: FrameSpec,
        indices: tuple[tuple[float, ...], ...],
        leads: tuple[int, ...] = (1,),
        thresholds: tuple[float, ...] | None = None,
        weights: tuple[float, ...] | None = None,
    ) -> None:
        """Choose the levels.

        Args:
            spec: of the frames.
            indices: as above.
            leads: as above.
            thresholds: as above; None: those of the frame spec.
            weights: as above; None: all 1.

        Raises:
            UserError: the numbers do not fit together, or there are no thresholds.
        """
        thresholds = spec.thresholds if thresholds is None else thresholds
        weights = (1.0,) * len(thresholds) if weights is None else weights
        if not thresholds or any(later <= earlier for earlier, later in pairwise(thresholds)):
            raise UserError(f"loss.thresholds are one or more values of a pixel that increase, not {list(thresholds)}")
        if len(weights) != len(thresholds) or min(weights) <= 0:
            raise UserError(f"loss.weights are above 0, one for each of {len(thresholds)} thresholds, not {list(weights)}")
        if len(leads) != len(indices) or any(later <= earlier for earlier, later in pairwise((0, *leads))):
            raise UserError(f"loss.leads are numbers from 1 that increase, one for each row of loss.indices, not {list(leads)}")
        if any(len(row) != len(thresholds) or not all(0.0 < index < 1.0 for index in row) for row in indices):
            raise UserError(f"loss.indices are between 0 and 1, a row for each lead, in it one for each of {len(thresholds)} thresholds")
        scaled = scaled_thresholds(thresholds, spec, torch.float64)
        self.leads, self.indices = leads, indices
        self.weights = torch.tensor(weights, dtype=torch.float64)
        self.bounds = ((scaled[1:] + scaled[:-1]) / 2).tolist()

    def __call__(self, predictions: Tensor, targets: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of the costs and the number of valid pixels."""
        difference = error(predictions, targets, valid)
        predicted = predictions.float()
        known = predicted - difference
        levels = carry(self.levels(predictions.shape[-4]).float(), known.device)
        weights = carry(self.weights.float(), known.device).expand_as(levels)
        missed = (self._integral(known, weights) - self._integral(predicted, weights)).relu()
        called = self._integral(predicted, weights * levels) - self._integral(known, weights * levels)
        return torch.where(valid, missed + called, 0.0).sum(), valid.sum()

    def levels(self, length: int) -> Tensor:
        """Return p by prediction and threshold, ``(length, thresholds)``."""
        predictions = np.arange(1, length + 1)
        index = np.stack([np.interp(predictions, self.leads, column) for column in zip(*self.indices, strict=True)], 1)
        return torch.from_numpy(index / (1.0 + index))

    def _integral(self, frames: Tensor, heights: Tensor) -> Tensor:
        """Return the integral from 0 to each value of ``(B, T, C, H, W)`` of steps whose heights are ``(T, thresholds)``."""
        along = heights[:, :, None, None, None]
        total = along[:, 0] * frames
        for place, bound in enumerate(self.bounds, 1):
            total = total + (along[:, place] - along[:, place - 1]) * (frames - bound).relu()
        return total
