"""MeteoNet: rain and reflectivity over the north-west and the south-east of France every 5 minutes, in .npz files.

Source: Meteo-France, https://meteofrance.github.io/meteonet/english/data/rain-radar (arrays, units, codes and names of the files).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stpredict.data.clips import Film, Reader
from stpredict.data.readers.array_files import ArrayFile, open_array
from stpredict.data.readers.finding import BadFiles, find_files, inspect_each, name_below, refuse_different
from stpredict.data.readers.pickled_dates import read_dates
from stpredict.errors import UserError
from stpredict.frames import Grid, Packing

Z_R = (200.0, 1.6)
"""a and b of Z = a R^b for mainland France, by the page of the data set."""

_PERIOD = 300.0
_PACKINGS = {
    "rainfall": Packing(0.01 * 3600 / _PERIOD, 0.0, (-1.0,)),  # hundredths of a millimetre
    "reflectivity_old": Packing(1.0, 0.0, (255.0,)),  # 0 is all below 8 dBZ
    "reflectivity_new": Packing(0.1, 0.0, (-200.0,)),  # -100 is "nothing detected", -90 the least that can be
}
_FACTS: dict[str, dict[str, Any]] = {
    "rainfall": {"units": "mm/h", "period": _PERIOD},
    "reflectivity_old": {"units": "dBZ"},
    "reflectivity_new": {"units": "dBZ"},
}
_NAME = re.compile(r"(rainfall|reflectivity_old|reflectivity_new)_(NW|SE)_\d{4}_\d\d\.\d\.npz", re.ASCII)


@dataclass(frozen=True)
class _File:
    """Frames ``(T, H, W)`` of one file and their times ``(T,)``."""

    frames: ArrayFile
    times: NDArray[np.datetime64]


class MeteoNet(Reader):
    """Reads the files of one product and zone as one film, ordered by their dates; what is not there is a gap.

    Rain is in mm/h, reflectivity in dBZ. No echo is 0 mm/h; in the old product of reflectivity 0 dBZ (all below 8 dBZ), in the new
    one -10 dBZ. Where the file ``radar_coords_ZONE.npz`` lies beside them, in the root, or above it, it tells the grid, in degrees.
    A compressed file can be read whole only, and each process keeps the one that it read last in memory.

    Args:
        root: a folder, searched with all its folders, or one file.
        product: ``rainfall``, ``reflectivity_old`` (to October 2018) or ``reflectivity_new`` (from February 2018).
        zone: the north-west or the south-east.
        leave_out: patterns of paths below the root that are not read.

    Raises:
        UserError: there is no such file, one is damaged or of another kind, or two overlap in time.
    """

    def __init__(
        self,
        root: Path,
        *,
        product: Literal["rainfall", "reflectivity_old", "reflectivity_new"] = "reflectivity_old",
        zone: Literal["NW", "SE"] = "NW",
        leave_out: Sequence[str] = (),
    ) -> None:
        paths = find_files(root, [f"{product}_{zone}_*.npz"], leave_out)

        def inspect(path: Path) -> _File:
            name = _NAME.fullmatch(path.name)
            if name is None or name.groups() != (product, zone):
                raise UserError(f"'{path}' is not called {product}_{zone}_YYYY_MM.PART.npz; the settings ask for {product} of {zone}")
            return _inspect(path)

        files = inspect_each(root, paths, inspect)
        refuse_different(root, paths, [f"{file.frames.shape[1]} x {file.frames.shape[2]} frames" for file in files])
        self._files = sorted(files, key=lambda file: file.times[0])
        _refuse_overlap(root, self._files)
        self._starts = np.cumsum([0, *(len(file.times) for file in self._files)])
        times = np.concatenate([file.times for file in self._files])

        self.films = [Film(name_below(root, root), len(times), times)]
        self.channels, (self.height, self.width) = 1, files[0].frames.shape[1:]
        self.packing = _PACKINGS[product]
        places = [root, *sorted({path.parent for path in paths}), root.resolve().parent]
        coordinates = [path for place in places if (path := place / f"radar_coords_{zone}.npz").is_file()]
        grid = _grid(coordinates[0], self.height, self.width) if coordinates else None
        self.facts = {**_FACTS[product], "time_step": 300.0, "grid": grid, "z_r": Z_R}

    def read(self, film: int, positions: range) -> NDArray[np.int16]:
        """Return packed frames ``(T, 1, H, W)``."""
        parts = []
        for file, first, end in zip(self._files, self._starts[:-1].tolist(), self._starts[1:].tolist(), strict=True):
            here = [position - first for position in positions if first <= position < end]
            if here:
                parts.append(file.frames.read((slice(here[0], here[-1] + 1, positions.step),)))
        return np.concatenate(parts)[:, np.newaxis].astype(np.int16, copy=False)


def _inspect(path: Path) -> _File:
    frames = open_array(path, "data")
    if frames.dtype.name != "int16" or len(frames.shape) != 3:
        raise UserError(f"'{path}' holds {frames.dtype} data of shape {frames.shape}, not times, rows and columns of int16")
    times = read_dates(path, "dates")
    if len(times) != frames.shape[0]:
        raise UserError(f"'{path}' holds {frames.shape[0]} frames, but {len(times)} dates")
    return _File(frames, times)


def _refuse_overlap(root: Path, files: Sequence[_File]) -> None:
    bad = {}
    for earlier, later in pairwise(files):
        if later.times[0] <= earlier.times[-1]:
            both = f"'{earlier.frames.path}' and '{later.frames.path}'"
            bad[name_below(root, later.frames.path)] = f"{both} overlap in time, at {later.times[0]}; keep one"
    if bad:
        raise BadFiles(bad)


def _grid(path: Path, height: int, width: int) -> Grid:
    """Return the grid by the coordinates of the pixels' centres, ``lats`` and ``lons`` ``(H, W)`` in degrees."""
    axes = []
    for name, axis in (("lats", 0), ("lons", 1)):
        array = open_array(path, name)
        if array.shape != (height, width):
            raise UserError(f"'{path}' holds '{name}' of shape {array.shape}, but the frames are {height} x {width}")
        degrees = np.moveaxis(array.read((slice(None),)).astype(np.float64), axis, 0)
        steps = np.diff(degrees[:, 0])
        regular = len(steps) > 0 and np.allclose(degrees, degrees[:, :1], rtol=0, atol=1e-6)
        if not regular or steps[0] == 0 or not np.allclose(steps, steps[0], rtol=0, atol=1e-6):
            raise UserError(f"'{path}': '{name}' is no regular grid; get it again or leave it out")
        axes.append((float(degrees[0, 0]), float(degrees[-1, 0]), float(abs(steps[0]))))
    (first, last, rows), (left, right, columns) = axes
    if left > right:
        raise UserError(f"'{path}': column 0 is expected in the west")
    corners = (left - columns / 2, min(first, last) - rows / 2, right + columns / 2, max(first, last) + rows / 2)
    return Grid("+proj=longlat +datum=WGS84 +no_defs", corners, "north" if first > last else "south")
