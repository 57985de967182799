import math

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter

from stpredict.frames import FrameSpec
from stpredict.metrics import RunningScore
from stpredict.metrics.fss import FractionsSkill, window_sums

PYSTEPS = {
    (1.0, 3): 0.5853023628354024,
    (1.0, 4): 0.6447211325260106,
    (1.0, 9): 0.9170659083210216,
    (4.0, 3): 0.34332759891865317,
    (4.0, 4): 0.4032535111649995,
    (4.0, 9): 0.8174509890889737,
}
"""``pysteps.verification.spatialscores.fss`` of pysteps 1.21, by threshold and scale, for the first of two wave fields as a forecast of
the second."""


def run(score, prediction, truth):
    running = RunningScore(truth.shape[1], score)
    running.add(*score(prediction, truth, FrameSpec(1, *truth.shape[-2:])))
    return running


@pytest.mark.parametrize("window", [1, 2, 3, 8, 50])
def test_window_sums_are_those_of_a_box_filter_with_zeros_around(window):
    fields = np.random.default_rng(0).random((2, 3, 13, 21)) < 0.3
    wanted = np.stack([uniform_filter(field.astype(float), window, mode="constant") for field in fields.reshape(6, 13, 21)])
    first, found = window_sums(torch.from_numpy(fields), (1, window))
    assert found.dtype == torch.int32 and torch.equal(first, torch.from_numpy(fields).int())
    np.testing.assert_allclose(found.reshape(6, 13, 21).double() / window**2, wanted, atol=1e-12)


def test_equals_what_pysteps_says(waves):
    first, second = (torch.from_numpy(field).float().view(1, 1, 1, 20, 24) for field in waves())
    score = FractionsSkill(thresholds=(1.0, 4.0), windows=(3, 4, 9))
    running = run(score, first, second)
    assert score.parts(FrameSpec(1, 20, 24)) == tuple(f"{threshold:g}, {window} px" for threshold, window in PYSTEPS)
    assert running.parts().tolist() == pytest.approx(list(PYSTEPS.values()), abs=1e-6)
    assert running.mean() == pytest.approx(np.mean(list(PYSTEPS.values())), abs=1e-6)
    spatialscores = pytest.importorskip("pysteps.verification.spatialscores")
    for (threshold, window), value in PYSTEPS.items():
        assert spatialscores.fss(*waves(), threshold, window) == pytest.approx(value, abs=1e-12)


def test_sums_over_clips_and_leads_come_before_the_division(rain_films):
    prediction, truth = rain_films()
    score = FractionsSkill(thresholds=(2.0,), windows=(5,))
    running = run(score, prediction, truth)
    numerator, denominator = np.zeros(3), np.zeros(3)
    for clip in range(5):
        for lead in range(3):
            came = truth[clip, lead, 0].numpy() >= 2
            told = (prediction[clip, lead, 0].numpy() >= 2) & ~np.isnan(truth[clip, lead, 0].numpy())
            f, o = (uniform_filter(field.astype(float), 5, mode="constant") for field in (told, came))
            numerator[lead] += ((f - o) ** 2).sum()
            denominator[lead] += (f**2 + o**2).sum()
    np.testing.assert_allclose(running.per_lead(), 1 - numerator / denominator, rtol=1e-9)
    assert running.mean() == pytest.approx(1 - numerator.sum() / denominator.sum(), rel=1e-9)


def test_equals_the_accumulated_fss_of_pysteps(rain_films):
    spatialscores = pytest.importorskip("pysteps.verification.spatialscores")
    prediction, truth = rain_films()
    accumulated = spatialscores.fss_init(2.0, 5)
    for first, second in zip(prediction.flatten(0, 2).numpy(), truth.flatten(0, 2).numpy(), strict=True):
        spatialscores.fss_accum(accumulated, np.where(np.isnan(second), np.nan, first), second)
    running = run(FractionsSkill(thresholds=(2.0,), windows=(5,)), prediction, truth)
    assert running.mean() == pytest.approx(spatialscores.fss_compute(accumulated), abs=1e-6)


def test_a_perfect_forecast_and_an_empty_one(rain_films):
    _, truth = rain_films()
    assert run(FractionsSkill((0.5, 4.0)), truth, truth).mean() == 1
    assert math.isnan(run(FractionsSkill((99.0,)), truth, truth).mean())
    assert run(FractionsSkill((4.0,)), torch.full_like(truth, math.nan), truth).mean() == 0
