"""Makes a tiny archive in the form of HKO-7: gray PNG files, masks of zlib-compressed bytes, and lists of days.

::

    python datasets/generators/hko7.py FOLDER
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from PIL import Image

DAYS = {"train": ("20090215", "20090216", "20100320"), "valid": ("20100105",), "test": ("20150107",)}


def write_sample(folder: Path, days: Mapping[str, Sequence[str]] = DAYS, frames: int = 240, size: int = 32, seed: int = 0) -> list[Path]:
    """Write the first ``frames`` frames of every day, and the lists ``hko7_rainy_train_days.txt`` and so on."""
    paths = []
    for number, (name, listed) in enumerate(days.items()):
        for day in listed:
            start = datetime.strptime(day, "%Y%m%d")
            film = echo(frames, size, seed + number)
            paths += [write_frame(folder, start + timedelta(minutes=6 * step), frame) for step, frame in enumerate(film)]
        (folder / f"hko7_rainy_{name}_days.txt").write_text("".join(f"{day}, 0.{number}\n" for day in listed))
    return paths


def echo(frames: int, size: int, seed: int) -> np.ndarray:
    """Return pixels ``(T, H, W)``, uint8: a blob that drifts over nothing."""
    random = np.random.default_rng(seed)
    times, rows, columns = np.mgrid[:frames, :size, :size]
    distance = np.hypot(rows - size / 2, (columns - times) % size - size / 2)
    film = 255 * np.exp(-((distance / (size / 4)) ** 2)) + random.integers(0, 6, (frames, size, size))
    return np.where(film < 12, 0, np.minimum(film, 255)).astype(np.uint8)


def write_frame(folder: Path, moment: datetime, pixels: np.ndarray, mask: np.ndarray | None = None) -> Path:
    """Write a frame and its mask; left out, the mask is a disc without the weakest echoes."""
    place = Path(f"{moment:%Y/%m/%d}", f"RAD{moment:%y%m%d%H%M}00.png")
    path, mask_path = folder / "radarPNG" / place, (folder / "radarPNG_mask" / place).with_suffix(".mask")
    if mask is None:
        rows, columns = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
        inside = np.hypot(rows - pixels.shape[0] / 2, columns - pixels.shape[1] / 2) < 0.55 * max(pixels.shape)
        mask = inside & ~((pixels > 0) & (pixels < 71))
    for file in (path, mask_path):
        file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    mask_path.write_bytes(zlib.compress(mask.astype(bool).tobytes(), 2))
    return path


if __name__ == "__main__":
    write_sample(Path(sys.argv[1]), frames=40)
