"""Learning rates, against torch's own schedulers and in closed form."""

from __future__ import annotations

import math

import pytest
import torch

from stpredict.errors import UserError
from stpredict.training.schedules import first_beta, learning_rate
from stpredict.training.settings import OptimizerSettings


@pytest.mark.parametrize("steps", [10, 101, 1000])
def test_one_cycle_is_that_of_torch(steps: int) -> None:
    settings = OptimizerSettings(learning_rate=3e-3, schedule="one-cycle")
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps, final_div_factor=1e4)
    for step in range(steps):
        group = optimizer.param_groups[0]
        assert learning_rate(settings, step, steps) == pytest.approx(group["lr"], rel=1e-9)
        assert first_beta(settings, step, steps) == pytest.approx(group["betas"][0], rel=1e-9)
        optimizer.step()
        if step < steps - 1:
            scheduler.step()


def test_cosine_with_warm_up() -> None:
    settings = OptimizerSettings(learning_rate=2.0, schedule="cosine", warm_up=4)
    rates = [learning_rate(settings, step, 12) for step in range(13)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[4:] == pytest.approx([1.0 + math.cos(math.pi * gone / 8) for gone in range(9)])


def test_constant_with_warm_up() -> None:
    settings = OptimizerSettings(learning_rate=2.0, warm_up=2)
    assert [learning_rate(settings, step, 5) for step in range(5)] == [1.0, 2.0, 2.0, 2.0, 2.0]
    assert first_beta(settings, 3, 5) == 0.9


@pytest.mark.parametrize("change", [{"learning_rate": 0.0}, {"clip_norm": 0.0}, {"warm_up": -1}, {"schedule": "one-cycle", "warm_up": 5}])
def test_impossible_settings_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(UserError):
        OptimizerSettings(**change)  # type: ignore[arg-type]
