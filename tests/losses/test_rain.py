"""Losses that weigh rain, in closed form."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from stpredict.errors import UserError
from stpredict.frames import FrameSpec, Transform
from stpredict.losses import make_loss

RATES = FrameSpec(1, 1, 8, units="mm/h", transform=Transform("sqrt", 0.0, 100.0))
RAIN = torch.tensor([0.0, 0.49, 0.5, 2.0, 7.0, 10.0, 30.0, math.nan]).reshape(1, 1, 1, 1, 8)
WEIGHTS = torch.tensor([1.0, 1, 1, 2, 5, 10, 30, 0]).reshape(1, 1, 1, 1, 8)


def scaled(spec: FrameSpec, physical: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    targets, valid = spec.scale(physical)
    return torch.where(valid, targets, math.nan), valid


@pytest.mark.parametrize(("l1", "l2"), [(1.0, 1.0), (1.0, 0.0), (0.0, 2.0)])
@pytest.mark.parametrize("units", ["mm/h", "dBZ"])
def test_balanced_counts_a_pixel_by_the_rain_that_fell(l1: float, l2: float, units: str) -> None:
    spec, physical = RATES, RAIN
    if units == "dBZ":
        spec = dataclasses.replace(RATES, units="dBZ", z_r=(58.53, 1.56), transform=Transform("linear", -10.0, 60.0))
        physical = torch.where(RAIN == 0, -32.0, 10 * torch.log10(58.53 * RAIN.clamp(min=1e-3) ** 1.56))
        physical[..., 2:7] += 1e-3  # a decimal logarithm hits no threshold to the last bit
    targets, valid = scaled(spec, physical)
    predictions = torch.rand(targets.shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    total, count = make_loss({"name": "balanced", "l1": l1, "l2": l2}, spec)(predictions, targets, valid)
    error = (predictions - targets.nan_to_num()).detach()
    assert float(total.detach()) == pytest.approx(float((WEIGHTS * (l1 * error.abs() + l2 * error.square())).sum()), rel=1e-6)
    assert int(count) == 7
    (gradient,) = torch.autograd.grad(total, predictions)
    torch.testing.assert_close(gradient, WEIGHTS * (l1 * error.sign() + 2 * l2 * error))


def test_rain_weighted_grows_with_the_rain_up_to_a_limit() -> None:
    targets, valid = scaled(RATES, RAIN)
    predictions = torch.zeros_like(targets)
    total, count = make_loss({"name": "rain-weighted"}, RATES)(predictions, targets, valid)
    expected = sum(min(rain + 1, 24.0) * math.sqrt(rain / 100) for rain in (0.0, 0.49, 0.5, 2.0, 7.0, 10.0, 30.0))
    assert float(total) == pytest.approx(expected, rel=1e-5) and int(count) == 7


@pytest.mark.parametrize(
    ("settings", "units", "sentence"),
    [
        ({"name": "balanced"}, "kg/m2", "in kg/m2, are no rain rates in mm/h: give loss.thresholds"),
        ({"name": "balanced"}, "dBZ", "no Z-R pair"),
        ({"name": "balanced", "thresholds": [1, 2]}, "mm/h", "one more than loss.thresholds"),
        ({"name": "balanced", "thresholds": [2, 1], "weights": [1, 2, 3]}, "mm/h", "which increase"),
        ({"name": "balanced", "thresholds": [1], "weights": [1, -1]}, "mm/h", "must not be negative"),
        ({"name": "balanced", "thresholds": [-2, -1], "weights": [1, 2, 3]}, "mm/h", "tells no values apart"),
        ({"name": "rain-weighted"}, "dBZ", "choose 'balanced'"),
        ({"name": "rain-weighted", "most": 0.5}, "mm/h", "at least 1"),
    ],
)
def test_what_does_not_suit_is_refused(settings: dict[str, object], units: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        make_loss(settings, dataclasses.replace(RATES, units=units))
