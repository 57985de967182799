"""Makes a tiny archive in the form of the Shanghai radar's scans: gray PNG files in a folder for each event, steps in time irregular.

::

    python datasets/generators/shanghai.py FOLDER
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from PIL import Image

EVENTS = (datetime(2015, 8, 9, 22, 4, 54), datetime(2018, 7, 24, 2, 10, 3), datetime(2018, 7, 30, 1, 20, 11))


def write_sample(folder: Path, events: Sequence[datetime] = EVENTS, frames: int = 30, size: int = 30, seed: int = 0) -> list[Path]:
    """Write a folder ``YYYYMMDD`` of ``frames`` scans for each event; steps are of 322 to 349 s."""
    paths = []
    for number, start in enumerate(events):
        random = np.random.default_rng(seed + number)
        moment = start
        for pixels in echo(frames, size, seed + number):
            paths.append(write_frame(folder / f"{start:%Y%m%d}", moment, pixels))
            moment += timedelta(seconds=int(random.integers(322, 350)))
    return paths


def echo(frames: int, size: int, seed: int) -> np.ndarray:
    """Return pixels ``(T, H, W)``, uint8: a blob of 15 to 213 that drifts over 0, which is no echo."""
    random = np.random.default_rng(seed)
    times, rows, columns = np.mgrid[:frames, :size, :size]
    distance = np.hypot((rows + times) % size - size / 2, columns - size / 2)
    film = 213 * np.exp(-((distance / (size / 4)) ** 2)) + random.integers(0, 5, (frames, size, size))
    return np.where(film < 15, 0, np.minimum(film, 213)).astype(np.uint8)


def write_frame(folder: Path, moment: datetime, pixels: np.ndarray) -> Path:
    """Write one scan."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"Z_RADR_I_Z9210_{moment:%Y%m%d%H%M%S}_O_DOR_SA_CAP.bin.png"
    Image.fromarray(pixels).save(path)
    return path


if __name__ == "__main__":
    write_sample(Path(sys.argv[1]))
