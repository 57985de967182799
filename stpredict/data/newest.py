"""The newest frames of an archive: what a forecast starts from, and what was missing among them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stpredict.data.card import Card, Clock, Frames, open_reader
from stpredict.data.clips import Film, Reader
from stpredict.data.known import KnownInputs
from stpredict.data.spatial import Spatial
from stpredict.data.windows import clock_of, frame_spec, known_inputs, read_frames
from stpredict.errors import UserError, nearest
from stpredict.frames import Clip, FrameSpec, Packing


def _persist(before: NDArray[np.float32], after: NDArray[np.float32], weight: float) -> NDArray[np.float32]:
    """Return the frame before the gap."""
    return before


def _interpolate(before: NDArray[np.float32], after: NDArray[np.float32], weight: float) -> NDArray[np.float32]:
    """Return what lies between the frames on both sides of the gap, NaN where one of them has no value."""
    return (before * np.float32(1 - weight) + after * np.float32(weight)).astype(np.float32)


FILLING: dict[str, Callable[[NDArray[np.float32], NDArray[np.float32], float], NDArray[np.float32]]] = {
    "persistence": _persist,
    "linear": _interpolate,
}
"""How a frame that is missing is made up from those before and after it: its rule by name."""


@dataclass(frozen=True)
class Newest:
    """The newest frames of an archive.

    Attributes:
        clip: the frames, packed, of the film that ends last.
        spec: what they mean.
        packing: how they are packed.
        filled: of each frame, whether it was missing and made up.
        rule: by which rule of :data:`FILLING`; None where no frame may be made up.
        known: what is known of every frame, future ones included; None where the card says nothing.
    """

    clip: Clip
    spec: FrameSpec
    packing: Packing
    filled: tuple[bool, ...]
    rule: str | None = None
    known: KnownInputs | None = None

    def known_inputs(self, horizon: int) -> Tensor | None:
        """Return what is known of these frames and of those that follow, ``(K + horizon, K', H, W)``, or None."""
        if self.known is None:
            return None
        return torch.from_numpy(self.known.frames(self.times(horizon), len(self.clip.frames) + horizon))

    def times(self, horizon: int) -> NDArray[np.datetime64] | None:
        """Return the times of these frames and of those that follow, ``(K + horizon,)`` datetime64[s]; None without a clock."""
        if self.clip.times is None or self.spec.time_step is None:
            return None
        step = np.timedelta64(round(self.spec.time_step), "s")
        return np.concatenate([self.clip.times, self.clip.times[-1] + step * np.arange(1, horizon + 1)]).astype("datetime64[s]")


class _Slot(NamedTuple):
    """Where a frame comes from: one that is there, or a moment between two that are, at ``weight`` of the way to the later."""

    before: int
    after: int
    weight: float = 0.0


def newest_clip(card: Card, root: str | Path, context: int, fill_gaps: str | None = None) -> Newest:
    """Read the newest frames of an archive whose step in time is the card's.

    Args:
        card: of the archive, with a reader.
        root: the folder of its files, or one file.
        context: how many frames.
        fill_gaps: the rule of :data:`FILLING` by which missing frames are made up; None: they are refused. The newest frame of the
            archive is always one that is there, and at most half of the frames are made up.

    Returns:
        the newest frames of the film that ends last, or without a clock of the last film.

    Raises:
        UserError: a file cannot be used, or the newest frames are fewer than ``context``, or have a gap that is not to be filled.
    """
    if fill_gaps is not None and fill_gaps not in FILLING:
        raise UserError(f"There is no rule '{fill_gaps}' to fill gaps{nearest(fill_gaps, FILLING)}")
    return newest_of(card, open_reader(card, root), context, fill_gaps, root)


def newest_of(card: Card, reader: Reader, context: int, fill_gaps: str | None = None, root: str | Path | None = None) -> Newest:
    """Read the newest frames of an archive that is open: :func:`newest_clip` with the card's reader and its root.

    Raises:
        UserError: as there.
    """
    clock, spatial, frames = clock_of(card, reader), card.spatial or Spatial(), card.frames or Frames()
    ends = [np.datetime64(0, "s") if film.times is None else film.times[-1] for film in reader.films]
    number = max(range(len(ends)), key=lambda film: (ends[film], film))
    film, every = reader.films[number], card.window.every
    if fill_gaps is not None and (film.times is None or clock is None):
        raise UserError(f"'{film.name}' has no clock, so it has no gap that could be filled: leave --fill-gaps out")
    slots = _choose_slots(film, clock, (context - 1) * every + 1, fill_gaps is not None)[::every][::-1]
    filled = tuple(slot.before != slot.after for slot in slots)
    if 2 * sum(filled) > len(filled):
        raise UserError(f"{sum(filled)} of the {context} newest frames of '{film.name}' are missing, which is too many to make up: wait")
    packed, packing = _read_slots(reader, number, slots, frames.nan_is_missing, spatial, fill_gaps)
    clip = Clip(packed, times=None if film.times is None else _times(film.times, slots), name=film.name)
    spec = frame_spec(card, reader, frames, spatial, clock)
    return Newest(clip, spec, packing, filled, fill_gaps, known_inputs(card, reader, spec, root))


def _choose_slots(film: Film, clock: Clock | None, span: int, fill: bool) -> list[_Slot]:
    """Return where the newest ``span`` frames come from, the newest first."""
    position = film.length - 1
    slots = [_Slot(position, position)]
    while len(slots) < span and position > 0:
        missing = 0
        if film.times is not None and clock is not None:
            gap = float((film.times[position] - film.times[position - 1]) / np.timedelta64(1, "s"))
            steps = max(1, round(gap / clock.step))
            if abs(gap - steps * clock.step) > steps * clock.tolerance or (steps > 1 and not fill):
                break
            missing = steps - 1
        slots += [_Slot(position - 1, position, 1 - back / (missing + 1)) for back in range(1, min(missing, span) + 1)]
        position -= 1
        slots.append(_Slot(position, position))
    if len(slots) < span:
        needed = f"A forecast needs the {span} newest frames in a row, and '{film.name}' has {len(slots)}"
        if position == 0 or film.times is None:
            raise UserError(f"{needed}: wait, or give more")
        gap_words = f"since the last gap in time, from {film.times[position - 1]} to {film.times[position]}"
        raise UserError(f"{needed} {gap_words}: wait, or give more" + ("" if fill else ", or have gaps filled (--fill-gaps)"))
    return slots[:span]


def _times(times: NDArray[np.datetime64], slots: list[_Slot]) -> NDArray[np.datetime64]:
    seconds = times.astype("datetime64[s]").astype(np.int64)
    moments = [round(seconds[slot.before] + slot.weight * (seconds[slot.after] - seconds[slot.before])) for slot in slots]
    return np.array(moments, dtype=np.int64).astype("datetime64[s]")


def _read_slots(
    reader: Reader, film: int, slots: list[_Slot], nan_is_missing: bool, spatial: Spatial, rule: str | None
) -> tuple[NDArray[Any], Packing]:
    """Read the frames that are there and make up those that are not; these, and then all, are physical, NaN where missing."""
    packing = spatial.packing(reader.packing)

    def read(positions: range) -> NDArray[Any]:
        return spatial.apply(read_frames(reader, film, positions, nan_is_missing), reader.packing)

    if all(slot.before == slot.after for slot in slots):
        first, step = slots[0].before, slots[1].before - slots[0].before if len(slots) > 1 else 1
        return read(range(first, slots[-1].before + 1, step)), packing
    assert rule is not None, "a frame is made up by a rule"
    needed = sorted({position for slot in slots for position in (slot.before, slot.after)})
    physical = {at: packing.unpack(torch.from_numpy(read(range(at, at + 1)))).numpy()[0] for at in needed}
    frames = [
        physical[slot.before] if slot.before == slot.after else FILLING[rule](physical[slot.before], physical[slot.after], slot.weight)
        for slot in slots
    ]
    return np.stack(frames), Packing()
