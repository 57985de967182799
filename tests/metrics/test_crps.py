import math

import numpy as np
import pytest
import torch
import torchmetrics
from hypothesis import given, settings
from hypothesis import strategies as st

from stpredict.errors import UserError
from stpredict.frames import FrameSpec
from stpredict.metrics import create_scores

SPEC = FrameSpec(1, 20, 24)
PYSTEPS = 1.4856520439581227
"""``pysteps.verification.probscores.CRPS`` of pysteps 1.21 for the first five of six wave fields as members, the sixth as the truth; field
n is raised by n / 1000, since that function leaves something out where the truth equals a member."""


def score(name, prediction, truth):
    (made,) = create_scores([name])
    total, weight = made(prediction, truth, SPEC)
    assert total.dtype == weight.dtype == torch.float64 and total.shape == truth.shape[:2]
    return float(total.sum() / weight.sum())


def ensemble(members=4, seed=0, missing=0.2):
    random = np.random.default_rng(seed)
    prediction = random.normal(0, 2, (3, members, 2, 1, 5, 6)).astype(np.float32)
    truth = random.normal(1, 2, (3, 2, 1, 5, 6)).astype(np.float32)
    truth[random.random(truth.shape) < missing] = np.nan
    return torch.from_numpy(prediction), torch.from_numpy(truth)


def test_equals_what_pysteps_says(waves):
    raised = waves(6) + 0.001 * np.arange(6)[:, None, None]
    fields = torch.from_numpy(raised).float()
    prediction, truth = fields[:5].view(1, 5, 1, 1, 20, 24), fields[5].view(1, 1, 1, 20, 24)
    assert score("crps", prediction, truth) == pytest.approx(PYSTEPS, abs=1e-6)
    probscores = pytest.importorskip("pysteps.verification.probscores")
    assert probscores.CRPS(raised[:5], raised[5]) == pytest.approx(PYSTEPS, abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 7), st.integers(0, 100))
def test_both_equal_the_sums_over_all_pairs(members, seed):
    prediction, truth = ensemble(members, seed)
    x, y = prediction.double().numpy(), truth.double().numpy()[:, None]
    distance = abs(x - y).mean(1)
    differences = abs(x[:, :, None] - x[:, None]).sum((1, 2))
    assert score("crps", prediction, truth) == pytest.approx(np.nanmean(distance - differences / (2 * members**2)), abs=1e-9)
    fair = np.nanmean(distance - np.where(np.isnan(distance), np.nan, differences) / (2 * members * (members - 1)))
    assert score("crps_fair", prediction, truth) == pytest.approx(fair, abs=1e-9)


def test_equals_the_integral_over_the_distribution():
    prediction, truth = ensemble(3, missing=0.0)
    values = np.linspace(-15, 15, 300_001)
    x, y = prediction[0, :, 0, 0, 0, 0].numpy(), float(truth[0, 0, 0, 0, 0])
    distribution = (x[:, None] <= values).mean(0)
    wanted = ((distribution - (values >= y)) ** 2).mean() * 30
    assert score("crps", prediction[:1, :, :1, :, :1, :1], truth[:1, :1, :, :1, :1]) == pytest.approx(wanted, abs=1e-3)


def test_equals_torchmetrics():
    if not hasattr(torchmetrics.regression, "ContinuousRankedProbabilityScore"):
        pytest.skip("this torchmetrics has no CRPS")
    prediction, truth = ensemble(6, missing=0.0)
    oracle = torchmetrics.regression.ContinuousRankedProbabilityScore()
    flat = prediction.movedim(1, -1).reshape(-1, 6)
    assert score("crps", prediction, truth) == pytest.approx(float(oracle(flat, truth.flatten())), abs=1e-6)


def test_of_one_member_it_is_the_mean_absolute_error():
    prediction, truth = ensemble(1)
    assert score("crps", prediction, truth) == pytest.approx(score("mae", prediction[:, 0], truth), rel=1e-6)
    assert score("crps", prediction[:, 0], truth) == score("crps", prediction, truth)
    with pytest.raises(UserError, match="'crps_fair' needs at least 2 members"):
        score("crps_fair", prediction, truth)


def test_equal_members_are_one_and_a_missing_member_spoils():
    prediction, truth = ensemble(1)
    assert score("crps", prediction.expand(-1, 5, -1, -1, -1, -1), truth) == pytest.approx(score("crps", prediction, truth), rel=1e-12)
    prediction, truth = ensemble(3)
    truth[0, 0, 0, 0, 0], truth[0, 0, 0, 0, 1] = 1.0, math.nan
    whole = score("crps", prediction, truth)
    prediction[0, 1, 0, 0, 0, 1] = math.nan
    assert score("crps", prediction, truth) == whole
    prediction[0, 1, 0, 0, 0, 0] = math.nan
    assert math.isnan(score("crps", prediction, truth))
