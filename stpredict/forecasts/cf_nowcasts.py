"""One nowcast in a CF NetCDF file: what pysteps exports, and what ``stpredict forecast`` and its ``--watch`` write."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stpredict.data.readers.cf_files import opened, read_stored
from stpredict.data.readers.cf_header import Header, Settings, decode_times, header_of
from stpredict.errors import UserError
from stpredict.forecasts.nowcast_files import NowcastFile, one_line, told_minimum, told_pair, watched_cycle

if TYPE_CHECKING:
    from xarray import Dataset

_VARIABLES = ("precip_intensity", "reflectivity", "precip_accum", "water_content", "forecast")
"""By which names pysteps and stpredict write forecasts, among what else their files hold."""

_MEMBERS = ("member", "members", "ens_number", "ensemble", "ensemble_member", "realization", "realisation", "number")
_SINCE = re.compile(r"seconds since (\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d)", re.ASCII)


@dataclass(frozen=True)
class CfNowcast(NowcastFile):
    """A nowcast in a CF file.

    Attributes:
        header: which variable, and how its numbers are stored.
        layout: for each dimension of the variable its role, ``member`` among them, or the number that is chosen along it.
    """

    header: Header
    layout: tuple[str | int, ...]

    def read(self, leads: NDArray[np.int64]) -> Tensor:
        """Return frames, as :class:`NowcastFile` says."""
        header, members = self.header, self.members or 1
        stored_leads = header.places[leads]
        first, last = int(stored_leads.min()), int(stored_leads.max())
        self.refuse_large(last - first + 1, np.dtype(header.encoding.dtype).itemsize)
        times = slice(first, last + 1)
        index = tuple(role if isinstance(role, int) else times if role == "time" else slice(None) for role in self.layout)
        stored = read_stored(self.path, header.variable, index)
        axes = [role for role in self.layout if isinstance(role, str)]
        for role in ("time", "channel", "member"):
            if role not in axes:
                stored, axes = stored[np.newaxis], [role, *axes]
        frames = stored.transpose([axes.index(role) for role in ("member", "time", "channel", "y", "x")])
        if frames.shape != (members, last - first + 1, *header.size):
            raise UserError(f"'{self.path}' has changed its size to {frames.shape}")
        packed = header.encoding.pack(frames[:, stored_leads - first])
        return header.encoding.packing(header.factor).unpack(torch.from_numpy(packed))


def read_cf_nowcast(path: Path) -> CfNowcast:
    """Read what a file says of itself.

    Raises:
        UserError: it is damaged, or is no nowcast: it has no times, or neither says what it forecasts from nor has several leads.
    """
    with opened(path) as dataset:
        variable = next((name for name in _VARIABLES if name in dataset.variables), None)
        if variable is not None and not str(dataset.variables[variable].attrs.get("units", "")).strip():
            raise UserError(f"'{path}' does not say in which units '{variable}' is: give it the attribute units, such as mm h-1")
        ensembles = [str(dimension) for dimension, size in dataset.sizes.items() if size and _is_ensemble(dataset, str(dimension))]
        header = header_of(path, dataset, Settings(variable, {}, dict.fromkeys(ensembles, 0), None, None, None, None))
        dimensions = [str(dimension) for dimension in dataset.variables[header.variable].dims]
        members = {dimension: int(dataset.sizes[dimension]) for dimension in dimensions if dimension in ensembles}
        about = _about(dataset)
        start = _told_start(path, dataset, about)
        made_by = one_line(about.get("predictor") or dataset.attrs.get("source", ""))
    if "time" not in header.layout:
        raise UserError(f"'{path}' is no nowcast: its '{header.variable}' is a single frame, without leads")
    if start is None and len(header.times) > 1:
        start = header.times[0] - (header.times[1] - header.times[0])
    if start is None:
        raise UserError(
            f"'{path}' does not say what it forecasts from: give it a variable of the standard_name forecast_reference_time, as "
            "'stpredict forecast' writes it"
        )
    if len(members) > 1:
        raise UserError(f"'{path}' has several kinds of members, {', '.join(members)}: keep one of them")
    which, count = next(iter(members.items()), ("", 1))
    layout = tuple("member" if name == which and count > 1 else role for name, role in zip(dimensions, header.layout, strict=True))
    return CfNowcast(
        path,
        start,
        header.times,
        members=count if count > 1 else None,
        size=header.size,
        units=header.units,
        period=header.period,
        grid=header.grid,
        z_r=told_pair(about),
        minimum=told_minimum(about),
        made_by=made_by,
        header=header,
        layout=layout,
    )


def _is_ensemble(dataset: Dataset, dimension: str) -> bool:
    coordinate = dataset.variables.get(dimension)
    told = "" if coordinate is None else str(coordinate.attrs.get("standard_name", ""))
    return dimension.lower() in _MEMBERS or told == "realization"


def _about(dataset: Dataset) -> dict[str, Any]:
    """Return what a product of stpredict says of itself; of another file, nothing."""
    try:
        about = json.loads(str(dataset.attrs.get("stpredict", "{}")))
    except (ValueError, RecursionError):
        return {}
    return about if isinstance(about, dict) else {}


def _told_start(path: Path, dataset: Dataset, about: dict[str, Any]) -> np.datetime64 | None:
    """Return the time that a file says it forecasts from, or None.

    That of a watch is its cycle; others say it by the CF conventions; pysteps counts its leads from it.
    """
    cycle = watched_cycle(about)
    if cycle is not None:
        return cycle
    for name, variable in dataset.variables.items():
        if variable.attrs.get("standard_name") == "forecast_reference_time" and variable.size == 1:
            reference: np.datetime64 = decode_times(path, dataset, str(name)).reshape(-1)[0]
            return reference
    counted = _SINCE.fullmatch(str(dataset.variables["time"].attrs.get("units", ""))) if "time" in dataset.variables else None
    if counted is None or not str(dataset.attrs.get("source", "")).startswith("pysteps"):
        return None
    return np.datetime64(f"{counted[1]}T{counted[2]}", "s")
