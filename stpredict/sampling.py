"""Which steps are fed the truth in training: sampling schedules as functions of the iteration.

Iterations count from 1, as in predrnn-pytorch; nothing is remembered from one to the next, so a resumed run goes on exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from stpredict.draws import Draws
from stpredict.errors import UserError


class Schedule(Protocol):
    """Gives the probabilities of the truth."""

    def probabilities(self, iteration: int) -> tuple[float, float]:
        """Return the probability that a frame fed is true: inside the context (but the first, which always is), and after it."""


@dataclass(frozen=True)
class FreeRunning:
    """No sampling: the context is true and the rest are own predictions, as in a forecast."""

    def probabilities(self, iteration: int) -> tuple[float, float]:
        """Return (1, 0)."""
        return 1.0, 0.0


@dataclass(frozen=True)
class TeacherForcing:
    """Every frame fed is true."""

    def probabilities(self, iteration: int) -> tuple[float, float]:
        """Return (1, 1)."""
        return 1.0, 1.0


@dataclass(frozen=True)
class ScheduledSampling:
    """Truth after the context fades out linearly (Bengio et al. 2015, arXiv 1506.03099; PredRNN).

    Attributes:
        start: probability before the first iteration.
        rate: taken off at each iteration.
        stop: from this iteration on the probability is 0.
    """

    start: float = 1.0
    rate: float = 2e-5
    stop: int = 50000

    def __post_init__(self) -> None:
        if not 0.0 <= self.start <= 1.0 or self.rate < 0.0 or self.stop < 0:
            given = f"{self.start}, {self.rate}, {self.stop}"
            raise UserError(f"Scheduled sampling needs start in [0, 1], rate and stop not negative; not {given}")

    def probabilities(self, iteration: int) -> tuple[float, float]:
        """Return 1 and ``start - rate * iteration``."""
        return 1.0, max(0.0, self.start - self.rate * iteration) if iteration < self.stop else 0.0


@dataclass(frozen=True)
class ReverseScheduledSampling:
    """Truth inside the context fades in exponentially, after it fades out linearly (PredRNN-v2, arXiv 2103.09504).

    Attributes:
        first: until this iteration both probabilities are one half.
        second: from this iteration on the context is true and the rest are own predictions.
        alpha: decay of the exponential, in iterations.
    """

    first: int = 25000
    second: int = 50000
    alpha: float = 2500.0

    def __post_init__(self) -> None:
        if not 0 <= self.first < self.second or self.alpha <= 0:
            given = f"{self.first}, {self.second}, {self.alpha}"
            raise UserError(f"Reverse scheduled sampling needs 0 <= first < second and alpha > 0; not {given}")

    def probabilities(self, iteration: int) -> tuple[float, float]:
        """Return both probabilities of this iteration."""
        if iteration < self.first:
            return 0.5, 0.5
        if iteration >= self.second:
            return 1.0, 0.0
        gone = iteration - self.first
        return 1.0 - 0.5 * math.exp(-gone / self.alpha), 0.5 - 0.5 * gone / (self.second - self.first)


@dataclass(frozen=True)
class GrowingHorizon:
    """A curriculum: training begins with few future frames, and their number grows linearly to the whole horizon.

    Attributes:
        first_horizon: frames to forecast at the first iteration; None: the whole horizon from the start.
        grown_at: the iteration from which the whole horizon is forecast.
    """

    first_horizon: int | None = None
    grown_at: int = 0

    def __post_init__(self) -> None:
        known = self.first_horizon is not None
        if known != (self.grown_at != 0) or self.grown_at < 0 or (self.first_horizon is not None and self.first_horizon < 1):
            raise UserError(
                "A growing horizon needs sampling.first_horizon, at least 1, and sampling.grown_at, the step from which it is whole"
            )

    def at(self, iteration: int, horizon: int) -> int:
        """Return how many frames of ``horizon`` are forecast at an iteration, counted from 1."""
        if self.first_horizon is None or iteration >= self.grown_at:
            return horizon
        return min(horizon, self.first_horizon + (horizon - self.first_horizon) * (iteration - 1) // max(1, self.grown_at - 1))


SCHEDULES: dict[str, type[Schedule]] = {
    "none": FreeRunning,
    "teacher": TeacherForcing,
    "scheduled": ScheduledSampling,
    "reverse": ReverseScheduledSampling,
}


def draw_truth(schedule: Schedule, iteration: int, draws: Draws, context: int, horizon: int) -> Tensor:
    """Draw which frames fed are true: ``(B, context + horizon - 1)`` bool on the CPU, one coin per sample and step.

    The coins of a sample are a function of the draws' seed, step and that sample's index.
    """
    inside, after = schedule.probabilities(iteration)
    chances = torch.tensor([1.0] + [inside] * (context - 1) + [after] * (horizon - 1), dtype=torch.float64)
    return draws.uniform("truth", len(chances)) < chances
