"""Scores: how far a forecast is from the truth, streamed over any number of clips in constant memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from torch import Tensor

from stpredict import extensions
from stpredict.errors import UserError
from stpredict.frames import FrameSpec
from stpredict.metrics.running import RunningScore

__all__ = ["SCORES", "RunningScore", "Score", "better_direction", "create_scores"]

SCORES = {
    "mse": "stpredict.metrics.pixels:MeanSquaredError",
    "mae": "stpredict.metrics.pixels:MeanAbsoluteError",
    "mse_sum": "stpredict.metrics.pixels:SummedSquaredError",
    "mae_sum": "stpredict.metrics.pixels:SummedAbsoluteError",
    "ssim": "stpredict.metrics.ssim:StructuralSimilarity",
    "psnr": "stpredict.metrics.pixels:PeakSignalToNoise",
}


class Score(Protocol):
    """A score, ours or a user's ``package.module:Class`` (made without arguments).

    A score may also say which direction is better, as an attribute ``better``: ``"lower"`` or ``"higher"``.

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
            sum of their totals over the sum of their weights. A prediction that is NaN where the truth is not makes the total NaN.
        """
        ...


def create_scores(names: Sequence[str] | None = None) -> list[Score]:
    """Return the scores of these names (default: all of ours), each ours, an entry point or ``package.module:Class``.

    Raises:
        UserError: a name is unknown, or two scores bear the same name.
    """
    scores: dict[str, Score] = {}
    for name in dict.fromkeys(SCORES if names is None else names):
        found: Any = extensions.find("scores", name, SCORES)
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
