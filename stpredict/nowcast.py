"""Forecasts of new files: the newest frames in, what follows out."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

import stpredict
from stpredict.data import override
from stpredict.data.card import Card, read_card
from stpredict.data.loader import collate
from stpredict.data.newest import newest_clip
from stpredict.errors import UserError, import_optional, nearest
from stpredict.files import refuse_full_disk, whole_file
from stpredict.forecasts import ForecastFile
from stpredict.frames import FrameSpec
from stpredict.predictor import Predictor
from stpredict.render import Panel
from stpredict.showing import show_panels

_CARDS_BY_SUFFIX = {".npy": "array", ".npz": "array", ".h5": "array", ".hdf5": "array"}


def forecast_files(predictor: Any, inputs: Sequence[Path], out: Path, *, horizon: int | None = None, card: str | None = None) -> None:
    """Forecast what follows the newest frames of new files, and write it.

    Args:
        predictor: a trained predictor or a baseline.
        inputs: a folder, a file, or several files that belong together.
        out: ``.npz``, ``.h5``, ``.nc`` (CF NetCDF), or a film: ``.mp4``, ``.webm``, ``.gif``, ``.webp``, ``.png``.
        horizon: frames to forecast; None: as many as the predictor was trained for.
        card: how to read the inputs; None: by the card that the predictor was trained with if that has a reader, else by suffix.

    Raises:
        UserError: the inputs cannot be read or do not fit, ``predictor`` is a forecast file, or ``out`` has an unknown suffix.
    """
    write = WRITERS.get(out.suffix)
    if write is None:
        raise UserError(f"A forecast is written as {', '.join(WRITERS)}, not '{out.suffix}'{nearest(out.suffix, WRITERS)}")
    if isinstance(predictor, ForecastFile):
        raise UserError(f"The forecast file {predictor.path} holds forecasts of its own clips alone: give a predictor or a baseline")
    with _one_root(inputs) as root:
        nowcast = _forecast_newest(predictor, root, horizon, card)
    nowcast.source = ", ".join(str(path) for path in inputs)
    write(out, nowcast)


@contextmanager
def _one_root(inputs: Sequence[Path]) -> Iterator[Path]:
    """Yield one folder or file that stands for all inputs."""
    if len(inputs) == 1:
        yield inputs[0]
        return
    with tempfile.TemporaryDirectory() as folder:
        for path in inputs:
            link = Path(folder, path.name)
            if not path.is_file() or link.exists():
                raise UserError(f"'{path}' is no file, or another input has its name: give one folder, or files of different names")
            link.symlink_to(path.resolve())
        yield Path(folder)


def _forecast_newest(predictor: Any, source: Path, horizon: int | None, card: str | None) -> Nowcast:
    chosen = _choose_card(predictor, source, card)
    context, length = predictor.context or chosen.window.context, horizon or predictor.horizon or chosen.window.horizon
    clip, spec, packing = newest_clip(chosen, source, context)
    if predictor.spec is not None and (predictor.spec.channels, predictor.spec.units) != (spec.channels, spec.units):
        raise UserError(
            f"The predictor '{predictor.name}' takes {predictor.spec.channels} channel(s) of {predictor.spec.units}, "
            f"but '{source}' has {spec.channels} of {spec.units}"
        )
    observed = collate([(0, clip)]).physical(packing, "cpu")
    future = predictor.forecast(observed, length)[0]
    times = None
    if clip.times is not None and spec.time_step is not None:
        step = np.timedelta64(round(spec.time_step), "s")
        times = np.concatenate([clip.times, clip.times[-1] + step * np.arange(1, length + 1)]).astype("datetime64[s]")
    return Nowcast(predictor.name, spec, observed[0].numpy(), future.numpy(), times, str(source))


class Nowcast:
    """A forecast with what it was made from.

    Attributes:
        predictor: the predictor's name.
        spec: what the numbers mean.
        observed: ``(K, C, H, W)`` physical, NaN = missing.
        forecast: ``(horizon, C, H, W)`` physical.
        times: ``(K + horizon,)`` datetime64[s], or None where the film has no clock.
        source: the files that were observed.
    """

    def __init__(
        self,
        predictor: str,
        spec: FrameSpec,
        observed: NDArray[np.float32],
        forecast: NDArray[np.float32],
        times: NDArray[np.datetime64] | None,
        source: str,
    ) -> None:
        self.predictor, self.spec, self.observed, self.forecast = predictor, spec, observed, forecast
        self.times, self.source = times, source

    @property
    def lead_times(self) -> NDArray[np.float64] | None:
        """Return the seconds from the last observed frame to each forecast one."""
        if self.spec.time_step is None:
            return None
        return np.arange(1, len(self.forecast) + 1, dtype=np.float64) * self.spec.time_step

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays that a file holds, by name; times as seconds since 1970 in UTC."""
        arrays: dict[str, NDArray[Any]] = {"forecast": self.forecast, "observed": self.observed}
        if self.times is not None:
            seconds = self.times.astype("datetime64[s]").astype(np.int64)
            arrays |= {"observed_times": seconds[: len(self.observed)], "forecast_times": seconds[len(self.observed) :]}
        return arrays

    @property
    def byte_count(self) -> int:
        """Return how many bytes a file may take, its own headers included."""
        return sum(array.nbytes for array in self.arrays().values()) + (1 << 16)

    def about(self) -> dict[str, Any]:
        """Return what a file says about itself."""
        return {
            "predictor": self.predictor,
            "source": self.source,
            "spec": self.spec.to_dict(),
            "units": self.spec.units,
            "version": stpredict.__version__,
        }


def _choose_card(predictor: Any, source: Path, card: str | None) -> Card:
    if card is not None:
        return read_card(card)
    trained = predictor.provenance.get("data", {}).get("card") if isinstance(predictor, Predictor) else None
    if trained is not None:
        known = read_card(trained)
        if known.reader is not None:
            return override(known, **predictor.data_changes(trained))
    if source.is_dir():
        return read_card("frames_folder")
    chosen = override(read_card(_CARDS_BY_SUFFIX.get(source.suffix.lower(), "video")))
    if chosen.name == "array":
        return override(chosen, settings={"axes": "THW"})
    return chosen


def _write_npz(path: Path, nowcast: Nowcast) -> None:
    with whole_file(path) as temporary, temporary.open("wb") as file:
        arrays: dict[str, Any] = {"about": json.dumps(nowcast.about()), **nowcast.arrays()}
        np.savez_compressed(file, **arrays)


def _write_hdf5(path: Path, nowcast: Nowcast) -> None:
    with whole_file(path) as temporary:
        refuse_full_disk(temporary, nowcast.byte_count)
        with h5py.File(temporary, "w") as file:
            for name, array in nowcast.arrays().items():
                file.create_dataset(name, data=array, compression="gzip" if array.ndim > 1 else None)
            file.attrs["about"] = json.dumps(nowcast.about())


def _write_netcdf(path: Path, nowcast: Nowcast) -> None:
    """Write CF-1.8 NetCDF: time, lead time, channel, y, x; the grid's projection and corners where there is one."""
    xarray = import_optional("xarray", "radar")
    import_optional("netCDF4", "radar")
    spec, forecast = nowcast.spec, nowcast.forecast
    attributes = {"units": spec.units, "long_name": f"forecast by {nowcast.predictor}"}
    data = xarray.Dataset({"forecast": (("time", "channel", "y", "x"), forecast, attributes)})
    if nowcast.times is not None:
        data["time"] = nowcast.times[len(nowcast.observed) :].astype("datetime64[ns]")
    leads = nowcast.lead_times
    if leads is not None:
        data["lead_time"] = ("time", leads, {"units": "s", "standard_name": "forecast_period"})
    if spec.grid is not None:
        left, bottom, right, top = spec.grid.corners
        across = left + (np.arange(spec.width) + 0.5) * (right - left) / spec.width
        up = bottom + (np.arange(spec.height) + 0.5) * (top - bottom) / spec.height
        data["x"] = ("x", across, {"standard_name": "projection_x_coordinate"})
        data["y"] = ("y", up if spec.grid.row_origin == "south" else up[::-1], {"standard_name": "projection_y_coordinate"})
        data["crs"] = ((), 0, {"proj4": spec.grid.projection})
        data["forecast"].attrs["grid_mapping"] = "crs"
    data.attrs = {"Conventions": "CF-1.8", "source": nowcast.source, "history": f"stpredict {stpredict.__version__}"}
    with whole_file(path) as temporary:
        refuse_full_disk(temporary, nowcast.byte_count)
        data.to_netcdf(temporary, engine="netcdf4", encoding={"forecast": {"zlib": True, "_FillValue": np.float32(np.nan)}})


def _write_film(path: Path, nowcast: Nowcast) -> None:
    film = np.concatenate([nowcast.observed, nowcast.forecast])
    show_panels([Panel(nowcast.predictor, film)], nowcast.spec, path, context=len(nowcast.observed), times=nowcast.times)


WRITERS: dict[str, Callable[[Path, Nowcast], None]] = {
    ".npz": _write_npz,
    ".h5": _write_hdf5,
    ".nc": _write_netcdf,
    **dict.fromkeys((".mp4", ".webm", ".gif", ".webp", ".png"), _write_film),
}
"""How a forecast is written, by the suffix of the file."""
