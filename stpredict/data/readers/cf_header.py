"""What one CF file or store says of itself: which variable, which dimension is which, times, grid, units.

Source: CF conventions 1.11, chapters 4 (coordinate types) and 7 (cell bounds and methods).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stpredict.data.readers.cf_files import is_zarr, opened, refuse_large_frames
from stpredict.data.readers.cf_grid import TEXTS, find_grid, mapping_name
from stpredict.data.readers.cf_values import Encoding, convert_units, read_encoding
from stpredict.errors import UserError, nearest
from stpredict.frames import Grid

if TYPE_CHECKING:
    from xarray import Dataset, Variable

ROLES = ("time", "channel", "y", "x")
_NAMES = {
    "time": ("time", "valid_time", "t", "times", "date", "datetime"),
    "channel": ("channel", "channels", "band", "bands"),
    "y": ("y", "lat", "latitude", "yc", "rlat", "row", "rows", "ny", "south_north", "north_south", "northing", "nj"),
    "x": ("x", "lon", "longitude", "xc", "rlon", "col", "column", "columns", "nx", "west_east", "east_west", "easting", "ni"),
}
_STANDARD = {
    "time": ("time",),
    "channel": (),
    "y": ("projection_y_coordinate", "latitude", "grid_latitude"),
    "x": ("projection_x_coordinate", "longitude", "grid_longitude"),
}
_UNITS = {"time": r".+ since .+", "channel": r"(?!)", "y": r"degrees?_?N(orth)?|degrees?_north", "x": r"degrees?_?E(ast)?|degrees?_east"}
_CALENDARS = ("standard", "gregorian", "proleptic_gregorian")
_INTERVAL = re.compile(r"(?:sum|mean)[^()]*\(interval:\s*(\d+(?:\.\d*)?)\s*(s|sec|seconds?|min|minutes?|h|hr|hours?)\b", re.ASCII)
_POINTERS = ("coordinates", "bounds", "grid_mapping", "ancillary_variables", "cell_measures", "climatology")


@dataclass(frozen=True)
class Settings:
    """What a card says of files of this kind; see the reader."""

    variable: str | None
    dimensions: Mapping[str, str]
    select: Mapping[str, int]
    units: str | None
    file_units: str | None
    period: float | None
    projection: str | None


@dataclass(frozen=True)
class Header:
    """What one file says of itself.

    Attributes:
        variable: the one that holds the frames.
        layout: for each of its dimensions its role, or the number that is chosen along it.
        size: channels, rows, columns.
        times: ``(T,)`` datetime64[s] of the frames that there are, as they lie in the file.
        places: ``(T,)`` where they lie along the time dimension.
        encoding: of the stored numbers.
        factor: units of the frames per unit of the file.
        units: of the frames.
        period: seconds over which a frame was gathered, or None.
        grid: where the pixels lie, or None.
    """

    variable: str
    layout: tuple[str | int, ...]
    size: tuple[int, int, int]
    times: NDArray[np.datetime64]
    places: NDArray[np.int64]
    encoding: Encoding
    factor: float
    units: str
    period: float | None
    grid: Grid | None

    @property
    def kind(self) -> str:
        """Return what must be the same in all files of an archive."""
        channels, height, width = self.size
        gathered = "" if self.period is None else f" over {self.period:g} s"
        lie = "nowhere told" if self.grid is None else f"{self.grid.projection} {self.grid.corners} from the {self.grid.row_origin}"
        encoding = self.encoding
        return (
            f"'{self.variable}' of {channels} x {height} x {width} {encoding.dtype} in {self.units}{gathered}, "
            f"{encoding.scale:g} a unit from {encoding.offset:g}, missing {encoding.missing}, valid {encoding.low:g} to {encoding.high:g}, "
            f"on {lie}"
        )


def read_header(place: Path, settings: Settings) -> Header:
    """Read what a file says of itself.

    Raises:
        UserError: it is damaged, or lacks what is needed and the settings do not give it.
    """
    with opened(place) as dataset:
        return header_of(place, dataset, settings)


def header_of(place: Path, dataset: Dataset, settings: Settings) -> Header:
    """Read what an open file says of itself.

    Raises:
        UserError: it lacks what is needed and the settings do not give it.
    """
    roles = {str(dimension): role for dimension in dataset.dims if (role := _role(dataset, str(dimension), settings)) is not None}
    name = _choose_variable(place, dataset, roles, settings.variable)
    variable = dataset.variables[name]
    layout = _layout(place, dataset, variable, roles, settings)
    sizes = {role: size for role, size in zip(layout, variable.shape, strict=True) if isinstance(role, str)}
    size = (sizes.get("channel", 1), sizes["y"], sizes["x"])
    if min(size) < 1:
        raise UserError(f"'{place}': '{name}' has {' x '.join(map(str, variable.shape))} numbers, so there is no frame in it")
    encoding = read_encoding(place, name, variable.dtype, variable.attrs, has_default_fill=not is_zarr(place))
    refuse_large_frames(place, name, size, variable.dtype.itemsize)

    time_name = _time_variable(place, dataset, variable, layout)
    times = decode_times(place, dataset, time_name)
    period = _period(place, dataset, variable, time_name, times, settings.period)
    told = _told_units(place, name, variable.attrs.get("units"), settings.file_units)
    units, factor = convert_units(place, told, settings.units, period)
    places = np.flatnonzero(~np.isin(times, _missing_times(place, dataset)))
    axes = [_axis(dataset, str(variable.dims[layout.index(role)]), role) for role in ("x", "y")]
    mapping = _grid_mapping(dataset, variable)
    grid = find_grid(place, mapping, settings.projection, *axes)
    return Header(name, layout, size, times[places], places, encoding, factor, units, period, grid)


def _role(dataset: Dataset, dimension: str, settings: Settings) -> str | None:
    """Return whether a dimension is time, channel, y or x: by the card, by its coordinate's attributes, by its name."""
    for role, chosen in settings.dimensions.items():
        if role not in ROLES:
            raise UserError(f"The setting dimensions has the keys {', '.join(ROLES)}, not '{role}'{nearest(role, ROLES)}")
        if chosen == dimension:
            return role
    coordinate = _coordinate(dataset, dimension)
    attributes = {} if coordinate is None else dataset.variables[coordinate].attrs
    for role in ROLES:
        if role in settings.dimensions:
            continue
        by_attribute = attributes.get("axis") == {"time": "T", "y": "Y", "x": "X"}.get(role, "") or (
            attributes.get("standard_name") in _STANDARD[role] or re.fullmatch(_UNITS[role], str(attributes.get("units", ""))) is not None
        )
        if by_attribute:
            return role
    return next((role for role in ROLES if dimension.lower() in _NAMES[role] and role not in settings.dimensions), None)


def _coordinate(dataset: Dataset, dimension: str) -> str | None:
    """Return the variable that holds the coordinates along a dimension: that of its name, or else the only one along it."""
    if dimension in dataset.variables and dataset.variables[dimension].dims == (dimension,):
        return dimension
    along = [str(name) for name, variable in dataset.variables.items() if variable.dims == (dimension,)]
    told = [name for name in along if {"axis", "standard_name"} & set(dataset.variables[name].attrs)] or along
    return told[0] if len(told) == 1 else None


def _choose_variable(place: Path, dataset: Dataset, roles: Mapping[str, str], wanted: str | None) -> str:
    names = [str(name) for name in dataset.variables]
    if wanted is not None:
        if wanted not in names:
            raise UserError(f"'{place}' has no variable '{wanted}'{nearest(wanted, names)}")
        if not {"y", "x"} <= {roles.get(str(dimension)) for dimension in dataset.variables[wanted].dims}:
            dims = ", ".join(map(str, dataset.variables[wanted].dims))
            raise UserError(f"'{place}': the dimensions of '{wanted}' are {dims}: say which is y and x with the setting dimensions")
        return wanted
    pointers = (variable.attrs.get(pointer) for variable in dataset.variables.values() for pointer in _POINTERS)
    pointed = {word.rstrip(":") for text in pointers if isinstance(text, str) for word in text.split()}
    found: dict[bool, list[str]] = {True: [], False: []}
    for name in names:
        variable = dataset.variables[name]
        known = {roles.get(str(dimension)) for dimension in variable.dims}
        place_on_earth = (
            name.lower() in ("lat", "lon", "latitude", "longitude")
            or variable.attrs.get("standard_name") in _STANDARD["y"] + _STANDARD["x"]
        )
        if {"y", "x"} <= known and variable.dtype.kind in "iuf" and name not in pointed and not place_on_earth:
            found["time" in known].append(name)
    candidates = found[True] or found[False]  # what does not change in time is no film, unless each file holds one frame
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise UserError(f"'{place}' holds several variables, {', '.join(candidates)}: say which with the reader's setting variable")
    raise UserError(f"'{place}' holds no numbers with dimensions time, y and x; its variables are {', '.join(names) or 'none'}")


def _layout(place: Path, dataset: Dataset, variable: Variable, roles: Mapping[str, str], settings: Settings) -> tuple[str | int, ...]:
    layout: list[str | int] = []
    for dimension, size in zip(variable.dims, variable.shape, strict=True):
        role = roles.get(str(dimension))
        chosen = settings.select.get(str(dimension))
        if chosen is not None:
            if not 0 <= chosen < size:
                raise UserError(f"'{place}': select asks for number {chosen} along '{dimension}', which has 0 to {size - 1}")
            layout.append(chosen)
        elif role is not None and role not in layout:
            layout.append(role)
        elif size == 1:
            layout.append(0)
        else:
            raise UserError(
                f"'{place}' has {size} numbers along '{dimension}': say which with the reader's setting select: {{{dimension}: 0}}"
            )
    return tuple(layout)


def _time_variable(place: Path, dataset: Dataset, variable: Variable, layout: Sequence[str | int]) -> str:
    """Return the name of the variable that holds the times: along the time dimension, or one number for the whole file."""
    if "time" in layout:
        dimension = str(variable.dims[layout.index("time")])
        name = _coordinate(dataset, dimension)
        if name is None:
            raise UserError(f"'{place}' has a dimension '{dimension}' but no times along it")
        return name
    single = [str(name) for name, item in dataset.variables.items() if item.size == 1 and " since " in str(item.attrs.get("units", ""))]
    told = [name for name in single if dataset.variables[name].attrs.get("standard_name") == "time"]
    told = told if len(told) == 1 else [name for name in _NAMES["time"] if name in single][:1]
    if not told:
        raise UserError(f"'{place}' does not say of which time it is: it has no dimension and no single number of time")
    return told[0]


def decode_times(place: Path, dataset: Dataset, name: str, clock: str | None = None) -> NDArray[np.datetime64]:
    """Return datetime64[s], rounded, ``(T,)``, or ``(T, 2)`` of bounds, whose units are those of their variable, the ``clock``.

    Raises:
        UserError: a time is missing, or cannot be that of a clock.
    """
    import xarray

    variable = dataset.variables[name]
    attributes = {**dataset.variables[clock or name].attrs, **variable.attrs}
    calendar, units = str(attributes.get("calendar", "standard")).lower(), str(attributes.get("units", ""))
    if " since " not in units or variable.dtype.kind not in "iuf":
        raise UserError(f"'{place}': '{name}' has units '{units}', not those of a time, such as 'seconds since 1970-01-01'")
    if calendar not in _CALENDARS:
        raise UserError(f"'{place}' has the calendar '{calendar}', whose days are not those of any clock: only {_CALENDARS[0]} can be read")
    stored = np.atleast_1d(np.asarray(variable.values))
    gone = [float(value) for word in ("_FillValue", "missing_value") for value in np.atleast_1d(variable.attrs.get(word, []))]
    if not np.isfinite(stored).all() or np.isin(stored, gone).any():
        raise UserError(f"'{place}': the time of a frame is missing in '{name}'")
    dims = tuple(f"dimension{number}" for number in range(stored.ndim))
    raw = xarray.Dataset({"moment": (dims, stored, {"units": units, "calendar": calendar})})
    times = np.asarray(xarray.decode_cf(raw)["moment"].values)
    if times.dtype.kind != "M" or np.isnat(times).any():
        raise UserError(f"'{place}': '{name}' holds times that no clock shows, {stored.min():g} to {stored.max():g} {units}")
    nanoseconds = times.astype("datetime64[ns]").astype(np.int64)
    return ((nanoseconds + 500_000_000) // 1_000_000_000).astype("datetime64[s]")


def _period(
    place: Path, dataset: Dataset, variable: Variable, time_name: str, times: NDArray[np.datetime64], given: float | None
) -> float | None:
    """Return over how many seconds a frame was gathered: by bounds, by a start beside the time, by cell methods, by the card."""
    about = dataset.variables[time_name]
    bounds, told = about.attrs.get("bounds"), None
    spans = np.array([], dtype="timedelta64[s]")
    if bounds in dataset.variables and dataset.variables[bounds].shape == (*about.shape, 2):
        edges = decode_times(place, dataset, str(bounds), clock=time_name).reshape(-1, 2)
        spans = edges[:, 1] - edges[:, 0]
    elif "start_time" in dataset.variables and dataset.variables["start_time"].shape == about.shape:
        spans = times - decode_times(place, dataset, "start_time")
    seconds = sorted({float(span) for span in spans.astype(np.int64)})
    if len(seconds) == 1 and seconds[0] > 0:
        told = seconds[0]
    match = _INTERVAL.search(str(variable.attrs.get("cell_methods", "")))
    if told is None and match is not None and len(times) > 1:
        interval = float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2][0]]
        # An interval may also be that of the measurements that were summed; it is the period where frames follow at it.
        told = interval if float(np.median(np.diff(np.sort(times)).astype(np.int64))) == interval else None
    if given is not None and told is not None and given != told:
        raise UserError(f"'{place}' says that a frame was gathered over {told:g} s, but the setting period is {given:g}: leave it out")
    return told if given is None else given


def _told_units(place: Path, name: str, told: Any, given: str | None) -> str:
    if told is not None and str(told).strip():
        if given is not None and given != str(told).strip():
            raise UserError(f"'{place}': '{name}' is in {told}, but the setting file_units says {given}: leave it out")
        return str(told).strip()
    if given is None:
        raise UserError(f"'{place}' does not say in which units '{name}' is: give the reader's setting file_units, such as mm/h")
    return given


def _missing_times(place: Path, dataset: Dataset) -> NDArray[np.datetime64]:
    """Return the times at which frames are listed as missing, which mlcast's archives do."""
    empty = np.array([], dtype="datetime64[s]")
    listed = "missing_times" in dataset.variables and dataset.variables["missing_times"].size > 0
    return decode_times(place, dataset, "missing_times") if listed else empty


def _axis(dataset: Dataset, dimension: str, role: str) -> tuple[NDArray[np.float64], str | None] | None:
    name = _coordinate(dataset, dimension)
    if name is None or dataset.variables[name].dtype.kind not in "iuf":
        return None
    variable = dataset.variables[name]
    attributes = variable.attrs
    values = np.asarray(variable.values).astype(np.float64)
    values = values * float(attributes.get("scale_factor", 1.0)) + float(attributes.get("add_offset", 0.0))
    units = str(attributes.get("units", "")).strip()
    if not units and attributes.get("standard_name") in ("latitude", "longitude"):
        units = "degrees"
    return values, units or None


def _grid_mapping(dataset: Dataset, variable: Variable) -> Mapping[str, Any] | None:
    attribute = variable.attrs.get("grid_mapping")
    name = mapping_name(attribute, [str(dimension) for dimension in variable.dims]) if isinstance(attribute, str) else ""
    mapping = dict(dataset.variables[name].attrs) if name in dataset.variables else None
    # pysteps writes a PROJ string for the whole file, and a grid mapping without the figure of the Earth, or none.
    projection = dataset.attrs.get("projection")
    whole = mapping is not None and bool({*mapping} & {*TEXTS, "semi_major_axis", "earth_radius", "reference_ellipsoid_name"})
    if not whole and isinstance(projection, str) and projection.lstrip().startswith("+"):
        return {"proj4": projection}
    return mapping
