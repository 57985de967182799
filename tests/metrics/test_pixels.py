import math

import numpy as np
import pytest
import skimage.metrics
import torch
import torchmetrics.functional
from numpy.typing import NDArray

from stpredict.frames import FrameSpec, Transform
from stpredict.metrics import RunningScore, create_scores
from stpredict.metrics.pixels import (
    MeanAbsoluteError,
    MeanSquaredError,
    PeakSignalToNoise,
    RootMeanSquaredError,
    RootSummedSquaredError,
    SummedAbsoluteError,
    SummedSquaredError,
    any_missing,
)

SPEC = FrameSpec(2, 12, 16, units="mm/h", transform=Transform(low=-3.0, high=5.0))
SHAPE = (3, 4, 2, 12, 16)
NAMES = ["mse", "mae", "mse_sum", "mae_sum", "rmse", "rmse_sum", "psnr", "ssim", "ssim_uniform", "ssim_range2", "gradient_difference"]


def films(seed: int = 0, missing: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(seed)
    truth = random.uniform(-3, 5, SHAPE).astype(np.float32)
    prediction = truth + random.normal(0, 0.7, SHAPE).astype(np.float32)
    truth[random.random(SHAPE) < missing] = np.nan
    return torch.from_numpy(prediction), torch.from_numpy(truth)


def exact(prediction: torch.Tensor, truth: torch.Tensor) -> NDArray[np.float64]:
    return prediction.numpy().astype(np.float64) - truth.numpy().astype(np.float64)


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_mean_errors_equal_float64(missing: float) -> None:
    prediction, truth = films(missing=missing)
    error = exact(prediction, truth)
    for score, power in ((MeanSquaredError(), 2), (MeanAbsoluteError(), 1)):
        total, weight = score(prediction, truth, SPEC)
        assert total.dtype == weight.dtype == torch.float64
        np.testing.assert_allclose(total, np.nansum(abs(error) ** power, axis=(2, 3, 4)), rtol=1e-6)
        np.testing.assert_array_equal(weight, (~np.isnan(error)).sum((2, 3, 4)))


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_summed_errors_equal_float64(missing: float) -> None:
    prediction, truth = films(missing=missing)
    error = exact(prediction, truth)
    for score, power in ((SummedSquaredError(), 2), (SummedAbsoluteError(), 1)):
        total, weight = score(prediction, truth, SPEC)
        np.testing.assert_allclose(total, np.nansum(abs(error) ** power, axis=(2, 3, 4)), rtol=1e-6)
        np.testing.assert_array_equal(weight, np.ones((3, 4)))


def test_errors_of_closed_form() -> None:
    truth = torch.zeros(1, 1, 1, 2, 3)
    prediction = torch.full_like(truth, -2.0)
    spec = FrameSpec(1, 2, 3)
    values = {}
    for score in create_scores(["mse", "mae", "mse_sum", "mae_sum", "psnr"]):
        total, weight = score(prediction, truth, spec)
        values[score.name] = float(total / weight)
    assert values == pytest.approx({"mse": 4, "mae": 2, "mse_sum": 24, "mae_sum": 12, "psnr": 10 * math.log10(1 / 4)})


def test_errors_equal_torchmetrics() -> None:
    prediction, truth = films()
    for score, oracle in (
        (MeanSquaredError(), torchmetrics.functional.mean_squared_error),
        (MeanAbsoluteError(), torchmetrics.functional.mean_absolute_error),
    ):
        total, weight = score(prediction, truth, SPEC)
        assert float(total.sum() / weight.sum()) == pytest.approx(float(oracle(prediction, truth)), rel=1e-5)


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_roots_are_of_the_mean_over_all_frames(missing: float) -> None:
    prediction, truth = films(missing=missing)
    square = exact(prediction, truth) ** 2
    frames = np.nansum(square, (2, 3, 4))
    wanted = {
        RootMeanSquaredError: (math.sqrt(np.nanmean(square)), np.sqrt(np.nanmean(square, (0, 2, 3, 4)))),
        RootSummedSquaredError: (math.sqrt(frames.mean()), np.sqrt(frames.mean(0))),
    }
    for kind, (mean, per_lead) in wanted.items():
        running = RunningScore(4, kind())
        for some in (slice(0, 1), slice(1, 3)):
            running.add(*kind()(prediction[some], truth[some], SPEC))
        assert running.mean() == pytest.approx(mean, rel=1e-6)
        np.testing.assert_allclose(running.per_lead(), per_lead, rtol=1e-6)
    if not missing:
        oracle = torchmetrics.functional.mean_squared_error(prediction, truth, squared=False)
        assert wanted[RootMeanSquaredError][0] == pytest.approx(float(oracle), rel=1e-5)


def test_infinities_are_not_missing() -> None:
    prediction, truth = films()
    assert not any_missing(truth) and any_missing(films(missing=0.1)[1])
    truth[0, 0, 0, 0, :2] = torch.tensor([math.inf, -math.inf])
    total, weight = MeanSquaredError()(prediction, truth, SPEC)
    assert total[0, 0] == math.inf and torch.isfinite(total[1:]).all() and (weight == 2 * 12 * 16).all()


def test_psnr_equals_scikit_image_per_frame() -> None:
    prediction, truth = films()
    total, weight = PeakSignalToNoise()(prediction, truth, SPEC)
    frames = zip(truth.double().flatten(0, 1).numpy(), prediction.double().flatten(0, 1).numpy(), strict=True)
    wanted = [skimage.metrics.peak_signal_noise_ratio(true, some, data_range=8.0) for true, some in frames]
    np.testing.assert_allclose(total.flatten(), wanted, rtol=1e-6)
    assert (weight == 1).all()


def test_psnr_is_of_the_valid_pixels() -> None:
    prediction, truth = films(missing=0.3)
    total, _ = PeakSignalToNoise()(prediction, truth, SPEC)
    mse = np.nanmean(exact(prediction, truth) ** 2, axis=(2, 3, 4))
    np.testing.assert_allclose(total, 10 * np.log10(8.0**2 / mse), rtol=1e-6)


def test_psnr_of_a_perfect_frame_is_infinite() -> None:
    _, truth = films()
    total, _ = PeakSignalToNoise()(truth, truth, SPEC)
    assert (total == math.inf).all()


@pytest.mark.parametrize("name", NAMES)
def test_missing_pixels_do_not_matter_and_missing_frames_do_not_count(name: str) -> None:
    (score,) = create_scores([name])
    prediction, truth = films(missing=0.2)
    truth[1, 2] = math.nan
    total, weight = score(prediction, truth, SPEC)
    assert weight[1, 2] == 0 and total[1, 2] == 0
    spoilt = torch.where(torch.isnan(truth), 1e6 * torch.randn(SHAPE), prediction)
    spoilt[0, 0][torch.isnan(truth[0, 0])] = math.nan
    again, weight_again = score(spoilt, truth, SPEC)
    torch.testing.assert_close(again, total, rtol=0, atol=0)
    torch.testing.assert_close(weight_again, weight, rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_prediction_that_is_nan_makes_the_score_nan(name: str) -> None:
    (score,) = create_scores([name])
    prediction, truth = films(missing=0.2)
    truth[0, 1, 0, 0, 0] = 1.0
    prediction[0, 1, 0, 0, 0] = math.nan
    total, weight = score(prediction, truth, SPEC)
    assert torch.isnan(total[0, 1]) and weight[0, 1] > 0
    others = torch.ones(3, 4, dtype=torch.bool)
    others[0, 1] = False
    assert torch.isfinite(total[others]).all()
