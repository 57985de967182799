"""Clips of several data sets as one, so that a network can be trained on all of them."""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch

from stpredict.data.clips import ClipSet
from stpredict.errors import UserError
from stpredict.frames import Clip, Grid, Packing


class Together(ClipSet):
    """The clips of several sets, one set after the other.

    Where the sets are packed differently their clips become physical as they are read; where they lie on different grids the whole has
    none.
    """

    def __init__(self, card: str, split: str, sets: Sequence[ClipSet]) -> None:
        """Join sets.

        Raises:
            UserError: there is none, one has no end, or their frames are not of one kind.
        """
        if not sets:
            raise UserError(f"No source of '{card}' has a part in the split '{split}'")
        first, self.card, self.split, self.sets = sets[0], card, split, tuple(sets)
        for other in sets:
            if other.endless:
                raise UserError(f"The clips of '{other.card}' have no end, so they cannot be joined with others in '{card}'")
            for name in ("shape", "units", "transform", "fill", "minimum", "time_step"):
                ours, theirs = getattr(first.spec, name), getattr(other.spec, name)
                if ours != theirs:
                    raise UserError(
                        f"The sources of '{card}' do not fit together: {name} is {_told(ours)} in '{first.card}' and {_told(theirs)} in "
                        f"'{other.card}'; crop, resize or describe them alike"
                    )
        self.context, self.horizon = first.context, first.horizon
        same_grid, same_pair = (all(getattr(other.spec, name) == getattr(first.spec, name) for other in sets) for name in ("grid", "z_r"))
        self.spec = dataclasses.replace(first.spec, grid=first.spec.grid if same_grid else None, z_r=first.spec.z_r if same_pair else None)
        self._as_packed = all(other.packing == first.packing for other in sets)
        self.packing = first.packing if self._as_packed else Packing()
        if any(other.known_channels != first.known_channels for other in sets):
            raise UserError(f"The sources of '{card}' do not fit together: not all of them have the same known inputs")
        self.known_channels = first.known_channels
        self._ends = list(accumulate(len(other) for other in sets))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Clip:
        """Read a clip.

        Raises:
            UserError: a file is damaged.
        """
        source, own = self._source(index)
        clip = source[own]
        name = f"{source.card}: {clip.name}"
        if self._as_packed:
            return dataclasses.replace(clip, name=name)
        physical = source.packing.unpack(torch.from_numpy(clip.frames)).numpy()
        if clip.valid is not None:
            physical = np.where(clip.valid, physical, np.float32(np.nan))
        return dataclasses.replace(clip, frames=physical, valid=None, name=name)

    def grid(self, index: int) -> Grid | None:
        """Return where the pixels of a clip lie, or None."""
        source, own = self._source(index)
        return source.grid(own)

    def _source(self, index: int) -> tuple[ClipSet, int]:
        """Return the set of a clip, and its number there."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        index %= len(self)
        number = bisect_right(self._ends, index)
        return self.sets[number], index - (self._ends[number] - len(self.sets[number]))


def _told(value: object) -> str:
    return " x ".join(map(str, value)) if isinstance(value, tuple) else str(value)
