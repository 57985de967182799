"""Write composites in ODIM_H5, the European exchange format, version 2.3.

Source: EUMETNET OPERA, weather radar information model for implementation with the HDF5 file format, version 2.3.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import ArrayLike

from stpredict.data.readers.projections import geographic
from stpredict.errors import UserError, import_optional
from stpredict.files import refuse_full_disk, whole_file
from stpredict.frames import Grid

UNDETECT = 0
"""The code for "seen, and nothing found"; the greatest code is nodata, "not seen"."""

_ROOM = 1 << 16  # bytes, more than all groups and attributes take


def write_odim(
    path: str | Path,
    values: ArrayLike,
    *,
    quantity: str,
    grid: Grid,
    time: datetime,
    seconds: float = 0.0,
    gain: float,
    offset: float = 0.0,
    dtype: Literal["uint8", "uint16"] = "uint16",
    source: str = "CMT:stpredict",
) -> None:
    """Write one frame as a cartesian composite (object COMP), whole or not at all.

    A value is stored as the nearest code times ``gain`` plus ``offset``. Code 0 is ``undetect``: what is nearest to ``offset``, or below
    it, counts as nothing found, such as 0 mm/h or -32 dBZ. What lies above the range of the codes is stored as its end.

    Args:
        path: of the file.
        values: ``(H, W)`` in the units of the quantity (RATE mm/h, ACRR mm, DBZH and TH dBZ), NaN where nothing was seen.
        quantity: as ODIM_H5 calls it.
        grid: where the pixels lie; the file's row 0 is north, whatever this says.
        time: UTC at which the frame ends; also its nominal time.
        seconds: how long rain was gathered or seen, up to ``time``.
        gain: units per code.
        offset: units of code 0.
        dtype: of the codes.
        source: who made it, by ODIM_H5's words, such as ``ORG:247`` or ``NOD:nlhrw``.

    Raises:
        UserError: the values are no rows and columns or hold infinity, gain or grid make no sense, or pyproj is not installed.
        OSError: the file could not be written.
    """
    frame = np.asarray(values, dtype=np.float64)
    if frame.ndim != 2 or frame.size == 0 or np.isinf(frame).any():
        raise UserError(f"An ODIM_H5 composite is finite rows and columns, NaN where nothing was seen, not numbers of shape {frame.shape}")
    if not (np.isfinite([gain, offset]).all() and gain > 0):
        raise UserError(f"An ODIM_H5 file needs a gain above 0 and a finite offset, not {gain} and {offset}")
    if grid.row_origin == "south":
        frame = frame[::-1]
    nodata = int(np.iinfo(dtype).max)
    missing = np.isnan(frame)
    codes = np.clip(np.rint((np.where(missing, offset, frame) - offset) / gain), UNDETECT, nodata - 1)
    codes = np.where(missing, nodata, codes).astype(dtype)

    packing = {"gain": float(gain), "offset": float(offset), "nodata": float(nodata), "undetect": float(UNDETECT)}
    start = time - timedelta(seconds=seconds)
    where = _where(grid, *frame.shape)
    with whole_file(path) as temporary:
        refuse_full_disk(temporary, codes.nbytes + _ROOM)
        with h5py.File(temporary, "w") as file:
            set_attributes(file, Conventions="ODIM_H5/V2_3")
            nominal = {"date": f"{time:%Y%m%d}", "time": f"{time:%H%M%S}"}
            set_attributes(file.create_group("what"), object="COMP", version="H5rad 2.3", **nominal, source=source)
            set_attributes(file.create_group("where"), **where)
            dataset = file.create_group("dataset1")
            span = {f"{end}{part}": f"{moment:{form}}" for end, moment in (("start", start), ("end", time)) for part, form in _PARTS}
            set_attributes(dataset.create_group("what"), product="COMP", **span)
            set_attributes(dataset.create_group("data1/what"), quantity=quantity, **packing)
            data = dataset.create_dataset("data1/data", data=codes, chunks=codes.shape, compression="gzip", compression_opts=6)
            set_attributes(data, CLASS="IMAGE", IMAGE_VERSION="1.2")


_PARTS = (("date", "%Y%m%d"), ("time", "%H%M%S"))


def _where(grid: Grid, height: int, width: int) -> dict[str, Any]:
    left, bottom, right, top = grid.corners
    if not (left < right and bottom < top):
        raise UserError(f"A grid's corners are left, bottom, right, top, not {grid.corners}")
    corners = {"LL": (left, bottom), "UL": (left, top), "UR": (right, top), "LR": (right, bottom)}
    reached = geographic(import_optional("pyproj", "radar"), grid.projection, list(corners.values()))
    where: dict[str, Any] = {"projdef": grid.projection, "xsize": np.int64(width), "ysize": np.int64(height)}
    where |= {"xscale": (right - left) / width, "yscale": (top - bottom) / height}
    for name, (longitude, latitude) in zip(corners, reached, strict=True):
        where |= {f"{name}_lon": longitude, f"{name}_lat": latitude}
    return where


def set_attributes(item: h5py.Group | h5py.Dataset, **attributes: Any) -> None:
    """Set attributes as ODIM_H5 has them: a text of a fixed length and ended by a zero, where h5py's own texts are padded."""
    for name, value in attributes.items():
        if isinstance(value, str):
            _set_text(item, name, value.encode("ascii", "replace"))
        else:
            item.attrs[name] = value


def _set_text(item: h5py.Group | h5py.Dataset, name: str, text: bytes) -> None:
    kind = h5py.h5t.C_S1.copy()
    kind.set_size(len(text) + 1)
    kind.set_strpad(h5py.h5t.STR_NULLTERM)
    attribute = h5py.h5a.create(item.id, name.encode(), kind, h5py.h5s.create(h5py.h5s.SCALAR))
    attribute.write(np.array(text, dtype=f"S{len(text) + 1}"))
