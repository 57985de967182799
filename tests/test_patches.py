"""Space to depth in the order of predrnn-pytorch."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from stpredict.patches import pad_to_patches, patchify, unpatchify


def test_image_channel_is_the_fastest_index() -> None:
    frames = torch.arange(2 * 4 * 4).reshape(2, 4, 4)
    assert patchify(frames, 2)[:, 0, 0].tolist() == [0, 16, 1, 17, 4, 20, 5, 21]


def test_one_channel_equals_pixel_unshuffle() -> None:
    frames = torch.rand(3, 1, 8, 12)
    assert torch.equal(patchify(frames, 4), functional.pixel_unshuffle(frames, 4))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.lists(st.integers(1, 3), max_size=2))
def test_unpatchify_is_the_inverse(patch: int, channels: int, rows: int, columns: int, lead: list[int]) -> None:
    frames = torch.rand(*lead, channels, rows * patch, columns * patch)
    patches = patchify(frames, patch)
    assert patches.shape == (*lead, patch * patch * channels, rows, columns)
    assert torch.equal(unpatchify(patches, patch), frames)


def test_padding_is_right_and_at_the_bottom() -> None:
    padded = pad_to_patches(torch.ones(1, 5, 7), 4, value=-1.0)
    assert padded.shape == (1, 8, 8)
    assert float(padded[:, :5, :7].sum()) == 35 and float(padded.sum()) == 35 - (64 - 35)
