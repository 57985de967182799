"""Random draws are functions of what they are for."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stpredict import draws
from stpredict.draws import Draws


def test_words_are_philox_4x64() -> None:
    """The first words of counter (0, 0, index, step), key (seed, crc32(stream)), against a Philox-4x64-10 written out here."""
    mask = (1 << 64) - 1

    def philox(counter: list[int], key: list[int]) -> list[int]:
        for _ in range(10):
            high0, low0 = divmod(0xD2E7470EE14C6C93 * counter[0], 1 << 64)
            high1, low1 = divmod(0xCA5A826395121157 * counter[2], 1 << 64)
            counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0]
            key = [(key[0] + 0x9E3779B97F4A7C15) & mask, (key[1] + 0xBB67AE8584CAA73B) & mask]
        return counter

    import zlib

    # numpy counts the block number up before it makes the first block
    expected = philox([1, 0, 5, 7], [3, zlib.crc32(b"order")]) + philox([2, 0, 5, 7], [3, zlib.crc32(b"order")])
    assert draws.words(3, "order", 7, 5, 8).tolist() == expected


def test_uniform_is_uniform() -> None:
    numbers = draws.uniform(1, "x", 0, 0, 100_000)
    assert numbers.min() >= 0.0 and numbers.max() < 1.0
    histogram, _ = np.histogram(numbers, bins=20, range=(0, 1))
    assert ((histogram - 5000.0) ** 2 / 5000.0).sum() < 50.0  # chi-square with 19 degrees: 1 in 10,000


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**40), st.integers(0, 1000), st.integers(1, 300))
def test_permutation_holds_each_number_once(seed: int, step: int, count: int) -> None:
    assert sorted(draws.permutation(seed, "order", step, count).tolist()) == list(range(count))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=5, unique=True), st.integers(0, 100))
def test_a_sample_draws_the_same_in_any_batch(indices: list[int], step: int) -> None:
    together = Draws(4, step, tuple(indices)).normal("noise", 3, 2)
    alone = [Draws(4, step, (index,)).normal("noise", 3, 2)[0] for index in indices]
    assert torch.equal(together, torch.stack(alone))


def test_streams_and_steps_differ() -> None:
    base = draws.uniform(1, "a", 0, 0, 4)
    for other in (
        draws.uniform(2, "a", 0, 0, 4),
        draws.uniform(1, "b", 0, 0, 4),
        draws.uniform(1, "a", 1, 0, 4),
        draws.uniform(1, "a", 0, 1, 4),
    ):
        assert not np.array_equal(base, other)


def test_normal_has_mean_0_and_deviation_1() -> None:
    numbers = Draws(0, 0, (0,)).normal("noise", 100_000)
    assert abs(float(numbers.mean())) < 0.015 and abs(float(numbers.std()) - 1.0) < 0.01
