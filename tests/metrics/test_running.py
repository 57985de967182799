"""Intervals from replicates: the same for any batches, and those of theory."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from numpy.typing import NDArray

from stpredict import draws
from stpredict.frames import FrameSpec
from stpredict.metrics import RunningScore, create_scores
from stpredict.metrics import running as running_module
from stpredict.metrics.bootstrap import REPLICATES, draw_units, interval_of

SPEC = FrameSpec(1, 12, 12, thresholds=(0.5, 1.0))
CLIPS, LEADS = 40, 3


def films(clips: int = CLIPS) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(clips, LEADS, 1, 12, 12, generator=generator) * 2
    return truth + 0.5 * torch.randn(truth.shape, generator=generator), truth


def run(name: str, batch: int = 100, clips: int = CLIPS, seed: int = 0) -> RunningScore:
    (score,) = create_scores([name])
    running = RunningScore(LEADS, score)
    prediction, truth = films(clips)
    for start in range(0, clips, batch):
        here = slice(start, start + batch)
        running.add(*score(prediction[here], truth[here], SPEC), draw_units(range(clips)[here], seed))
    return running


def poisson(unit: int, seed: int = 0) -> NDArray[np.int64]:
    """Turn uniform numbers into Poisson ones, one after the other, by the quantile function of scipy."""
    return scipy.stats.poisson(1).ppf(draws.uniform(seed, "bootstrap", 0, unit, REPLICATES)).clip(0).astype(np.int64)


def test_draws_are_poisson_numbers_of_seed_and_unit() -> None:
    draw = draw_units([7, 3, 7], seed=2)
    assert draw.times.shape == (REPLICATES, 3) and draw.units.tolist() == [7, 3, 7]
    np.testing.assert_array_equal(draw.times[:, 0], draw.times[:, 2])
    for column, unit in enumerate((7, 3)):
        np.testing.assert_array_equal(draw.times[:, column], poisson(unit, seed=2))
    assert not np.array_equal(draw.times, draw_units([7, 3, 7], seed=3).times)
    # Of 400,000 Poisson numbers the mean has the deviation 1 / 632, the variance about sqrt(3) / 632; four times that.
    many = draw_units(range(400)).times
    assert many.mean() == pytest.approx(1, abs=4 / 632) and many.var() == pytest.approx(1, abs=4 * math.sqrt(3) / 632)


@pytest.mark.parametrize("name", ["mse", "csi", "hss", "csi_per_lead", "log_spectral_distance", "rank_histogram"])
def test_intervals_are_those_of_a_loop_over_replicates(name: str) -> None:
    running = run(name)
    (score,) = create_scores([name])
    prediction, truth = films()
    total, weight = (part.double().numpy() for part in score(prediction, truth, SPEC))
    times = np.stack([poisson(unit) for unit in range(CLIPS)], axis=1)
    single: list[Any] = []
    for replicate in times:
        one = RunningScore(LEADS, score)
        one.add(*(torch.from_numpy(np.repeat(part, replicate, axis=0)) for part in (total, weight)))
        single.append((one.mean(), one.per_lead(), one.parts() if one.parts() is not None else np.zeros(0)))
    means, leads, parts = (np.array(column) for column in zip(*single, strict=True))
    ends = [2.5, 97.5]
    np.testing.assert_allclose(running.interval(), np.percentile(means, ends), rtol=1e-12)
    np.testing.assert_allclose(running.per_lead_interval(), np.percentile(leads, ends, axis=0), rtol=1e-12)
    if running.parts() is None:
        assert running.parts_interval() is None and parts.size == 0
    else:
        np.testing.assert_allclose(running.parts_interval(), np.percentile(parts, ends, axis=0), rtol=1e-12)


@pytest.mark.parametrize("name", ["mse", "csi"])
def test_batches_order_and_processes_change_nothing(name: str) -> None:
    whole, parts = run(name), run(name, batch=3)
    (score,) = create_scores([name])
    prediction, truth = films()
    processes = [RunningScore(LEADS, score) for _ in range(3)]
    for clip in reversed(range(CLIPS)):
        processes[clip % 2].add(*score(prediction[clip : clip + 1], truth[clip : clip + 1], SPEC), draw_units([clip]))
    processes[2].merge(processes[0])  # the third has seen nothing
    processes[2].merge(processes[1])
    for other in (parts, processes[2]):
        assert other.mean() == pytest.approx(whole.mean(), rel=1e-12)
        np.testing.assert_allclose(other.interval(), whole.interval(), rtol=1e-12)
        np.testing.assert_allclose(other.per_lead_interval(), whole.per_lead_interval(), rtol=1e-12)
    assert not np.allclose(run(name, seed=1).interval(), whole.interval(), rtol=1e-6)


def test_the_interval_of_a_mean_is_that_of_other_bootstraps_and_of_theory() -> None:
    values = np.random.default_rng(3).gamma(2.0, size=400)
    running = RunningScore(1)
    running.add(torch.from_numpy(values[:, None]), torch.ones(400, 1), draw_units(range(400)))
    low, high = running.interval()
    resampled = scipy.stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(0))
    half = 1.96 * values.std() / 20  # normal, by the central limit
    # The 2.5 % point of 1000 replicates has the deviation sqrt(0.025 * 0.975 / 1000) / 0.0584 = 0.085 deviations of the mean, which is
    # 4 % of the half width; four times that, and a part for the number of clips in a replicate, which is not fixed here.
    for theirs in (resampled.confidence_interval, (values.mean() - half, values.mean() + half)):
        assert [low, high] == pytest.approx(list(theirs), abs=0.2 * half)


def test_what_is_missing_or_nan_says_nothing() -> None:
    running = RunningScore(2)
    running.add(torch.tensor([[1.0, 0.0], [3.0, math.nan]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]]), draw_units([0, 1]))
    low, high = running.per_lead_interval()
    assert (low[0], high[0]) == (1.0, 3.0), "replicates without either clip are left out"
    assert math.isnan(low[1]) and math.isnan(high[1]) and np.isnan(running.interval()).all()
    np.testing.assert_array_equal(interval_of(np.array([[np.nan, 1.0], [np.inf, 1.0]])), [[np.nan, 1.0], [np.nan, 1.0]])


def test_one_unit_has_no_interval() -> None:
    one, film = run("mse", clips=1), RunningScore(LEADS)
    film.add(torch.ones(4, LEADS), torch.ones(4, LEADS), draw_units([5, 5, 5, 5]))
    for running in (one, film, RunningScore(LEADS)):
        assert np.isnan(running.interval()).all() and np.isnan(running.per_lead_interval()).all() and running.replicates() is None
    assert one.per_lead_interval().shape == (2, LEADS)
    assert np.isnan(run("csi", clips=1).parts_interval()).tolist() == [[True, True]] * 2


def test_memory_does_not_grow_with_clips() -> None:
    few, many = (len(pickle.dumps(run("csi", batch=10, clips=clips))) for clips in (10, 60))
    assert few == many == pytest.approx(REPLICATES * LEADS * 2 * 2 * 8, rel=0.05)  # two thresholds, totals and weights


def test_units_are_drawn_as_a_whole() -> None:
    values = np.random.default_rng(1).normal(size=10)
    alone, whole, naive = RunningScore(1), RunningScore(1), RunningScore(1)
    alone.add(torch.from_numpy(values[:, None]), torch.ones(10, 1), draw_units(range(10)))
    for running, units in ((whole, np.repeat(np.arange(10), 4)), (naive, np.arange(40))):
        running.add(torch.from_numpy(np.repeat(values, 4)[:, None]), torch.ones(40, 1), draw_units(units))
    np.testing.assert_allclose(whole.interval(), alone.interval(), rtol=1e-12)
    assert np.ptp(naive.interval()) < 0.75 * np.ptp(whole.interval())


def test_scores_of_very_many_numbers_keep_sums_over_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, per_lead = run("log_spectral_distance"), run("csi_per_lead")
    monkeypatch.setattr(running_module, "MOST_NUMBERS", 4)
    pooled, lost = run("log_spectral_distance"), run("csi_per_lead")
    np.testing.assert_allclose(pooled.interval(), whole.interval(), rtol=1e-12)
    assert pooled.parts_interval() is not None and whole.parts_interval() is not None
    np.testing.assert_allclose(pooled.parts_interval(), whole.parts_interval(), rtol=1e-12)
    assert np.isnan(pooled.per_lead_interval()).all() and not np.isnan(whole.per_lead_interval()).any()
    assert np.isfinite(per_lead.interval()).all() and np.isnan(lost.interval()).all(), "its mean is over leads, which are not kept"
