import math

import numpy as np
import pytest
import torch

from stpredict.errors import UserError
from stpredict.frames import FrameSpec, Transform
from stpredict.metrics import RunningScore, create_scores
from stpredict.metrics.balanced import balancing_weights

HKO = FrameSpec(1, 16, 20, units="dBZ", transform=Transform(low=-10.0, high=60.0), fill=-10.0, z_r=(58.53, 1.56))


def run(name, prediction, truth, spec):
    (score,) = create_scores([name])
    running = RunningScore(truth.shape[1], score)
    running.add(*score(prediction, truth, spec))
    return running


def pixels(seed, shape=(4, 3, 1, 16, 20)):
    """Return a forecast and a truth as HKO-7's images, 0 to 1 in steps of 1 / 255, and where the truth is missing."""
    random = np.random.default_rng(seed)
    prediction, truth = np.round(np.clip(random.normal(0.45, 0.2, (2, *shape)), 0, 1) * 255) / 255
    return prediction, truth, random.random(shape) < 0.15


def hko(power, prediction, truth, missing):
    """The benchmark's definition in float64: images, weights by rain rate, sums over a frame, mean over frames."""
    rate = 10 ** (((truth * 70 - 10) / 10 - np.log10(58.53)) / 1.56)
    weights = np.array([1, 1, 2, 5, 10, 30])[np.digitize(rate, [0.5, 2, 5, 10, 30])] * ~missing
    return (weights * abs(prediction - truth) ** power).sum((2, 3, 4)).mean(0)


def test_weights_change_at_the_rates_themselves():
    rates = torch.tensor([0.0, 0.49, 0.5, 1.99, 2.0, 5.0, 9.9, 10.0, 29.0, 30.0, 500.0])
    assert balancing_weights(rates).tolist() == [1, 1, 1, 1, 2, 5, 5, 10, 10, 30, 30]


@pytest.mark.parametrize(("name", "power"), [("balanced_mse", 2), ("balanced_mae", 1)])
def test_equals_the_definition_of_the_benchmark(name, power):
    prediction, truth, missing = pixels(0)
    as_dbz = [
        torch.from_numpy(np.where(hidden, np.nan, image * 70 - 10)).float() for image, hidden in ((prediction, False), (truth, missing))
    ]
    wanted = hko(power, prediction, truth, missing)
    running = run(name, *as_dbz, HKO)
    np.testing.assert_allclose(running.per_lead(), wanted, rtol=1e-5)
    assert running.mean() == pytest.approx(wanted.mean(), rel=1e-5)


def test_rain_rates_are_scored_as_the_reflectivities_that_they_stand_for():
    prediction, truth, _ = pixels(1)
    as_dbz = [torch.from_numpy(image * 70 - 10).float() for image in (prediction, truth)]
    as_rate = [(10 ** ((field.double() / 10 - math.log10(58.53)) / 1.56)).float() for field in as_dbz]
    rates = FrameSpec(1, 16, 20, units="mm/h", z_r=(58.53, 1.56))
    assert run("balanced_mse", *as_rate, rates).mean() == pytest.approx(run("balanced_mse", *as_dbz, HKO).mean(), rel=1e-5)


def test_no_rain_at_all_is_the_zero_of_the_image():
    dry, spec = torch.zeros(1, 1, 1, 4, 4), FrameSpec(1, 4, 4, units="mm/h", z_r=(200.0, 1.6))
    wet = torch.full_like(dry, 1.0)
    value = (10 * math.log10(200) + 10) / 70
    assert run("balanced_mae", wet, dry, spec).mean() == pytest.approx(16 * value, rel=1e-5)
    assert run("balanced_mse", dry, dry, spec).mean() == 0


def test_errors_on_rain_by_hand():
    truth = torch.tensor([[1.0, 2.0], [0.0, math.nan]]).view(1, 1, 1, 2, 2)
    prediction = torch.tensor([[4.0, 0.0], [50.0, 50.0]]).view(1, 1, 1, 2, 2)
    spec = FrameSpec(1, 2, 2, thresholds=(1.0, 2.0))
    assert run("rain_mse", prediction, truth, spec).parts().tolist() == [(9 + 4) / 2, 4]
    assert run("rain_mae", prediction, truth, spec).parts().tolist() == [(3 + 2) / 2, 2]
    assert run("rain_mae", prediction, truth, spec).mean() == (2.5 + 2) / 2


def test_a_missing_forecast_spoils_and_missing_truth_does_not_count():
    prediction, truth, missing = (torch.from_numpy(field) for field in pixels(2))
    prediction, truth = prediction.float() * 70 - 10, torch.where(missing, math.nan, truth.float() * 70 - 10)
    truth[:, 1] = math.nan
    spec = FrameSpec(1, 16, 20, units="dBZ", z_r=(58.53, 1.56), thresholds=(20.0,))
    for name in ("balanced_mse", "balanced_mae", "rain_mse", "rain_mae"):
        assert np.isnan(run(name, prediction, truth, spec).per_lead()).tolist() == [False, True, False]
        spoilt = torch.where(torch.isnan(truth), math.nan, prediction)
        assert run(name, spoilt, truth, spec).mean() == run(name, prediction, truth, spec).mean()
        spoilt[0, 0][truth[0, 0] >= 20] = math.nan
        assert np.isnan(run(name, spoilt, truth, spec).per_lead()).tolist() == [True, True, False]


def test_data_without_a_z_r_pair_are_refused():
    with pytest.raises(UserError, match=r"give the card frames: \{z_r: "):
        run("balanced_mse", torch.zeros(1, 1, 1, 2, 2), torch.zeros(1, 1, 1, 2, 2), FrameSpec(1, 2, 2, units="mm/h"))
