"""SEVIR's catalogue: a CSV file with a line for each event and kind of image, which tells where it lies in which HDF5 file.

Source: Veillette, Samsi and Mattioli, SEVIR: A Storm Event Imagery Dataset, NeurIPS 2020, and the header of the catalogue.
"""

from __future__ import annotations

import csv
import math
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from stpredict.data.readers.finding import naming
from stpredict.errors import UserError

_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d(?::\d\d)?)", re.ASCII)
_OFFSETS = re.compile(r"-?\d+(?::-?\d+)*", re.ASCII)
_USED = (
    *("id", "file_name", "file_index", "img_type", "time_utc", "minute_offsets", "pct_missing"),
    *("llcrnrlat", "llcrnrlon", "proj", "height_m", "width_m"),
)


@dataclass(frozen=True)
class Event:
    """One event as one kind of image.

    Attributes:
        line: of the catalogue.
        name: the event's id.
        file: the HDF5 file, as the catalogue has it, such as ``vil/2019/SEVIR_VIL_STORMEVENTS_2019_0101_0630.h5``.
        index: which event of the file it is.
        moment: the event's own time in UTC, to which the frames' offsets refer.
        times: ``(T,)`` datetime64[s] of the frames.
        projection: a PROJ string in metres.
        corner: longitude and latitude of the lower left corner, degrees.
        extent: height and width in metres.
    """

    line: int
    name: str
    file: str
    index: int
    moment: np.datetime64
    times: NDArray[np.datetime64]
    projection: str
    corner: tuple[float, float]
    extent: tuple[float, float]


@dataclass(frozen=True)
class Catalogue:
    """The events of one kind of image, each id once.

    Attributes:
        events: in the order of files and of the places in them.
        incomplete: how many were left out because pixels are missing.
        repeated: how many were left out because their id came before.
    """

    events: tuple[Event, ...]
    incomplete: int
    repeated: int


def read_catalogue(path: Path, kind: str) -> Catalogue:
    """Read the events that have images of one kind, such as ``vil``, none of them with a missing pixel.

    Raises:
        UserError: there is no such file, it is no such catalogue, or a line cannot be read; the sentence names line and column.
    """
    if not path.is_file():
        raise UserError(f"There is no catalogue '{path}'; it comes with SEVIR as CATALOG.csv")
    events: dict[str, Event] = {}
    incomplete = repeated = 0
    with naming(path, "catalogue", csv.Error, UnicodeDecodeError), path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.DictReader(file)
        lacking = [name for name in _USED if name not in (lines.fieldnames or ())]
        if lacking:
            raise UserError(f"'{path}' has no column {', '.join(lacking)}: it is no catalogue of SEVIR")
        for row in lines:
            cells = _Cells(path, lines.line_num, row)
            if cells.text("img_type") != kind:
                continue
            if cells.number("pct_missing") != 0:
                incomplete += 1
            elif cells.text("id") in events:
                repeated += 1
            else:
                event = _event(cells)
                events[event.name] = event
    if not events:
        raise UserError(f"'{path}' has no line of img_type {kind} with pct_missing 0")
    ordered = sorted(events.values(), key=lambda event: (event.file, event.index))
    return Catalogue(tuple(ordered), incomplete, repeated)


@dataclass(frozen=True)
class _Cells:
    """The cells of one line by their columns."""

    path: Path
    line: int
    row: dict[str, str | None]

    def text(self, column: str) -> str:
        return (self.row[column] or "").strip()

    def number(self, column: str) -> float:
        try:
            number = float(self.text(column))
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise self.refusal(column, "a number")
        return number

    def refusal(self, column: str, wanted: str) -> UserError:
        return UserError(
            f"'{self.path}', line {self.line}, column {column}: '{self.text(column)[:60]}' is not {wanted}; "
            "a spreadsheet spoils such tables, so take the catalogue as it was published"
        )


def _event(cells: _Cells) -> Event:
    name = cells.text("id")
    if not name:
        raise cells.refusal("id", "an id such as S834603")
    file = PurePosixPath(cells.text("file_name"))
    if file.is_absolute() or ".." in file.parts or file.suffix != ".h5":
        raise cells.refusal("file_name", "a file below the folder, such as vil/2019/SEVIR_VIL_STORMEVENTS_2019_0101_0630.h5")
    if not cells.text("file_index").isdecimal():
        raise cells.refusal("file_index", "a whole number from 0 on")
    if not cells.text("proj").startswith("+proj="):
        raise cells.refusal("proj", "a projection such as +proj=laea +lat_0=38 +lon_0=-98 +units=m +a=6370997.0 +ellps=sphere")
    moment = _moment(cells)
    extent = (cells.number("height_m"), cells.number("width_m"))
    if min(extent) <= 0:
        raise cells.refusal("height_m" if extent[0] <= 0 else "width_m", "a length above 0")
    return Event(
        line=cells.line,
        name=name,
        file=file.as_posix(),
        index=int(cells.text("file_index")),
        moment=moment,
        times=_times(cells, moment),
        projection=cells.text("proj"),
        corner=(cells.number("llcrnrlon"), cells.number("llcrnrlat")),
        extent=extent,
    )


def _moment(cells: _Cells) -> np.datetime64:
    match = _MOMENT.fullmatch(cells.text("time_utc"))
    try:
        if match is not None:
            return np.datetime64(f"{match[1]}T{match[2]}", "s")
    except ValueError:
        pass
    raise cells.refusal("time_utc", "a time such as 2019-05-12 18:30:00")


def _times(cells: _Cells, moment: np.datetime64) -> NDArray[np.datetime64]:
    text = cells.text("minute_offsets")
    if not _OFFSETS.fullmatch(text) or len(text) > 1000:
        raise cells.refusal("minute_offsets", "a list such as -120:-115:-110")
    minutes = np.array([int(part) for part in text.split(":")])
    if (np.diff(minutes) <= 0).any() or np.abs(minutes).max() > 1440:
        raise cells.refusal("minute_offsets", "an increasing list of minutes within a day")
    times: NDArray[np.datetime64] = moment + (60 * minutes).astype("timedelta64[s]")
    return times
