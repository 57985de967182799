"""Makes a tiny file in the form of TaxiBJ as OpenSTL distributes it: pairs of 4 observed and 4 following frames in dataset.npz.

::

    python datasets/generators/taxibj.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np


def flows(frames: int, seed: int) -> np.ndarray:
    """Return flow in and out ``(T, 2, 32, 32)`` in [-1, 1], float32: days of 48 half hours over a town."""
    random = np.random.default_rng(seed)
    town = np.exp(-(((np.mgrid[:32, :32] - 15.5) / 10) ** 2).sum(axis=0))
    hours = np.stack([np.sin(2 * np.pi * (np.arange(frames) / 48 - shift)) for shift in (0.0, 0.1)], axis=1)
    film = town * (0.4 + 0.4 * hours[:, :, np.newaxis, np.newaxis]) + 0.05 * random.random((frames, 2, 32, 32))
    return (2 * film - 1).clip(-1, 1).astype(np.float32)


def write_sample(folder: Path, train: int = 60, test: int = 12, compressed: bool = False) -> Path:
    """Write ``train`` and ``test`` samples, each of which begins a frame after the one before."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for part, count, seed in (("train", train, 0), ("test", test, 1)):
        film = flows(count + 7, seed)
        samples = np.stack([film[start : start + 8] for start in range(count)])
        arrays[f"X_{part}"], arrays[f"Y_{part}"] = samples[:, :4], samples[:, 4:]
    path = folder / "dataset.npz"
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return path


if __name__ == "__main__":
    write_sample(Path(sys.argv[1]))
