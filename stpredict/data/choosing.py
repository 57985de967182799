"""Choose clips by how much it rains in them.

Rain is rare: most clips of a radar archive show none. A card's ``window.rain`` keeps those with rain enough, and may draw the training
clips the more often the more it rains in them. How much it rains in each frame is found by reading all of them once, and kept.

Source of the draw: Ravuri et al., Skilful precipitation nowcasting using deep generative models of radar (Nature 2021).
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from stpredict.data.blocks import each_block, positions_of
from stpredict.data.clips import Reader
from stpredict.data.index import index_name, load_index, save_index
from stpredict.data.readers.finding import list_sources
from stpredict.draws import uniform
from stpredict.errors import UserError

if TYPE_CHECKING:
    from stpredict.data.card import Card

_BLOCK = 32 << 20  # bytes of the frames that are read at once
_remembered: dict[str, FrameRain] = {}  # of this process: one archive has several splits


@dataclass(frozen=True)
class Importance:
    """How training clips are drawn: a clip is kept with the probability ``min(1, least + slope * mean(1 - exp(-x / saturation)))``.

    The mean is over the valid pixels of its frames, x their physical values (below 0: 0).

    Attributes:
        least: the probability of a clip without rain.
        slope: how it grows.
        saturation: the physical value beyond which more rain counts little more.
    """

    least: float = 2e-4
    slope: float = 0.1
    saturation: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.least <= 1 or self.slope < 0 or self.saturation <= 0:
            raise UserError("window.rain.importance needs least in (0, 1], slope not negative and saturation above 0")


@dataclass(frozen=True)
class Rain:
    """Which clips have rain enough.

    Attributes:
        threshold: the physical value above which a pixel counts as rain.
        fraction: the least share of the valid pixels of a clip that does; 0: every clip will do. A clip without a valid pixel has none.
        over: the ``clip``, so what is to be forecast counts too; or its ``context``, which is all that is known when a forecast is made.
        importance: draw the clips of the split ``train``, true for DGMR's constants; by seed and clip, so a clip is drawn or not for good.
    """

    threshold: float
    fraction: float = 0.0
    over: Literal["clip", "context"] = "clip"
    importance: Importance | bool = False

    def __post_init__(self) -> None:
        if not math.isfinite(self.threshold) or not 0 <= self.fraction <= 1:
            raise UserError(f"window.rain needs a threshold and a fraction from 0 to 1, not {self.threshold:g} and {self.fraction:g}")
        if self.over not in ("clip", "context"):
            raise UserError(f"window.rain.over is 'clip' or 'context', not '{self.over}'")

    @property
    def drawing(self) -> Importance | None:
        """Return how training clips are drawn; None: they are not."""
        return Importance() if self.importance is True else self.importance or None


@dataclass(frozen=True)
class FrameRain:
    """How much it rains in each frame of an archive, counted over all its films.

    Attributes:
        above: ``(N,)`` pixels above the threshold.
        valid: ``(N,)`` pixels that are not missing.
        saturated: ``(N,)`` sum of ``1 - exp(-x / saturation)``.
    """

    above: NDArray[np.int64]
    valid: NDArray[np.int64]
    saturated: NDArray[np.float64]


def choose_clips(
    card: Card, reader: Reader, split: str, index: NDArray[np.int64], root: str | Path | None, seed: int
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Say which clips have rain enough and are drawn.

    Args:
        card: with ``window.rain``.
        reader: of the card.
        split: ``train`` is the one whose clips may be drawn.
        index: ``(N, 2)`` film and first frame of each clip.
        root: of the archive, by which what is found is kept; None: it is not.
        seed: of the draw.

    Returns:
        ``(N,)`` whether a clip is wanted, and with which probability it was (1 where none is drawn), for weights of scores.

    Raises:
        UserError: a file cannot be read.
    """
    window, rain = card.window, card.window.rain
    assert rain is not None
    frames = rain_of_frames(card, reader, root)
    firsts = np.array([0, *accumulate(film.length for film in reader.films)], dtype=np.int64)
    starts = firsts[index[:, 0]] + index[:, 1]
    frames_counted = window.length if rain.over == "clip" else window.context
    above, valid = (_sum_over(part, starts, frames_counted, window.every) for part in (frames.above, frames.valid))
    enough = (valid > 0) & (above >= rain.fraction * valid) if rain.fraction else np.ones(len(index), dtype=np.bool_)
    drawing = rain.drawing
    if drawing is None or split != "train":
        return enough, np.ones(len(index))
    seen = np.maximum(_sum_over(frames.valid, starts, window.length, window.every), 1)
    saturated = _sum_over(frames.saturated, starts, window.length, window.every) / seen
    probability = np.minimum(1.0, drawing.least + drawing.slope * saturated)
    drawn = np.empty(len(index))
    for film in np.unique(index[:, 0]):
        clips = index[:, 0] == film
        drawn[clips] = uniform(seed, "rain", int(film), 0, reader.films[film].length)[index[clips, 1]]
    return enough & (drawn < probability), probability


def _sum_over(values: NDArray[Any], starts: NDArray[np.int64], length: int, every: int) -> NDArray[Any]:
    total = np.zeros(len(starts), dtype=values.dtype)
    for lead in range(length):
        total += values[starts + lead * every]
    return total


def rain_of_frames(card: Card, reader: Reader, root: str | Path | None, progress: bool = True) -> FrameRain:
    """Find how much it rains in each frame, within the crop and before any change of size; read once and kept by the files' times.

    Raises:
        UserError: a file cannot be read.
    """
    rain, spatial = card.window.rain, card.spatial
    assert rain is not None and card.reader is not None
    crop = None if spatial is None or spatial.crop is None else list(spatial.crop)
    saturation = (rain.drawing or Importance()).saturation
    count = sum(film.length for film in reader.films)
    name = None
    if root is not None:
        place = Path(root)
        sources = hashlib.blake2b(repr(list_sources(place)).encode()).hexdigest()
        name = index_name("rain", str(place.resolve()), sources, card.reader, dict(card.settings), crop, rain.threshold, saturation)
        known = _remembered.get(name) or _from_plain(load_index(name), count)
        if known is not None:
            _remembered[name] = known
            return known
    size = max(1, _BLOCK // (8 * reader.channels * reader.height * reader.width))
    blocks = [range(start, min(start + size, count)) for start in range(0, count, size)]
    firsts = [0, *accumulate(film.length for film in reader.films)][:-1]
    work = _Counting(reader, firsts, blocks, spatial.crop if spatial is not None else None, rain.threshold, saturation)
    workers = min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
    parts = each_block(work, list(range(len(blocks))), [len(block) for block in blocks], workers, "looking for rain", progress)
    above, valid, saturated = (np.concatenate([parts[number][which] for number in range(len(blocks))]) for which in range(3))
    found = FrameRain(above, valid, saturated)
    if name is not None:
        if len(_remembered) >= 8:
            _remembered.clear()
        _remembered[name] = found
        save_index(name, {"above": above.tolist(), "valid": valid.tolist(), "saturated": saturated.tolist()})
    return found


def _from_plain(kept: Any, count: int) -> FrameRain | None:
    try:
        found = FrameRain(
            np.array(kept["above"], dtype=np.int64), np.array(kept["valid"], dtype=np.int64), np.array(kept["saturated"], dtype=np.float64)
        )
    except (TypeError, LookupError, ValueError, OverflowError):
        return None
    return found if found.above.shape == found.valid.shape == found.saturated.shape == (count,) else None


@dataclass(frozen=True)
class _Counting:
    """Counts in one block of frames; sent to each process."""

    reader: Reader
    firsts: Sequence[int]
    blocks: Sequence[range]
    crop: tuple[int, int, int, int] | None
    threshold: float
    saturation: float

    def __call__(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        parts = [self._count(film, positions) for film, positions, _ in positions_of(self.firsts, self.blocks[number])]
        above, valid, saturated = (np.concatenate(which) for which in zip(*parts, strict=True))
        return above, valid, saturated

    def _count(self, film: int, positions: range) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        packed = self.reader.read(film, positions)
        if self.crop is not None:
            top, left, height, width = self.crop
            packed = np.ascontiguousarray(packed[..., top : top + height, left : left + width])
        physical = self.reader.packing.unpack(torch.from_numpy(packed)).flatten(1)
        valid = ~physical.isnan()
        above = (physical > self.threshold) & valid
        grown = -torch.expm1(-physical.clamp(min=0.0).double() / self.saturation)
        return above.sum(1).numpy(), valid.sum(1).numpy(), torch.where(valid, grown, 0.0).sum(1).numpy()
