"""Probabilities of events: does what is forecast with a probability come as often as that?

An event is a value at or above a threshold, and its probability the share of the M members that reach it: 0, 1/M, ..., 1. Every score
has a number for each threshold of the frames. A pixel that is missing in the truth counts nowhere.

Source: Murphy, A new vector partition of the probability score (Journal of Applied Meteorology 1973); Wilks, Statistical methods in the
atmospheric sciences.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from stpredict.frames import FrameSpec
from stpredict.metrics.bootstrap import Numbers
from stpredict.metrics.contingency import chosen_thresholds
from stpredict.metrics.crps import as_members
from stpredict.metrics.running import ratio


def counts_by_probability(prediction: Tensor, truth: Tensor, thresholds: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Count pixels by the probability that was forecast.

    Args:
        prediction: members ``(B, M, T, C, H, W)``; one that is missing where the truth is not makes the counts of its frame NaN.
        truth: ``(B, T, C, H, W)``, NaN = missing.
        thresholds: of the events.

    Returns:
        how often the event came, and how many pixels there were, both ``(B, T, thresholds, M + 1)`` float64.
    """
    members = as_members(prediction, truth)
    valid = ~torch.isnan(truth)
    spoilt = (torch.isnan(members).any(1) & valid).flatten(2).any(2)
    came, forecast = [], []
    for threshold in thresholds:
        reached, event = (members >= threshold).sum(1), truth >= threshold
        here = [(reached == number) & valid for number in range(members.shape[1] + 1)]
        forecast.append(torch.stack([one.flatten(2).sum(2) for one in here], -1))
        came.append(torch.stack([(one & event).flatten(2).sum(2) for one in here], -1))
    events, pixels = torch.stack(came, 2).double(), torch.stack(forecast, 2).double()
    return torch.where(spoilt[..., None, None], torch.nan, events), pixels


class _OfProbabilities:
    """What the scores of probabilities share."""

    name = ""
    takes_members = True

    def parts(self, spec: FrameSpec) -> tuple[str, ...]:
        """Return the thresholds."""
        return tuple(f"{threshold:g}" for threshold in chosen_thresholds(self.name, None, spec))

    def counts(self, prediction: Tensor, truth: Tensor, spec: FrameSpec) -> tuple[Tensor, Tensor]:
        """Return events and pixels by threshold and probability."""
        return counts_by_probability(prediction, truth, chosen_thresholds(self.name, None, spec))


class BrierScore(_OfProbabilities):
    """The Brier score: the mean squared difference of the probability that was forecast from 1 where the event came, else from 0."""

    name = "brier"
    better = "lower"
    perfect = 0.0

    def __call__(self, prediction: Tensor, truth: Tensor, spec: FrameSpec) -> tuple[Tensor, Tensor]:
        """Return the sums over the pixels of each frame, and their number, ``(B, T, thresholds)``."""
        came, pixels = self.counts(prediction, truth, spec)
        chance = torch.linspace(0.0, 1.0, pixels.shape[-1], dtype=torch.float64, device=pixels.device)
        return (came * (1.0 - chance).square() + (pixels - came) * chance.square()).sum(-1), pixels.sum(-1)


class Reliability(_OfProbabilities):
    """The reliability of the Brier score: squared distance of how often events came from how probable they were said to be; 0 is best.

    It is the mean over all pixels, by the probabilities that were forecast for them.
    """

    name = "reliability"
    better = "lower"
    perfect = 0.0

    def __call__(self, prediction: Tensor, truth: Tensor, spec: FrameSpec) -> tuple[Tensor, Tensor]:
        """Return events and pixels by probability, ``(B, T, thresholds, M + 1)`` each."""
        return self.counts(prediction, truth, spec)

    def value(self, totals: Numbers, weights: Numbers) -> Numbers:
        """Return the number of each threshold, ``(..., thresholds)``."""
        away = np.nan_to_num(ratio(totals, weights)) - np.linspace(0.0, 1.0, totals.shape[-1])
        distance = np.where(weights > 0, weights * away**2, 0.0).sum(-1)
        return ratio(np.where(np.isnan(totals).any(-1), np.nan, distance), weights.sum(-1))


class Calibration(_OfProbabilities):
    """How much more often events came than their probability said, for each threshold and probability: a reliability diagram.

    A number above 0 is of a probability that was too low. The one number is the mean of their distances from 0, over the probabilities
    that were forecast at all.
    """

    name = "calibration"
    better = "lower"
    perfect = 0.0

    def name_parts(self, spec: FrameSpec, count: int) -> tuple[str, ...]:
        """Return ``0.5 at 1/4``, the threshold and the probability, in the order of the numbers."""
        thresholds = self.parts(spec)
        members = count // len(thresholds) - 1
        return tuple(f"{threshold} at {Fraction(number, members)}" for threshold in thresholds for number in range(members + 1))

    def __call__(self, prediction: Tensor, truth: Tensor, spec: FrameSpec) -> tuple[Tensor, Tensor]:
        """Return events less those that were to be expected, and pixels: ``(B, T, N)``, by threshold and then by probability."""
        came, pixels = self.counts(prediction, truth, spec)
        chance = torch.linspace(0.0, 1.0, pixels.shape[-1], dtype=torch.float64, device=pixels.device)
        return (came - pixels * chance).flatten(2), pixels.flatten(2)

    def summary(self, values: Numbers) -> Numbers:
        """Return the mean distance from 0 of those that there are; NaN where there is none."""
        there = ~np.isnan(values)
        return ratio(np.where(there, np.abs(values), 0.0).sum(-1), there.sum(-1).astype(np.float64))
