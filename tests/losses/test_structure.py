"""Losses beyond the single pixel, against direct computation and scikit-image."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import structural_similarity

from stpredict.errors import UserError
from stpredict.frames import FrameSpec
from stpredict.losses import make_loss

SPEC = FrameSpec(1, 16, 16)


def frames(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(st.integers(0, 99), st.integers(1, 6), st.integers(3, 13), st.integers(3, 13))
def test_squares_count_by_their_valid_pixels(seed: int, size: int, height: int, width: int) -> None:
    predictions, targets = frames(seed, 2, 1, 1, height, width).float(), frames(seed + 1, 2, 1, 1, height, width).float()
    valid = frames(seed + 2, 2, 1, 1, height, width) < 0.7
    loss = make_loss({"name": "multi-scale", "sizes": [1, size], "l1": 0.5, "l2": 2.0}, SPEC)
    total, count = loss(predictions, torch.where(valid, targets, math.nan), valid)
    expected = 0.0
    for side in (1, size):
        for clip in range(2):
            for top in range(0, height, side):
                for left in range(0, width, side):
                    square = (clip, 0, 0, slice(top, top + side), slice(left, left + side))
                    error = (predictions - targets)[square][valid[square]].double()
                    if len(error):
                        expected += len(error) * (0.5 * abs(float(error.mean())) + 2.0 * float(error.mean()) ** 2) / 2
    assert float(total) == pytest.approx(expected, rel=1e-4, abs=1e-6) and int(count) == int(valid.sum())


def test_dissimilarity_is_that_of_scikit_image() -> None:
    predictions, targets = frames(0, 2, 3, 2, 16, 20), frames(1, 2, 3, 2, 16, 20)
    total, count = make_loss({"name": "ssim"}, SPEC)(predictions, targets, torch.ones_like(targets, dtype=torch.bool))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0, "full": True}
    pairs = zip(predictions.flatten(0, 2).numpy(), targets.flatten(0, 2).numpy(), strict=True)
    inner = [structural_similarity(one, two, **options)[1][5:-5, 5:-5] for one, two in pairs]
    assert float(total) / int(count) == pytest.approx(1 - float(np.mean(inner)), rel=1e-5)


def test_dissimilarity_has_the_right_gradient() -> None:
    predictions, targets = frames(2, 1, 1, 1, 12, 12).requires_grad_(), frames(3, 1, 1, 1, 12, 12)
    valid = frames(4, 1, 1, 1, 12, 12) < 0.9
    loss = make_loss({"name": "ssim"}, SPEC)

    def total(values: torch.Tensor) -> torch.Tensor:
        return loss(values, torch.where(valid, targets, math.nan), valid)[0]

    (gradient,) = torch.autograd.grad(total(predictions), predictions)
    assert (gradient[~valid] == 0).all()
    direction = torch.sign(gradient)
    with torch.no_grad():  # the loss works in float32
        step = 1e-2
        slope = (total(predictions + step * direction) - total(predictions - step * direction)) / (2 * step)
    assert float(slope) == pytest.approx(float((gradient * direction).sum()), rel=2e-2)


def test_a_sum_weighs_its_terms() -> None:
    predictions, targets, valid = frames(5, 1, 2, 1, 16, 16), frames(6, 1, 2, 1, 16, 16), frames(7, 1, 2, 1, 16, 16) < 0.8
    terms = [{"name": "l1"}, {"name": "ssim", "weight": 0.25}, {"name": "multi-scale", "sizes": [4], "weight": 3}]
    total, count = make_loss({"name": "sum", "terms": terms}, SPEC)(predictions, targets, valid)
    parts = [make_loss({key: value for key, value in term.items() if key != "weight"}, SPEC)(predictions, targets, valid) for term in terms]
    assert float(total) == pytest.approx(float(parts[0][0] + 0.25 * parts[1][0] + 3 * parts[2][0]), rel=1e-6)
    assert {int(part[1]) for part in parts} == {int(count)}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"name": "multi-scale", "sizes": [0]}, "at least 1"),
        ({"name": "sum", "terms": []}, "at least one loss"),
        ({"name": "sum", "terms": [{"name": "l3"}]}, "no loss 'l3'"),
        ({"name": "sum", "terms": [{"name": "l2", "weight": "much"}]}, "weight"),
    ],
)
def test_impossible_settings(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        make_loss(settings, SPEC)


def test_frames_below_the_window_are_refused() -> None:
    small = torch.zeros(1, 1, 1, 10, 16)
    with pytest.raises(UserError, match="at least 11 pixels each way, not 10 x 16"):
        make_loss({"name": "ssim"}, SPEC)(small, small, torch.ones_like(small, dtype=torch.bool))
