"""An archive of nowcasts: files of one start time each, matched to clips by their times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stpredict import rain
from stpredict.data.clips import ClipSet
from stpredict.data.readers.cf_values import convert_units
from stpredict.data.readers.finding import find_files
from stpredict.data.windows import Windows
from stpredict.errors import UserError
from stpredict.forecasts.cf_nowcasts import read_cf_nowcast
from stpredict.forecasts.contract import SavedForecasts
from stpredict.forecasts.nowcast_files import NowcastFile, describe_files, places_of
from stpredict.forecasts.odim_nowcasts import is_odim_nowcast, read_odim_nowcast
from stpredict.forecasts.places import Window, find_window
from stpredict.forecasts.plain_nowcasts import is_plain_nowcast, read_plain_nowcast
from stpredict.frames import Batch

_NETCDF, _OTHERS = (".nc", ".nc4", ".cdf", ".netcdf"), (".npz", ".h5")


class ForecastArchive(SavedForecasts):
    """Nowcasts in one file or in a folder of files, one for each start time: NetCDF of pysteps or stpredict, its plain files, ODIM_H5.

    A nowcast continues the clips whose last observed frame is of its start time, if it has a frame at the time of every lead of theirs;
    it may have more, and be off by the tolerance of the data's clock. The pixels of the data are cut out of its own, and turned round
    where its rows lie the other way; its units become those of the data where both are of rain. A pixel without a value becomes the
    fill of the data, as in a baseline: the nowcast has nothing to say of it.

    Attributes:
        files: the nowcasts, in order of their start times.
    """

    def __init__(self, path: str | Path) -> None:
        """Look at the headers of all files.

        Raises:
            UserError: there is none, one is damaged or no nowcast, or two are of one start time or of different numbers of members.
        """
        self.path = Path(path)
        self.name = self.path.name or self.path.resolve().name
        self.files = sorted(map(_read, _find(self.path)), key=lambda file: file.start)
        for one, next_one in pairwise(self.files):
            if one.start == next_one.start:
                raise UserError(f"'{one.path}' and '{next_one.path}' are nowcasts of the same start time, {one.start}: keep one")
        self.members = self.files[0].members
        for file in self.files:
            if file.members != self.members:
                first = self.files[0]
                raise UserError(f"'{first.path}' has {first.members or 1} member(s) and '{file.path}' {file.members or 1}: keep them apart")
        makers = sorted({file.made_by for file in self.files if file.made_by})
        self.provenance = {"nowcasts": len(self.files), "made by": makers[:10]}
        self._starts = np.array([file.start for file in self.files])
        if any(file.grid is None for file in self.files):
            self.warnings = (f"{self.path} does not say where its pixels lie: that they are those of the data is taken on trust",)

    def clips(self, data: ClipSet, count: int) -> Sequence[int]:
        """Return the clips for which there is a nowcast with all their leads.

        Raises:
            UserError: there is none, or a nowcast is of other pixels, channels or units than the data.
        """
        found, first = [], None
        for index in range(count):
            times = clip_times(data, index)
            if times is None:
                raise UserError(
                    f"{self.path} holds nowcasts, found by their times, and the clips of '{data.card}' {data.split} have no clock"
                )
            first = times if first is None else first
            match = self._match(times, data)
            if match is not None:
                _check(match[0], data, index)
                found.append(index)
        if not found:
            assert first is not None, "at least one clip"
            raise UserError(self._why_none(data, first))
        return found

    def forecast_batch(self, batch: Batch, physical: Tensor, data: ClipSet) -> Tensor:
        """Return the forecasts of clips, as :class:`SavedForecasts` says.

        Raises:
            UserError: there is no nowcast of a clip, it does not fit the data, or its file is damaged.
        """
        forecasts = []
        for row, index in enumerate(batch.indices):
            times = None if batch.times is None else batch.times[row].numpy().astype("datetime64[s]")
            match = None if times is None else self._match(times, data)
            if match is None:
                begins = "has no clock" if times is None else f"is forecast from {times[data.context - 1]}"
                raise UserError(
                    f"{self.path} has no nowcast of clip {index} of '{data.card}' {data.split}, which {begins}: its own start from "
                    f"{self.files[0].start} to {self.files[-1].start}, so ask for other clips or leads"
                )
            nowcast, leads = match
            window = _check(nowcast, data, index)
            values = _in_units_of(data, window.cut(nowcast.read(leads)), nowcast)
            forecasts.append(torch.where(torch.isnan(values), data.spec.fill, values))
        together = torch.stack(forecasts).to(physical.device)
        return together if self.members is not None else together[:, 0]

    def describe(self) -> str:
        """Say in a line what they are."""
        return f"archive {self.name}: {describe_files(self.files)}"

    def _match(self, times: NDArray[np.datetime64], data: ClipSet) -> tuple[NowcastFile, NDArray[np.int64]] | None:
        """Return the nowcast that continues a clip of these times, and which of its leads the clip has; None where there is none."""
        place = places_of(times[data.context - 1 : data.context], self._starts, data.tolerance)
        if place is None:
            return None
        nowcast = self.files[place[0]]
        leads = nowcast.leads_at(times[data.context :], data.tolerance)
        return None if leads is None else (nowcast, leads)

    def _why_none(self, data: ClipSet, times: NDArray[np.datetime64]) -> str:
        """Say why there is no nowcast of any clip; ``times`` are those of the first."""
        wanted, split = times[data.context - 1], f"'{data.card}' {data.split}"
        nearest = self.files[int(np.abs(self._starts - wanted).argmin())]
        if abs(nearest.start - wanted) > np.timedelta64(round(data.tolerance), "s"):
            return (
                f"The times do not match: no nowcast in {self.path} starts where the observed frames of a clip of {split} end; "
                f"those of the first end at {wanted}, and the nearest start is {nearest.start}"
            )
        valid, leads = nearest.times, times[data.context :]
        return (
            f"The times do not match: '{nearest.path}' has {len(valid)} frames from {valid[0]} to {valid[-1]}, and the clips of "
            f"{split} that start there have {len(leads)} from {leads[0]} to {leads[-1]}: ask for another horizon, or for every "
            "so many-th frame"
        )


def is_archive(path: Path) -> bool:
    """Whether a path is a nowcast, or a folder that holds one.

    Raises:
        UserError: it is a damaged file.
    """
    if not path.is_dir():
        return path.suffix.lower() in _NETCDF or is_plain_nowcast(path) or is_odim_nowcast(path)
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in (*_NETCDF, *_OTHERS) and not file.name.startswith("."))
    return any(file.suffix.lower() in _NETCDF for file in found) or (
        bool(found) and (is_plain_nowcast(found[0]) or is_odim_nowcast(found[0]))
    )


def _find(path: Path) -> list[Path]:
    """Return the files of an archive: all NetCDF files, or, where there is none, all others."""
    files = find_files(path, [f"*{suffix}" for suffix in (*_NETCDF, *_OTHERS)])
    return [file for file in files if file.suffix.lower() in _NETCDF] or files


def _read(path: Path) -> NowcastFile:
    if path.suffix.lower() in _NETCDF:
        return read_cf_nowcast(path)
    return read_odim_nowcast(path) if is_odim_nowcast(path) else read_plain_nowcast(path)


def clip_times(data: ClipSet, index: int) -> NDArray[np.datetime64] | None:
    """Return the times of the frames of a clip, ``(context + horizon,)`` datetime64[s], or None without a clock.

    Frames are not read where that can be avoided.
    """
    if not isinstance(data, Windows):
        times = data[index].times
    else:
        film, start = (int(number) for number in data.index[index])
        every = data.reader.films[film].times
        times = None if every is None else every[start : start + data.window.span : data.window.every]
    return None if times is None else times.astype("datetime64[s]")


def _check(nowcast: NowcastFile, data: ClipSet, index: int) -> Window:
    """Return where the pixels of a clip lie among those of a nowcast.

    Raises:
        UserError: it is of other pixels, channels or units than the data.
    """
    (channels, *size), spec = nowcast.size, data.spec
    if channels != spec.channels:
        raise UserError(f"'{nowcast.path}' has frames of {channels} channel(s), and the data '{data.card}' of {spec.channels}")
    _in_units_of(data, torch.zeros(0), nowcast)
    try:
        return find_window(nowcast.grid, (size[0], size[1]), data.grid(index), (spec.height, spec.width))
    except UserError as error:
        raise UserError(f"'{nowcast.path}' lies elsewhere than the data '{data.card}': {error}") from None


def _in_units_of(data: ClipSet, values: Tensor, nowcast: NowcastFile) -> Tensor:
    """Return values of a nowcast in the units of the data.

    Raises:
        UserError: there is no way from one to the other, or what it takes is not known.
    """
    spec, units, period = data.spec, nowcast.units, nowcast.period
    if units == spec.units and not (units == "mm" and None not in (period, spec.period) and period != spec.period):
        return values
    least = None if units != "dBZ" else rain.NO_RAIN_DBZ if nowcast.minimum is None else nowcast.minimum
    try:
        if units not in rain.UNITS:
            units, factor = convert_units(nowcast.path, units, "mm/h", period)
            values = values * factor
        own = replace(spec, units=units, period=period or spec.period, z_r=nowcast.z_r or spec.z_r, minimum=least)
        wanted = rain.in_units(rain.in_units(values, own, "mm/h"), replace(spec, units="mm/h"), spec.units)
    except UserError as error:
        rain_alone = f"only {', '.join(rain.UNITS)} can be turned into one another, so convert the file"
        reason = error if units in rain.UNITS and spec.units in rain.UNITS else rain_alone
        raise UserError(f"'{nowcast.path}' is in {nowcast.units} and the data '{data.card}' in {spec.units}: {reason}") from None
    if spec.units == "dBZ" and spec.minimum is not None:
        wanted = torch.where(wanted <= rain.NO_RAIN_DBZ, spec.minimum, wanted)
    return wanted
