"""Losses under masks, in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stpredict.errors import UserError
from stpredict.frames import FrameSpec
from stpredict.losses import make_loss
from stpredict.losses.pixels import L1, L2, L1AndL2, Quantile

PREDICTIONS = torch.tensor([1.0, 2.0, -1.0, 5.0]).reshape(1, 1, 1, 1, 4)
TARGETS = torch.tensor([0.0, 4.0, 2.0, math.nan]).reshape(1, 1, 1, 1, 4)
SPEC = FrameSpec(1, 1, 4)
VALID = torch.tensor([True, True, True, False]).reshape(1, 1, 1, 1, 4)


@pytest.mark.parametrize(
    ("loss", "expected"), [(L2(), 1 + 4 + 9), (L1(), 1 + 2 + 3), (L1AndL2(1.0, 0.5), 6 + 7), (Quantile(0.8), 0.2 * 1 + 0.8 * (2 + 3))]
)
def test_sum_and_count(loss: L2, expected: float) -> None:
    total, count = loss(PREDICTIONS, TARGETS, VALID)
    assert float(total) == pytest.approx(expected) and int(count) == 3


@pytest.mark.parametrize("loss", [L2(), L1(), L1AndL2(), Quantile(0.8)])
def test_missing_pixels_have_no_gradient(loss: L2) -> None:
    predictions = PREDICTIONS.clone().requires_grad_()
    total, _ = loss(predictions, TARGETS, VALID)
    (gradient,) = torch.autograd.grad(total, predictions)
    assert torch.isfinite(gradient).all() and float(gradient.flatten()[3]) == 0.0 and float(gradient.flatten()[0]) != 0.0


@pytest.mark.parametrize("q", [0.1, 0.5, 0.75])
def test_the_best_constant_is_the_quantile(q: float) -> None:
    values = torch.randn(1001, generator=torch.Generator().manual_seed(0), dtype=torch.float64).float()
    costs = torch.stack(
        [Quantile(q)(torch.full_like(values, guess), values, torch.ones_like(values, dtype=torch.bool))[0] for guess in values]
    )
    assert float(values[costs.argmin()]) == pytest.approx(float(np.quantile(values.numpy(), q)), abs=1e-6)


def test_an_event_is_called_where_its_probability_serves_the_critical_success_index() -> None:
    """Of events of known probabilities the expected CSI is highest where those above c / (1 + c) are called, as the loss has it."""
    chances = np.random.default_rng(0).beta(0.6, 1.4, 2000)
    called = np.sort(chances)[::-1]
    hits = np.cumsum(called)
    scores = hits / (chances.sum() + np.arange(1, len(called) + 1) - hits)
    best = scores.max()
    assert called[scores.argmax()] == pytest.approx(best / (1 + best), abs=2e-3)


def test_a_quantile_lies_between() -> None:
    with pytest.raises(UserError, match=r"loss\.q, the quantile, lies between 0 and 1, not at 1"):
        make_loss({"name": "quantile", "q": 1.0}, SPEC)


def test_make_loss_by_name() -> None:
    assert make_loss({"name": "l1+l2", "l2": 0.5}, SPEC) == L1AndL2(1.0, 0.5)
    with pytest.raises(UserError, match="did you mean 'l2'"):
        make_loss({"name": "l22"}, SPEC)
    with pytest.raises(UserError, match="l3"):
        make_loss({"name": "l1+l2", "l3": 1.0}, SPEC)
