"""Makes a tiny archive in the form of KTH's actions: folders of JPEG frames as predrnn-pytorch and OpenSTL distribute them, or avi files.

::

    python datasets/generators/kth.py FOLDER
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

ACTIONS = ("boxing", "handclapping", "handwaving", "jogging", "running", "walking")
PERSONS = (1, 15, 17)


def walker(frames: int, seed: int, height: int = 120, width: int = 160) -> np.ndarray:
    """Return a gray film ``(T, H, W)``, uint8, of a bar that walks through a room lit from above."""
    random = np.random.default_rng(seed)
    film = np.repeat(np.linspace(200, 120, height)[np.newaxis, :, np.newaxis], frames, axis=0) + random.integers(
        0, 8, (frames, height, width)
    )
    for number, frame in enumerate(film):
        left = (5 * seed + 2 * number) % (width - width // 10)
        frame[height // 4 : -height // 8, left : left + width // 10] = 40
    return film.astype(np.uint8)


def write_frames(
    root: Path,
    persons: Sequence[int] = PERSONS,
    actions: Sequence[str] = ACTIONS,
    numbers: Sequence[int] = (*range(1, 46), *range(60, 130)),
    height: int = 120,
    width: int = 160,
) -> list[Path]:
    """Write a folder of frames for each person and action, the frames called by ``numbers``, which may leave some out."""
    folders = []
    for person in persons:
        for action in actions:
            folder = root / action / f"person{person:02}_{action}_d1_uncomp"
            folder.mkdir(parents=True)
            film = walker(len(numbers), seed=person + 100 * ACTIONS.index(action), height=height, width=width)
            for number, frame in zip(numbers, film, strict=True):
                Image.fromarray(np.repeat(frame[:, :, np.newaxis], 3, axis=2)).save(folder / f"image_{number:04}.jpg", quality=95)
            folders.append(folder)
    return folders


def write_videos(root: Path, persons: Sequence[int] = PERSONS, actions: Sequence[str] = ACTIONS, frames: int = 40) -> list[Path]:
    """Write an MPEG-4 video for each person and action."""
    paths = []
    for person in persons:
        for action in actions:
            path = root / action / f"person{person:02}_{action}_d1_uncomp.avi"
            path.parent.mkdir(parents=True, exist_ok=True)
            film = walker(frames, seed=person + 100 * ACTIONS.index(action))
            with av.open(str(path), "w") as container:
                stream = container.add_stream("mpeg4", rate=Fraction(25))
                stream.height, stream.width, stream.pix_fmt, stream.bit_rate = film.shape[1], film.shape[2], "yuv420p", 4_000_000
                for frame in film:
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
                container.mux(stream.encode())
            paths.append(path)
    return paths


if __name__ == "__main__":
    write_frames(Path(sys.argv[1]))
