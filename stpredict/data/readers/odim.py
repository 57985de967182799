"""Composites in ODIM_H5, the European exchange format: one HDF5 file for each time.

Source: EUMETNET OPERA, weather radar information model for implementation with the HDF5 file format, versions 2.0 to 2.4.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from stpredict.data.clips import Reader
from stpredict.data.readers import hdf5
from stpredict.data.readers.finding import find_files, inspect_each, refuse_different
from stpredict.data.readers.ordering import Films, order_films
from stpredict.data.readers.projections import find_pyproj, in_metres, project
from stpredict.data.readers.scaling import is_sound
from stpredict.errors import UserError
from stpredict.frames import Grid, Packing

QUANTITIES = {
    "RATE": "mm/h",
    "ACRR": "mm/h",
    **dict.fromkeys(("DBZH", "DBZV", "DBZ", "TH", "TV"), "dBZ"),
    "VIL": "kg/m2",
    "HGHT": "km",
    "QIND": "1",
}
"""The units of each quantity that is read; ACRR is a depth in mm, and becomes a rate."""

_NUMBERED = re.compile(r"(?:dataset|data)([1-9]\d{0,4})", re.ASCII)
_DEGREES = re.compile(r"\bproj=(?:longlat|latlong|lonlat|latlon)\b")
_POLAR = ("PVOL", "SCAN", "RAY", "AZIM", "ELEV", "VP", "XSEC")
_FLAT = ("COMP", "IMAGE", "CVOL")
_STAND_INS = (-(2.0**127), -(2.0**126))  # for codes that float32 does not hold


@dataclass(frozen=True)
class Header:
    """What one file says of itself; all but ``time`` and ``place`` is the same in all files of an archive."""

    time: np.datetime64
    place: str
    quantity: str
    seconds: int | None
    dtype: np.dtype[Any]
    height: int
    width: int
    gain: float
    offset: float
    nodata: float
    undetect: float
    grid: Grid | None

    @property
    def kind(self) -> str:
        """Return what must be the same in all files of an archive."""
        during = "" if self.seconds is None or self.quantity != "ACRR" else f" of {self.seconds} s"
        where = "nowhere" if self.grid is None else f"on {self.grid.projection} {self.grid.corners}"
        return (
            f"{self.height} x {self.width} frames{during} of {self.quantity} in {self.dtype}, gain {self.gain:g}, offset {self.offset:g}, "
            f"nodata {self.nodata:g}, undetect {self.undetect:g}, {where}"
        )


class Odim(Reader):
    """Reads cartesian composites as films in order of time: rain in mm/h, reflectivity in dBZ.

    Gain, offset and the two codes are those of the files: ``nodata`` (not seen) is missing, ``undetect`` (seen, and nothing found) is no
    rain, or ``no_echo``. Integers of up to 16 bits stay as they are, other numbers become float32. A depth of rain (ACRR) becomes a rate by
    the file's own start and end; its time is its end, that of the other quantities the file's nominal time. Row 0 is north. The grid is in
    metres; it comes from the corners by pyproj, and there is none where that is not installed.

    Args:
        root: a folder, searched with all its folders, or one file.
        quantity: which quantity to read, such as ``RATE``, ``ACRR``, ``DBZH``; left out, the first of each file.
        no_echo: dBZ where a radar looked and found nothing.
        films: ``one`` film of all files, or a film for each of the ``folders``.
        files: shell patterns of the file names.
        leave_out: patterns of paths below the root that are not read.

    Raises:
        UserError: there is no such file, one is damaged or no composite, two are of one time, or they do not fit together.
    """

    def __init__(
        self,
        root: Path,
        *,
        quantity: str | None = None,
        no_echo: float = -32.0,
        films: Films = "one",
        files: Sequence[str] = ("*.h5", "*.hdf", "*.hdf5"),
        leave_out: Sequence[str] = (),
    ) -> None:
        if quantity is not None and quantity not in QUANTITIES:
            raise UserError(f"'quantity' is one of {', '.join(sorted(QUANTITIES))}, not '{quantity}'")
        if not math.isfinite(no_echo):
            raise UserError(f"'no_echo' is a finite number of dBZ, not {no_echo:g}")
        paths = find_files(root, files, leave_out)
        headers = inspect_each(root, paths, lambda path: _read_header(path, quantity), cache=Header, depends=quantity)
        refuse_different(root, paths, [header.kind for header in headers])
        self.films, ordered = order_films(root, paths, [header.time for header in headers], films)
        places = {path: header.place for path, header in zip(paths, headers, strict=True)}
        self._files = [tuple((path, places[path]) for path in of_film) for of_film in ordered]

        first = headers[0]
        self.channels, self.height, self.width = 1, first.height, first.width
        self._dtype = first.dtype
        self._codes = (first.nodata, first.undetect)
        self._held = _held_codes(first.dtype, self._codes)
        units = QUANTITIES[first.quantity]
        nothing = no_echo if units == "dBZ" else 0.0
        per_hour = 1.0 if first.quantity != "ACRR" or first.seconds is None else 3600 / first.seconds
        missing, undetect = self._held
        codes = ((undetect, nothing),) if math.isfinite(undetect) else ()
        self.packing = Packing(first.gain * per_hour, first.offset * per_hour, (missing,), codes)
        self.facts = {"units": units}
        if first.grid is not None:
            self.facts["grid"] = first.grid
        if first.quantity == "ACRR" and first.seconds is not None:
            self.facts["period"] = float(first.seconds)

    def read(self, film: int, positions: range) -> NDArray[Any]:
        """Return packed frames ``(T, 1, H, W)``: the files' own integers, or float32."""
        narrow = _is_narrow(self._dtype)
        dtype = self._dtype.newbyteorder("=") if narrow else np.dtype(np.float32)
        frames = np.empty((len(positions), 1, self.height, self.width), dtype=dtype)
        for frame, position in zip(frames, positions, strict=True):
            path, place = self._files[film][position]
            with hdf5.open_file(path) as file:
                data = hdf5.dataset(file, f"{place}/data")
                if data.shape != frame.shape[1:] or data.dtype != self._dtype:
                    raise UserError(f"'{path}' has changed to {data.dtype} data of shape {data.shape}")
                if narrow:
                    data.read_direct(frame[0])
                else:
                    frame[0] = self._narrowed(data[()])
        return frames

    def _narrowed(self, packed: NDArray[Any]) -> NDArray[np.float32]:
        """Return float32 numbers with the two codes that stand in for the file's, which are found before anything is rounded."""
        with np.errstate(over="ignore"):
            frame = packed.astype(np.float32)
        for code, held in reversed(list(zip(self._codes, self._held, strict=True))):
            if math.isnan(code):
                if held == _STAND_INS[0]:
                    frame[np.isnan(packed)] = held
            elif _holds(self._dtype, code):
                frame[packed == self._dtype.type(code)] = held
        return frame


def _is_narrow(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "iu" and dtype.itemsize <= 2


def _holds(dtype: np.dtype[Any], code: float) -> bool:
    if dtype.kind == "f":
        return True
    limits = np.iinfo(dtype)
    return code == math.floor(code) and limits.min <= code <= limits.max if math.isfinite(code) else False


def _held_codes(dtype: np.dtype[Any], codes: tuple[float, float]) -> tuple[float, float]:
    """Return the codes for nodata and undetect in the numbers that are handed out."""
    if _is_narrow(dtype):
        return codes
    with np.errstate(over="ignore"):
        held = [float(np.float32(code)) for code in codes]
    exact = [one == code and math.isfinite(code) for one, code in zip(held, codes, strict=True)]
    if dtype == np.float32 and all(math.isfinite(one) for one in held):
        exact = [True, True]  # the pixels were rounded as the code is
    stand_ins = [one if fits else stand_in for one, fits, stand_in in zip(held, exact, _STAND_INS, strict=True)]
    return stand_ins[0], stand_ins[1]


def read_leads(path: Path) -> tuple[np.datetime64 | None, list[tuple[np.datetime64, Header]]]:
    """Read the nominal time of a file, and the end and the header of each data set of its first quantity, as a nowcast has several.

    Raises:
        UserError: it is damaged or no composite, or a data set does not say when it ends.
    """
    with hdf5.open_file(path) as file:
        first, what = _find(path, file, None)
        quantity = _text(path, what, "quantity")
        nominal = _moment(path, _attributes(file, first, "what"), "date", "time")
        leads = []
        for dataset in _numbered(file, "dataset"):
            places = [f"{dataset}/{data}" for data in _numbered(file[dataset], "data")]
            abouts = {place: _attributes(file, place, "what") for place in places}
            place = next((place for place in places if _text(path, abouts[place], "quantity") == quantity), None)
            if place is not None:
                end = _moment(path, abouts[place], "enddate", "endtime")
                if end is None:
                    raise UserError(f"'{path}' tells no enddate and endtime of {dataset}")
                leads.append((end, _header(path, file, place, abouts[place])))
        return nominal, leads


def _read_header(path: Path, quantity: str | None) -> Header:
    with hdf5.open_file(path) as file:
        return _header(path, file, *_find(path, file, quantity))


def _header(path: Path, file: h5py.File, place: str, what: Mapping[str, Any]) -> Header:
    found = _text(path, what, "quantity")
    data = hdf5.dataset(file, f"{place}/data")
    if data.ndim != 2 or data.dtype.kind not in "iuf" or data.dtype.itemsize > 8 or 0 in data.shape:
        raise UserError(f"'{path}' holds {data.dtype} data of shape {data.shape}, not rows and columns of numbers")
    gain, offset = _number(path, what, "gain", 1.0), _number(path, what, "offset", 0.0)
    nodata, undetect = _number(path, what, "nodata", math.nan), _number(path, what, "undetect", math.nan)
    if not is_sound(gain, offset, data.dtype):
        raise UserError(f"'{path}' has the gain {gain:g} and the offset {offset:g}, by which nothing can be unpacked")
    start, end = _moment(path, what, "startdate", "starttime"), _moment(path, what, "enddate", "endtime")
    nominal = _moment(path, what, "date", "time")
    seconds = None if start is None or end is None else int((end - start).astype(int))
    if found == "ACRR" and (seconds is None or seconds <= 0):
        raise UserError(f"'{path}' holds an accumulation from {start} to {end}; its length cannot be told")
    time = (end or nominal) if found == "ACRR" else (nominal or end)
    if time is None:
        raise UserError(f"'{path}' tells no time: neither date and time nor enddate and endtime")
    height, width = data.shape
    grid = _grid(path, _attributes(file, place, "where"), height, width)
    return Header(time, place, found, seconds, data.dtype, height, width, gain, offset, nodata, undetect, grid)


def _find(path: Path, file: h5py.File, quantity: str | None) -> tuple[str, dict[str, Any]]:
    """Return the group of the data that are wanted, and what holds for them."""
    seen = []
    for dataset in _numbered(file, "dataset"):
        for data in _numbered(file[dataset], "data"):
            place = f"{dataset}/{data}"
            what = _attributes(file, place, "what")
            kind, found = _text(path, what, "object", "COMP"), _text(path, what, "quantity")
            if kind not in _FLAT:
                polar = ", a polar one: make a composite of it first" if kind in _POLAR else ""
                raise UserError(f"'{path}' holds an ODIM object '{kind}'{polar}; COMP and IMAGE are read")
            if quantity in (None, found):
                if found not in QUANTITIES:
                    raise UserError(f"'{path}' holds the quantity '{found}' first; those that are read are {', '.join(sorted(QUANTITIES))}")
                return place, what
            seen.append(found)
    if not seen:
        raise UserError(f"'{path}' has no /dataset1/data1: it is no ODIM_H5 composite")
    raise UserError(f"'{path}' holds no {quantity}; it holds {', '.join(seen)}")


def _numbered(group: h5py.Group, kind: str) -> Iterator[str]:
    """Return the names of the groups dataset1, dataset2, ..., or data1, data2, ..., in order."""
    matches = [_NUMBERED.fullmatch(name) for name in group]
    numbers = sorted(int(match[1]) for match in matches if match is not None and match.string.rstrip("0123456789") == kind)
    names = [f"{kind}{number}" for number in numbers]
    return (name for name in names if isinstance(hdf5.member(group.file, f"{group.name}/{name}"), h5py.Group))


def _attributes(file: h5py.File, place: str, name: str) -> dict[str, Any]:
    """Return the attributes ``what`` or ``where`` that hold for data: what the nearest group lacks, the next may tell."""
    dataset = place.partition("/")[0]
    found: dict[str, Any] = {}
    for path in (name, f"{dataset}/{name}", f"{place}/{name}"):
        if path in file:
            values = {key: np.asarray(value).reshape(-1) for key, value in hdf5.member(file, path).attrs.items()}
            found |= {key: value[0] for key, value in values.items() if value.size == 1}
    return found


def _text(path: Path, attributes: Mapping[str, Any], name: str, default: str = "") -> str:
    value = attributes.get(name, default)
    if not isinstance(value, bytes | str):
        raise UserError(f"'{path}' has '{name}' {value!r} where ODIM_H5 has a text")
    return (value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)).strip().strip("\0")


def _number(path: Path, attributes: Mapping[str, Any], name: str, default: float) -> float:
    try:
        return float(attributes.get(name, default))
    except ValueError:
        raise UserError(f"'{path}' has '{name}' {attributes[name]!r}, which is no number") from None


def _moment(path: Path, attributes: Mapping[str, Any], date: str, time: str) -> np.datetime64 | None:
    day, clock = _text(path, attributes, date), _text(path, attributes, time)
    if not day and not clock:
        return None
    if re.fullmatch(r"\d{8} \d{6}", f"{day} {clock}", re.ASCII):
        try:
            return np.datetime64(f"{day[:4]}-{day[4:6]}-{day[6:]}T{clock[:2]}:{clock[2:4]}:{clock[4:]}", "s")
        except ValueError:
            pass
    raise UserError(f"'{path}' has the {date} '{day}' and the {time} '{clock}', not such as 20180824 and 180000")


def _grid(path: Path, where: Mapping[str, Any], height: int, width: int) -> Grid | None:
    projection = _text(path, where, "projdef")
    columns, rows = _number(path, where, "xsize", width), _number(path, where, "ysize", height)
    if (rows, columns) != (height, width):
        raise UserError(f"'{path}' holds {height} x {width} pixels, but its 'where' tells of {rows:g} x {columns:g}")
    names = ("LL", "UL", "UR", "LR")
    points = [(_number(path, where, f"{name}_lon", math.nan), _number(path, where, f"{name}_lat", math.nan)) for name in names]
    if not projection or any(math.isnan(number) for point in (points[0], points[2]) for number in point):
        raise UserError(f"'{path}' does not tell where it lies: 'where' needs projdef and the corners LL and UR")
    pyproj = find_pyproj()
    if pyproj is None:
        return None
    projection = in_metres(projection)
    told = [point for point in points if not any(math.isnan(number) for number in point)]
    try:
        reached = project(pyproj, projection, told if len(told) == len(names) else [points[0], points[2]])
    except UserError as error:
        raise UserError(f"'{path}': {error}") from None
    xs, ys = [x for x, _ in reached], [y for _, y in reached]
    left, bottom, right, top = min(xs), min(ys), max(xs), max(ys)
    if not (reached[0][0] < right and reached[0][1] < top):
        raise UserError(f"'{path}' has its lower left corner right of or above its upper right one, {points[0]} and {points[2]}")
    # Longitudes and latitudes are rounded in the files, or by the system that wrote them, so corners are off by parts of a millimetre.
    digits = 7 if _DEGREES.search(projection) else 2
    edges = [round(edge, digits) + 0.0 for edge in (left, bottom, right, top)]
    return Grid(projection, (edges[0], edges[1], edges[2], edges[3]), "north")
