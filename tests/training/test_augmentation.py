"""Augmentation: what is turned, for which samples, and that frames and masks stay together."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stpredict.draws import Draws
from stpredict.errors import UserError
from stpredict.frames import Batch
from stpredict.training.augmentation import Augmentation, augment, cut_out

KINDS = get_args(Augmentation)
MANY = Draws(1, 2, tuple(range(64)))


def films(samples: int = 64) -> torch.Tensor:
    return torch.arange(samples * 3 * 2 * 4 * 4, dtype=torch.float32).reshape(samples, 3, 2, 4, 4)


@pytest.mark.parametrize(("kind", "axis"), [("flip-x", -1), ("flip-y", -2), ("reverse", 0)])
def test_half_of_the_samples_are_turned_round(kind: Augmentation, axis: int) -> None:
    (changed,) = augment([films()], [kind], MANY)
    turned = [torch.equal(after, before.flip(axis)) for after, before in zip(changed, films(), strict=True)]
    same = [torch.equal(after, before) for after, before in zip(changed, films(), strict=True)]
    assert [not row for row in turned] == same
    assert 20 < sum(turned) < 44


def test_turns_by_quarters() -> None:
    (changed,) = augment([films()], ["turn"], MANY)
    quarters = [
        next(number for number in range(4) if torch.equal(after, torch.rot90(before, number, (-2, -1))))
        for after, before in zip(changed, films(), strict=True)
    ]
    assert all(8 <= quarters.count(number) <= 24 for number in range(4))
    with pytest.raises(UserError, match="not square"):
        augment([torch.zeros(1, 2, 1, 3, 4)], ["turn"], Draws(0, 0, (0,)))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(KINDS), max_size=4, unique=True), st.integers(0, 50), st.integers(0, 1000))
def test_frames_and_masks_stay_together_and_a_sample_is_its_own(kinds: list[Augmentation], step: int, index: int) -> None:
    frames = films(3)
    draws = Draws(5, step, (index, index + 1, index + 2))
    changed, mask = augment([frames, frames % 7 > 2], kinds, draws)
    assert torch.equal(mask, changed % 7 > 2)
    assert torch.equal(changed.sort(dim=0).values.sum(), frames.sum())
    (alone,) = augment([frames[1:2]], kinds, Draws(5, step, (index + 1,)))
    assert torch.equal(alone[0], changed[1])


@given(st.integers(1, 6), st.integers(1, 9), st.integers(0, 50), st.integers(0, 1000))
def test_a_rectangle_is_the_same_of_frames_masks_and_known_inputs(height: int, width: int, step: int, index: int) -> None:
    frames = torch.arange(3 * 2 * 6 * 9).reshape(3, 2, 1, 6, 9)
    batch = Batch(frames, frames % 7 > 2, frames.repeat(1, 1, 2, 1, 1).float(), (0, 1, 2))
    cut = cut_out(batch, height, width, Draws(5, step, (index, index + 1, index + 2)))
    assert cut.frames.shape == (3, 2, 1, height, width)
    assert cut.valid is not None and torch.equal(cut.valid, cut.frames % 7 > 2)
    assert cut.known is not None and torch.equal(cut.known[:, :, :1], cut.frames.float())
    assert (cut.frames.diff(dim=-1) == 1).all() and (cut.frames.diff(dim=-2) == 9).all(), "neighbours stay neighbours"
    alone = cut_out(Batch(frames[1:2], None, None, (1,)), height, width, Draws(5, step, (index + 1,)))
    assert torch.equal(alone.frames, cut.frames[1:2])


def test_every_place_is_as_likely() -> None:
    frames = torch.arange(4 * 3).reshape(1, 1, 1, 4, 3).expand(1200, -1, -1, -1, -1)
    corners = cut_out(Batch(frames, None, None, tuple(range(1200))), 3, 2, Draws(0, 0, tuple(range(1200)))).frames[:, 0, 0, 0, 0]
    counts = torch.bincount(corners, minlength=12)[[0, 1, 3, 4]]
    assert counts.sum() == 1200 and (counts > 240).all()


def test_a_rectangle_larger_than_the_frame_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.random_crop 5 x 2 is larger than the frames of 4 x 3 pixels"):
        cut_out(Batch(torch.zeros(1, 1, 1, 4, 3), None, None, (0,)), 5, 2, Draws(0, 0, (0,)))
