"""Inputs that are known for every frame, future ones included: the time of day, where a pixel lies, how high the ground is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpredict.data.readers.array_files import open_array
from stpredict.data.spatial import Spatial
from stpredict.errors import UserError, import_optional, nearest
from stpredict.frames import FrameSpec, Packing

_PERIODS = {"time-of-day": np.timedelta64(86400, "s"), "day-of-year": np.timedelta64(31556952, "s")}
"""Each gives two channels, sine and cosine; a year is the Gregorian mean."""

_PLACES = {"longitude": 180.0, "latitude": 90.0}
"""Each gives one channel: degrees by this number of them."""

_FILE = "file:"

NAMES = (*_PERIODS, *_PLACES, f"{_FILE}PATH")


class KnownInputs:
    """What is known of every frame of an archive, by the names on its card.

    ``time-of-day`` and ``day-of-year`` (UTC) are the sine and cosine of how much of the day or year is over; ``latitude`` and
    ``longitude`` those of each pixel by 90 and 180 degrees; ``file:PATH`` an array ``(H, W)`` or ``(K, H, W)`` beside the data, such as
    the height of the ground, less its mean and by its deviation.

    Attributes:
        channels: K.
    """

    def __init__(self, names: Sequence[str], root: Path | None, spec: FrameSpec, spatial: Spatial, size: tuple[int, int]) -> None:
        """Read what stays the same from frame to frame.

        Args:
            names: on the card, in order.
            root: the folder of the data, where a PATH is looked for.
            spec: of the frames, as they are after crop and change of size.
            spatial: crop and change of size.
            size: height and width of the frames in their files.

        Raises:
            UserError: a name is unknown, a file cannot be used, or frames have no grid or no clock that tells what is wanted.
        """
        self._clocks = [name for name in names if name in _PERIODS]
        if self._clocks and spec.time_step is None:
            raise UserError(f"The known input '{self._clocks[0]}' needs frames with a clock, and these have none")
        self._names, self._maps = tuple(names), {name: _map(name, root, spec, spatial, size) for name in names if name not in _PERIODS}
        self.channels = 2 * len(self._clocks) + sum(len(fixed) for fixed in self._maps.values())
        self._size = (spec.height, spec.width)

    def frames(self, times: NDArray[np.datetime64] | None, count: int) -> NDArray[np.float32]:
        """Return the inputs ``(count, K, H, W)`` of frames at these times, in the order of the card."""
        known = np.empty((count, self.channels, *self._size), dtype=np.float32)
        channel = 0
        for name in self._names:
            if name in _PERIODS:
                assert times is not None and len(times) == count, "frames with a clock have times"
                phase = 2.0 * np.pi * _share(times, name)
                known[:, channel] = np.sin(phase)[:, None, None]
                known[:, channel + 1] = np.cos(phase)[:, None, None]
                channel += 2
            else:
                fixed = self._maps[name]
                known[:, channel : channel + len(fixed)] = fixed
                channel += len(fixed)
        return known


def _share(times: NDArray[np.datetime64], name: str) -> NDArray[np.float64]:
    """Return how much of the day, or of the year, is over."""
    start = times.astype("datetime64[Y]") if name == "day-of-year" else times.astype("datetime64[D]")
    share: NDArray[np.float64] = (times.astype("datetime64[s]") - start.astype("datetime64[s]")) / _PERIODS[name]
    return share


def _map(name: str, root: Path | None, spec: FrameSpec, spatial: Spatial, size: tuple[int, int]) -> NDArray[np.float32]:
    """Return what a name stands for, ``(K, H, W)``."""
    if name in _PLACES:
        longitude, latitude = _degrees(name, spec)
        return ((longitude if name == "longitude" else latitude) / _PLACES[name]).astype(np.float32)[None]
    if name.startswith(_FILE):
        return _read(name, root, spatial, size)
    raise UserError(f"There is no known input '{name}'{nearest(name, NAMES)}; there are {', '.join(NAMES)}")


def _degrees(name: str, spec: FrameSpec) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return longitude and latitude ``(H, W)`` of the middles of pixels."""
    if spec.grid is None:
        raise UserError(f"The known input '{name}' needs frames that lie on a map, and these have no grid")
    pyproj: Any = import_optional("pyproj", "radar")
    left, bottom, right, top = spec.grid.corners
    across = left + (np.arange(spec.width) + 0.5) * (right - left) / spec.width
    up = bottom + (np.arange(spec.height) + 0.5) * (top - bottom) / spec.height
    x, y = np.meshgrid(across, up if spec.grid.row_origin == "south" else up[::-1])
    longitude, latitude = pyproj.Transformer.from_crs(spec.grid.projection, "EPSG:4326", always_xy=True).transform(x, y)
    if not (np.isfinite(longitude).all() and np.isfinite(latitude).all()):
        raise UserError(f"The known input '{name}': some pixels lie nowhere on Earth by the projection '{spec.grid.projection}'")
    return longitude, latitude


def _read(name: str, root: Path | None, spatial: Spatial, size: tuple[int, int]) -> NDArray[np.float32]:
    """Read an array beside the data, and bring it to the frames' size."""
    below = Path(name.removeprefix(_FILE))
    folder = Path() if root is None else root if root.is_dir() else root.parent
    path = folder / below
    if below.is_absolute() or ".." in below.parts or not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"The known input '{name}' lies outside of the folder of the data: put it there")
    array = open_array(path)
    if array.shape[-2:] != size or len(array.shape) not in (2, 3):
        raise UserError(f"'{path}' has the shape {array.shape}, and the frames are {size[0]} x {size[1]}")
    maps = array.read((slice(None),)).astype(np.float32).reshape(-1, *size)
    deviation = maps.std(axis=(1, 2), keepdims=True)
    if not np.isfinite(maps).all() or not (deviation > 0).all():
        raise UserError(f"'{path}' holds what is no number, or is the same everywhere: it tells a network nothing")
    maps = (maps - maps.mean(axis=(1, 2), keepdims=True)) / deviation
    return np.asarray(spatial.apply(maps[None], Packing())[0], dtype=np.float32)
