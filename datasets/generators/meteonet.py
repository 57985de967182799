"""Makes tiny archives in the form of MeteoNet: compressed .npz files of frames and pickled dates, and the pixels' coordinates.

::

    python datasets/generators/meteonet.py FOLDER
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

MISSING = {"rainfall": -1, "reflectivity_old": 255, "reflectivity_new": -200}
CORNER = (51.891, -5.837)  # latitude and longitude of the middle of the first pixel of the north-west


def write_sample(
    folder: Path,
    product: str = "reflectivity_old",
    zone: str = "NW",
    start: datetime = datetime(2016, 8, 21),
    frames: int = 60,
    lacking: Sequence[int] = (),
    height: int = 20,
    width: int = 26,
    seed: int = 0,
) -> Path:
    """Write one file of ``frames`` steps of 5 minutes, but for those that are ``lacking``, and the file of coordinates."""
    times = [start + timedelta(minutes=5 * number) for number in range(frames)]
    kept = [number for number in range(frames) if number not in lacking]
    write_coordinates(folder, zone, height, width)
    return write_file(
        folder / f"{product}_{zone}_{start:%Y_%m}.{min(3, 1 + start.day // 10)}.npz",
        echo(product, frames, height, width, seed)[kept],
        [times[number] for number in kept],
        [times[number] for number in lacking],
    )


def echo(product: str, frames: int, height: int, width: int, seed: int) -> np.ndarray:
    """Return packed frames ``(T, H, W)``, int16: a blob that drifts eastward; the last rows are missing."""
    random = np.random.default_rng(seed)
    times, rows, columns = np.mgrid[:frames, :height, :width]
    distance = np.hypot(rows - height / 2, (columns - times) % width - width / 2)
    film = np.rint(60 * np.exp(-((distance / (width / 4)) ** 2)) + random.integers(0, 4, (frames, height, width))).astype(np.int16)
    if product == "reflectivity_old":  # levels below 16 are 0 and 8, those below 20 are 16
        film = np.select([film < 8, film < 16, film < 20], [0, 8, 16], film)
    if product == "reflectivity_new":  # tenths in steps of 5, and nothing detected
        film = np.where(film < 3, -100, 10 * film - 90)
    film[:, -3:] = MISSING[product]
    return film.astype(np.int16)


def write_file(path: Path, frames: np.ndarray, dates: Sequence[datetime], lacking: Sequence[datetime] = ()) -> Path:
    """Write frames ``(T, H, W)`` and the dates of those that are there and of those that lack."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, data=frames, dates=np.array(dates, dtype=object), miss_dates=np.array(lacking, dtype=object))
    return path


def write_coordinates(folder: Path, zone: str, height: int, width: int) -> Path:
    """Write the latitude and the longitude of each pixel's middle, in steps of 0.01 degrees from the north-west."""
    folder.mkdir(parents=True, exist_ok=True)
    lats, lons = np.meshgrid(CORNER[0] - 0.01 * np.arange(height), CORNER[1] + 0.01 * np.arange(width), indexing="ij")
    path = folder / f"radar_coords_{zone}.npz"
    np.savez_compressed(path, lats=lats, lons=lons)
    return path


if __name__ == "__main__":
    for product in MISSING:
        for start in (datetime(2017, 8, 21), datetime(2018, 2, 21), datetime(2018, 8, 21)):
            write_sample(Path(sys.argv[1]), product, start=start)
