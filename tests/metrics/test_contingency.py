import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torchmetrics
from hypothesis import given, settings
from hypothesis import strategies as st

from stpredict.data.readers.knmi import Knmi
from stpredict.errors import UserError
from stpredict.frames import FrameSpec
from stpredict.metrics import RunningScore, create_scores
from stpredict.metrics.contingency import Counts, CriticalSuccess, count, pool

SPEC = FrameSpec(1, 2, 2, units="mm/h", thresholds=(1.0,))
NAMES = ("csi", "csi_per_lead", "pod", "far", "sucr", "bias", "hss", "hss_per_lead")


def run(name, prediction, truth, spec=SPEC):
    (score,) = create_scores([name])
    running = RunningScore(truth.shape[1], score)
    running.add(*score(prediction, truth, spec))
    return running


def two_leads():
    """Lead 1: H 2, M 1, F 0, R 1. Lead 2: H 0, M 1, F 2, R 0, and one pixel missing. The observed events are at the threshold itself."""
    truth = torch.tensor([[1.0, 1.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.5], [0.0, math.nan]])
    prediction = torch.tensor([[3.0, 1.0], [0.9, 0.0]]), torch.tensor([[0.0, 2.0], [1.0, 5.0]])
    return torch.stack(prediction)[None, :, None], torch.stack(truth)[None, :, None]


@pytest.mark.parametrize(
    ("name", "per_lead", "mean"),
    [
        ("csi", [2 / 3, 0], 2 / 6),
        ("csi_per_lead", [2 / 3, 0], (2 / 3 + 0) / 2),
        ("pod", [2 / 3, 0], 2 / 4),
        ("far", [0, 1], 2 / 4),
        ("sucr", [1, 0], 2 / 4),
        ("bias", [2 / 3, 2], 4 / 4),
        ("hss", [2 * 2 * 1 / (3 * 2 + 2 * 1), 2 * (0 - 2) / (1 * 1 + 2 * 2)], 2 * (2 * 1 - 2 * 2) / (4 * 3 + 4 * 3)),
        ("hss_per_lead", [4 / 8, -4 / 5], (4 / 8 - 4 / 5) / 2),
    ],
)
def test_two_leads_by_hand(name, per_lead, mean):
    running = run(name, *two_leads())
    assert running.per_lead().tolist() == pytest.approx(per_lead)
    assert running.mean() == pytest.approx(mean)
    assert running.parts().tolist() == pytest.approx([mean])


def test_counts_by_hand():
    counts = count(*two_leads(), (1.0, 4.0))
    assert counts.hits[0].tolist() == [[2, 0], [0, 0]]
    assert counts.misses[0].tolist() == [[1, 0], [1, 0]]
    assert counts.false_alarms[0].tolist() == [[0, 0], [2, 0]]
    assert counts.correct_rejections[0].tolist() == [[1, 4], [0, 3]]


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_score_is_nan_and_so_is_a_mean_that_holds_one(name):
    nothing = torch.zeros(1, 2, 1, 2, 2)
    assert math.isnan(run(name, nothing, nothing).mean())
    spec = FrameSpec(1, 2, 2, thresholds=(1.0, 100.0))
    running = run(name, *two_leads(), spec)
    assert math.isnan(running.mean()) and np.isnan(running.parts()).tolist() == [False, True]


def test_a_lead_without_events_empties_the_mean_over_leads_but_not_the_global_score():
    prediction, truth = two_leads()
    truth[:, 1], prediction[:, 1] = 0.0, 0.0
    assert run("csi", prediction, truth).mean() == pytest.approx(2 / 3)
    assert math.isnan(run("csi_per_lead", prediction, truth).mean())


@pytest.mark.parametrize(
    ("name", "perfect"),
    [("csi", 1), ("csi_per_lead", 1), ("pod", 1), ("far", 0), ("sucr", 1), ("bias", 1), ("hss", 1), ("hss_per_lead", 1)],
)
def test_a_perfect_forecast(name, perfect, rain_films):
    _, truth = rain_films()
    spec = FrameSpec(1, 16, 20, thresholds=(0.5, 2.0, 5.0))
    running = run(name, truth, truth, spec)
    assert running.mean() == perfect and (running.parts_per_lead() == perfect).all()


def test_a_forecast_that_is_missing_is_no_event():
    prediction, truth = torch.full((1, 1, 1, 2, 2), math.nan), torch.tensor([[3.0, 0.0], [math.nan, 2.0]]).view(1, 1, 1, 2, 2)
    counts = count(prediction, truth, (1.0,))
    assert [float(part) for part in (counts.hits, counts.misses, counts.false_alarms, counts.correct_rejections)] == [0, 2, 0, 1]
    assert run("csi", prediction, truth).mean() == 0 and math.isnan(run("far", prediction, truth).mean())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.0, 0.3, 1.0]), st.lists(st.floats(0.125, 9, width=32), min_size=1, max_size=4))
def test_counts_are_those_of_float64_and_add_up_to_the_valid_pixels(seed, missing, thresholds):
    random = np.random.default_rng(seed)
    truth, prediction = random.normal(0, 5, (2, 3, 2, 2, 5, 6)).astype(np.float32)
    truth[random.random(truth.shape) < missing] = np.nan
    prediction[random.random(truth.shape) < 0.1] = np.nan
    counts = count(torch.from_numpy(prediction), torch.from_numpy(truth), tuple(thresholds))
    valid = (~np.isnan(truth)).sum((2, 3, 4))
    assert isinstance(counts, Counts) and counts.hits.dtype == torch.float64
    for number, threshold in enumerate(thresholds):
        told, came = prediction.astype(np.float64) >= threshold, truth.astype(np.float64) >= threshold
        wanted = [(told & came), (~told & came), (told & ~came & ~np.isnan(truth)), (~told & ~came & ~np.isnan(truth))]
        found = [counts.hits, counts.misses, counts.false_alarms, counts.correct_rejections]
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(one[..., number], other.sum((2, 3, 4)))
        np.testing.assert_array_equal(sum(one[..., number] for one in found), valid)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(7)), st.lists(st.integers(1, 6), max_size=3), st.integers(0, 3), st.sampled_from([*NAMES, "csi_pool4", "fss"]))
def test_order_batches_and_processes_change_nothing(order, cuts, first_process, name):
    random = np.random.default_rng(3)
    truth, prediction = (torch.from_numpy(part).float() for part in random.normal(0, 4, (2, 7, 3, 1, 8, 9)))
    truth[torch.rand(truth.shape, generator=torch.Generator().manual_seed(0)) < 0.2] = math.nan
    spec = FrameSpec(1, 8, 9, thresholds=(0.5, 3.0))
    whole = run(name, prediction, truth, spec)
    (score,) = create_scores([name])
    processes = [RunningScore(3, score), RunningScore(3, score)]
    for number, (start, stop) in enumerate(itertools.pairwise(sorted({0, 7, *cuts}))):
        rows = list(order[start:stop])
        processes[number >= first_process].add(*score(prediction[rows], truth[rows], spec))
    processes[0].merge(processes[1])
    assert processes[0].mean() == pytest.approx(whole.mean(), rel=1e-12)
    np.testing.assert_allclose(processes[0].parts_per_lead(), whole.parts_per_lead(), rtol=1e-12)


def test_csi_equals_torchmetrics(rain_films):
    prediction, truth = rain_films(missing=0.0)
    for threshold in (0.5, 2.0, 5.0):
        oracle = torchmetrics.regression.CriticalSuccessIndex(threshold)
        running = run("csi", prediction, truth, FrameSpec(1, 16, 20, thresholds=(threshold,)))
        assert running.mean() == pytest.approx(float(oracle(prediction, truth)), abs=1e-6)


PYSTEPS = {
    "csi": 0.30103806228373703,
    "pod": 0.4484536082474227,
    "far": 0.521978021978022,
    "bias": 0.9381443298969072,
    "hss": 0.11745430714337726,
}
"""``pysteps.verification.detcatscores.det_cat_fct`` of pysteps 1.21 for the first of two wave fields as a forecast of the second, with a
threshold just below 1, since its events lie above it."""


@pytest.mark.parametrize("name", PYSTEPS)
def test_equals_what_pysteps_says(name, waves):
    first, second = (torch.from_numpy(field).float().view(1, 1, 1, 20, 24) for field in waves())
    assert run(name, first, second, FrameSpec(1, 20, 24, thresholds=(1.0,))).mean() == pytest.approx(PYSTEPS[name], abs=1e-6)
    detcatscores = pytest.importorskip("pysteps.verification.detcatscores")
    found = detcatscores.det_cat_fct(*waves(), 1.0 - 1e-12, scores=[name.upper()])
    assert float(found[name.upper()]) == pytest.approx(PYSTEPS[name], abs=1e-12)


def test_pools_hold_the_greatest_valid_value():
    truth = torch.arange(36.0).view(1, 1, 1, 6, 6)
    truth[..., 1, 1], truth[..., 2:4, 2:4] = math.nan, math.nan
    prediction = torch.full_like(truth, 2.0)
    prediction[..., 1, 1], prediction[..., 4, 0] = 99.0, math.nan
    prediction[..., 0:2, 4:6] = math.nan
    pooled, true = pool(prediction, truth, 2)
    np.testing.assert_array_equal(true[0, 0, 0], [[6, 9, 11], [19, np.nan, 23], [31, 33, 35]])
    np.testing.assert_array_equal(pooled[0, 0, 0], [[2, 2, np.nan], [2, np.nan, 2], [2, 2, 2]])


@pytest.mark.parametrize("kernel", [4, 16])
def test_pooled_csi_equals_numpy(kernel, rain_films):
    prediction, truth = rain_films((3, 2, 2, 33, 50), missing=0.3)
    spec = FrameSpec(2, 33, 50, thresholds=(2.0, 8.0))

    def greatest(field, known):
        rows, columns = 33 // kernel, 50 // kernel
        cut = np.where(known, field, -np.inf)[..., : rows * kernel, : columns * kernel]
        return cut.reshape(3, 2, 2, rows, kernel, columns, kernel).max((4, 6))

    known = ~np.isnan(truth.numpy())
    told, came = greatest(prediction.numpy(), known), greatest(truth.numpy(), known)
    wanted = [((told >= t) & (came >= t)).sum() / ((told >= t) | (came >= t)).sum() for t in spec.thresholds]
    running = run(f"csi_pool{kernel}", prediction, truth, spec)
    assert running.parts().tolist() == pytest.approx(wanted) and running.mean() == pytest.approx(np.mean(wanted))


def test_thresholds_given_come_before_those_of_the_spec():
    prediction, truth = two_leads()
    score = CriticalSuccess(thresholds=(0.6, 2.5))
    assert score.parts(SPEC) == ("0.6", "2.5")
    total, _ = score(prediction, truth, SPEC)
    assert total[0].tolist() == [[3, 0], [0, 0]]


def test_what_cannot_be_scored_is_refused():
    prediction, truth = two_leads()
    with pytest.raises(UserError, match="The score 'hss' needs thresholds"):
        run("hss", prediction, truth, FrameSpec(1, 2, 2))
    with pytest.raises(UserError, match="Pools of 4 x 4 pixels need frames of at least that size, not 2 x 2"):
        run("csi_pool4", prediction, truth)


SAMPLE = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "knmi_rap_2010-08-26"


@pytest.mark.slow
@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the KNMI sample files are not here")
def test_persistence_on_a_real_day_has_the_csi_that_was_measured_elsewhere():
    """By lead, 5, 30 and 60 minutes, for > 0.5, 1, 2, 5 mm/h, 13 starts; no sum of hundredths of a millimetre is a threshold itself."""
    reader = Knmi(SAMPLE)
    frames = reader.packing.unpack(torch.from_numpy(reader.read(0, range(87))))
    spec = FrameSpec(1, reader.height, reader.width, units="mm/h", thresholds=(0.5, 1.0, 2.0, 5.0))
    running = RunningScore(12, CriticalSuccess())
    for start in range(2, 75, 6):
        truth = frames[None, start + 1 : start + 13]
        running.add(*CriticalSuccess()(frames[None, start : start + 1].expand_as(truth), truth, spec))
    wanted = [[0.649, 0.538, 0.414, 0.208], [0.329, 0.224, 0.115, 0.017], [0.237, 0.122, 0.036, 0.001]]
    np.testing.assert_allclose(running.parts_per_lead()[[0, 5, 11]], wanted, atol=6e-4)
