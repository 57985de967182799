"""Clips cut from the films of a reader: windows of frames that cross no gap in time and no boundary of a split."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpredict.data.card import Card, Clock, Frames
from stpredict.data.choosing import choose_clips
from stpredict.data.clips import ClipSet, Film, Reader
from stpredict.data.known import KnownInputs
from stpredict.data.spatial import Spatial
from stpredict.data.splits import Splits
from stpredict.errors import UserError
from stpredict.frames import Clip, FrameSpec, Grid


def clock_of(card: Card, reader: Reader) -> Clock | None:
    """Return the clock by the card, or else by the files; None where films have none.

    Raises:
        UserError: frames have times, but nothing says how far apart they should be.
    """
    if card.time is not None:
        return card.time
    step = reader.facts.get("time_step")
    if step is None and any(film.times is not None for film in reader.films):
        raise UserError(f"The card '{card.name}': the frames have times, so say how far apart they are (time: {{step: SECONDS}})")
    return None if step is None else Clock(float(step))


def runs(film: Film, positions: range, clock: Clock | None) -> list[range]:
    """Cut positions of a film where a step in time is not the clock's, so that no run has a gap."""
    if film.times is None or clock is None or len(positions) == 0:
        return [positions]
    steps = np.diff(film.times[positions.start : positions.stop]).astype("timedelta64[s]").astype(np.float64)
    breaks = np.flatnonzero(np.abs(steps - clock.step) > clock.tolerance) + positions.start + 1
    edges = [positions.start, *breaks.tolist(), positions.stop]
    return [range(start, stop) for start, stop in pairwise(edges)]


class Windows(ClipSet):
    """The clips of one split of the films of a reader.

    Attributes:
        index: ``(N, 2)`` film and position of the first frame of every clip.
        gaps: how many gaps in time lie within the split.
        candidates: how many clips there were before those with rain enough were chosen.
        acceptance: ``(N,)`` the probability with which each clip was drawn; 1 where none is drawn.
    """

    def __init__(self, card: Card, reader: Reader, split: str, *, root: str | Path | None = None, seed: int = 0) -> None:
        """Find the clips.

        Args:
            card: what the frames mean and how they are cut; its name and window may have been overridden.
            reader: of the card.
            split: one of the card's.
            root: of the archive, by which it is remembered how much it rains in its frames.
            seed: by which clips are drawn, where the card says so.

        Raises:
            UserError: there is no such split, it holds no clip, the crop does not fit, or card and files contradict.
        """
        assert isinstance(card.splits, Splits)
        self.card, self.split, self.reader, self.window = card.name, split, reader, card.window
        self.context, self.horizon = card.window.context, card.window.horizon
        self._frames = card.frames or Frames()
        self._spatial = card.spatial or Spatial()
        clock = clock_of(card, reader)
        self.tolerance = 0.0 if clock is None else clock.tolerance
        self.spec = frame_spec(card, reader, self._frames, self._spatial, clock)
        self.packing = self._spatial.packing(reader.packing)
        self._known = known_inputs(card, reader, self.spec, root)
        self.known_channels = 0 if self._known is None else self._known.channels

        span = self.window.span
        pieces = card.splits.pieces(reader.films, split, gap=self.window.length * self.window.every)
        whole = [(film, run) for film, positions in pieces for run in runs(reader.films[film], positions, clock)]
        self.gaps = len(whole) - len(pieces)
        starts = [(film, np.arange(run.start, run.stop - span + 1, self.window.stride)) for film, run in whole]
        none = np.empty((0, 2), dtype=np.int64)
        self.index = np.concatenate([none, *(np.stack([np.full_like(first, film), first], axis=1) for film, first in starts)])
        if not len(self.index):
            raise UserError(self._why_empty(max((len(run) for _, run in whole), default=0)))
        self.candidates, self.acceptance = len(self.index), np.ones(len(self.index))
        if self.window.rain is not None:
            wanted, acceptance = choose_clips(card, reader, split, self.index, root, seed)
            self.index, self.acceptance = self.index[wanted], acceptance[wanted]
            if not len(self.index):
                rain = self.window.rain
                raise UserError(
                    f"In none of the {self.candidates} clips of the split '{split}' of '{self.card}' it rains enough: ask for less in "
                    f"window.rain than the threshold {rain.threshold:g} and the fraction {rain.fraction:g}, or draw less strictly"
                )

    def _why_empty(self, longest_run: int) -> str:
        window = self.window
        need = f"a clip needs {window.span} (context {window.context} + horizon {window.horizon}" + (
            f", every {window.every})" if window.every > 1 else ")"
        )
        longest = max(film.length for film in self.reader.films)
        if longest < window.span:
            return f"The longest film of '{self.card}' has {longest} frames, but {need}: ask for a shorter context or horizon"
        return (
            f"The split '{self.split}' of '{self.card}' has no clip: its longest piece without a gap has {longest_run} frames, but {need}; "
            "ask for a shorter clip or change the splits"
        )

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> Clip:
        """Read a clip.

        Raises:
            UserError: a file is damaged, or holds NaN where the card allows none.
        """
        film, start = (int(number) for number in self.index[index])
        positions = range(start, start + self.window.span, self.window.every)
        packed = read_frames(self.reader, film, positions, self._frames.nan_is_missing)
        about = self.reader.films[film]
        times = None if about.times is None else about.times[positions.start : positions.stop : positions.step]
        name = f"{about.name}, frame {start}" if times is None else f"{about.name}, {times[0]}"
        known = None if self._known is None else self._known.frames(times, len(packed))
        return Clip(self._spatial.apply(packed, self.reader.packing), known=known, times=times, name=name)

    def grid(self, index: int) -> Grid | None:
        """Return where the pixels of a clip lie: as its frame spec says, or as its film says, or None."""
        grid = self.spec.grid
        if grid is None:
            with suppress(UserError):
                film = self.reader.grid(int(self.index[index, 0]))
                grid = film and self._spatial.grid(film, self.reader.height, self.reader.width)
        return grid


def read_frames(reader: Reader, film: int, positions: range, nan_is_missing: bool) -> NDArray[Any]:
    """Read packed frames ``(T, C, H, W)`` and refuse numbers that are none.

    Raises:
        UserError: a file is damaged, or holds infinity, or NaN that does not mean missing.
    """
    packed = reader.read(film, positions)
    expected = (len(positions), reader.channels, reader.height, reader.width)
    if packed.shape != expected:
        raise UserError(f"The reader of '{reader.films[film].name}' gave frames of shape {packed.shape}, not {expected}")
    if packed.dtype.kind == "f" and not np.isfinite(packed).all():
        name = reader.films[film].name
        infinite, none = (wrong.any(axis=(1, 2, 3)) for wrong in (np.isinf(packed), np.isnan(packed)))
        if infinite.any():
            raise UserError(f"'{name}' holds infinity (first in frame {positions[int(infinite.argmax())]}), which is no value of a pixel")
        if not nan_is_missing:
            raise UserError(
                f"'{name}' holds NaN, which its card does not allow (first in frame {positions[int(none.argmax())]}); "
                "if NaN means missing, write nan_is_missing: true under frames"
            )
    return packed


def known_inputs(card: Card, reader: Reader, spec: FrameSpec, root: str | Path | None) -> KnownInputs | None:
    """Return what a card says is known of every frame, or None if it says nothing.

    Raises:
        UserError: frames lack what it takes, or a file beside the data cannot be used.
    """
    if not card.known:
        return None
    return KnownInputs(card.known, None if root is None else Path(root), spec, card.spatial or Spatial(), (reader.height, reader.width))


def frame_spec(card: Card, reader: Reader, frames: Frames, spatial: Spatial, clock: Clock | None) -> FrameSpec:
    """Return what the frames of a card mean, by the card and by what the files say themselves."""
    height, width = spatial.size(reader.height, reader.width)
    told = reader.facts.get("units")
    if frames.units is not None and told is not None and frames.units != told:
        raise UserError(f"The card '{card.name}' says units {frames.units}, but the files are in {told}")
    grid = reader.facts.get("grid")
    return FrameSpec(
        channels=reader.channels,
        height=height,
        width=width,
        units=frames.units or told or "1",
        transform=frames.transform,
        fill=frames.fill,
        minimum=frames.minimum,
        time_step=clock.step * card.window.every if clock is not None else None,
        grid=grid and spatial.grid(grid, reader.height, reader.width),
        z_r=frames.z_r or reader.facts.get("z_r"),
        period=reader.facts.get("period"),
        thresholds=frames.thresholds,
    )
