"""Forecasts for pysteps: its blending, post-processing and verification take an array, a dictionary and times."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpredict.errors import UserError, import_optional
from stpredict.frames import Grid
from stpredict.products.contents import Nowcast
from stpredict.products.places import places_of

_THRESHOLDS = {"mm/h": 0.1, "mm": 0.1 / 12, "dBZ": 7.0}
"""By the units that pysteps knows: what it takes for the least rain where nothing else is said."""

_UNITS = {"mm h-1": "mm/h", "mm hr-1": "mm/h", "mm/hr": "mm/h"}


def to_pysteps(forecast: Any) -> tuple[NDArray[np.float32], dict[str, Any], list[Any]]:
    """Return a forecast as pysteps takes it, ``stpredict.products.Nowcast`` or ``xarray.DataArray``.

    A DataArray has the axes (member,) time, y, x; coordinates time, y and x (middles of pixels); attributes ``units`` and
    ``grid_mapping``, the name of a coordinate with ``crs_wkt`` or other CF attributes.

    Returns:
        the array ``((M,) T, H, W)``, rows as they lie, NaN = missing; the metadata of pysteps' importers, lengths in metres (degrees on a
        geographic grid); and the valid times as ``datetime``.

    Raises:
        UserError: there is no clock or no grid, there are several channels, or pysteps knows no such units.
    """
    if isinstance(forecast, Nowcast):
        spec = forecast.spec
        if forecast.times is None or spec.time_step is None or spec.grid is None or spec.channels > 1:
            raise UserError("pysteps takes forecasts of one channel with a clock and a grid, and this one lacks one of them")
        more: dict[str, Any] = {"accutime": (spec.period or spec.time_step) / 60, "timestep": spec.time_step / 60}
        more["institution"] = str(forecast.facts.get("institution", ""))
        if spec.z_r is not None:
            more |= {"zr_a": spec.z_r[0], "zr_b": spec.z_r[1]}
        times = forecast.times[len(forecast.observed) :]
        return _bridge(forecast.forecast[..., 0, :, :], times, spec.units, spec.grid, spec.minimum, more)
    grid, units = _grid_of(forecast), str(forecast.attrs.get("units", ""))
    times = np.asarray(forecast.coords["time"].values).astype("datetime64[s]")
    step = float((times[1] - times[0]) / np.timedelta64(1, "m")) if len(times) > 1 else None
    more = {"accutime": step, "timestep": step, "institution": ""}
    return _bridge(np.asarray(forecast.values, dtype=np.float32), times, _UNITS.get(units, units), grid, None, more)


def _bridge(
    values: NDArray[np.float32], times: NDArray[np.datetime64], units: str, grid: Grid, minimum: float | None, more: dict[str, Any]
) -> tuple[NDArray[np.float32], dict[str, Any], list[Any]]:
    if units not in _THRESHOLDS:
        raise UserError(f"pysteps knows the units {', '.join(_THRESHOLDS)}, not '{units}'")
    places = places_of(grid, *values.shape[-2:])
    left, bottom, right, top = places.corners
    moments = times.astype("datetime64[s]").tolist()
    finite = values[np.isfinite(values)]
    least = minimum if minimum is not None else 0.0 if units != "dBZ" else float(finite.min()) if len(finite) else 0.0
    metadata = {
        "projection": places.proj4,
        "x1": left,
        "y1": bottom,
        "x2": right,
        "y2": top,
        "xpixelsize": (right - left) / values.shape[-1],
        "ypixelsize": (top - bottom) / values.shape[-2],
        "cartesian_unit": "degrees" if places.geographic else "m",
        "yorigin": "upper" if grid.row_origin == "north" else "lower",
        "unit": units,
        "transform": "dB" if units == "dBZ" else None,
        "zerovalue": least,
        "threshold": _THRESHOLDS[units],
        "timestamps": np.array(moments, dtype=object),
        **more,
    }
    return values, metadata, moments


def _grid_of(forecast: Any) -> Grid:
    """Return the grid of a DataArray, from its coordinates and its grid mapping."""
    pyproj = import_optional("pyproj", "radar")
    name = forecast.attrs.get("grid_mapping", forecast.encoding.get("grid_mapping"))
    lacking = [axis for axis in ("time", "y", "x") if axis not in forecast.coords]
    if lacking or name is None or name not in forecast.coords:
        what = f"coordinates {', '.join(lacking)}" if lacking else "grid mapping among its coordinates"
        raise UserError(f'pysteps takes a clock and a grid, and this DataArray has no {what}: open the file with decode_coords="all"')
    x, y = (np.asarray(forecast.coords[axis].values, dtype=np.float64) for axis in "xy")
    dx, dy = (x[-1] - x[0]) / (len(x) - 1), abs(y[-1] - y[0]) / (len(y) - 1)
    edges = (x[0] - dx / 2, min(y[0], y[-1]) - dy / 2, x[-1] + dx / 2, max(y[0], y[-1]) + dy / 2)
    corners = (float(edges[0]), float(edges[1]), float(edges[2]), float(edges[3]))
    projection = pyproj.CRS.from_cf(dict(forecast.coords[name].attrs)).to_wkt()
    return Grid(projection, corners, "south" if y[-1] > y[0] else "north")
