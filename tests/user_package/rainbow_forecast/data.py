"""A reader of films written as text, and clips that are made, with pixels missing and something known of the future."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from stpredict import FrameSpec, Packing, UserError
from stpredict.data.clips import ClipSet, Film, Reader
from stpredict.frames import Clip

MISSING = 255


class TextFilms(Reader):
    """Reads films written as text: a line with the time of the first frame, then a block of digits, or '.' for missing, a frame.

    Args:
        root: a folder of ``.film`` files, or one of them.
        minutes: from one frame to the next.
    """

    def __init__(self, root: Path, *, minutes: float, leave_out: Sequence[str] = ()) -> None:
        self._paths = sorted(path for path in (root.glob("*.film") if root.is_dir() else [root]) if path.name not in leave_out)
        if not self._paths:
            raise UserError(f"'{root}' holds no .film")
        starts, arrays = zip(*(_parse(path) for path in self._paths), strict=True)
        step = np.timedelta64(round(60 * minutes), "s")
        self.films = [
            Film(path.name, len(array), start + step * np.arange(len(array)))
            for path, start, array in zip(self._paths, starts, arrays, strict=True)
        ]
        self.channels, self.height, self.width = arrays[0].shape[1:]
        self.packing = Packing(missing=(MISSING,))
        self.facts = {"units": "colours", "time_step": 60.0 * minutes}

    def read(self, film: int, positions: range) -> NDArray[np.uint8]:
        return _parse(self._paths[film])[1][positions.start : positions.stop : positions.step]


def _parse(path: Path) -> tuple[np.datetime64, NDArray[np.uint8]]:
    start, *frames = path.read_text(encoding="ascii").strip().split("\n\n")
    rows = [[[MISSING if sign == "." else int(sign) for sign in row] for row in frame.split()] for frame in frames]
    return np.datetime64(start, "s"), np.array(rows, dtype=np.uint8)[:, None]


class Sky(ClipSet):
    """A bow that wanders over the sky; the sun's height is known for every frame, and a column of each clip is missing."""

    COUNTS: ClassVar = {"train": 6, "validation": 2, "test": 3}

    def __init__(self, root: Path | None, split: str, *, context: int, horizon: int, seed: int = 0, size: int = 8) -> None:
        if split not in self.COUNTS:
            raise UserError(f"The sky has no split '{split}'")
        self.split, self.context, self.horizon, self.size = split, context, horizon, size
        self.spec = FrameSpec(1, size, size, "colours", time_step=600.0)
        self.packing = Packing(scale=1 / 100)
        self.first = 100 * list(self.COUNTS).index(split)

    def __len__(self) -> int:
        return self.COUNTS[self.split]

    def __getitem__(self, index: int) -> Clip:
        times = self.first + 10 * index + np.arange(self.context + self.horizon)
        sun = np.sin(times / 5)
        bow = 50 + 40 * np.sin(np.arange(self.size) + times[:, None] / 3) * sun[:, None]
        frames = np.broadcast_to(bow[:, None, :, None], (len(times), 1, self.size, self.size)).round().astype(np.uint8)
        valid = np.ones(frames.shape, dtype=bool)
        valid[..., index % self.size] = False
        known = np.broadcast_to(sun[:, None, None, None], frames.shape).astype(np.float32)
        moments = np.datetime64("2020-01-01T00:00", "s") + np.timedelta64(600, "s") * times
        return Clip(frames, valid, known, moments, name=f"{self.split} sky {index}")
