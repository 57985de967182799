"""Makes tiny files in the form of KittiCaltech: PredNet's hickle files and OpenSTL's caches, or OpenSTL's npy files.

::

    python datasets/generators/kitticaltech.py FOLDER
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

TRAIN = {"city-2011_09_26_drive_0001_sync": 25, "road-2011_09_26_drive_0015_sync": 9, "residential-2011_09_26_drive_0019_sync": 36}
VALIDATION = {"city-2011_09_26_drive_0005_sync": 23}
CALTECH = (34, 12)
"""Frames of each recording."""


def road(frames: int, seed: int, height: int = 128, width: int = 160) -> np.ndarray:
    """Return a film in colour ``(T, H, W, 3)``, uint8: sky, a road, and a car that comes nearer."""
    random = np.random.default_rng(seed)
    film = random.integers(0, 10, (frames, height, width, 3), dtype=np.uint8)
    film[:, : height // 2] += np.array([90, 140, 230], dtype=np.uint8)
    film[:, height // 2 :] += 80
    for number, frame in enumerate(film):
        size = 4 + number % (height // 8)
        frame[height // 2 : height // 2 + size, (width - size) // 2 : (width + size) // 2] = (200, 30, 20)
    return film


def write_hickle(path: Path, data: np.ndarray | list[bytes], kind: str) -> None:
    """Write what hickle 2 and 3 write for an array or a list of strings."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.attrs["CLASS"], file.attrs["VERSION"], file.attrs["type"] = b"hickle", 3, [b"hickle"]
        file.create_dataset("data_0", data=data).attrs["type"] = [kind.encode()]


def write_sources(folder: Path, part: str, lengths: Mapping[str, int], seed: int, height: int = 128, width: int = 160) -> np.ndarray:
    """Write the frames of recordings one after another, and beside them the recording of each; return the frames."""
    films = [road(count, seed + number, height, width) for number, count in enumerate(lengths.values())]
    frames = np.concatenate(films)
    write_hickle(folder / f"X_{part}.hkl", frames, "ndarray")
    write_hickle(folder / f"sources_{part}.hkl", [name.encode() for name, count in lengths.items() for _ in range(count)], "<type 'list'>")
    return frames


def clip_starts(lengths: tuple[int, ...], clip: int = 11) -> np.ndarray:
    """Return where clips begin that follow one another, counted from the end of each recording, the last one first."""
    ends = np.cumsum(lengths)
    starts = [end - clip * number for end, count in zip(ends, lengths, strict=True) for number in range(1, count // clip + 1)]
    return np.array(sorted(starts, reverse=True), dtype=np.int32)


def write_caches(root: Path, height: int = 128, width: int = 160) -> dict[str, np.ndarray]:
    """Write ``kitti_hkl`` and ``caltech``; return the frames of each part as they are stored."""
    parts = {
        "train": write_sources(root / "kitti_hkl", "train", TRAIN, 0, height, width),
        "validation": write_sources(root / "kitti_hkl", "val", VALIDATION, 10, height, width),
        "test": np.ascontiguousarray(road(sum(CALTECH), 20, height, width)[..., ::-1]),  # as OpenCV reads it: blue, green, red
    }
    (root / "caltech").mkdir(parents=True, exist_ok=True)
    np.save(root / "caltech" / "data_cache.npy", parts["test"])
    np.save(root / "caltech" / "indices_cache.npy", clip_starts(CALTECH))
    return parts


def write_npy(root: Path, height: int = 128, width: int = 160) -> dict[str, np.ndarray]:
    """Write ``kitticaltech_npy``, whose frames are floats in [0, 1]; return the frames to train and to test on."""
    folder = root / "kitticaltech_npy"
    folder.mkdir(parents=True, exist_ok=True)
    lengths = {"train": (220, 12), "test": CALTECH}
    parts = {part: road(sum(counts), seed, height, width) / np.float32(255) for seed, (part, counts) in enumerate(lengths.items())}
    for part, frames in parts.items():
        np.save(folder / f"{part}_data.npy", frames)
        np.save(folder / f"{part}_idx.npy", clip_starts(lengths[part]).astype(np.int64))
    return parts


if __name__ == "__main__":
    write_caches(Path(sys.argv[1]))
