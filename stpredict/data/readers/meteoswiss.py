"""Rainfall from the radars of MeteoSwiss: accumulations of 5 minutes (AQC) as GIF images, one for each time.

What the files do not say themselves - the meaning of a colour, the grid - is as MeteoSwiss gives it to users of these files; pysteps has it
in ``import_mch_gif``.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stpredict.data.clips import Reader
from stpredict.data.readers.finding import find_files, inspect_each, naming
from stpredict.data.readers.ordering import Films, order_films
from stpredict.errors import UserError
from stpredict.frames import Grid, Packing

SIZE = (640, 710)
"""Rows and columns of every image, of 1 km."""

PERIOD = 300
"""Seconds over which rain is gathered."""

Z_R = (316.0, 1.5)

GRID = Grid(
    "+proj=somerc +lat_0=46.9524055555556 +lon_0=7.43958333333333 +k_0=1 +x_0=600000 +y_0=200000 +ellps=bessel "
    "+towgs84=674.374,15.056,405.346,0,0,0,0 +units=m +no_defs",
    (255_000.0, -160_000.0, 965_000.0, 480_000.0),
    "north",
)
"""The Swiss grid LV03."""

_NAME = re.compile(r"AQC(\d\d)(\d{3})(\d\d)(\d\d).*\.gif", re.ASCII | re.IGNORECASE)
_UNSEEN = 255
_RAIN = range(2, 251)  # colours below, and those between these and 255, are no rain
# Pillow's decoder lets all of these through.
_DAMAGE = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, struct.error, Image.DecompressionBombError)


def rain_rates() -> tuple[float, ...]:
    """Return the rain rate in mm/h of each of the 256 colours, NaN for missing.

    A colour is a step of half a decibel of the reflectivity Z of the rain's depth: 10 log10(Z) = (colour - 71.5) / 2 and
    depth = (Z / a)^(1/b) mm in 5 minutes.
    """
    a, b = Z_R
    depths = [(10 ** ((colour - 71.5) / 20) / a) ** (1 / b) if colour in _RAIN else 0.0 for colour in range(_UNSEEN)]
    return (*(depth * 3600 / PERIOD for depth in depths), math.nan)


class MeteoSwiss(Reader):
    """Reads AQC images as films of rain rates in mm/h, a film for each folder (an event).

    The time, at which the accumulation ends, is in the name: ``AQC`` + year + day of the year + hour + minute, then a letter for quality
    and more, which vary. Row 0 is north.

    Args:
        root: a folder, searched with all its folders, or one file.
        films: a film for each of the ``folders``, or ``one`` film of all files.
        leave_out: patterns of paths below the root that are not read.

    Raises:
        UserError: there is no such file, one is damaged or of another size, a name tells no time, or two files are of one time.
    """

    def __init__(self, root: Path, *, films: Films = "folders", leave_out: Sequence[str] = ()) -> None:
        paths = find_files(root, ["AQC*.gif"], leave_out)
        moments = inspect_each(root, paths, _inspect)
        self.films, self._paths = order_films(root, paths, moments, films)
        self.channels, (self.height, self.width) = 1, SIZE
        self.packing = Packing(table=rain_rates())
        self.facts = {"units": "mm/h", "time_step": float(PERIOD), "grid": GRID, "z_r": Z_R, "period": float(PERIOD)}

    def read(self, film: int, positions: range) -> NDArray[np.uint8]:
        """Return colour numbers ``(T, 1, H, W)``."""
        return np.stack([_read_colours(self._paths[film][position]) for position in positions])[:, np.newaxis]


def _inspect(path: Path) -> np.datetime64:
    moment = _parse_name(path)
    with naming(path, "GIF image", *_DAMAGE), Image.open(path, formats=["GIF"]) as image:
        _refuse_other_kind(path, image)
    return moment


def _parse_name(path: Path) -> np.datetime64:
    match = _NAME.fullmatch(path.name)
    if match is not None:
        year, day, hour, minute = 2000 + int(match[1]), int(match[2]), int(match[3]), int(match[4])
        midnight = np.datetime64(f"{year}-01-01", "D") + (day - 1)
        if day >= 1 and int(str(midnight)[:4]) == year and hour < 24 and minute < 60:
            return np.datetime64(f"{midnight}T{hour:02}:{minute:02}:00", "s")
    raise UserError(f"'{path}' tells no time: a name is AQC, year, day of the year, hour and minute, such as AQC151351545F_00005.801.gif")


def _refuse_other_kind(path: Path, image: Image.Image) -> None:
    if (image.height, image.width) != SIZE:
        raise UserError(f"'{path}' is {image.height} x {image.width} pixels; MeteoSwiss' images are {SIZE[0]} x {SIZE[1]}")
    if image.mode not in ("P", "L"):
        raise UserError(f"'{path}' holds {image.mode} pixels, not the numbers of colours")


def _read_colours(path: Path) -> NDArray[np.uint8]:
    with naming(path, "GIF image", *_DAMAGE), Image.open(path, formats=["GIF"]) as image:
        _refuse_other_kind(path, image)  # before it is decoded: a wrong header takes no memory
        colours = np.asarray(image)
        if colours.shape != SIZE or colours.dtype != np.uint8:
            raise UserError(f"'{path}' holds {colours.dtype} data of shape {colours.shape}, not the numbers of colours")
        return colours
