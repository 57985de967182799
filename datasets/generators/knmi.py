"""Makes tiny archives in the form of KNMI's RAD_NL25_RAP_5min files: groups, attributes, types and compression as in real ones.

::

    python datasets/generators/knmi.py FOLDER
"""

from __future__ import annotations

import sys
from datetime import datetime, timedelta
from pathlib import Path

import h5py
import numpy as np

MISSING = 65535
PROJECTION = b"+proj=stere +lat_0=90 +lon_0=0.0 +lat_ts=60.0 +a=6378.137 +b=6356.752 +x_0=0 +y_0=0"


def write_sample(
    folder: Path,
    frames: int = 24,
    height: int = 32,
    width: int = 28,
    seed: int = 0,
    start: datetime = datetime(2010, 8, 26),
    minutes: int = 5,
) -> list[Path]:
    """Write one file for each of ``frames`` accumulations that end ``minutes`` apart, the first at ``start``.

    Rain is a blob that drifts eastward over noise; pixels outside of a disc are missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    outside = np.hypot(rows - height / 2, columns - width / 2) > 0.55 * max(height, width)
    paths = []
    for number in range(frames):
        distance = np.hypot(rows - height / 2, (columns - number) % width - width / 2)
        rain = np.rint(60 * np.exp(-((distance / 5) ** 2)) + random.integers(0, 3, (height, width))).astype(np.uint16)
        image = np.where(outside, MISSING, rain).astype(np.uint16)
        paths.append(write_file(folder, image, start + timedelta(minutes=minutes * number), minutes))
    return paths


def write_file(folder: Path, image: np.ndarray, end: datetime, minutes: int = 5) -> Path:
    """Write one accumulation, in hundredths of a millimetre, that ends at ``end``."""
    path = folder / f"RAD_NL25_RAP_5min_{end:%Y%m%d%H%M}.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("image1/image_data", data=image, chunks=image.shape, compression="gzip", compression_opts=6)
        data.attrs["CLASS"], data.attrs["VERSION"] = np.array([b"IMAGE"]), np.array([b"1.2"])
        _set(file["image1"], image_geo_parameter=b"ACCUMULATED_PRECIPITATION_[MM]", image_product_name=b"RAD_NL25_RAU_H1.5_5mi")
        _set(file["image1"], image_bytes_per_pixel=np.array([2], np.int32), image_size=np.array([image.nbytes], np.int32))
        _set(file.create_group("image1/calibration"), calibration_flag=b"Y", calibration_formulas=b"GEO=0.01*PV+0.0")
        _set(file["image1/calibration"], calibration_missing_data=np.array([MISSING], np.int32))
        _set(file["image1/calibration"], calibration_out_of_image=np.array([MISSING], np.int32))
        _set(
            file.create_group("overview"),
            hdftag_version_number=b"3.5",
            product_datetime_start=np.array([_moment(end - timedelta(minutes=minutes))], "S25"),
            product_datetime_end=np.array([_moment(end)], "S25"),
            product_group_name=b"RAD_NL25_RAU_5mi",
        )
        _set(
            file.create_group("geographic"),
            geo_number_rows=np.array([image.shape[0]], np.int32),
            geo_number_columns=np.array([image.shape[1]], np.int32),
            geo_pixel_size_x=np.array([1.0], np.float32),
            geo_pixel_size_y=np.array([-1.0], np.float32),
            geo_column_offset=np.array([0.0], np.float32),
            geo_row_offset=np.array([3650.0], np.float32),
            geo_dim_pixel=b"KM,KM",
            geo_pixel_def=b"LU",
        )
        _set(
            file.create_group("geographic/map_projection"),
            projection_indication=b"Y",
            projection_name=b"STEREOGRAPHIC",
            projection_proj4_params=PROJECTION,
        )
    return path


def _set(group: h5py.Group, **attributes: object) -> None:
    for name, value in attributes.items():
        group.attrs[name] = np.bytes_(value) if isinstance(value, bytes) else value


def _moment(moment: datetime) -> bytes:
    month = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")[moment.month - 1]
    return f"{moment:%d}-{month}-{moment:%Y};{moment:%H:%M:%S}.000".encode()


if __name__ == "__main__":
    write_sample(Path(sys.argv[1]))
