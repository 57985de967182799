"""Several data sets as one: every clip once, packed alike or made physical."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from stpredict.data.clips import ClipSet
from stpredict.data.loader import collate
from stpredict.data.together import Together
from stpredict.errors import UserError
from stpredict.frames import Clip, FrameSpec, Grid, Packing


class Numbers(ClipSet):
    """Clips whose packed pixels all hold the clip's number."""

    def __init__(self, card: str, count: int, packing: Packing | None = None, **changes: Any) -> None:
        self.card, self.split, self.count, self.packing = card, "train", count, packing or Packing()
        self.spec = FrameSpec(**{"channels": 1, "height": 2, "width": 3, "units": "mm/h"} | changes)
        self.context, self.horizon = 1, 1

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Clip:
        return Clip(np.full((2, *self.spec.shape), index, dtype=np.uint8), name=str(index))


def test_every_clip_once_and_in_order() -> None:
    joined = Together("both", "train", [Numbers("a", 3), Numbers("b", 2)])
    assert [joined[number].name for number in range(len(joined))] == ["a: 0", "a: 1", "a: 2", "b: 0", "b: 1"]
    assert joined[-1].name == "b: 1" and joined.packing == Packing() and joined[0].frames.dtype == np.uint8
    with pytest.raises(IndexError):
        joined[5]


def test_what_is_packed_differently_becomes_physical() -> None:
    sets = [Numbers("a", 2, Packing(0.5, missing=(1,))), Numbers("b", 3, Packing(table=(0.0, 10.0, math.nan)))]
    joined = Together("both", "train", sets)
    batch = collate([(number, joined[number]) for number in range(5)])
    physical = batch.physical(joined.packing, "cpu")[:, 0, 0, 0, 0]
    torch.testing.assert_close(physical, torch.tensor([0.0, math.nan, 0.0, 10.0, math.nan]), equal_nan=True)


def test_only_what_agrees_is_said_of_the_whole() -> None:
    one, two = (Grid("+proj=laea", (0.0, 0.0, size, size)) for size in (1.0, 2.0))
    apart = Together("both", "train", [Numbers("a", 1, grid=one, z_r=(200.0, 1.6)), Numbers("b", 1, grid=two, z_r=(200.0, 1.6))])
    assert apart.spec.grid is None and apart.spec.z_r == (200.0, 1.6)
    assert Together("both", "train", [Numbers("a", 1, grid=one), Numbers("b", 1, grid=one)]).spec.grid == one


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"height": 4}, "shape is 1 x 2 x 3 in 'a' and 1 x 4 x 3 in 'b'"),
        ({"units": "dBZ"}, "units is mm/h in 'a' and dBZ in 'b'"),
        ({"time_step": 300.0}, "time_step is None in 'a' and 300.0 in 'b'"),
    ],
)
def test_frames_of_two_kinds_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Together("both", "train", [Numbers("a", 1), Numbers("b", 1, **changes)])
    with pytest.raises(UserError, match="No source"):
        Together("both", "train", [])
