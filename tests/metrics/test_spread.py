"""Spread and skill of ensembles, in closed form and by brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stpredict.errors import UserError
from stpredict.frames import FrameSpec
from stpredict.metrics import RunningScore, create_scores

SPEC = FrameSpec(1, 5, 6)


def running(name: str, prediction: torch.Tensor, truth: torch.Tensor) -> RunningScore:
    (score,) = create_scores([name])
    sums = RunningScore(truth.shape[1], score)
    sums.add(*score(prediction, truth, SPEC))
    return sums


def ensemble(members: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(members)
    truth = random.normal(1, 2, (3, 2, 1, 5, 6)).astype(np.float32)
    truth[random.random(truth.shape) < 0.2] = np.nan
    return torch.from_numpy(random.normal(0, 2, (3, members, 2, 1, 5, 6)).astype(np.float32)), torch.from_numpy(truth)


@pytest.mark.parametrize("members", [2, 5])
def test_equal_brute_force(members: int) -> None:
    prediction, truth = ensemble(members)
    x, y = prediction.double().numpy(), truth.double().numpy()
    variance = np.where(np.isnan(y), np.nan, x.var(1, ddof=1)) * (members + 1) / members
    squared = (x.mean(1) - y) ** 2
    spread, ratio = running("spread", prediction, truth), running("spread_skill", prediction, truth)
    assert spread.mean() == pytest.approx(math.sqrt(np.nanmean(variance)), rel=1e-6)
    np.testing.assert_allclose(spread.per_lead(), np.sqrt(np.nanmean(variance, (0, 2, 3, 4))), rtol=1e-6)
    assert ratio.mean() == pytest.approx(math.sqrt(np.nansum(variance) / np.nansum(squared)), rel=1e-6)
    assert spread.mean() / ratio.mean() == pytest.approx(running("rmse", prediction.mean(1), truth).mean(), rel=1e-6)


@pytest.mark.parametrize("members", [2, 8])
def test_one_of_members_drawn_as_the_truth_is_and_less_of_narrow_ones(members: int) -> None:
    draws = torch.randn(4, members + 1, 2, 1, 90, 90, generator=torch.Generator().manual_seed(0))
    assert running("spread_skill", draws[:, 1:], draws[:, 0]).mean() == pytest.approx(1.0, abs=0.02)
    assert running("spread_skill", 0.5 * draws[:, 1:], draws[:, 0]).mean() < 0.7


def test_equal_members_have_no_spread_and_a_single_forecast_is_refused() -> None:
    prediction, truth = ensemble()
    assert running("spread", prediction[:, :1].expand(-1, 7, -1, -1, -1, -1), truth).mean() == 0.0
    for name in ("spread", "spread_skill"):
        with pytest.raises(UserError, match=f"'{name}' needs at least 2 members"):
            running(name, prediction[:, 0], truth)


def test_a_missing_member_spoils() -> None:
    prediction, truth = ensemble()
    truth[0, 0, 0, 0, 0] = 1.0
    prediction[0, 1, 0, 0, 0, 0] = math.nan
    assert math.isnan(running("spread", prediction, truth).mean()) and math.isnan(running("spread_skill", prediction, truth).mean())
    truth[0, 0, 0, 0, 0] = math.nan
    assert math.isfinite(running("spread", prediction, truth).mean())
