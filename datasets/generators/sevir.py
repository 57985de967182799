"""Makes a tiny archive in the form of SEVIR's VIL: a catalogue, and HDF5 files whose events stand one after the other, time last.

::

    python datasets/generators/sevir.py FOLDER
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import h5py
import numpy as np

MISSING = 255
PROJECTION = "+proj=laea +lat_0=38 +lon_0=-98 +units=m +a=6370997.0 +ellps=sphere "
CORNER = (-100.8555301, 29.86291091)  # longitude and latitude of the lower left corner of an event of 2019
MOMENTS = (datetime(2018, 7, 4, 18, 30), datetime(2018, 12, 31, 12, 1), datetime(2019, 3, 2, 3, 18), datetime(2019, 7, 9, 23, 57))


def storm(frames: int, size: int, seed: int) -> np.ndarray:
    """Return one event ``(H, W, T)``, uint8: a blob that drifts north-eastward over weak noise."""
    random = np.random.default_rng(seed)
    rows, columns, times = np.mgrid[:size, :size, :frames]
    distance = np.hypot(rows - size / 4 - times * size / 120, columns - size / 4 - times * size / 100)
    event = 254 * np.exp(-((distance / (size / 6)) ** 2)) + random.integers(0, 12, (size, size, frames))
    return np.minimum(event, 254).astype(np.uint8)


def row(name: str, file: str, index: int, moment: datetime, frames: int = 49, **changed: object) -> dict[str, object]:
    """Return a line of the catalogue for one event of VIL."""
    # Frames are of full five minutes, so the first is 118 to 122 minutes before the event's own time.
    first = -120 + {0: 0, 1: -1, 2: -2, 3: 2, 4: 1}[moment.minute % 5]
    longitude, latitude = CORNER
    cells: dict[str, object] = {
        "id": name,
        "file_name": file,
        "file_index": index,
        "img_type": "vil",
        "time_utc": f"{moment:%Y-%m-%d %H:%M:%S}",
        "minute_offsets": ":".join(str(first + 5 * number) for number in range(frames)),
        "episode_id": "138793.0",
        "event_id": name.removeprefix("S") + ".0",
        "event_type": "Flood",
        "llcrnrlat": latitude,
        "llcrnrlon": longitude,
        "urcrnrlat": 33.35231856,
        "urcrnrlon": -96.83814671,
        "proj": PROJECTION,
        "size_x": 384,
        "size_y": 384,
        "height_m": 384000.0,
        "width_m": 384000.0,
        "data_min": 0.0,
        "data_max": 254.0,
        "pct_missing": 0.0,
    }
    return {**cells, **changed}


def write_events(path: Path, events: np.ndarray, names: Sequence[str]) -> Path:
    """Write events ``(N, H, W, T)`` and their ids."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("vil", data=events)
        file.create_dataset("id", data=np.array([name.encode() for name in names], dtype="S10"))
    return path


def write_catalogue(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    """Write the catalogue."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


def write_sample(folder: Path, moments: Sequence[datetime] = MOMENTS, frames: int = 49, size: int = 24, seed: int = 0) -> list[Path]:
    """Write an event for each moment, a file for each half of a year, and a catalogue with a line of infrared for each event too.

    The last event of every file lacks pixels; its moment is a day after the one before.
    """
    rows: list[dict[str, object]] = []
    paths = []
    halves: dict[tuple[int, int], list[datetime]] = {}
    for moment in moments:
        halves.setdefault((moment.year, (moment.month - 1) // 6), []).append(moment)
    for (year, half), members in halves.items():
        file = f"vil/{year}/SEVIR_VIL_STORMEVENTS_{year}_{('0101_0630', '0701_1231')[half]}.h5"
        members = [*members, members[-1] + timedelta(days=1)]
        names = [f"S{700000 + 1000 * len(paths) + number}" for number in range(len(members))]
        events = np.stack([storm(frames, size, seed + 10 * len(paths) + number) for number in range(len(members))])
        events[-1, size // 2 :, :, 5] = MISSING
        paths.append(write_events(folder / "data" / file, events, names))
        for index, (name, moment) in enumerate(zip(names, members, strict=True)):
            missing = 1.0204 if index == len(members) - 1 else 0.0
            rows.append(row(name, file, index, moment, frames, pct_missing=missing))
            rows.append(row(name, file.replace("vil", "ir107").replace("VIL", "IR107"), index, moment, frames, img_type="ir107"))
    paths.append(write_catalogue(folder / "CATALOG.csv", rows))
    return paths


if __name__ == "__main__":
    write_sample(Path(sys.argv[1]))
