"""Losses under masks, in closed form."""

from __future__ import annotations

import math

import pytest
import torch

from stpredict.errors import UserError
from stpredict.frames import FrameSpec
from stpredict.losses import make_loss
from stpredict.losses.pixels import L1, L2, L1AndL2

PREDICTIONS = torch.tensor([1.0, 2.0, -1.0, 5.0]).reshape(1, 1, 1, 1, 4)
TARGETS = torch.tensor([0.0, 4.0, 2.0, math.nan]).reshape(1, 1, 1, 1, 4)
SPEC = FrameSpec(1, 1, 4)
VALID = torch.tensor([True, True, True, False]).reshape(1, 1, 1, 1, 4)


@pytest.mark.parametrize(("loss", "expected"), [(L2(), 1 + 4 + 9), (L1(), 1 + 2 + 3), (L1AndL2(1.0, 0.5), 6 + 7)])
def test_sum_and_count(loss: L2, expected: float) -> None:
    total, count = loss(PREDICTIONS, TARGETS, VALID)
    assert float(total) == pytest.approx(expected) and int(count) == 3


@pytest.mark.parametrize("loss", [L2(), L1(), L1AndL2()])
def test_missing_pixels_have_no_gradient(loss: L2) -> None:
    predictions = PREDICTIONS.clone().requires_grad_()
    total, _ = loss(predictions, TARGETS, VALID)
    (gradient,) = torch.autograd.grad(total, predictions)
    assert torch.isfinite(gradient).all() and float(gradient.flatten()[3]) == 0.0 and float(gradient.flatten()[0]) != 0.0


def test_make_loss_by_name() -> None:
    assert make_loss({"name": "l1+l2", "l2": 0.5}, SPEC) == L1AndL2(1.0, 0.5)
    with pytest.raises(UserError, match="did you mean 'l2'"):
        make_loss({"name": "l22"}, SPEC)
    with pytest.raises(UserError, match="l3"):
        make_loss({"name": "l1+l2", "l3": 1.0}, SPEC)
