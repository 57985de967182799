"""Clips with a clock and a grid, and a writer of nowcasts in the layout of pysteps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stpredict.data.clips import ClipSet
from stpredict.frames import Clip, FrameSpec, Grid, Packing, Transform

CONTEXT, HORIZON, HEIGHT, WIDTH, STEP = 3, 4, 10, 8, 300
LAEA = "+proj=laea +lat_0=55 +lon_0=10 +x_0=1950000 +y_0=-2100000 +units=m +ellps=WGS84"
BEGIN = np.datetime64("2020-05-01T23:30", "s")


class Radar(ClipSet):
    """Six clips of rain in mm/h that start five minutes after one another, rows from the north."""

    card, split, context, horizon, packing = "radar", "test", CONTEXT, HORIZON, Packing()
    spec = FrameSpec(
        1,
        HEIGHT,
        WIDTH,
        units="mm/h",
        transform=Transform("sqrt", 0.0, 60.0),
        minimum=0.0,
        time_step=STEP,
        grid=Grid(LAEA, (1500000.0, -2310000.0, 1508000.0, -2300000.0)),
    )

    def __init__(self, **changes: Any) -> None:
        self.spec = replace(self.spec, **changes)

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Clip:
        frames = np.random.Generator(np.random.Philox(index)).gamma(0.5, 8.0, (self.context + self.horizon, *self.spec.shape))
        times = BEGIN + np.timedelta64(STEP, "s") * np.arange(index, index + self.context + self.horizon)
        return Clip(frames.astype(np.float32), times=times)


def start_of(index: int) -> np.datetime64:
    """Return the time of the last observed frame of a clip of :class:`Radar`."""
    return BEGIN + np.timedelta64(STEP * (index + CONTEXT - 1), "s")


def write_pysteps(
    path: Path,
    forecast: NDArray[np.float32],
    start: np.datetime64,
    grid: Grid,
    *,
    unit: str = "mm/h",
    leads: list[int] | None = None,
    step: int = STEP,
    upside_down: bool = False,
    fill: float | None = None,
    scale: float | None = None,
) -> Path:
    """Write ``((M,) T, H, W)`` as pysteps 1.21's NetCDF exporter lays it out; the names and attributes are those of its files.

    ``upside_down``: rows from the south, coordinates with them.
    """
    netcdf = pytest.importorskip("netCDF4")
    names = {"mm/h": ("precip_intensity", "mm h-1"), "mm": ("precip_accum", "mm"), "dBZ": ("reflectivity", "dBZ")}
    variable, units = names[unit]
    members, (left, bottom, right, top) = forecast.ndim == 4, grid.corners
    height, width = forecast.shape[-2:]
    x = left + (np.arange(width) + 0.5) * (right - left) / width
    y = bottom + (np.arange(height) + 0.5) * (top - bottom) / height
    with netcdf.Dataset(path, "w", format="NETCDF4") as file:
        file.Conventions, file.title, file.source, file.projection = (
            "CF-1.7",
            "pysteps-generated nowcast",
            "pysteps v1.21.5",
            grid.projection,
        )
        sizes = {"ens_number": len(forecast) if members else 1, "time": forecast.shape[-3], "y": height, "x": width}
        for name, size in sizes.items():
            file.createDimension(name, size)
        for name, values in {"x": x, "y": y if upside_down else y[::-1]}.items():
            axis = file.createVariable(name, np.float32, (name,))
            axis[:] = values
            axis.axis, axis.standard_name, axis.units = name.upper(), f"projection_{name}_coordinate", "m"
        for name in ("lon", "lat"):
            place = file.createVariable(name, float, ("y", "x"))
            place[:] = 0.0
            place.standard_name, place.units = {"lon": ("longitude", "degrees_east"), "lat": ("latitude", "degrees_north")}[name]
        if members:
            numbers = file.createVariable("ens_number", int, ("ens_number",))
            numbers[:] = range(1, len(forecast) + 1)
            numbers.long_name, numbers.standard_name, numbers.units = "ensemble member", "realization", ""
        clock = file.createVariable("time", int, ("time",))
        clock[:] = np.array(leads or range(1, forecast.shape[-3] + 1)) * step
        clock.long_name, clock.units = "forecast time", f"seconds since {str(start).replace('T', ' ')}"
        kind, axes = np.float32 if scale is None else np.int16, (*(["ens_number"] if members else []), "time", "y", "x")
        rain = file.createVariable(variable, kind, axes, zlib=True, complevel=9, fill_value=fill)
        rain.units, rain.coordinates = units, "y x"
        if scale is not None:
            rain.scale_factor = scale
        rain[:] = forecast[..., ::-1, :] if upside_down else forecast
    return path


@pytest.fixture
def radar() -> type[Radar]:
    return Radar


@pytest.fixture
def pysteps_file() -> Callable[..., Path]:
    return write_pysteps


@pytest.fixture
def start() -> Callable[[int], np.datetime64]:
    return start_of
