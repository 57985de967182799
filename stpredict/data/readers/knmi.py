"""Rainfall from the radars of KNMI, the Dutch weather service: one HDF5 file for each accumulation.

Source: KNMI, HDF5 Data Format Specification, version 3.5 (the tag ``hdftag_version_number`` of the files).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from stpredict.data.clips import Reader
from stpredict.data.readers import hdf5
from stpredict.data.readers.finding import find_files, inspect_each, refuse_different
from stpredict.data.readers.ordering import order_films
from stpredict.data.readers.projections import in_metres
from stpredict.data.readers.scaling import is_sound
from stpredict.errors import UserError
from stpredict.frames import Grid, Packing

_IMAGE = "image1/image_data"
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_FORMULA = re.compile(rf"GEO\s*=\s*({_NUMBER})\s*\*\s*PV(?:\s*(?=[+-])\+?\s*({_NUMBER}))?", re.ASCII)
_MOMENT = re.compile(r"(\d\d)-([A-Z]{3})-(\d{4});(\d\d):(\d\d):(\d\d)(?:\.\d+)?", re.ASCII)
_LENGTHS = {"KM,KM": 1000.0, "M,M": 1.0}
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")


@dataclass(frozen=True)
class _Header:
    """What one file says of itself; all but ``end`` is the same in all files of an archive."""

    end: np.datetime64
    seconds: int
    height: int
    width: int
    scale: float
    offset: float
    missing: tuple[float, ...]
    grid: Grid

    @property
    def kind(self) -> str:
        frames = f"{self.height} x {self.width} frames of {self.seconds} s, {self.scale:g} mm a unit from {self.offset:g} mm"
        return f"{frames}, missing {self.missing}, on {self.grid.projection} {self.grid.corners}"


class Knmi(Reader):
    """Reads KNMI's accumulations as one film of rain rates in mm/h, ordered by the end of the accumulation.

    The scale, the codes for missing and outside of the image, the length of the accumulation, the projection and the corners
    are those of the files. Row 0 is north. Where the files give lengths in km, axes of the Earth too, the grid has metres.

    Args:
        root: a folder, searched with all its folders, or one file.
        files: shell pattern of the file names.
        leave_out: patterns of paths below the root that are not read.

    Raises:
        UserError: there is no such file, one is damaged, two are of one time, or they do not fit together.
    """

    def __init__(self, root: Path, *, files: str = "RAD_NL25_RAP_5min_*.h5", leave_out: Sequence[str] = ()) -> None:
        paths = find_files(root, [files], leave_out)
        headers = inspect_each(root, paths, _read_header, cache=_Header)
        refuse_different(root, paths, [header.kind for header in headers])
        self.films, (self._paths,) = order_films(root, paths, [header.end for header in headers], "one")

        first = headers[0]
        self.channels, self.height, self.width = 1, first.height, first.width
        per_hour = 3600 / first.seconds
        self.packing = Packing(first.scale * per_hour, first.offset * per_hour, first.missing)
        self.facts = {"units": "mm/h", "time_step": float(first.seconds), "grid": first.grid, "period": float(first.seconds)}

    def read(self, film: int, positions: range) -> NDArray[np.uint16]:
        """Return packed frames ``(T, 1, H, W)``."""
        frames = np.empty((len(positions), 1, self.height, self.width), dtype=np.uint16)
        for frame, position in zip(frames, positions, strict=True):
            with hdf5.open_file(self._paths[position]) as file:
                image = hdf5.dataset(file, _IMAGE)
                if image.shape != frame.shape[1:]:
                    raise UserError(f"'{self._paths[position]}' has changed its size to {image.shape}")
                image.read_direct(frame[0])
        return frames


def _read_header(path: Path) -> _Header:
    with hdf5.open_file(path) as file:
        image = hdf5.dataset(file, _IMAGE)
        if image.ndim != 2 or image.dtype != np.uint16:
            raise UserError(f"'{path}' holds {image.dtype} data of shape {image.shape}, not rows and columns of uint16")
        quantity = _text(hdf5.member(file, "image1"), "image_geo_parameter")
        if quantity != "ACCUMULATED_PRECIPITATION_[MM]":
            raise UserError(f"'{path}' holds {quantity}, not ACCUMULATED_PRECIPITATION_[MM]")
        calibration = hdf5.member(file, "image1/calibration")
        scale, offset = _parse_formula(path, _text(calibration, "calibration_formulas"))
        if not is_sound(scale, offset, image.dtype):
            raise UserError(f"'{path}' has {scale:g} mm a unit from {offset:g} mm, by which nothing can be unpacked")
        codes = {_number(calibration, "calibration_missing_data"), _number(calibration, "calibration_out_of_image")}
        overview = hdf5.member(file, "overview")
        start = _parse_moment(path, _text(overview, "product_datetime_start"))
        end = _parse_moment(path, _text(overview, "product_datetime_end"))
        if end <= start:
            raise UserError(f"'{path}' tells of an accumulation from {start} to {end}")
        height, width = image.shape
        seconds = int((end - start).astype(int))
        return _Header(end, seconds, height, width, scale, offset, tuple(sorted(codes)), _grid(file, height, width))


def _parse_formula(path: Path, formula: str) -> tuple[float, float]:
    match = _FORMULA.fullmatch(formula.strip())
    if match is None:
        raise UserError(f"'{path}' has the calibration formula '{formula}', not one such as GEO=0.01*PV+0.0")
    return float(match[1]), float(match[2] or 0.0)


def _parse_moment(path: Path, text: str) -> np.datetime64:
    match = _MOMENT.fullmatch(text.strip())
    if match is None or match[2] not in _MONTHS:
        raise UserError(f"'{path}' has the time '{text}', not one such as 26-AUG-2010;04:30:00.000")
    day, month, year, hour, minute, second = match.groups()
    try:
        return np.datetime64(f"{year}-{_MONTHS.index(month) + 1:02}-{day}T{hour}:{minute}:{second}", "s")
    except ValueError:
        raise UserError(f"'{path}' has the time '{text}', which does not exist") from None


def _grid(file: h5py.File, height: int, width: int) -> Grid:
    geographic = hdf5.member(file, "geographic")
    unit = _LENGTHS.get(_text(geographic, "geo_dim_pixel"))
    if unit is None:
        raise UserError(f"'{file.filename}' has pixels in units of '{_text(geographic, 'geo_dim_pixel')}', not in KM,KM or M,M")
    dx, dy = (unit * _number(geographic, f"geo_pixel_size_{axis}") for axis in "xy")
    left, top = _number(geographic, "geo_column_offset") * dx, _number(geographic, "geo_row_offset") * dy
    if dx <= 0 or dy >= 0:
        raise UserError(f"'{file.filename}' has pixels of {dx} x {dy} m; row 0 is expected in the north, column 0 in the west")
    projection = _text(hdf5.member(file, "geographic/map_projection"), "projection_proj4_params")
    return Grid(in_metres(projection), (left, top + height * dy, left + width * dx, top), "north")


def _attribute(group: h5py.Group | h5py.Dataset, name: str) -> Any:
    if name not in group.attrs:
        raise UserError(f"'{group.file.filename}' has no attribute '{name}' in '{group.name}': it is no KNMI radar file")
    values = np.asarray(group.attrs[name]).reshape(-1)
    if not values.size:
        raise UserError(f"'{group.file.filename}' has an empty attribute '{name}' in '{group.name}'; get it again or leave it out")
    return values[0]


def _text(group: h5py.Group | h5py.Dataset, name: str) -> str:
    value = _attribute(group, name)
    return value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)


def _number(group: h5py.Group | h5py.Dataset, name: str) -> float:
    return float(_attribute(group, name))
