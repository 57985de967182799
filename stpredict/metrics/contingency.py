"""Scores of yes or no: was there as much as a threshold, and was it forecast?

An event is a value at or above the threshold. Hits H were forecast and came, misses M came unforecast, false alarms F were forecast
and did not come, correct rejections R are the rest. A pixel that is missing in the truth counts nowhere; a forecast that is missing
where the truth is not counts as no event, as the field counts what flows in from outside an extrapolated image.

Every score has a number for each threshold, and their mean (CSI-M, if the score is the CSI). Counts are summed over clips, pixels,
channels and leads before anything is divided, unless a name ends in ``_per_lead``: then each lead has its score first, and the mean is
over leads. A score that would divide by 0, since nothing of its kind came or was forecast, is NaN, and so is a mean in which it stands.

Source: Wilks, Statistical methods in the atmospheric sciences, on nonprobabilistic forecasts of discrete predictands.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from stpredict.errors import UserError
from stpredict.frames import FrameSpec
from stpredict.metrics.bootstrap import Numbers
from stpredict.metrics.pixels import any_missing


def chosen_thresholds(name: str, given: tuple[float, ...] | None, spec: FrameSpec) -> tuple[float, ...]:
    """Return the thresholds given, else those of the spec, in its units.

    Raises:
        UserError: there are none.
    """
    thresholds = spec.thresholds if given is None else given
    if not thresholds:
        raise UserError(
            f"The score '{name}' needs thresholds: name them (--threshold 0.5 2 5), or give the card frames: {{thresholds: [...]}}"
        )
    return thresholds


@dataclass(frozen=True)
class Counts:
    """How often events came and were forecast; each ``(B, T, thresholds)`` float64.

    Attributes:
        hits: forecast and came.
        forecast: forecast.
        observed: came.
        valid: pixels that were looked at.
    """

    hits: Tensor
    forecast: Tensor
    observed: Tensor
    valid: Tensor

    @property
    def misses(self) -> Tensor:
        """Came, but were not forecast."""
        return self.observed - self.hits

    @property
    def false_alarms(self) -> Tensor:
        """Were forecast, but did not come."""
        return self.forecast - self.hits

    @property
    def correct_rejections(self) -> Tensor:
        """Neither."""
        return self.valid - self.observed - self.false_alarms


def count(prediction: Tensor, truth: Tensor, thresholds: tuple[float, ...]) -> Counts:
    """Count events of films ``(B, T, C, H, W)``, NaN = missing."""
    valid = ~torch.isnan(truth) if any_missing(truth) else None
    numbers = []
    for threshold in thresholds:
        came, told = truth >= threshold, prediction >= threshold  # NaN is at or above nothing
        if valid is not None:
            told &= valid
        numbers.append(torch.stack([_trues(field) for field in (came & told, told, came)]))
    hits, forecast, observed = torch.stack(numbers, -1).double()
    pixels = truth.shape[2:].numel() if valid is None else _trues(valid).double()[..., None]
    return Counts(hits, forecast, observed, torch.zeros_like(hits) + pixels)


def _trues(field: Tensor) -> Tensor:
    """Return how many of ``(B, T, ...)`` are true, ``(B, T)``; bytes add up faster than truth values."""
    return field.flatten(2).view(torch.uint8).sum(2, dtype=torch.int32)


def pool(prediction: Tensor, truth: Tensor, kernel: int) -> tuple[Tensor, Tensor]:
    """Return the greatest values of pools of ``kernel`` x ``kernel`` pixels that do not overlap.

    Pixels that are missing in the truth are in no pool, of the forecast neither, and a pool without any other is missing. A forecast
    that is missing is in no pool of the forecast. Rows and columns at the lower and right edge that fill no pool are left out.

    Raises:
        UserError: the frames are smaller than a pool.
    """
    if min(truth.shape[-2:]) < kernel:
        raise UserError(f"Pools of {kernel} x {kernel} pixels need frames of at least that size, not {truth.shape[-2]} x {truth.shape[-1]}")
    missing = torch.isnan(truth)
    pooled = []
    for frames in (prediction, truth):
        least = torch.where(missing | torch.isnan(frames), -torch.inf, frames)
        greatest = max_pool2d(least.flatten(0, 1), kernel)
        greatest = greatest.reshape(*truth.shape[:3], *greatest.shape[-2:])
        pooled.append(torch.where(torch.isneginf(greatest), torch.nan, greatest))
    return pooled[0], pooled[1]


class ThresholdScore:
    """What the scores of this module have in common.

    Attributes:
        kernel: the side of the pools whose greatest values are compared; 1: pixels.
        mean_over_leads: score each lead, then take the mean.
    """

    name: str
    kernel = 1
    mean_over_leads = False

    def __init__(self, thresholds: tuple[float, ...] | None = None) -> None:
        """Take the thresholds in physical units; None: those of the frame spec."""
        self.thresholds = thresholds

    def parts(self, spec: FrameSpec) -> tuple[str, ...]:
        """Return the thresholds as text."""
        return tuple(f"{threshold:g}" for threshold in chosen_thresholds(self.name, self.thresholds, spec))

    def counts(self, prediction: Tensor, truth: Tensor, spec: FrameSpec) -> Counts:
        """Count events of each frame."""
        thresholds = chosen_thresholds(self.name, self.thresholds, spec)
        if self.kernel > 1:
            prediction, truth = pool(prediction, truth, self.kernel)
        return count(prediction, truth, thresholds)


class CriticalSuccess(ThresholdScore):
    """The critical success index H / (H + M + F), also called threat score: 1 is perfect."""

    name = "csi"
    better = "higher"
    perfect = 1.0

    def __call__(self, prediction: Tensor, truth: Tensor, spec: FrameSpec) -> tuple[Tensor, Tensor]:
        """Return hits, and hits, misses and false alarms together: ``(B, T, thresholds)``."""
        counts = self.counts(prediction, truth, spec)
        return counts.hits, counts.observed + counts.false_alarms


class CriticalSuccessPerLead(CriticalSuccess):
    """The critical success index of each lead, then the mean over leads."""

    name = "csi_per_lead"
    mean_over_leads = True


class CriticalSuccessOfPools4(CriticalSuccess):
    """The critical success index of the greatest values of pools of 4 x 4 pixels."""

    name = "csi_pool4"
    kernel = 4


class CriticalSuccessOfPools16(CriticalSuccess):
    """The critical success index of the greatest values of pools of 16 x 16 pixels."""

    name = "csi_pool16"
    kernel = 16


class ProbabilityOfDetection(ThresholdScore):
    """The share of what came that was forecast, H / (H + M)."""

    name = "pod"
    better = "higher"
    perfect = 1.0

    def __call__(self, prediction: Tensor, truth: Tensor, spec: FrameSpec) -> tuple[Tensor, Tensor]:
        """Return hits, and events that came."""
        counts = self.counts(prediction, truth, spec)
        return counts.hits, counts.observed


class FalseAlarmRatio(ThresholdScore):
    """The share of what was forecast that did not come, F / (H + F)."""

    name = "far"
    better = "lower"
    perfect = 0.0

    def __call__(self, prediction: Tensor, truth: Tensor, spec: FrameSpec) -> tuple[Tensor, Tensor]:
        """Return false alarms, and events that were forecast."""
        counts = self.counts(prediction, truth, spec)
        return counts.false_alarms, counts.forecast


class SuccessRatio(ThresholdScore):
    """The share of what was forecast that came, H / (H + F): 1 less the false alarm ratio."""

    name = "sucr"
    better = "higher"
    perfect = 1.0

    def __call__(self, prediction: Tensor, truth: Tensor, spec: FrameSpec) -> tuple[Tensor, Tensor]:
        """Return hits, and events that were forecast."""
        counts = self.counts(prediction, truth, spec)
        return counts.hits, counts.forecast


class FrequencyBias(ThresholdScore):
    """How many events were forecast for each that came, (H + F) / (H + M); 1 is right, so neither direction is better."""

    name = "bias"

    def __call__(self, prediction: Tensor, truth: Tensor, spec: FrameSpec) -> tuple[Tensor, Tensor]:
        """Return events that were forecast, and events that came."""
        counts = self.counts(prediction, truth, spec)
        return counts.forecast, counts.observed


class HeidkeSkill(ThresholdScore):
    """The Heidke skill score 2 (HR - FM) / ((H + M)(M + R) + (H + F)(F + R)): 1 is perfect, 0 as good as chance."""

    name = "hss"
    better = "higher"
    perfect = 1.0

    def __call__(self, prediction: Tensor, truth: Tensor, spec: FrameSpec) -> tuple[Tensor, Tensor]:
        """Return H, M, F and R, ``(B, T, thresholds, 4)``, and the valid pixels ``(B, T, thresholds)``."""
        counts = self.counts(prediction, truth, spec)
        return torch.stack([counts.hits, counts.misses, counts.false_alarms, counts.correct_rejections], -1), counts.valid

    def value(self, totals: Numbers, weights: Numbers) -> Numbers:
        """Return the score ``(..., thresholds)`` of the four counts; NaN where all or none came and were forecast alike."""
        hits, misses, false_alarms, rejections = np.moveaxis(totals, -1, 0)
        chance = (hits + misses) * (misses + rejections) + (hits + false_alarms) * (false_alarms + rejections)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(chance > 0, 2.0 * (hits * rejections - false_alarms * misses) / chance, np.nan)


class HeidkeSkillPerLead(HeidkeSkill):
    """The Heidke skill score of each lead, then the mean over leads."""

    name = "hss_per_lead"
    mean_over_leads = True
