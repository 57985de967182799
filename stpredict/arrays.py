"""What users hand in and get back: a tensor, a numpy array, or an xarray.DataArray with coordinates."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stpredict.errors import UserError

Restore = Callable[[Tensor], Any]


def take_film(observed: Any, time_step: float | None = None) -> tuple[Tensor, Restore]:
    """Turn observed frames into a float32 tensor, and give the function that turns a forecast into the same kind of thing.

    Args:
        observed: ``(B, K, C, H, W)`` as tensor or array; or a DataArray with these five axes, or with the three axes time, row,
            column (one clip, one channel), in this order.
        time_step: seconds between frames, for the time coordinate of a forecast.

    Returns:
        ``(B, K, C, H, W)`` and a function from ``(B, horizon, C, H, W)`` or ``(B, M, horizon, C, H, W)`` back to the kind given.

    Raises:
        UserError: it is none of these, or not numbers.
    """
    if isinstance(observed, Tensor):
        return _checked(observed.to(torch.float32)), lambda forecast: forecast
    xarray = sys.modules.get("xarray")
    if xarray is not None and isinstance(observed, xarray.DataArray):
        return _take_labelled(observed, time_step)
    array = np.asarray(observed)
    if array.dtype.kind not in "fiub":
        raise UserError(f"Frames must be numbers, not {array.dtype}")
    return _checked(torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))), lambda forecast: forecast.cpu().numpy()


def _checked(frames: Tensor) -> Tensor:
    if frames.ndim != 5:
        raise UserError(f"Frames must be (batch, time, channel, row, column), not of shape {tuple(frames.shape)}")
    if frames.shape[1] < 1:
        raise UserError("A forecast needs at least one observed frame")
    return frames


def _take_labelled(observed: Any, time_step: float | None) -> tuple[Tensor, Restore]:
    single = observed.ndim == 3
    if observed.ndim not in (3, 5):
        raise UserError(f"A DataArray must have the axes (batch, time, channel, row, column) or (time, row, column), not {observed.dims}")
    values = torch.from_numpy(np.ascontiguousarray(observed.values, dtype=np.float32))
    axis = 0 if single else 1
    time = observed.dims[axis]

    def restore(forecast: Tensor) -> Any:
        members = forecast.ndim == 6
        array = forecast.cpu().numpy()
        dims = list(observed.dims)
        if single:
            array = array[0][..., 0, :, :]
        if members:
            dims.insert(axis, "member")
        coordinates = {name: value for name, value in observed.coords.items() if time not in value.dims}
        if time in observed.coords:
            coordinates[time] = _later(observed.coords[time].values, array.shape[dims.index(time)], time_step)
        forecast_frames = type(observed)(array, dims=dims, coords=coordinates, name=observed.name, attrs=observed.attrs)
        if "grid_mapping" in observed.encoding:  # where xarray keeps it when it has read a file with decode_coords="all"
            forecast_frames.encoding["grid_mapping"] = observed.encoding["grid_mapping"]
        return forecast_frames

    return _checked(values[None, :, None] if single else values), restore


def _later(times: Any, horizon: int, time_step: float | None) -> Any:
    if len(times) > 1:
        step = times[-1] - times[-2]
    elif time_step is not None and times.dtype.kind == "M":
        step = np.timedelta64(round(time_step * 1000), "ms")
    else:
        raise UserError("One observed frame does not tell the time step: give at least two, or a predictor whose spec has one")
    return times[-1] + step * np.arange(1, horizon + 1)
