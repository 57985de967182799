"""HKO-7: reflectivity over Hong Kong every 6 minutes, a PNG file for each scan and a mask of its noise beside it.

Written from the specification: the files are given out by the Hong Kong Observatory on signed request only.

Source: Shi et al., Deep Learning for Precipitation Nowcasting: A Benchmark and A New Model, NIPS 2017, and the names and constants of its
code, https://github.com/sxjscience/HKO-7 (``nowcasting/hko_iterator.py``, ``mask.py``, ``hko_evaluation.py``).
"""

from __future__ import annotations

import datetime
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stpredict.data.clips import Film, Reader
from stpredict.data.readers.finding import BadFiles, find_files, name_below, naming
from stpredict.data.readers.png import picture_size, read_gray
from stpredict.errors import UserError
from stpredict.frames import Packing

Z_R = (58.53, 1.56)
"""a and b of Z = a R^b for these radars."""

LOWEST, HIGHEST = -10.0, 60.0
"""dBZ of a pixel of 0 and of 255."""

MISSING = -1
"""Packed code of a pixel that the mask leaves out; all of 0..255 are values."""

_FRAMES, _MASKS = "radarPNG", "radarPNG_mask"
_NAME = re.compile(r"(\d\d)(\d\d)/(\d\d)/(\d\d)/RAD(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)00\.png", re.ASCII)
_DAY = re.compile(r"(\d{4})(\d\d)(\d\d)(?:\s*,.*)?", re.ASCII)


class Hko7(Reader):
    """Reads ``radarPNG/YYYY/MM/DD/RADyymmddHHMM00.png`` with the masks ``radarPNG_mask/YYYY/MM/DD/RADyymmddHHMM00.mask``.

    Days that follow one another, within one list, are one film, so a clip may reach over midnight. A film is called by its first
    day, after the name of its list: ``train/20090216``. A pixel that its mask leaves out is missing. Times are those of the names.
    The files tell no grid.

    Args:
        root: the folder that holds radarPNG, radarPNG_mask and the lists of days.
        days: files with a day ``YYYYMMDD`` a line (what follows a comma is not read), by the name of the list; only these days
            are read. Left out: all days.
        masks: false where there are no masks, so that noise counts as echo.
        units: ``mm/h`` by the Z-R pair of the benchmark, 0 where there is no echo (a pixel of 0), or ``dBZ``.
        leave_out: patterns of paths below the root that are not read.

    Raises:
        UserError: there is no such folder, frame or list; a name tells no time; a frame has no mask.
    """

    def __init__(
        self,
        root: Path,
        *,
        days: Mapping[str, str] | None = None,
        masks: bool = True,
        units: Literal["dBZ", "mm/h"] = "mm/h",
        leave_out: Sequence[str] = (),
    ) -> None:
        if not (root / _FRAMES).is_dir():
            raise UserError(f"The folder '{root}' holds no folder '{_FRAMES}'; give the one that holds {_FRAMES} and {_MASKS}")
        self._masks = masks
        by_day = _frames_by_day(root, find_files(root, ["RAD*.png"], leave_out))
        if masks:
            _refuse_without_masks(root, by_day)
        self.films: list[Film] = []
        self._paths: list[list[Path]] = []
        for prefix, listed in _lists(root, days, by_day):
            for run in _follow_one_another(sorted(day for day in listed if day in by_day)):
                frames = [frame for day in run for frame in sorted(by_day[day].items())]
                moments = np.array([moment for moment, _ in frames], dtype="datetime64[s]")
                self.films.append(Film(f"{prefix}{run[0]:%Y%m%d}", len(frames), moments))
                self._paths.append([path for _, path in frames])
        if not self.films:
            raise UserError(f"The folder '{root / _FRAMES}' holds no frame of a listed day")
        self.channels, (self.height, self.width) = 1, picture_size(self._paths[0][0])
        if units == "dBZ":
            self.packing = Packing((HIGHEST - LOWEST) / 255, LOWEST, (float(MISSING),))
        else:
            self.packing = Packing(table=rain_rates())
        self.facts = {"units": units, "time_step": 360.0, "z_r": Z_R}

    def read(self, film: int, positions: range) -> NDArray[np.int16]:
        """Return packed frames ``(T, 1, H, W)``."""
        frames = np.empty((len(positions), 1, self.height, self.width), dtype=np.int16)
        for frame, position in zip(frames, positions, strict=True):
            path = self._paths[film][position]
            frame[0] = read_gray(path, self.height, self.width)
            if self._masks:
                frame[0][~_read_mask(_mask_of(path), self.height, self.width)] = MISSING
        return frames


def rain_rates() -> tuple[float, ...]:
    """Return mm/h for each pixel value; 0 for a pixel of 0, which is no echo."""
    reflectivity = LOWEST + np.arange(256) * (HIGHEST - LOWEST) / 255
    rates = (10 ** (reflectivity / 10) / Z_R[0]) ** (1 / Z_R[1])
    rates[0] = 0.0
    return tuple(rates.tolist())


def _frames_by_day(root: Path, paths: Sequence[Path]) -> dict[datetime.date, dict[datetime.datetime, Path]]:
    by_day: dict[datetime.date, dict[datetime.datetime, Path]] = {}
    bad = {}
    for path in paths:
        name = name_below(root, path)
        match = _NAME.fullmatch(name.removeprefix(f"{_FRAMES}/"))
        # The folders and the file tell the day twice.
        if match is None or match.groups()[1:4] != match.groups()[4:7]:
            bad[name] = f"'{path}' tells no time; names are such as {_FRAMES}/2012/06/30/RAD120630235400.png"
            continue
        century, year, month, day, *_, hour, minute = (int(text) for text in match.groups())
        try:
            moment = datetime.datetime(100 * century + year, month, day, hour, minute)
        except ValueError:
            bad[name] = f"'{path}' tells a time that does not exist"
            continue
        by_day.setdefault(moment.date(), {})[moment] = path
    if bad:
        raise BadFiles(bad)
    return by_day


def _refuse_without_masks(root: Path, by_day: Mapping[datetime.date, Mapping[datetime.datetime, Path]]) -> None:
    if not (root / _MASKS).is_dir():
        raise UserError(f"The folder '{root}' holds no folder '{_MASKS}'; without masks say so by the setting masks: false")
    paths = [path for frames in by_day.values() for path in frames.values() if not _mask_of(path).is_file()]
    if paths:
        raise BadFiles(
            {name_below(root, path): f"'{path}' has no mask '{_mask_of(path)}'; get it or leave the frame out" for path in paths}
        )


def _mask_of(frame: Path) -> Path:
    folder = frame.parents[3]
    return folder.parent / _MASKS / frame.relative_to(folder).with_suffix(".mask")


def _read_mask(path: Path, height: int, width: int) -> NDArray[np.bool_]:
    """Return where pixels count ``(H, W)``: a byte each, 0 or 1, compressed by zlib."""
    with naming(path, "mask", zlib.error):
        stream = zlib.decompressobj()
        content = stream.decompress(path.read_bytes(), height * width + 1)
        if len(content) != height * width or not stream.eof:
            raise UserError(f"'{path}' is no mask of {height} x {width} pixels; get it again or leave its frame out")
    mask = np.frombuffer(content, dtype=np.uint8).reshape(height, width)
    if mask.max() > 1:
        raise UserError(f"'{path}' holds {mask.max()}, but a mask holds 0 and 1 only")
    return mask.astype(bool)


def _lists(root: Path, days: Mapping[str, str] | None, by_day: Mapping[datetime.date, object]) -> list[tuple[str, Sequence[datetime.date]]]:
    """Return, for each list, what its films' names begin with, and its days."""
    if not days:
        return [("", list(by_day))]
    lists: list[tuple[str, Sequence[datetime.date]]] = []
    owner: dict[datetime.date, str] = {}
    for name, file in days.items():
        path = root / file
        if not path.is_file():
            raise UserError(f"There is no list of days '{path}' (settings.days.{name}); copy it from hko_data of the benchmark's code")
        listed = [
            _day(path, number, line) for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1) if line.strip()
        ]
        for day in listed:
            if owner.setdefault(day, name) != name:
                raise UserError(f"'{path}' lists {day:%Y%m%d}, which is in the list '{owner[day]}' too")
        lists.append((f"{name}/", sorted(set(listed))))
    return lists


def _day(path: Path, number: int, line: str) -> datetime.date:
    match = _DAY.fullmatch(line.strip())
    try:
        if match is not None:
            return datetime.date(int(match[1]), int(match[2]), int(match[3]))
    except ValueError:
        pass
    raise UserError(f"'{path}', line {number}: '{line.strip()[:40]}' is no day such as 20120630")


def _follow_one_another(days: Sequence[datetime.date]) -> list[list[datetime.date]]:
    runs: list[list[datetime.date]] = []
    for day in days:
        if runs and day - runs[-1][-1] == datetime.timedelta(days=1):
            runs[-1].append(day)
        else:
            runs.append([day])
    return runs
