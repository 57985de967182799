"""Intervals over seeds and over clips."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stpredict.metrics.bootstrap import draw_units
from stpredict.study.statistics import difference_of, over_seeds, student_quantile

TABLE = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 7: 2.365, 10: 2.228, 29: 2.045, 120: 1.980}
"""The 0.975 quantiles as printed tables of Student's distribution have them."""


@pytest.mark.parametrize("freedom", TABLE)
def test_quantiles_are_those_of_the_tables(freedom: int) -> None:
    assert student_quantile(freedom) == pytest.approx(TABLE[freedom], abs=5e-4)


def test_quantiles_are_those_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    for freedom in (1, 2, 3, 8, 31):
        for level in (0.5, 0.9, 0.999):
            assert student_quantile(freedom, level) == pytest.approx(float(stats.t.ppf((1 + level) / 2, freedom)), rel=1e-9)


def test_three_seeds_have_the_interval_of_a_sample_of_three() -> None:
    found = over_seeds([1.0, 2.0, 6.0])
    half = 4.302652729911275 * math.sqrt(7.0) / math.sqrt(3.0)  # the sample's variance is 7
    assert (found.mean, found.least, found.most) == (3.0, 1.0, 6.0)
    assert (found.low, found.high) == (pytest.approx(3 - half), pytest.approx(3 + half))


def test_one_seed_has_no_interval() -> None:
    found = over_seeds([2.0])
    assert found.mean == 2.0 and math.isnan(found.low) and math.isnan(found.high)


def test_a_difference_is_paired_by_seed_and_by_clip() -> None:
    clips = np.linspace(0.0, 100.0, 40)  # far more from clip to clip than between the variants
    other = {seed: clips + seed for seed in (0, 1, 2)}
    own = {seed: values + 1.0 + 0.1 * np.cos(np.arange(40) + seed) for seed, values in other.items()}
    means = [{seed: float(values.mean()) for seed, values in films.items()} for films in (own, other)]
    found = difference_of(*means, own, other)
    assert found is not None and found.seeds == (0, 1, 2)
    assert found.over_seeds.mean == pytest.approx(1.0, abs=0.02) and found.verdict == "clear"

    # The oracle draws clips with all in memory, in a loop over replicates.
    mean = np.mean([own[seed] - other[seed] for seed in own], axis=0)
    times = draw_units(range(40)).times
    drawn = [float((row * mean).sum() / row.sum()) for row in times]
    assert (found.clips_low, found.clips_high) == (pytest.approx(np.percentile(drawn, 2.5)), pytest.approx(np.percentile(drawn, 97.5)))
    assert found.clips_high - found.clips_low < 0.1, "what makes a clip hard for both cancels"


def test_only_seeds_that_both_have_count() -> None:
    found = difference_of({0: 1.0, 1: 2.0}, {1: 5.0, 2: 7.0}, {}, {})
    assert found is not None and found.seeds == (1,) and found.per_seed == (-3.0,) and found.verdict == "unknown"
    assert difference_of({0: 1.0}, {1: 2.0}, {}, {}) is None


@pytest.mark.parametrize(
    ("per_seed", "spread", "verdict"),
    [
        ((1.0, 1.1, 0.9), 0.1, "clear"),
        ((3.0, 0.1, 0.2), 0.1, "luck of seeds"),
        ((1.0, 1.1, 0.9), 90.0, "luck of clips"),
        ((1.0, -1.0, 0.5), 90.0, "luck of both"),
    ],
)
def test_two_kinds_of_luck_are_told_apart(per_seed: tuple[float, ...], spread: float, verdict: str) -> None:
    signs = np.where(np.arange(30) % 2, spread, -spread)
    own = {seed: value + signs for seed, value in enumerate(per_seed)}
    zeros = {seed: np.zeros(30) for seed in own}
    found = difference_of(dict(enumerate(per_seed)), dict.fromkeys(own, 0.0), own, zeros)
    assert found is not None and found.verdict == verdict


def test_clips_without_a_score_are_left_out() -> None:
    values = {0: np.array([1.0, np.nan, 3.0, 2.0])}
    found = difference_of({0: 2.0}, {0: 0.0}, values, {0: np.zeros(4)})
    assert found is not None and 1.0 <= found.clips_low <= 2.0 <= found.clips_high <= 3.0
