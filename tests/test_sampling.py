"""Sampling schedules, against the values of the authors' code."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stpredict.draws import Draws
from stpredict.errors import UserError
from stpredict.sampling import FreeRunning, GrowingHorizon, ReverseScheduledSampling, ScheduledSampling, TeacherForcing, draw_truth


@pytest.mark.parametrize(("iteration", "expected"), [(1, 0.99998), (2, 0.99996), (25000, 0.5), (49999, 2e-5), (50000, 0.0), (90000, 0.0)])
def test_scheduled_sampling(iteration: int, expected: float) -> None:
    assert ScheduledSampling().probabilities(iteration) == (1.0, pytest.approx(expected, abs=1e-12))


@pytest.mark.parametrize(
    ("schedule", "iteration", "inside", "after"),
    [
        ((25000, 50000, 2500), 24999, 0.5, 0.5),
        ((25000, 50000, 2500), 25000, 0.5, 0.5),
        ((25000, 50000, 2500), 27500, 0.816060, 0.45),
        ((25000, 50000, 2500), 37500, 0.996631, 0.25),
        ((25000, 50000, 2500), 49999, 0.999977, 2e-5),
        ((25000, 50000, 2500), 50000, 1.0, 0.0),
        ((5000, 50000, 2000), 7000, 0.816060, 0.477778),
        ((25000, 50000, 5000), 30000, 0.816060, 0.4),
        ((25000, 50000, 5000), 37500, 0.958958, 0.25),
    ],
)
def test_reverse_scheduled_sampling(schedule: tuple[int, int, float], iteration: int, inside: float, after: float) -> None:
    assert ReverseScheduledSampling(*schedule).probabilities(iteration) == (pytest.approx(inside, abs=5e-7), pytest.approx(after, abs=5e-7))


def test_masks_of_a_forecast_and_of_teacher_forcing() -> None:
    draws = Draws(0, 0, (0, 1))
    assert draw_truth(FreeRunning(), 1, draws, context=3, horizon=2).tolist() == [[True, True, True, False]] * 2
    assert draw_truth(TeacherForcing(), 1, draws, context=3, horizon=2).tolist() == [[True] * 4] * 2


def test_masks_have_the_probabilities_of_the_schedule() -> None:
    schedule = ReverseScheduledSampling(100, 200, 50.0)
    masks = draw_truth(schedule, 150, Draws(7, 150, tuple(range(20000))), context=3, horizon=3)
    inside, after = schedule.probabilities(150)
    expected = torch.tensor([1.0, inside, inside, after, after])
    assert torch.allclose(masks.double().mean(0), expected.double(), atol=0.015)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 60000))
def test_masks_at_the_boundaries(context: int, horizon: int, iteration: int) -> None:
    mask = draw_truth(ReverseScheduledSampling(), iteration, Draws(0, iteration, (3,)), context, horizon)
    assert mask.shape == (1, context + horizon - 1) and bool(mask[0, 0])


@pytest.mark.parametrize("settings", [(-0.1, 0.1, 5), (1.1, 0.1, 5), (1.0, -1.0, 5)])
def test_impossible_schedules_are_refused(settings: tuple[float, float, int]) -> None:
    with pytest.raises(UserError):
        ScheduledSampling(*settings)
    with pytest.raises(UserError):
        ReverseScheduledSampling(5, 5, 1.0)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 20), st.integers(1, 300))
def test_a_horizon_grows_evenly_and_never_shrinks(first: int, horizon: int, grown_at: int) -> None:
    growing = GrowingHorizon(first, grown_at)
    horizons = [growing.at(iteration, horizon) for iteration in range(1, grown_at + 3)]
    assert horizons == sorted(horizons) and horizons[-1] == horizon
    assert grown_at == 1 or horizons[0] == min(first, horizon)
    assert grown_at < horizon or max(b - a for a, b in pairwise(horizons)) <= 1


def test_a_horizon_grows_as_said() -> None:
    assert [GrowingHorizon(2, 9).at(iteration, 6) for iteration in range(1, 12)] == [2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 6]
    assert GrowingHorizon().at(1, 6) == 6


@pytest.mark.parametrize("settings", [(None, 5), (2, 0), (0, 5), (2, -1)])
def test_half_a_growing_horizon_is_refused(settings: tuple[int | None, int]) -> None:
    with pytest.raises(UserError, match="needs sampling"):
        GrowingHorizon(*settings)
