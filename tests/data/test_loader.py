"""The global batch is a function of (seed, step); processes share it."""

from __future__ import annotations

from collections import Counter

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stpredict.data.generated import MovingDigits
from stpredict.data.loader import TrainingOrder, batches, global_batch, ordered, share


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(0, 10**6), st.integers(1, 17), st.integers(1, 5))
def test_every_epoch_sees_each_clip_once(count: int, seed: int, batch_size: int, epochs: int) -> None:
    steps = -(-count * epochs // batch_size)
    seen = [index for step in range(steps) for index in global_batch(count, seed, step, batch_size)][: count * epochs]
    for epoch in range(epochs):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == list(range(count))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 60), st.integers(1, 9))
def test_shares_add_up_and_are_even(count: int, processes: int) -> None:
    shares = [share(range(count), rank, processes) for rank in range(processes)]
    assert [index for part in shares for index in part] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 60), st.integers(1, 9), st.integers(1, 4))
def test_ordered_sees_every_clip_once(count: int, batch_size: int, processes: int) -> None:
    seen = Counter(index for rank in range(processes) for batch in ordered(count, batch_size, rank, processes) for index in batch)
    assert seen == Counter(range(count))


def test_an_endless_set_is_seen_in_order() -> None:
    assert global_batch(None, seed=9, step=3, batch_size=4) == [12, 13, 14, 15]


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_give_the_batches_of_the_order(workers: int) -> None:
    clips = MovingDigits(None, "train", context=2, horizon=1, size=32)
    order = TrainingOrder(clips, seed=0, steps=range(5, 8), batch_size=3, rank=1, processes=2)
    got = list(batches(clips, order, workers))
    assert [batch.indices for batch in got] == [(16, 17), (19, 20), (22, 23)]
    for batch in got:
        expected = torch.stack([torch.from_numpy(clips[index].frames) for index in batch.indices])
        assert batch.frames.dtype == torch.uint8 and torch.equal(batch.frames, expected)


def test_workers_start_after_opencv_has_used_threads() -> None:
    cv2.setNumThreads(2)
    cv2.GaussianBlur(np.zeros((2000, 2000), np.float32), (31, 31), 5)
    clips = MovingDigits(None, "train", context=2, horizon=1, size=32)
    (batch,) = batches(clips, [[3, 4]], workers=1)
    assert batch.indices == (3, 4)
