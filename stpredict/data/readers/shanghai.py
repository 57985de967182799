"""Reflectivity over Shanghai from the radar Z9210: PNG files, one for each scan.

The pixels are dBZ by the convention of those who published scores on them; the files themselves say nothing of it.

Source: Chen et al., A Deep Learning-Based Methodology for Precipitation Nowcasting With Radar, Earth and Space Science 2020,
doi:10.7910/DVN/2GKMQJ; the scale of DiffCast (Yu et al., CVPR 2024).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stpredict.data.clips import Reader
from stpredict.data.readers.finding import find_files, inspect_each, refuse_different
from stpredict.data.readers.ordering import order_films
from stpredict.data.readers.png import picture_size, read_gray
from stpredict.errors import UserError
from stpredict.frames import Packing

HIGHEST = 90.0
"""dBZ of a pixel of 255."""

_TIME = re.compile(r"_(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)_", re.ASCII)


class Shanghai(Reader):
    """Reads scans ``Z_RADR_I_Z9210_YYYYMMDDhhmmss_..._CAP.bin.png`` in dBZ, a film for each folder, ordered by the time in the name.

    A pixel of 0 is no echo, 0 dBZ; no pixel is missing. Steps in time are irregular. The files tell no grid.

    Args:
        root: a folder, searched with all its folders, or one file.
        files: shell pattern of the file names.
        leave_out: patterns of paths below the root that are not read.

    Raises:
        UserError: there is no such file, one is damaged or bears no time, two of a folder are of one time, or sizes differ.
    """

    def __init__(self, root: Path, *, files: str = "Z_RADR_I_*.png", leave_out: Sequence[str] = ()) -> None:
        paths = find_files(root, [files], leave_out)
        sizes = inspect_each(root, paths, picture_size)
        refuse_different(root, paths, [f"{height} x {width} pixels" for height, width in sizes])
        self.films, self._paths = order_films(root, paths, inspect_each(root, paths, _time_of), "folders")
        self.channels, (self.height, self.width) = 1, sizes[0]
        self.packing = Packing(HIGHEST / 255)
        self.facts = {"units": "dBZ"}

    def read(self, film: int, positions: range) -> NDArray[np.uint8]:
        """Return packed frames ``(T, 1, H, W)``."""
        return np.stack([read_gray(self._paths[film][position], self.height, self.width)[np.newaxis] for position in positions])


def _time_of(path: Path) -> np.datetime64:
    match = _TIME.search(path.name)
    if match is None:
        raise UserError(f"'{path}' bears no time; names are such as Z_RADR_I_Z9210_20180730022015_O_DOR_SA_CAP.bin.png")
    year, month, day, hour, minute, second = match.groups()
    try:
        return np.datetime64(f"{year}-{month}-{day}T{hour}:{minute}:{second}", "s")
    except ValueError:
        raise UserError(f"'{path}' bears a time that does not exist, {match[0].strip('_')}") from None
