"""CF files as the tests need them, and what their numbers are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xarray

from stpredict.data.clips import Reader

SHAPE = (5, 6, 8)
TIMES = np.datetime64("2021-03-01T06:00", "ns") + np.arange(5) * np.timedelta64(300, "s")
RANDOM = np.random.default_rng(3).integers(0, 200, SHAPE)


def write(
    path: Path,
    values: np.ndarray | None = None,
    attributes: Mapping[str, Any] | None = None,
    encoding: Mapping[str, Any] | None = None,
    coordinates: Mapping[str, Any] | None = None,
    dims: Sequence[str] = ("time", "y", "x"),
    form: Literal["NETCDF4", "NETCDF3_64BIT"] = "NETCDF4",
    **others: Any,
) -> Path:
    """Write one variable, mm/h unless said otherwise."""
    values = np.arange(240, dtype=np.float32).reshape(SHAPE) if values is None else values
    dataset = xarray.Dataset({"rain": (dims, values, {"units": "mm/h", **(attributes or {})}), **others})
    places = {"time": ("time", TIMES[: dataset.sizes.get("time", 0)]), **(coordinates or {})}
    dataset = dataset.assign_coords({name: place for name, place in places.items() if place is not None})
    dataset.to_netcdf(path, engine="netcdf4", encoding={"rain": dict(encoding or {})}, format=form)
    return path


def physical(reader: Reader, positions: range | None = None) -> np.ndarray:
    """Return frames ``(T, C, H, W)`` in physical units; left out, all of them."""
    frames = reader.read(0, range(reader.films[0].length) if positions is None else positions)
    return reader.packing.unpack(torch.from_numpy(frames)).numpy()


def decoded(path: Path, name: str = "rain") -> np.ndarray:
    """Return what xarray makes of a variable."""
    with xarray.open_dataset(path, engine="netcdf4") as dataset:
        return np.asarray(dataset[name].values)
