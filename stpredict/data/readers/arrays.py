"""Films in array files: .npy, .npz and HDF5, the order of the axes told by the card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpredict.data.clips import Film, Reader
from stpredict.data.readers.array_files import SUFFIXES, ArrayFile, open_array
from stpredict.data.readers.finding import find_files, inspect_each, name_below, refuse_different
from stpredict.errors import UserError
from stpredict.frames import Packing


class Arrays(Reader):
    """Reads films from arrays.

    Args:
        root: an array file, or a folder of them.
        axes: the axes of the array, a letter each: N films, T time, C channels, H rows, W columns; T, H and W are needed. So
            ``THW`` is one gray film a file, ``NTHW`` many films a file, ``THWC`` a film in colour.
        files: shell pattern of the file names.
        dataset: which array, in .npz and HDF5 files that hold several.
        scale: physical units per packed unit; left out, 1/255 for uint8, otherwise 1.
        offset: the physical value of a packed zero.
        missing: packed codes that mean "no value here".
        leave_out: patterns of paths below the root that are not read.

    Raises:
        UserError: there is no such file; an array has another rank or type, or is damaged; files do not fit together.
    """

    def __init__(
        self,
        root: Path,
        *,
        axes: str,
        files: str = "*",
        dataset: str | None = None,
        scale: float | None = None,
        offset: float = 0.0,
        missing: Sequence[float] = (),
        leave_out: Sequence[str] = (),
    ) -> None:
        if len(set(axes)) != len(axes) or not set("THW") <= set(axes) <= set("NTCHW"):
            raise UserError(f"axes '{axes}' should name each axis once by N, T, C, H, W, with T, H and W among them, such as NTHW")
        self.axes = axes
        patterns = [f"*{suffix}" for suffix in SUFFIXES] if files == "*" else [files]
        paths = find_files(root, patterns, leave_out)

        def inspect(path: Path) -> ArrayFile:
            array = open_array(path, dataset)
            if len(array.shape) != len(axes):
                raise UserError(f"'{path}' holds an array {array.shape} of {len(array.shape)} axes, but the card's axes are '{axes}'")
            return array

        self._arrays = inspect_each(root, paths, inspect)
        sizes = [{"N": 1, "C": 1, **dict(zip(axes, array.shape, strict=True))} for array in self._arrays]
        facts = [f"{s['C']} x {s['H']} x {s['W']} frames of {a.dtype.name}" for s, a in zip(sizes, self._arrays, strict=True)]
        refuse_different(root, paths, facts)

        self._places = [(file, number) for file, size in enumerate(sizes) for number in range(size["N"])]
        self.films = [
            Film(name_below(root, paths[file]) + (f"#{number}" if "N" in axes else ""), sizes[file]["T"]) for file, number in self._places
        ]
        self.channels, self.height, self.width = sizes[0]["C"], sizes[0]["H"], sizes[0]["W"]
        self._dtype = self._arrays[0].dtype.newbyteorder("=")
        if scale is None:
            scale = 1 / 255 if self._dtype == np.uint8 else 1.0
        self.packing = Packing(scale, offset, tuple(missing))
        self.facts = {}

    def read(self, film: int, positions: range) -> NDArray[Any]:
        """Return packed frames ``(T, C, H, W)``."""
        file, number = self._places[film]
        chosen: dict[str, int | slice] = {"N": number, "T": slice(positions.start, positions.stop, positions.step)}
        part = self._arrays[file].read(tuple(chosen.get(axis, slice(None)) for axis in self.axes))
        left = self.axes.replace("N", "")
        if "C" not in left:
            part, left = part[np.newaxis], "C" + left
        return np.ascontiguousarray(part.transpose([left.index(axis) for axis in "TCHW"]), dtype=self._dtype)
