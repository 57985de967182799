"""Makes tiny archives in CF form: a NetCDF file of packed accumulations, and a Zarr store of rates as mlcast's are.

::

    python datasets/generators/cf.py FOLDER    # rain.nc and rain.zarr
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyproj
import xarray

PROJECTION = "+proj=laea +lat_0=52 +lon_0=10 +x_0=4321000 +y_0=3210000 +ellps=GRS80 +units=m +no_defs"


def rates(frames: int = 24, height: int = 20, width: int = 28, seed: int = 0) -> np.ndarray:
    """Return ``(T, H, W)`` float32 rain rates in mm/h, NaN outside of a disc: a blob that drifts eastward over noise."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    outside = np.hypot(rows - height / 2, columns - width / 2) > 0.55 * width
    film = []
    for number in range(frames):
        distance = np.hypot(rows - height / 2, (columns - number) % width - width / 2)
        film.append(np.where(outside, np.nan, 20 * np.exp(-((distance / 5) ** 2)) + random.random((height, width))))
    return np.stack(film).astype(np.float32)


def make_dataset(frames: int = 24, height: int = 20, width: int = 28, minutes: int = 5, name: str = "rain") -> xarray.Dataset:
    """Return rates with their coordinates, row 0 in the north, and their grid mapping as WKT and as parameters."""
    times = np.datetime64("2020-06-01T12:00", "ns") + np.arange(frames) * np.timedelta64(minutes, "m")
    mapping = pyproj.CRS.from_user_input(PROJECTION).to_cf()
    return xarray.Dataset(
        {
            name: (
                ("time", "y", "x"),
                rates(frames, height, width),
                {"units": "mm h-1", "standard_name": "rainfall_rate", "grid_mapping": "crs"},
            )
        },
        {
            "time": ("time", times, {"standard_name": "time"}),
            "y": ("y", 3210500.0 + 1000 * np.arange(height)[::-1], {"standard_name": "projection_y_coordinate", "units": "m"}),
            "x": ("x", 4321500.0 + 1000 * np.arange(width), {"standard_name": "projection_x_coordinate", "units": "m"}),
            "crs": ((), 0, mapping),
        },
        {"Conventions": "CF-1.8"},
    )


def write_netcdf(path: Path, frames: int = 24, minutes: int = 5) -> Path:
    """Write accumulations in mm as 16-bit integers, with bounds of time that tell their period."""
    dataset = make_dataset(frames, minutes=minutes)
    dataset["rain"] = dataset["rain"] * np.float32(minutes / 60)
    dataset["rain"].attrs = {"units": "mm", "standard_name": "rainfall_amount", "grid_mapping": "crs", "cell_methods": "time: sum"}
    dataset["time"].attrs["bounds"] = "time_bnds"
    ends = dataset["time"].values
    dataset["time_bnds"] = (("time", "nv"), np.stack([ends - np.timedelta64(minutes, "m"), ends], axis=1))
    packed = {"dtype": "int16", "scale_factor": 0.01, "add_offset": 0.0, "_FillValue": -9999, "zlib": True}
    seconds = {"units": "seconds since 2020-01-01", "dtype": "int64"}
    dataset.to_netcdf(path, engine="netcdf4", encoding={"rain": packed, "time": seconds, "time_bnds": seconds})
    return path


def write_zarr(path: Path, frames: int = 24, version: int = 2, missing: tuple[int, ...] = ()) -> Path:
    """Write rates as float32 with NaN for missing, one chunk a frame; the times of ``missing`` frames are listed, not there."""
    dataset = make_dataset(frames)
    gone = dataset["time"].values[list(missing)]
    dataset = dataset.isel(time=[number for number in range(frames) if number not in missing])
    dataset = dataset.assign_coords(missing_times=("missing_times", gone))
    seconds = {"units": "seconds since 2020-01-01", "dtype": "int64"}
    chunks = (1, *dataset["rain"].shape[1:])
    encoding = {"rain": {"chunks": chunks, "_FillValue": np.float32(np.nan)}, "time": seconds, "missing_times": seconds}
    dataset.to_zarr(path, zarr_format=version, encoding=encoding, consolidated=version == 2)
    return path


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    write_netcdf(folder / "rain.nc")
    write_zarr(folder / "rain.zarr")
