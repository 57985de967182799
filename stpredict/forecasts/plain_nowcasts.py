"""One nowcast in a plain ``.npz`` or ``.h5``, as ``stpredict forecast`` writes them (:mod:`stpredict.products.plain`)."""

from __future__ import annotations

import io
import json
import math
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stpredict.data.readers import hdf5
from stpredict.data.readers.array_files import ArrayFile, open_array
from stpredict.data.readers.finding import naming
from stpredict.errors import UserError
from stpredict.forecasts.nowcast_files import NowcastFile, one_line, told_minimum, told_numbers, told_pair, watched_cycle
from stpredict.frames import Grid

_SMALL = 1 << 22  # bytes of what stands beside the frames
_DAMAGE = (OSError, ValueError, KeyError, TypeError, RuntimeError, EOFError, RecursionError, zipfile.BadZipFile, zlib.error, struct.error)


@dataclass(frozen=True)
class PlainNowcast(NowcastFile):
    """A nowcast in a plain file.

    Attributes:
        forecast: ``((M,) T, C, H, W)``.
    """

    forecast: ArrayFile

    def read(self, leads: NDArray[np.int64]) -> Tensor:
        """Return frames, as :class:`NowcastFile` says."""
        self.refuse_large(len(self.times), self.forecast.dtype.itemsize)  # a compressed zip is read whole
        first, last = int(leads.min()), int(leads.max())
        every = (slice(None),) if self.members is not None else ()
        frames = self.forecast.read((*every, slice(first, last + 1))).astype(np.float32)
        frames = frames if self.members is not None else frames[np.newaxis]
        return torch.from_numpy(frames[:, leads - first])


def is_plain_nowcast(path: Path) -> bool:
    """Whether a file is such a product.

    Raises:
        UserError: it is damaged.
    """
    if path.suffix == ".npz":
        with naming(path, "npz file", *_DAMAGE), zipfile.ZipFile(path) as archive:
            return {"about.npy", "forecast.npy", "observed.npy"} <= set(archive.namelist())
    if path.suffix == ".h5":
        with hdf5.open_file(path) as file:
            return {"forecast", "observed"} <= set(file) and "about" in file.attrs
    return False


def read_plain_nowcast(path: Path) -> PlainNowcast:
    """Read what a file says of itself.

    Raises:
        UserError: it is damaged, or its frames have no clock.
    """
    kind = "nowcast of stpredict"
    with naming(path, kind, *_DAMAGE):
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                about = json.loads(str(_from_zip(archive, "about", "U")))
                clock = [
                    _from_zip(archive, name, "i") for name in ("observed_times", "forecast_times") if f"{name}.npy" in archive.namelist()
                ]
        else:
            with hdf5.open_file(path) as file:
                about = json.loads(str(file.attrs["about"]))
                clock = [_from_hdf5(hdf5.dataset(file, name)) for name in ("observed_times", "forecast_times") if name in file]
        if len(clock) < 2:
            raise UserError(f"'{path}' has no clock: its frames have no times by which clips could be found")
        observed, times = (np.atleast_1d(moments).astype("datetime64[s]") for moments in clock)
        spec, forecast = about["spec"], open_array(path, "forecast")
        shape = forecast.shape
        if len(shape) not in (4, 5) or shape[-4] != len(times) or forecast.dtype.kind != "f":
            raise UserError(f"'{path}' is damaged: its forecast is {forecast.dtype} {shape}, with {len(times)} times")
        period = told_numbers(about, "period", 1)
        cycle = watched_cycle(about)
        return PlainNowcast(
            path,
            observed[-1] if cycle is None else cycle,
            times,
            members=shape[0] if len(shape) == 5 else None,
            size=(shape[-3], shape[-2], shape[-1]),
            units=one_line(spec["units"]),
            period=None if period is None else period[0],
            grid=_grid(spec.get("grid")),
            z_r=told_pair(about),
            minimum=told_minimum(about),
            made_by=one_line(about.get("predictor", "")),
            forecast=forecast,
        )


def _from_zip(archive: zipfile.ZipFile, name: str, kind: str) -> NDArray[Any]:
    """Return a small array of texts or integers of a zip file."""
    entry = archive.getinfo(f"{name}.npy")
    if entry.file_size > _SMALL:
        raise ValueError(f"'{name}' is too large")
    content = io.BytesIO(archive.read(entry))
    version = np.lib.format.read_magic(content)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    shape, _, dtype = read(content)
    if dtype.kind != kind or math.prod(shape) * dtype.itemsize != entry.file_size - content.tell():
        raise ValueError(f"'{name}' is {dtype} {shape}")
    return np.frombuffer(content.read(), dtype).reshape(shape)


def _from_hdf5(dataset: Any) -> NDArray[Any]:
    if dataset.nbytes > _SMALL or dataset.dtype.kind != "i":
        raise ValueError(f"'{dataset.name}' is {dataset.dtype} {dataset.shape}")
    return np.asarray(dataset[()])


def _grid(told: Any) -> Grid | None:
    """Return a grid from plain data, of which nothing is believed."""
    if told is None:
        return None
    projection, corners, origin = told["projection"], told["corners"], told["row_origin"]
    numbers = len(corners) == 4 and all(isinstance(edge, int | float) and math.isfinite(edge) for edge in corners)
    if not isinstance(projection, str) or not numbers or origin not in ("north", "south"):
        raise ValueError(f"its grid is {one_line(told)}")
    left, bottom, right, top = (float(edge) for edge in corners)
    if not (left < right and bottom < top):
        raise ValueError(f"its grid has the corners {corners}")
    return Grid(projection, (left, bottom, right, top), origin)
