"""Products as CF NetCDF: when, where, in which units, by which predictor, from which frames.

Source: NetCDF Climate and Forecast (CF) metadata conventions, version 1.8, https://cfconventions.org
"""

from __future__ import annotations

import json
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import stpredict
from stpredict.errors import import_optional
from stpredict.files import refuse_full_disk, whole_file
from stpredict.products.contents import Nowcast
from stpredict.products.places import Places, places_of
from stpredict.products.units import quantity_of, udunits

FILL = np.float32(9.969209968386869e36)
"""The value of a pixel that has none: NetCDF's own for float32."""

_EPOCH = np.datetime64(0, "s")


def write_netcdf(path: Path, nowcast: Nowcast) -> None:
    """Write a product as NetCDF-4 by CF-1.8, whole or not at all.

    Raises:
        UserError: a library is missing, or the grid's projection is none.
        OSError: there is no room.
    """
    import_optional("netCDF4", "radar")
    data = make_dataset(nowcast)
    with whole_file(path) as temporary:
        refuse_full_disk(temporary, nowcast.byte_count)
        data.to_netcdf(temporary, engine="netcdf4")


def make_dataset(nowcast: Nowcast) -> Any:
    """Return a product as an ``xarray.Dataset`` that :func:`write_netcdf` writes as it is.

    The forecast has the axes (member,) time, (channel,) y, x, and the observed frames ``observed_time`` in place of time; without a
    clock they are ``lead`` and ``observed_frame``. Rows keep their order. The variable is named for its quantity:
    ``precip_intensity`` (mm/h), ``reflectivity`` (dBZ), ``precip_accum`` (mm), ``water_content`` (kg/m2), else ``forecast``.
    """
    xarray = import_optional("xarray", "radar")
    spec, quantity = nowcast.spec, quantity_of(nowcast.spec.units)
    axes = ["channel", "y", "x"] if spec.channels > 1 else ["y", "x"]
    members = ["member"] if nowcast.members else []
    leads, frames = ("lead", "observed_frame") if nowcast.times is None else ("time", "observed_time")
    common: dict[str, Any] = {"units": udunits(spec.units)}
    if quantity.standard_name is not None:
        common["standard_name"] = quantity.standard_name
    data = xarray.Dataset(attrs=_about_file(nowcast))
    _add_clock(data, nowcast)
    if spec.grid is not None:
        common |= _add_places(data, places_of(spec.grid, spec.height, spec.width))
    mean = {"cell_methods": "time: mean"} if spec.period is not None and nowcast.times is not None else {}
    name = f"{quantity.long_name}, forecast by {nowcast.predictor}"
    data[quantity.name] = _frames([*members, leads, *axes], nowcast.forecast, spec.channels, {**common, "long_name": name, **mean})
    name = f"{quantity.long_name}, observed"
    observed = {**common, "long_name": name, **({"cell_methods": "observed_time: mean"} if mean else {})}
    data["observed"] = _frames([frames, *axes], nowcast.observed, spec.channels, observed)
    if any(nowcast.filled):
        flags = {"long_name": "whether the frame was missing and made up", "flag_values": np.array([0, 1], np.int8)}
        flags["flag_meanings"] = "observed made_up"
        data["observed_quality"] = (frames, np.array(nowcast.filled, np.int8), flags)
    _add_ensemble(data, nowcast, [leads, *axes], {name: text for name, text in common.items() if name == "grid_mapping"})
    for name, variable in data.variables.items():
        holds_frames = "x" in variable.dims and name not in data.coords
        where = [clock for clock in ("lead_time", "forecast_reference_time") if clock in data.coords and leads in variable.dims]
        where += [place for place in ("longitude", "latitude") if place in data.coords]
        variable.encoding["coordinates"] = (" ".join(where) or None) if holds_frames else None
    return data


def _add_ensemble(data: Any, nowcast: Nowcast, axes: list[str], place: dict[str, str]) -> None:
    """Add what the members are, and the share of them that reaches each threshold."""
    if nowcast.members:
        names = "; ".join(f"{number}: {name}" for number, name in enumerate(nowcast.members))
        about = {"standard_name": "realization", "long_name": names, "units": "1"}
        data["member"] = ("member", np.arange(len(nowcast.members), dtype=np.int32), about)
    if nowcast.thresholds:
        about = {"units": udunits(nowcast.spec.units), "long_name": "threshold that is reached or passed"}
        data["threshold"] = ("threshold", np.array(nowcast.thresholds, dtype=np.float32), about, {"_FillValue": None})
        about = {"units": "1", "long_name": "share of the members that reach the threshold", **place}
        data["probability_of_exceedance"] = _frames(["threshold", *axes], nowcast.exceedance(), nowcast.spec.channels, about)


def _frames(axes: list[str], values: NDArray[np.float32], channels: int, attributes: dict[str, Any]) -> tuple[Any, ...]:
    values = values if channels > 1 else values[..., 0, :, :]
    chunks = tuple(1 if axis not in ("y", "x") else length for axis, length in zip(axes, values.shape, strict=True))
    packing = {"_FillValue": FILL, "zlib": True, "complevel": 2, "shuffle": True, "chunksizes": chunks, "dtype": "float32"}
    return axes, values, attributes, packing


def _add_clock(data: Any, nowcast: Nowcast) -> None:
    """Add valid, reference and lead times, as far as the frames have a clock."""
    observed, forecast = nowcast.observed_times, nowcast.forecast_times
    if observed is not None and forecast is not None:
        newest = observed[-1]  # valid times are counted from it, which makes them lead times for those who read them so, as pysteps does
        data["time"] = _clock("time", forecast, newest, "time that the forecast is for")
        data["observed_time"] = _clock("observed_time", observed, newest, "time of the observed frame")
        data.coords["forecast_reference_time"] = _clock(None, newest.reshape(()), _EPOCH, "time of the newest frame")
        if nowcast.spec.period is not None:
            for name in ("time", "observed_time"):
                ends = data[name].values
                data[name].attrs["bounds"] = f"{name}_bounds"
                data[f"{name}_bounds"] = ((name, "bound"), np.stack([ends - round(nowcast.spec.period), ends], axis=1))
                data[f"{name}_bounds"].encoding["_FillValue"] = None
    else:
        about = {"long_name": "frames since the newest", "units": "1"}
        data["lead"] = ("lead", np.arange(1, nowcast.horizon + 1, dtype=np.int32), about)
    if nowcast.lead_times is not None:
        about = {"standard_name": "forecast_period", "long_name": "time since the newest frame", "units": "s"}
        data.coords["lead_time"] = ("lead" if nowcast.times is None else "time", nowcast.lead_times, about, {"_FillValue": None})


def _clock(axis: str | None, times: NDArray[np.datetime64], since: np.datetime64, words: str) -> tuple[Any, ...]:
    """Return a variable of times, along an axis or, without one, of the reference time."""
    about = {"standard_name": "forecast_reference_time" if axis is None else "time", "long_name": words}
    about |= {"units": f"seconds since {str(since).replace('T', ' ')}", "calendar": "standard"}
    seconds = (times - since).astype("timedelta64[s]").astype(np.float64)  # CF 1.8 has no integers of 64 bits
    return (axis or (), seconds, about if axis is None else {**about, "axis": "T"}, {"_FillValue": None})


def _add_places(data: Any, places: Places) -> dict[str, str]:
    """Add the coordinates and the grid mapping; return the attributes that lead to them."""
    plain = {"_FillValue": None}
    names = ("longitude", "latitude") if places.geographic else ("projection_x_coordinate", "projection_y_coordinate")
    units = ("degrees_east", "degrees_north") if places.geographic else ("m", "m")
    for axis, values, name, unit in zip("xy", (places.x, places.y), names, units, strict=True):
        about = {"standard_name": name, "long_name": f"{name.replace('_', ' ')} of the middle of the pixel", "units": unit}
        data[axis] = (axis, values, {**about, "axis": axis.upper()}, plain)
    if not places.geographic:
        packing = {"_FillValue": None, "zlib": True, "complevel": 2, "shuffle": True, "dtype": "float32"}
        for name, values, unit in zip(("longitude", "latitude"), places.degrees(), ("degrees_east", "degrees_north"), strict=True):
            about = {"standard_name": name, "long_name": f"{name} of the middle of the pixel", "units": unit}
            data.coords[name] = (("y", "x"), values, about, packing)
    mapping = _grid_mapping(places)
    name = mapping["grid_mapping_name"] if mapping["grid_mapping_name"] != "unknown" else "crs"
    data[name] = ((), np.int32(0), mapping)
    return {"grid_mapping": name}


def _grid_mapping(places: Places) -> dict[str, Any]:
    """Return the attributes that say the projection, one by one and as well-known text."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # CF has no angle to turn an oblique Mercator grid by; crs_wkt says it
        mapping: dict[str, Any] = places.crs.to_cf()
        if mapping.get("grid_mapping_name", "unknown") == "unknown":
            mapping = {**_on_an_ellipsoid(places.crs).to_cf(), "crs_wkt": mapping["crs_wkt"]}
    mapping.setdefault("grid_mapping_name", "unknown")
    if mapping["grid_mapping_name"] == "polar_stereographic" and "latitude_of_projection_origin" not in mapping:
        mapping["latitude_of_projection_origin"] = -90.0 if mapping["standard_parallel"] < 0 else 90.0
    return {**mapping, "proj4": places.proj4}


def _on_an_ellipsoid(crs: Any) -> Any:
    """Return a projection by its formulas for ellipsoids, where it is by those for spheres; on a sphere they are the same."""
    plain = crs.to_json_dict()
    method = plain.get("conversion", {}).get("method", {})
    if not str(method.get("name", "")).endswith(" (Spherical)"):
        return crs
    plain["conversion"]["method"] = {"name": method["name"].removesuffix(" (Spherical)")}
    return type(crs).from_json_dict(plain)


def _about_file(nowcast: Nowcast) -> dict[str, Any]:
    """Return the global attributes."""
    about, version = nowcast.about(), stpredict.__version__
    made = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}: stpredict {version} forecast {nowcast.horizon} frames"
    watched = nowcast.facts.get("watch", {})
    hashes = "; ".join(f"{name} {digest}" for name, digest in nowcast.facts.get("hashes", {}).items())
    attributes = {
        "Conventions": "CF-1.8",
        "title": f"Forecast by {nowcast.predictor} from the newest frames of {nowcast.film or nowcast.source}",
        "institution": nowcast.facts.get("institution", ""),
        "source": f"stpredict {version}, predictor {nowcast.predictor}" + (f" ({hashes})" if hashes else ""),
        "history": made,
        "references": nowcast.facts.get("references", ""),
        "comment": f"Observed: {nowcast.used()}",
        "input_files": nowcast.source,
        "missing": ", ".join(watched.get("missing", ())),
        "fallback_reason": watched.get("reason") or "",
        "members": "; ".join(nowcast.members),
        "stpredict_version": version,
        "stpredict": json.dumps(about),
    }
    return {name: text for name, text in attributes.items() if text}
