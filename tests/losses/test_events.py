"""The loss of events, beside its definition as an integral of elementary scores, and what does best by it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stpredict.errors import UserError
from stpredict.frames import FrameSpec, Transform
from stpredict.losses import Loss, make_loss
from stpredict.losses.pixels import Quantile

# The thresholds are at 0.1, 0.2 and 0.5 as scaled.
SPEC = FrameSpec(1, 1, 4, units="mm/h", transform=Transform("sqrt", 0.0, 100.0), thresholds=(1.0, 4.0, 25.0))
INDICES = [[0.8, 0.6, 0.5], [0.4, 0.3, 0.1]]
LEVELS = torch.tensor([[0.8 / 1.8, 0.6 / 1.6, 0.5 / 1.5], [0.4 / 1.4, 0.3 / 1.3, 0.1 / 1.1]], dtype=torch.float64)


def made(**settings: Any) -> Loss:
    return make_loss({"name": "events", "indices": INDICES, "leads": [1, 2], "weights": [1.0, 2.0, 5.0], **settings}, SPEC)


def cost(loss: Loss, forecast: float, truth: float, lead: int) -> float:
    """Return what one pixel costs at a lead, where all others are right."""
    truths = torch.full((1, lead, 1, 1, 1), truth)
    forecasts = truths.clone()
    forecasts[:, -1] = forecast
    return float(loss(forecasts, truths, torch.ones_like(truths, dtype=torch.bool))[0])


@given(st.floats(-0.2, 1.2), st.floats(0.0, 1.0), st.sampled_from([1, 2]))
def test_it_is_the_integral_of_elementary_scores(forecast: float, truth: float, lead: int) -> None:
    thresholds = (np.arange(140_000) + 0.5) / 1e5 - 0.2
    nearest = np.digitize(thresholds, [0.15, 0.35])
    level, weight = LEVELS[lead - 1].numpy()[nearest], np.array([1.0, 2.0, 5.0])[nearest]
    missed = (forecast < thresholds) & (thresholds <= truth)
    called = (truth < thresholds) & (thresholds <= forecast)
    expected = (weight * ((1 - level) * missed + level * called)).sum() / 1e5
    assert cost(made(), forecast, truth, lead) == pytest.approx(expected, abs=2e-4)


def test_the_best_forecast_calls_what_is_likely_enough_and_no_more() -> None:
    random = np.random.default_rng(0)
    truths = torch.from_numpy(random.gamma(0.7, 0.25, 2000)).float().view(-1, 1, 1, 1, 1).expand(-1, 2, -1, -1, -1)
    guesses = torch.linspace(0, 1, 1001)
    for lead in (0, 1):
        valid = torch.zeros_like(truths, dtype=torch.bool)
        valid[:, lead] = True
        costs = [float(made()(torch.full_like(truths, float(guess)), truths, valid)[0]) for guess in guesses]
        best = float(guesses[int(np.argmin(costs))])
        for threshold, level in zip((0.1, 0.2, 0.5), LEVELS[lead].tolist(), strict=True):
            assert (best >= threshold) == (float((truths[:, 0] >= threshold).double().mean()) > level)


def test_levels_go_from_lead_to_lead() -> None:
    loss: Any = make_loss({"name": "events", "indices": INDICES, "leads": [2, 6]}, SPEC)
    levels = loss.levels(8)
    torch.testing.assert_close(levels[[0, 1]], LEVELS[[0, 0]])
    torch.testing.assert_close(levels[[5, 7]], LEVELS[[1, 1]])
    middle = torch.tensor([0.6 / 1.6, 0.45 / 1.45, 0.3 / 1.3], dtype=torch.float64)
    torch.testing.assert_close(levels[3], middle)


def test_with_one_level_it_is_the_quantile() -> None:
    random = torch.Generator().manual_seed(0)
    forecasts, truths = torch.rand(2, 3, 1, 5, 5, generator=random), torch.rand(2, 3, 1, 5, 5, generator=random)
    valid = torch.rand(2, 3, 1, 5, 5, generator=random) > 0.3
    total, count = make_loss({"name": "events", "indices": [[0.25, 0.25, 0.25]]}, SPEC)(forecasts, truths, valid)
    torch.testing.assert_close(total, Quantile(0.8)(forecasts, truths, valid)[0])
    assert int(count) == int(valid.sum())


def test_what_is_missing_has_no_part() -> None:
    forecasts = torch.tensor([0.3, 0.1, 0.7, 0.2]).view(1, 1, 1, 1, 4).requires_grad_()
    truths = torch.tensor([0.0, 0.2, 0.9, math.nan]).view(1, 1, 1, 1, 4)
    total, count = made()(forecasts, truths, ~truths.isnan())
    (slopes,) = torch.autograd.grad(total, forecasts)
    level = LEVELS[0]
    torch.testing.assert_close(slopes.flatten().double(), torch.stack([2 * level[1], level[0] - 1, 5 * (level[2] - 1), level[0] * 0]))
    assert int(count) == 3 and math.isfinite(float(total.detach()))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"thresholds": [1.0, 1.0, 2.0]}, "loss.thresholds are one or more values of a pixel that increase"),
        ({"thresholds": []}, "loss.thresholds are one or more values"),
        ({"thresholds": [1.0, 2.0, 2.0 + 1e-12]}, "tells no values apart"),
        ({"weights": [1.0, 2.0]}, "one for each of 3 thresholds"),
        ({"weights": [1.0, 0.0, 2.0]}, "loss.weights are above 0"),
        ({"leads": [1]}, "loss.leads are numbers from 1 that increase, one for each row"),
        ({"leads": [0, 2]}, "loss.leads are numbers from 1"),
        ({"indices": [[0.5, 0.4], [0.3, 0.2]]}, "a row for each lead, in it one for each of 3 thresholds"),
        ({"indices": [[1.0, 0.4, 0.2], [0.3, 0.2, 0.1]]}, "loss.indices are between 0 and 1"),
    ],
)
def test_mistakes(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        made(**settings)
