"""Makes tiny films of a square that wanders over noise, as arrays, folders of images, and video files.

::

    python datasets/generators/films.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import av
import numpy as np
from PIL import Image


def wandering_square(frames: int = 40, height: int = 24, width: int = 32, seed: int = 0, colour: bool = False) -> np.ndarray:
    """Return one film ``(T, H, W)`` or, in colour, ``(T, H, W, 3)``, uint8."""
    random = np.random.default_rng(seed)
    film = random.integers(0, 40, (frames, height, width, 3) if colour else (frames, height, width), dtype=np.uint8)
    size, row, column = height // 3, random.integers(height), random.integers(width)
    for number, frame in enumerate(film):
        top, left = (row + number) % (height - size), (column + 2 * number) % (width - size)
        frame[top : top + size, left : left + size] = (220, 160, 80) if colour else 220
    return film


def write_folder(folder: Path, film: np.ndarray, suffix: str = "png") -> list[Path]:
    """Write each frame of a film as an image ``frame0.png``, ``frame1.png``, ... ``frame10.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"frame{number}.{suffix}" for number in range(len(film))]
    for path, frame in zip(paths, film, strict=True):
        Image.fromarray(frame).save(path)
    return paths


def write_video(
    path: Path, film: np.ndarray, rate: int = 25, codec: str = "libx264", options: dict[str, str] | None = None, turned: int = 0
) -> Path:
    """Write a film as a video file; ``turned`` is by how many degrees a player should turn it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width, stream.pix_fmt = film.shape[1], film.shape[2], "yuv420p"
        if turned:
            stream.set_display_rotation(turned)
        for frame in film:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24" if film.ndim == 4 else "gray")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    write_folder(folder / "frames", wandering_square())
    write_video(folder / "film.mp4", wandering_square(colour=True))
    np.save(folder / "films.npy", np.stack([wandering_square(seed=seed) for seed in range(10)]))
