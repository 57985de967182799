import math

import hypothesis.extra.numpy
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stpredict.frames import FrameSpec
from stpredict.metrics.gradient_difference import GradientDifference

SPEC = FrameSpec(1, 16, 20)
SCORE = GradientDifference()
FILMS = hypothesis.extra.numpy.arrays(np.float32, (2, 1, 2, 1, 5, 6), elements=st.floats(-50, 50, width=32))


def by_loops(prediction, truth):
    """Return, for one frame ``(H, W)``, the mean of what a loop over all steps gives."""
    found = []
    height, width = truth.shape
    for row in range(height):
        for column in range(width):
            for other in ((row + 1, column), (row, column + 1)):
                if other[0] < height and other[1] < width:
                    steps = [abs(float(frame[other]) - float(frame[row, column])) for frame in (prediction, truth)]
                    if not math.isnan(steps[1]):
                        found.append(abs(steps[0] - steps[1]))
    return np.mean(found), len(found)


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_equals_a_loop_over_all_steps(missing, rain_films):
    prediction, truth = rain_films((2, 2, 1, 8, 11), missing=missing)
    total, weight = SCORE(prediction, truth, SPEC)
    for place in np.ndindex(2, 2):
        mean, count = by_loops(prediction[place][0], truth[place][0])
        assert float(weight[place]) == count and float((total / weight)[place]) == pytest.approx(mean, rel=1e-6)


def test_channels_are_pooled_and_closed_form():
    truth = torch.zeros(1, 1, 2, 3, 4)
    prediction = torch.arange(4.0).repeat(1, 1, 2, 3, 1) * torch.tensor([2.0, -5.0])[:, None, None]
    total, weight = SCORE(prediction, truth, SPEC)
    assert float(weight) == 2 * (3 * 3 + 2 * 4) and float(total) == 3 * 3 * (2 + 5)
    mirrored, _ = SCORE(prediction, prediction.flip(-1), SPEC)
    assert float(mirrored) == 0, "the steps count without their sign"


@given(FILMS)
def test_is_symmetric_and_does_not_see_brightness(films):
    first, second = torch.from_numpy(films).unbind()
    assert torch.equal(SCORE(first, second, SPEC)[0], SCORE(second, first, SPEC)[0])
    assert (SCORE(first, first, SPEC)[0] == 0).all() and (SCORE(first, second, SPEC)[0] >= 0).all()
    torch.testing.assert_close(SCORE(first + 8, second - 8, SPEC)[0], SCORE(first, second, SPEC)[0], rtol=1e-4, atol=1e-3)


def test_what_is_missing_counts_nowhere_and_nan_spoils(rain_films):
    prediction, truth = rain_films()
    truth[2, 1] = math.nan
    truth[0, 0] = math.nan
    truth[0, 0, 0, 4, 4] = 1.0
    total, weight = SCORE(prediction, truth, SPEC)
    assert (total[2, 1], weight[2, 1]) == (0, 0) and (total[0, 0], weight[0, 0]) == (0, 0)
    again, _ = SCORE(torch.where(torch.isnan(truth), math.nan, prediction), truth, SPEC)
    torch.testing.assert_close(again, total, rtol=0, atol=0)
    prediction[0, 0, 0, 4, 4] = math.nan
    total, weight = SCORE(prediction, truth, SPEC)
    assert torch.isnan(total[0, 0]) and weight[0, 0] == 1 and torch.isfinite(total[1:]).all()
    whole = torch.zeros(1, 1, 1, 4, 4)
    assert torch.isnan(SCORE(whole.index_fill(4, torch.tensor(2), math.nan), whole, SPEC)[0]).all()
