import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stpredict.errors import UserError
from stpredict.frames import FrameSpec
from stpredict.metrics import FURTHER_SCORES, SCORES, RunningScore, better_direction, create_scores, default_scores

SPEC = FrameSpec(1, 16, 16, units="mm/h", z_r=(200.0, 1.6), thresholds=(0.3, 0.6))
OF_FILES = ["lpips", "lpips_unscaled"]
"""Scores that need files of others."""
SINGLE = sorted((SCORES | FURTHER_SCORES).keys() - {"crps_fair", "spread", "spread_skill", *OF_FILES})
"""The scores of single forecasts."""


def films() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    prediction, truth = torch.rand(2, 9, 3, 1, 16, 16, generator=generator)
    truth[torch.rand(truth.shape, generator=generator) < 0.2] = math.nan
    truth[4, 1] = math.nan
    return prediction, truth


def test_every_name_gives_the_score_of_that_name_and_its_direction() -> None:
    scores = create_scores()
    assert [score.name for score in scores] == list(SCORES) == ["mse", "mae", "mse_sum", "mae_sum", "ssim", "psnr"]
    assert [better_direction(score) for score in scores] == ["lower", "lower", "lower", "lower", "higher", "higher"]
    assert [score.name for score in create_scores(["psnr", "mse", "psnr"])] == ["psnr", "mse"]
    further = [name for name in FURTHER_SCORES if name not in OF_FILES]
    assert [score.name for score in create_scores(further)] == further
    assert default_scores(SPEC) == (*SCORES, "csi") and default_scores(FrameSpec(1, 16, 16)) == tuple(SCORES)


@pytest.mark.parametrize("name", SINGLE)
def test_the_number_of_a_perfect_forecast_is_the_one_that_skill_counts_on(name: str) -> None:
    (score,) = create_scores([name])
    _, truth = films()
    running = RunningScore(3, score)
    running.add(*score(truth, truth, SPEC))
    perfect = {
        "psnr": math.inf,
        "bias": 1.0,
        "small_scale_power": 1.0,
        "power_ratio": 1.0,
        "power_ratio_members": 1.0,
        "log_spectral_distance": 0.0,
        "rank_histogram": 0.0,
    }
    assert running.mean() == pytest.approx(perfect.get(name, getattr(score, "perfect", None)), abs=1e-6)
    without = ("psnr", "bias", "small_scale_power", "power_ratio", "power_ratio_members", "log_spectral_distance")
    assert hasattr(score, "perfect") == (name not in without)


def test_sums_with_more_axes_keep_their_parts() -> None:
    class Halves:
        name = "halves"

        def value(self, totals: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
            return totals[..., 0] / totals[..., 1] / weights

        def summary(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.asarray(values.max(-1))

    running = RunningScore(2, Halves())
    running.add(torch.tensor([[[[6.0, 1.0], [4.0, 2.0]], [[8.0, 1.0], [9.0, 3.0]]]]), torch.full((1, 2, 1), 2.0))
    assert running.parts_per_lead() is not None and running.parts() is not None
    np.testing.assert_array_equal(running.parts_per_lead(), [[3, 1], [4, 1.5]])
    np.testing.assert_array_equal(running.parts(), [14 / 2 / 4, 13 / 5 / 4])
    assert running.per_lead().tolist() == [3, 4] and running.mean() == 1.75
    assert RunningScore(2).parts() is None and RunningScore(2).parts_per_lead() is None


def test_a_score_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_scores_of_test.py").write_text(
        "class Bias:\n"
        "    name = 'bias'\n"
        "    def __call__(self, prediction, truth, spec):\n"
        "        return (prediction - truth).double().mean((2, 3, 4)), truth.new_ones(truth.shape[:2]).double()\n"
        "class Again(Bias):\n    name = 'mse'\n"
        "def nameless(prediction, truth, spec):\n    return None\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (bias,) = create_scores(["my_scores_of_test:Bias"])
    assert bias.name == "bias" and better_direction(bias) is None
    total, _ = bias(torch.full((1, 1, 1, 2, 2), 0.75), torch.zeros(1, 1, 1, 2, 2), SPEC)
    assert float(total) == 0.75
    with pytest.raises(UserError, match="Two scores are called 'mse'"):
        create_scores(["mse", "my_scores_of_test:Again"])
    with pytest.raises(UserError, match="no score: it needs an attribute 'name'"):
        create_scores(["my_scores_of_test:nameless"])
    del sys.modules["my_scores_of_test"]


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="There is no score 'ssmi'; did you mean 'ssim'"):
        create_scores(["ssmi"])


def test_running_mean_is_the_sum_of_totals_over_the_sum_of_weights() -> None:
    running = RunningScore(2)
    running.add(torch.tensor([[2.0, 9.0], [4.0, 0.0]]), torch.tensor([[1.0, 3.0], [2.0, 0.0]]))
    assert running.per_lead().tolist() == [2.0, 3.0]
    assert running.mean() == 15.0 / 6.0


def test_nothing_valid_is_nan() -> None:
    running = RunningScore(3)
    assert math.isnan(running.mean()) and np.isnan(running.per_lead()).all()
    running.add(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[2.0, 0.0, 0.0]]))
    assert running.mean() == 0.5 and np.isnan(running.per_lead()).tolist() == [False, True, True]


def test_running_sums_keep_float64() -> None:
    running = RunningScore(1)
    for _ in range(1000):
        running.add(torch.tensor([[1e8], [0.1]], dtype=torch.float64), torch.ones(2, 1))
    assert running.mean() == pytest.approx((1e8 + 0.1) / 2, rel=1e-13)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 8), max_size=4), st.integers(0, 4), st.sampled_from(SINGLE))
def test_any_partition_of_the_clips_gives_the_same_numbers(cuts: list[int], first_process: int, name: str) -> None:
    (score,) = create_scores([name])
    prediction, truth = films()
    whole = RunningScore(3, score)
    whole.add(*score(prediction, truth, SPEC))

    edges = sorted({0, 9, *cuts})
    processes = [RunningScore(3, score), RunningScore(3, score)]
    for number, (start, stop) in enumerate(itertools.pairwise(edges)):
        processes[int(number >= first_process)].add(*score(prediction[start:stop], truth[start:stop], SPEC))
    processes[0].merge(processes[1])
    assert np.isfinite(whole.mean())
    assert processes[0].mean() == pytest.approx(whole.mean(), rel=1e-6)
    np.testing.assert_allclose(processes[0].per_lead(), whole.per_lead(), rtol=1e-6)
