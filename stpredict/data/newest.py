"""The newest frames of an archive: what a forecast starts from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stpredict.data.card import Card, Frames, open_reader
from stpredict.data.spatial import Spatial
from stpredict.data.windows import clock_of, frame_spec, read_frames, runs
from stpredict.errors import UserError
from stpredict.frames import Clip, FrameSpec, Packing


def newest_clip(card: Card, root: str | Path, context: int) -> tuple[Clip, FrameSpec, Packing]:
    """Read the newest frames of an archive whose step in time is the card's.

    Args:
        card: of the archive, with a reader.
        root: the folder of its files, or one file.
        context: how many frames.

    Returns:
        the clip (of the film that ends last, or without a clock of the last film), what its frames mean, and how they are packed.

    Raises:
        UserError: a file cannot be used, or the newest frames are fewer than ``context`` or have a gap.
    """
    reader = open_reader(card, root)
    clock, spatial, frames = clock_of(card, reader), card.spatial or Spatial(), card.frames or Frames()
    ends = [np.datetime64(0, "s") if film.times is None else film.times[-1] for film in reader.films]
    number = max(range(len(ends)), key=lambda film: (ends[film], film))
    film, every = reader.films[number], card.window.every
    newest = runs(film, range(film.length), clock)[-1]
    span = (context - 1) * every + 1
    if len(newest) < span:
        gap = "" if len(newest) == film.length else " since the last gap in time"
        raise UserError(f"A forecast needs the {span} newest frames in a row, and '{film.name}' has {len(newest)}{gap}: wait, or give more")
    positions = range(newest.stop - span, newest.stop, every)
    packed = read_frames(reader, number, positions, frames.nan_is_missing)
    times = None if film.times is None else film.times[positions.start : positions.stop : every]
    clip = Clip(spatial.apply(packed, reader.packing), times=times, name=film.name)
    return clip, frame_spec(card, reader, frames, spatial, clock), spatial.packing(reader.packing)
