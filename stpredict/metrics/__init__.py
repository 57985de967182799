"""Scores: how far a forecast is from the truth, streamed over any number of clips in constant memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from torch import Tensor

from stpredict import extensions
from stpredict.errors import UserError
from stpredict.frames import FrameSpec
from stpredict.metrics.running import RunningScore

__all__ = ["FURTHER_SCORES", "SCORES", "RunningScore", "Score", "better_direction", "create_scores", "default_scores"]

SCORES = {
    "mse": "stpredict.metrics.pixels:MeanSquaredError",
    "mae": "stpredict.metrics.pixels:MeanAbsoluteError",
    "mse_sum": "stpredict.metrics.pixels:SummedSquaredError",
    "mae_sum": "stpredict.metrics.pixels:SummedAbsoluteError",
    "ssim": "stpredict.metrics.ssim:StructuralSimilarity",
    "psnr": "stpredict.metrics.pixels:PeakSignalToNoise",
}
"""The scores that frames of every kind have."""

FURTHER_SCORES = {
    "rmse": "stpredict.metrics.pixels:RootMeanSquaredError",
    "rmse_sum": "stpredict.metrics.pixels:RootSummedSquaredError",
    "ssim_uniform": "stpredict.metrics.ssim:UniformSimilarity",
    "ssim_range2": "stpredict.metrics.ssim:DoubleRangeSimilarity",
    "gradient_difference": "stpredict.metrics.gradient_difference:GradientDifference",
    "lpips": "stpredict.metrics.lpips:PerceptualDistance",
    "lpips_unscaled": "stpredict.metrics.lpips:UnscaledPerceptualDistance",
    "csi": "stpredict.metrics.contingency:CriticalSuccess",
    "csi_per_lead": "stpredict.metrics.contingency:CriticalSuccessPerLead",
    "csi_pool4": "stpredict.metrics.contingency:CriticalSuccessOfPools4",
    "csi_pool16": "stpredict.metrics.contingency:CriticalSuccessOfPools16",
    "pod": "stpredict.metrics.contingency:ProbabilityOfDetection",
    "far": "stpredict.metrics.contingency:FalseAlarmRatio",
    "sucr": "stpredict.metrics.contingency:SuccessRatio",
    "bias": "stpredict.metrics.contingency:FrequencyBias",
    "hss": "stpredict.metrics.contingency:HeidkeSkill",
    "hss_per_lead": "stpredict.metrics.contingency:HeidkeSkillPerLead",
    "fss": "stpredict.metrics.fss:FractionsSkill",
    "balanced_mse": "stpredict.metrics.balanced:BalancedSquaredError",
    "balanced_mae": "stpredict.metrics.balanced:BalancedAbsoluteError",
    "rain_mse": "stpredict.metrics.balanced:RainSquaredError",
    "rain_mae": "stpredict.metrics.balanced:RainAbsoluteError",
    "log_spectral_distance": "stpredict.metrics.spectrum:LogSpectralDistance",
    "small_scale_power": "stpredict.metrics.spectrum:SmallScalePower",
    "power_ratio": "stpredict.metrics.spectrum:PowerRatio",
    "power_ratio_members": "stpredict.metrics.spectrum:MemberPowerRatio",
    "crps": "stpredict.metrics.crps:RankedProbability",
    "crps_fair": "stpredict.metrics.crps:FairRankedProbability",
    "rank_histogram": "stpredict.metrics.ranks:RankHistogram",
    "spread": "stpredict.metrics.spread:Spread",
    "spread_skill": "stpredict.metrics.spread:SpreadSkill",
    "brier": "stpredict.metrics.reliability:BrierScore",
    "reliability": "stpredict.metrics.reliability:Reliability",
    "calibration": "stpredict.metrics.reliability:Calibration",
}
"""The scores that are taken when they are named; ``csi`` also where the frame spec has thresholds."""


class Score(Protocol):
    """A score, ours or a user's ``package.module:Class`` (made without arguments).

    A score may have more than the call, each of which may be left out:

    * ``better``: ``"lower"`` or ``"higher"``, which direction is better;
    * ``perfect``: the number of a perfect forecast, with which skill over a baseline can be said;
    * ``parts(spec)``: names of the several numbers that it has, such as one for each threshold;
    * ``name_parts(spec, count)``: the same, where what they are depends on how many there are;
    * ``value(totals, weights)``: what becomes of summed totals and weights, arrays ``(..., N)`` or with axes behind N, as ``(..., N)``;
      left out, totals over weights;
    * ``summary(values)``: the one number for several, ``(..., N)`` to ``(...,)``; left out, their mean;
    * ``mean_over_leads``: True to score each lead and take the mean, in place of one score from the sums over leads;
    * ``takes_members``: True if the prediction may be an ensemble, ``(B, M, T, C, H, W)``; other scores see the mean of the members.

    Attributes:
        name: what tables and files call it.
    """

    name: str

    def __call__(self, prediction: Tensor, truth: Tensor, spec: FrameSpec) -> tuple[Tensor, Tensor]:
        """Score each frame of some clips.

        Args:
            prediction: float32 ``(B, T, C, H, W)`` in physical units.
            truth: the same; NaN = missing, which counts nowhere.
            spec: what the numbers mean.

        Returns:
            float64 ``(B, T)`` and ``(B, T)``: a total, and the weight it is to be divided by. The mean over any frames is the
            sum of their totals over the sum of their weights. A score of several numbers returns ``(B, T, N)``. A prediction that is
            NaN where the truth is not makes the total NaN; only for scores of events at thresholds it is no event.
        """
        ...


def default_scores(spec: FrameSpec) -> tuple[str, ...]:
    """Return the names of the scores that frames of this kind are given unless others are asked for."""
    return (*SCORES, "csi") if spec.thresholds else tuple(SCORES)


def create_scores(names: Sequence[str] | None = None) -> list[Score]:
    """Return the scores of these names (default: :data:`SCORES`), each ours, an entry point or ``package.module:Class``.

    Raises:
        UserError: a name is unknown, or two scores bear the same name.
    """
    scores: dict[str, Score] = {}
    for name in dict.fromkeys(SCORES if names is None else names):
        found: Any = extensions.find("scores", name, SCORES | FURTHER_SCORES)
        score = found() if isinstance(found, type) else found
        if not callable(score) or not isinstance(getattr(score, "name", None), str):
            raise UserError(f"'{name}' is no score: it needs an attribute 'name' and a call (prediction, truth, spec) -> (total, weight)")
        if score.name in scores:
            raise UserError(f"Two scores are called '{score.name}': leave '{name}' out, or give it another name")
        scores[score.name] = score
    return list(scores.values())


def better_direction(score: Score) -> Literal["lower", "higher"] | None:
    """Return which direction of a score is better, or None where it does not say."""
    better = getattr(score, "better", None)
    return better if better in ("lower", "higher") else None
