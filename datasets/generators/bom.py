"""Makes tiny archives in the form of BoM's Rainfields files: one CF NetCDF file for each 6-minute accumulation.

::

    python datasets/generators/bom.py FOLDER
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import netCDF4
import numpy as np

MISSING = -1
SCALE = 0.05  # kg m-2 a unit


def write_sample(
    folder: Path,
    frames: int = 12,
    height: int = 24,
    width: int = 32,
    seed: int = 0,
    start: datetime = datetime(2018, 6, 16, 10),
    minutes: int = 6,
) -> list[Path]:
    """Write one file for each of ``frames`` accumulations that end ``minutes`` apart, the first at ``start``.

    Rain is a blob that drifts eastward over noise; pixels outside of a disc are missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    outside = np.hypot(rows - height / 2, columns - width / 2) > 0.55 * width
    paths = []
    for number in range(frames):
        distance = np.hypot(rows - height / 2, (columns - number) % width - width / 2)
        rain = np.rint(80 * np.exp(-((distance / 5) ** 2)) + random.integers(0, 3, (height, width)))
        paths.append(
            write_file(folder, np.where(outside, MISSING, rain).astype(np.int16), start + timedelta(minutes=minutes * number), minutes)
        )
    return paths


def write_file(folder: Path, image: np.ndarray, end: datetime, minutes: int = 6) -> Path:
    """Write one accumulation, in units of 0.05 kg m-2 and row 0 in the north, that ends at ``end``."""
    path = folder / f"2_{end:%Y%m%d_%H%M%S}.prcp-cscn.nc"
    height, width = image.shape
    with netCDF4.Dataset(path, "w", format="NETCDF4") as file:
        file.setncatts({"Conventions": "CF-1.7", "title": "Gauge-blended radar rainfall"})
        file.createDimension("y", height)
        file.createDimension("x", width)
        rain = file.createVariable("precipitation", "i2", ("y", "x"), zlib=True, complevel=4, fill_value=MISSING)
        rain.set_auto_maskandscale(False)
        attributes = {"long_name": "Accumulated precipitation", "standard_name": "precipitation_amount", "units": "kg m-2"}
        rain.setncatts({**attributes, "scale_factor": SCALE, "add_offset": 0.0, "grid_mapping": "proj"})
        rain[:] = image
        for name, centres in (("x", np.arange(width) - (width - 1) / 2), ("y", (height - 1) / 2 - np.arange(height))):
            axis = file.createVariable(name, "f4", (name,))
            axis.setncatts({"standard_name": f"projection_{name}_coordinate", "units": "km"})
            axis[:] = centres
        mapping = file.createVariable("proj", "i1", ())
        mapping.setncatts(
            {
                "grid_mapping_name": "albers_conical_equal_area",
                "standard_parallel": np.array([-18.0, -36.0]),
                "longitude_of_central_meridian": 144.752,
                "latitude_of_projection_origin": -37.852,
                "false_easting": 0.0,
                "false_northing": 0.0,
                "semi_major_axis": 6378137.0,
                "semi_minor_axis": 6356752.314140356,
            }
        )
        for name, moment in (("start_time", end - timedelta(minutes=minutes)), ("valid_time", end)):
            clock = file.createVariable(name, "i8", ())
            clock.setncatts({"long_name": name.replace("_", " "), "units": "seconds since 1970-01-01 00:00:00 UTC"})
            clock[...] = int(moment.replace(tzinfo=UTC).timestamp())
    return path


if __name__ == "__main__":
    write_sample(Path(sys.argv[1]))
