"""Films: how fast they are drawn and encoded, and how large they are."""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.timing import Row, median_seconds
from stpredict.render import Panel, save_bare_films, save_film

SUFFIXES = ("mp4", "webm", "gif", "webp", "png")
_STYLES: dict[str, dict[str, Any]] = {"digits": {}, "radar": {"units": "mm/h", "value_range": (0.0, 60.0)}}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how large the films are."""
    parser.add_argument("--size", type=int, default=64, metavar="N", help="height and width of a frame (default: 64)")
    parser.add_argument("--frames", type=int, default=60, metavar="N", help="of a film (default: 60)")
    parser.add_argument("--panels", type=int, default=3, metavar="N", help="side by side; the last shows an error (default: 3)")


def rendering(options: argparse.Namespace) -> list[Row]:
    """Films of digits and of rain, a strip, and bare films with key frames only, written to a temporary folder.

    A panel-frame is one frame of one panel; every film has a caption and, but for the bare ones, a note under each frame.
    """
    rows = []
    for content, style in _STYLES.items():
        panels = _panels(content, options.frames, options.size, options.panels)
        settings = {
            **style,
            "context": options.frames // 3,
            "captions": [f"lead {lead}  +{5 * lead} min" for lead in range(options.frames)],
        }
        with tempfile.TemporaryDirectory() as folder:
            for suffix in SUFFIXES:
                path = Path(folder, f"film.{suffix}")
                seconds = median_seconds(partial(save_film, panels, path, **settings), options.repeats)
                rows.append(_row(suffix, content, options, seconds, path.stat().st_size))
            seconds = median_seconds(partial(save_bare_films, panels, Path(folder), "bare", **style), options.repeats)
            bare = [path for path in Path(folder).glob("bare-?.*") if path.suffix != ".png"]
            rows.append(_row("bare", content, options, seconds, sum(path.stat().st_size for path in bare)))
    return rows


def _row(name: str, content: str, options: argparse.Namespace, seconds: float, size: int) -> Row:
    return {
        "name": name,
        "content": content,
        "size": options.size,
        "panels": options.panels,
        "frames": options.frames,
        "seconds": seconds,
        "panel_frames_per_second": options.panels * options.frames / seconds,
        "bytes": size,
    }


def _panels(content: str, frames: int, size: int, count: int) -> list[Panel]:
    """Return a true film, forecasts that are ever more blurred, and the error of the last one."""
    make = {"digits": _digits, "radar": _rain}[content]
    true = make(frames, size)
    blurred = [np.stack([cv2.GaussianBlur(frame, (0, 0), width) for frame in true]) for width in range(1, max(count, 2))]
    panels = [Panel("true", true)] + [Panel(f"predictor {number}", film) for number, film in enumerate(blurred, 1)]
    notes = [f"mse {value:.4g}" for value in np.nanmean((blurred[-1] - true) ** 2, axis=(1, 2))]
    return [*panels[: count - 1], Panel("error", blurred[-1] - true, "error", notes=notes)]


def _digits(frames: int, size: int) -> NDArray[np.float32]:
    """Return two digits that move on straight lines, ``(frames, size, size)`` in [0, 1]."""
    film = np.zeros((frames, size, size), dtype=np.uint8)
    for time, frame in enumerate(film):
        for digit, speed in (("4", 2), ("7", -1)):
            place = (size // 4 + speed * time) % size, size // 2 + (time * speed) % (size // 2)
            cv2.putText(frame, digit, place, cv2.FONT_HERSHEY_SIMPLEX, size / 64, 255, max(1, size // 24), cv2.LINE_AA)
    return (film / 255).astype(np.float32)


def _rain(frames: int, size: int) -> NDArray[np.float32]:
    """Return showers that the wind carries, ``(frames, size, size)`` in mm/h; NaN beyond the reach of a radar in the middle."""
    rng = np.random.default_rng(0)
    showers = cv2.GaussianBlur(rng.standard_normal((size, size + frames)).astype(np.float32), (0, 0), size / 20)
    showers = np.maximum(0, showers / showers.std()) ** 3 * 4
    film = np.stack([showers[:, time : time + size] for time in range(frames)])
    rows, columns = np.mgrid[:size, :size] - (size - 1) / 2
    film[:, np.hypot(rows, columns) > 0.55 * size] = np.nan
    return film.astype(np.float32)
