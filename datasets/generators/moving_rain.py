"""Makes rain that moves, grows and decays over a land that shapes it: small ODIM_H5 files, a folder for each event.

::

    python datasets/generators/moving_rain.py FOLDER
    python datasets/generators/moving_rain.py FOLDER --events 40 --frames 72 --size 128 --seed 1

Cells are born, ripen and die while the wind of their event carries them. The land is the same in every event: hills strengthen rain,
a mountain weakens what the radar sees behind it, and the corners of the picture lie beyond its range. Files are missing now and then,
and one event has a dry spell.
"""

from __future__ import annotations

import argparse
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from stpredict import draws
from stpredict.data.odim_files import write_odim
from stpredict.frames import Grid

PROJECTION = "+proj=laea +lat_0=55 +lon_0=10 +x_0=1950000 +y_0=-2100000 +ellps=WGS84 +units=m +no_defs"
PIXEL = 2000.0  # metres
LEFT, TOP = 1_500_000.0, -2_300_000.0
MINUTES = 5
FIRST_EVENT = datetime(2020, 5, 1, 12)
DRIEST = 0.1  # mm/h; what is less counts as none
DRY_EVENT = 3
_CELLS_PER_HOUR = 14.0  # on 64 x 64 pixels
_REACH = 30  # pixels around the picture in which cells are born too


def uniform(seed: int, stream: str, index: int, count: int, low: float, high: float) -> np.ndarray:
    """Return random numbers that are a function of what they are for."""
    return low + (high - low) * draws.uniform(seed, f"moving rain: {stream}", 0, index, count)


def make_land(size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return by how much rain is strengthened or weakened, and where the radar sees nothing at all; both ``(size, size)``."""
    rows, columns = np.mgrid[:size, :size] / size
    factor = np.full((size, size), 0.7)
    hills = uniform(seed, "hills", 0, 12, 0.0, 1.0).reshape(3, 4)
    for row, column, height, turn in hills:
        along = (columns - column) * np.cos(np.pi * turn) + (rows - row) * np.sin(np.pi * turn)
        across = (rows - row) * np.cos(np.pi * turn) - (columns - column) * np.sin(np.pi * turn)
        factor += (0.5 + height) * np.exp(-((along / 0.35) ** 2) - (across / 0.1) ** 2)
    down, right = rows - 0.5, columns - 0.5
    distance, bearing = np.hypot(down, right), np.arctan2(down, right)
    mountain = float(uniform(seed, "mountain", 0, 1, -np.pi, np.pi)[0])
    behind = (np.abs(np.angle(np.exp(1j * (bearing - mountain)))) < 0.2) & (distance > 0.15)
    return np.where(behind, 0.35 * factor, factor), distance > 0.55


def make_event(event: int, frames: int, size: int, seed: int = 0) -> np.ndarray:
    """Return the rain of an event in mm/h, ``(frames, size, size)`` float32, NaN where the radar does not see."""
    factor, unseen = make_land(size, seed)
    speed, heading, turning, wet = uniform(seed, "wind", event, 4, 0.0, 1.0)
    speed, heading, turning = 0.8 + 1.4 * speed, 2 * np.pi * heading, 0.01 * (turning - 0.5)  # pixels, radians, radians a frame
    headings = heading + turning * np.arange(frames)
    way = np.concatenate([np.zeros((1, 2)), np.cumsum(speed * np.stack([np.sin(headings), np.cos(headings)], axis=1), axis=0)])[:frames]

    width = size + 2 * _REACH
    lead = 40  # frames before the first in which cells are born, so that it begins in the midst of rain
    count = round((0.6 + 0.8 * wet) * _CELLS_PER_HOUR * (frames + lead) * MINUTES / 60 * (width / (64 + 2 * _REACH)) ** 2)
    rows, columns = np.mgrid[:size, :size]
    film = np.zeros((frames, size, size))
    cells = uniform(seed, "cells", event, 8 * count, 0.0, 1.0).reshape(count, 8)
    for birth, life, row, column, strength, extent, flatness, turn in cells:
        born, lasts = (frames + lead) * birth - lead, 8 + 32 * life
        peak, long, narrow = 1.5 * 30**strength**1.5, 2.5 + 5 * extent, 0.5 + 0.5 * flatness
        sine, cosine = np.sin(np.pi * turn), np.cos(np.pi * turn)
        for frame in range(max(0, int(np.ceil(born))), min(frames, int(born + lasts))):
            age = (frame - born) / lasts
            # The wind carries a cell around the picture and its margin: what leaves on one side comes in on the other.
            down = (rows - (row * width + way[frame, 0]) + width / 2 + _REACH) % width - width / 2
            right = (columns - (column * width + way[frame, 1]) + width / 2 + _REACH) % width - width / 2
            along, across = right * cosine + down * sine, (down * cosine - right * sine) / narrow
            film[frame] += peak * np.sin(np.pi * age) ** 2 * np.exp(-(along**2 + across**2) / (2 * (long * (0.6 + 0.4 * age)) ** 2))
    if event == DRY_EVENT:
        film[frames // 3 : 2 * frames // 3] = 0.0
    film *= factor
    film[film < DRIEST] = 0.0
    film[:, unseen] = np.nan
    return film.astype(np.float32)


def missing_frames(event: int, frames: int, seed: int = 0) -> set[int]:
    """Return which frames of an event have no file: one to three in a row, in two events of three."""
    place, count, whether = uniform(seed, "gaps", event, 3, 0.0, 1.0)
    first = int(frames * (0.25 + 0.5 * place))
    return set(range(first, first + 1 + int(3 * count))) if whether < 2 / 3 else set()


def write_sample(folder: Path, events: int = 12, frames: int = 60, size: int = 64, seed: int = 0) -> list[Path]:
    """Write the files of all events, those of event 1 in ``folder/event-01``; return their paths in order of time."""
    grid = Grid(PROJECTION, (LEFT, TOP - size * PIXEL, LEFT + size * PIXEL, TOP), "north")
    paths = []
    for event in range(events):
        place = folder / f"event-{event + 1:02}"
        place.mkdir(parents=True, exist_ok=True)
        gaps = missing_frames(event, frames, seed)
        for number, rain in enumerate(make_event(event, frames, size, seed)):
            if number in gaps:
                continue
            end = FIRST_EVENT + timedelta(days=event, minutes=MINUTES * number)
            paths.append(place / f"rain_{end:%Y%m%d%H%M}.h5")
            write_odim(paths[-1], rain, quantity="RATE", grid=grid, time=end, seconds=60 * MINUTES, gain=0.01)
    return paths


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Makes rain that moves, grows and decays: small ODIM_H5 files, a folder for each event.")
    parser.add_argument("folder", type=Path)
    for option, default in (("events", 12), ("frames", 60), ("size", 64), ("seed", 0)):
        parser.add_argument(f"--{option}", type=int, default=default)
    write_sample(**vars(parser.parse_args()))
