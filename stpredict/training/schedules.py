"""Learning rates as functions of the step, and of how often a plateau has reduced them, so that a schedule has no state to lose."""

from __future__ import annotations

import math

from stpredict.training.settings import OptimizerSettings

_ONE_CYCLE_RISE = 0.3
_ONE_CYCLE_START = 1 / 25
_ONE_CYCLE_END = 1 / 25 / 1e4
_ONE_CYCLE_BETAS = (0.95, 0.85)


def learning_rate(settings: OptimizerSettings, step: int, max_steps: int, reductions: int = 0) -> float:
    """Return the learning rate of training step ``step``, counted from 0, after so many reductions by ``plateau``."""
    highest = settings.learning_rate
    if settings.schedule == "plateau":
        highest *= settings.plateau_factor**reductions
    if settings.schedule == "one-cycle":
        return highest * _one_cycle(step, max_steps, _ONE_CYCLE_START, 1.0, _ONE_CYCLE_END)
    if step < settings.warm_up:
        return highest * (step + 1) / settings.warm_up
    if settings.schedule in ("constant", "plateau"):
        return highest
    gone = (step - settings.warm_up) / max(1, max_steps - settings.warm_up)
    return highest * 0.5 * (1.0 + math.cos(math.pi * min(1.0, gone)))


def first_beta(settings: OptimizerSettings, step: int, max_steps: int) -> float:
    """Return Adam's first beta at training step ``step``: its own, or the one-cycle's."""
    if settings.schedule != "one-cycle":
        return settings.betas[0]
    high, low = _ONE_CYCLE_BETAS
    return _one_cycle(step, max_steps, high, low, high)


def _one_cycle(step: int, max_steps: int, start: float, middle: float, end: float) -> float:
    """Go from start to middle and on to end, each along half a cosine, as torch.optim.lr_scheduler.OneCycleLR does."""
    top, last = _ONE_CYCLE_RISE * max_steps - 1.0, max_steps - 1.0
    if step <= top:
        return _half_cosine(start, middle, step / top)
    return _half_cosine(middle, end, min(1.0, (step - top) / (last - top)))


def _half_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2.0 * (1.0 + math.cos(math.pi * share))
