"""Products as ODIM_H5, the European exchange format: one file, a data set for each lead, rows from the north.

Source: EUMETNET OPERA weather radar information model for implementation with the HDF5 file format, version 2.3.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

import stpredict
from stpredict.data.odim_files import set_attributes
from stpredict.errors import UserError
from stpredict.files import refuse_full_disk, whole_file
from stpredict.products.contents import Nowcast
from stpredict.products.places import Places, places_of

_QUANTITIES = {"mm/h": ("RATE", 0.01, 0.0), "mm": ("ACRR", 0.01, 0.0), "dBZ": ("DBZH", 0.01, -100.0), "kg/m2": ("VIL", 0.01, 0.0)}
"""By units: the quantity, and the finest gain and the offset of the packed numbers."""

_NODATA, _UNDETECT = 65535, 0
"""Packed codes: not seen, and seen but nothing there."""


def write_odim_file(path: Path, nowcast: Nowcast) -> None:
    """Write a forecast of one channel as 16-bit numbers, in steps of 0.01, or coarser ones where a value would not fit.

    What is at or below the least value that the units allow (no rain) is ``undetect``, what is missing ``nodata``.

    Raises:
        UserError: the frames have several channels, no grid or no clock, or units that ODIM has no quantity for, or reach beyond all
            measure.
        OSError: there is no room.
    """
    spec = nowcast.spec
    lacks = {"a grid": spec.grid is not None, "a clock": nowcast.times is not None, "one channel": spec.channels == 1}
    missing = [what for what, there in lacks.items() if not there]
    if missing or spec.units not in _QUANTITIES:
        why = f"frames with {' and '.join(missing)}" if missing else f"units {', '.join(_QUANTITIES)}, not {spec.units}"
        raise UserError(f"ODIM_H5 needs {why}: write '{path.name}' as .nc, .npz or plain .h5")
    assert spec.grid is not None
    places = places_of(spec.grid, spec.height, spec.width)
    gain = _choose_gain(nowcast)
    packed = _pack(nowcast, gain)
    packed = packed if spec.grid.row_origin == "north" else packed[:, ::-1]
    with whole_file(path) as temporary:
        refuse_full_disk(temporary, nowcast.byte_count)
        with h5py.File(temporary, "w") as file:
            _write_head(file, nowcast, places)
            for lead, frame in enumerate(packed):
                _write_lead(file.create_group(f"dataset{lead + 1}"), nowcast, lead, frame, gain)


def _choose_gain(nowcast: Nowcast) -> float:
    """Return the finest gain, from that of the quantity up, by which 16 bits hold the forecast's greatest value."""
    quantity, least, offset = _QUANTITIES[nowcast.spec.units]
    most = float(np.nanmax(nowcast.forecast, initial=0.0)) - offset
    gain = next((least * coarser for coarser in (1, 2, 5, 10, 20, 50, 100) if round(most / (least * coarser)) < _NODATA), None)
    if gain is None:
        raise UserError(f"ODIM_H5 has no room for {most + offset:g} {nowcast.spec.units} of {quantity}: look at the inputs, or write .nc")
    return gain


def _pack(nowcast: Nowcast, gain: float) -> NDArray[np.uint16]:
    offset = _QUANTITIES[nowcast.spec.units][2]
    frames = nowcast.forecast[:, 0].astype(np.float64)
    least = max(offset, -np.inf if nowcast.spec.minimum is None else nowcast.spec.minimum)
    missing = np.isnan(frames)
    number = np.rint((np.where(missing, offset, frames) - offset) / gain)
    packed = np.where(frames > least, np.maximum(number, 1), _UNDETECT)
    return np.where(missing, _NODATA, packed).astype(np.uint16)


def _write_head(file: h5py.File, nowcast: Nowcast, places: Places) -> None:
    assert nowcast.observed_times is not None
    institution = str(nowcast.facts.get("institution", ""))
    date, time = _moment(nowcast.observed_times[-1])
    source = f"CMT:{institution or 'stpredict'}"
    set_attributes(file, Conventions="ODIM_H5/V2_3")
    set_attributes(file.create_group("what"), object="COMP", version="H5rad 2.3", date=date, time=time, source=source)
    left, bottom, right, top = places.corners
    corners = {"LL": (left, bottom), "UL": (left, top), "UR": (right, top), "LR": (right, bottom)}
    where: dict[str, Any] = {"projdef": places.proj4}
    where |= {"xsize": len(places.x), "ysize": len(places.y)}
    where |= {"xscale": (right - left) / len(places.x), "yscale": (top - bottom) / len(places.y)}
    for name, corner in corners.items():
        where[f"{name}_lon"], where[f"{name}_lat"] = (float(angle) for angle in places.to_degrees(*corner))
    set_attributes(file.create_group("where"), **where)
    hashes = "; ".join(nowcast.facts.get("hashes", {}).values())
    how = {"software": "stpredict", "sw_version": stpredict.__version__, "comment": f"Forecast by {nowcast.predictor} {hashes}".strip()}
    set_attributes(file.create_group("how"), **how, input=nowcast.source, observed=nowcast.used())


def _write_lead(group: h5py.Group, nowcast: Nowcast, lead: int, packed: NDArray[np.uint16], gain: float) -> None:
    spec, times = nowcast.spec, nowcast.forecast_times
    assert times is not None and nowcast.lead_times is not None
    quantity, _, offset = _QUANTITIES[spec.units]
    start = times[lead] - np.timedelta64(round(spec.period or 0), "s")
    (start_date, start_time), (end_date, end_time) = _moment(start), _moment(times[lead])
    what = {"product": "COMP", "prodname": f"forecast by {nowcast.predictor}", "quantity": quantity}
    set_attributes(group.create_group("what"), **what, startdate=start_date, starttime=start_time, enddate=end_date, endtime=end_time)
    set_attributes(group.create_group("how"), lead_time=float(nowcast.lead_times[lead]))
    data = group.create_group("data1")
    set_attributes(data.create_group("what"), quantity=quantity, gain=gain, offset=offset, nodata=float(_NODATA), undetect=float(_UNDETECT))
    image = data.create_dataset("data", data=packed, chunks=packed.shape, compression="gzip", compression_opts=6)
    set_attributes(image, CLASS="IMAGE", IMAGE_VERSION="1.2")


def _moment(time: np.datetime64) -> tuple[str, str]:
    digits = "".join(character for character in str(time.astype("datetime64[s]")) if character.isdecimal())
    return digits[:8], digits[8:]
