"""Where the pixels of a picture lie on Earth: how long a kilometre is, and where coasts and borders run."""

from __future__ import annotations

import importlib
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stpredict.frames import Grid

Line = NDArray[np.float64]
Projection = Callable[[NDArray[np.float64], NDArray[np.float64]], tuple[Any, Any]]
"""From longitudes and latitudes in degrees to x and y, infinite where there are none."""

_LAYERS = ("physical/ne_{}_coastline.shp", "cultural/ne_{}_admin_0_boundary_lines_land.shp")
_POLYLINES = (3, 13, 23)
_SHIFT = 4


@dataclass(frozen=True, eq=False)
class Geography:
    """Where the pixels of frames lie.

    Attributes:
        pixel_km: what a pixel in the middle of a frame is across, in km on the ground, or None where nobody knows.
        lines: ``(N, 2)`` each: points in pixels from the left and the upper edge of a frame that is shown north up.
    """

    pixel_km: float | None = None
    lines: tuple[Line, ...] = ()


def scale_bar(pixel_km: float, longest: float) -> tuple[float, int]:
    """Return the greatest of 1, 2, 5, 10, ... km (or tenths, ...) that is not longer than ``longest`` pixels, and its length in pixels."""
    greatest = pixel_km * longest
    power = 10.0 ** np.floor(np.log10(greatest))
    kilometres = float(max(factor * power for factor in (0.5, 1, 2, 5) if factor * power <= greatest * (1 + 1e-9)))
    return kilometres, max(1, round(kilometres / pixel_km))


def lines_in_pixels(lines: Sequence[Line], grid: Grid, height: int, width: int, projection: Projection) -> tuple[Line, ...]:
    """Return lines of longitude and latitude, ``(N, 2)`` each, in pixels of a frame that is shown north up.

    What lies more than a frame's size away from it is left out: a map has places where its other side comes close.
    """
    if not lines:
        return ()
    left, bottom, right, top = grid.corners
    points = np.concatenate(lines)
    x, y = projection(points[:, 0], points[:, 1])
    with np.errstate(invalid="ignore"):
        pixels = np.stack([(np.asarray(x) - left) / (right - left) * width, (top - np.asarray(y)) / (top - bottom) * height], axis=1)
        near = np.all((pixels > [-width, -height]) & (pixels < [2 * width, 2 * height]), axis=1)
    near = np.asarray(near & np.isfinite(pixels).all(axis=1))
    # A line is cut before its first point, and wherever it leaves what is near.
    starts = np.zeros(len(points), dtype=np.bool_)
    starts[np.cumsum([0, *(len(line) for line in lines[:-1])])] = True
    cuts = np.flatnonzero(starts | (near != np.roll(near, 1)))
    return tuple(piece for piece, kept in zip(np.split(pixels, cuts)[1:], near[cuts], strict=True) if kept and len(piece) > 1)


def draw_lines(lines: Sequence[Line], height: int, width: int, scale: int) -> NDArray[np.bool_]:
    """Return which pixels ``(height * scale, width * scale)`` of a picture lines in pixels of its frame run through."""
    drawn = np.zeros((height * scale, width * scale), dtype=np.uint8)
    thickness = 1 + min(drawn.shape) // 600
    # To OpenCV a pixel's middle, not its corner, is a whole number.
    places = [np.round((line * scale - 0.5) * 2**_SHIFT).astype(np.int32)[:, None] for line in lines]
    cv2.polylines(drawn, places, isClosed=False, color=1, thickness=thickness, lineType=cv2.LINE_8, shift=_SHIFT)
    return drawn.view(np.bool_)


def coast_lines() -> list[Line]:
    """Return coasts and borders, longitude and latitude ``(N, 2)`` each, as Natural Earth has them, if cartopy's copy is on this machine.

    Nothing is downloaded; where there is no cartopy, or none of its maps, there are no lines.
    """
    try:
        cartopy = importlib.import_module("cartopy")
    except (ImportError, OSError):
        return []
    folders = [
        Path(cartopy.config[key]) / "shapefiles/natural_earth" for key in ("pre_existing_data_dir", "data_dir") if cartopy.config[key]
    ]
    lines = []
    for layer in _LAYERS:
        paths = (folder / layer.format(resolution) for resolution in ("10m", "50m", "110m") for folder in folders)
        found = next((path for path in paths if path.is_file()), None)
        if found is not None:
            lines += list(read_polylines(found))
    return lines


def read_polylines(path: Path) -> Iterator[Line]:
    """Yield the lines ``(N, 2)`` of a shapefile (ESRI Shapefile Technical Description, 1998); what is cut off is left out."""
    data = path.read_bytes()
    place = 100
    while place + 12 <= len(data):
        length, kind = struct.unpack(">4xi", data[place : place + 8])[0] * 2, struct.unpack("<i", data[place + 8 : place + 12])[0]
        record = data[place + 8 : place + 8 + length]
        place += 8 + max(length, 4)
        if kind not in _POLYLINES or len(record) < 44:
            continue
        parts, points = struct.unpack("<2i", record[36:44])
        if min(parts, points) < 1 or len(record) < 44 + 4 * parts + 16 * points:
            continue
        starts = np.frombuffer(record, "<i4", parts, 44)
        yield from np.split(np.frombuffer(record, "<f8", 2 * points, 44 + 4 * parts).reshape(points, 2), starts[1:])
