"""SEVIR: storms over the United States as vertically integrated liquid (VIL), 49 frames in steps of 5 minutes an event.

Written from the specification: the layout of the HDF5 files is that which their readers expect; no real file was at hand.

Source: Veillette, Samsi and Mattioli, SEVIR: A Storm Event Imagery Dataset, NeurIPS 2020 (layout, codes and the units of VIL).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from stpredict.data.clips import Film, Reader
from stpredict.data.readers import hdf5
from stpredict.data.readers.finding import BadFiles
from stpredict.data.readers.projections import project
from stpredict.data.readers.sevir_catalogue import Event, read_catalogue
from stpredict.errors import UserError, import_optional
from stpredict.frames import Grid, Packing

MISSING = 255


@dataclass(frozen=True)
class _File:
    """The events of one HDF5 file ``(N, H, W, T)`` uint8.

    Attributes:
        path: the file.
        shape: of ``vil``.
        offset: of its first byte in the file, or None where its bytes do not stand there one after the other.
        ids: of the events, of at most ``id_length`` characters.
    """

    path: Path
    shape: tuple[int, int, int, int]
    offset: int | None
    ids: tuple[str, ...]
    id_length: int


class Sevir(Reader):
    """Reads the VIL of SEVIR's events of which no pixel is missing, a film each, called by the event's id. Row 0 is south.

    Films are in the order of the files, so that reading them in turn reads each file from its beginning to its end. Each event lies on
    a grid of its own (:meth:`grid`), so the frame spec has none.

    Args:
        root: the folder that holds CATALOG.csv and, in ``data`` or beside it, the files of VIL.
        values: ``raw`` for the pixel values 0 to 254, as scores on SEVIR are taken, or ``vil`` for kg/m2.
        catalogue: name of the catalogue in the root.
        leave_out: files, as the catalogue names them, or shell patterns of them, that are not read.

    Attributes:
        incomplete: how many events were left out because pixels are missing.
        repeated: how many lines of the catalogue were left out because their id came before.

    Raises:
        UserError: there is no catalogue, a line of it cannot be read, or a file is not there, damaged or another one than it tells.
    """

    def __init__(
        self, root: Path, *, values: Literal["raw", "vil"] = "raw", catalogue: str = "CATALOG.csv", leave_out: Sequence[str] = ()
    ) -> None:
        table = read_catalogue(root / catalogue, "vil")
        self.incomplete, self.repeated = table.incomplete, table.repeated
        self._events = [event for event in table.events if not any(fnmatchcase(event.file, pattern) for pattern in leave_out)]
        if not self._events:
            raise UserError(f"'{root / catalogue}' names no file of VIL that is not left out")
        self._files = _open_files(root, self._events)
        self.films = [Film(event.name, len(event.times), event.times, event.moment) for event in self._events]
        self.channels, (self.height, self.width) = 1, next(iter(self._files.values())).shape[1:3]
        self.packing = Packing(missing=(float(MISSING),)) if values == "raw" else Packing(table=vil_table())
        self.facts = {"units": "1" if values == "raw" else "kg/m2", "time_step": 300.0}

    def read(self, film: int, positions: range) -> NDArray[np.uint8]:
        """Return packed frames ``(T, 1, H, W)``."""
        event = self._events[film]
        file = self._files[event.file]
        status = file.path.stat()
        frames = _whole_event(file, event.index, status.st_mtime_ns, status.st_size)
        return np.array(frames[positions.start : positions.stop : positions.step, np.newaxis])

    def grid(self, film: int) -> Grid:
        """Return where the pixels of a film lie on Earth.

        Raises:
            UserError: the library pyproj is not installed, or the catalogue's projection is none.
        """
        event = self._events[film]
        ((left, bottom),) = project(import_optional("pyproj", "radar"), event.projection, [event.corner])
        return Grid(event.projection, (left, bottom, left + event.extent[1], bottom + event.extent[0]), "south")


def vil_table() -> tuple[float, ...]:
    """Return kg/m2 for each pixel value from 0 to 254."""
    return tuple(0.0 if x <= 5 else (x - 2) / 90.66 if x <= 18 else math.exp((x - 83.9) / 38.9) for x in range(MISSING))


def _open_files(root: Path, events: Sequence[Event]) -> dict[str, _File]:
    files: dict[str, _File] = {}
    bad: dict[str, str] = {}
    for event in events:
        if event.file in bad:
            continue
        try:
            if event.file not in files:
                files[event.file] = _open(_find(root, event))
            _refuse_other(files[event.file], event)
        except UserError as error:
            bad[event.file] = str(error)
    if not bad:
        first = next(iter(files.values()))
        for name, file in files.items():
            if file.shape[1:] != first.shape[1:]:
                bad[name] = f"'{file.path}' holds events of {file.shape[1:]}, but '{first.path}' of {first.shape[1:]}"
    if bad:
        raise BadFiles(bad)
    return files


def _find(root: Path, event: Event) -> Path:
    for path in (root / "data" / event.file, root / event.file, root / Path(event.file).name):
        if path.is_file():
            return path
    raise UserError(
        f"'{event.file}', which the catalogue names in line {event.line}, is neither in '{root / 'data'}' nor in '{root}'; get it, "
        f"or leave it out (settings: {{leave_out: [{event.file}]}})"
    )


def _open(path: Path) -> _File:
    with hdf5.open_file(path) as file:
        vil, ids = hdf5.dataset(file, "vil"), hdf5.dataset(file, "id")
        if vil.dtype != np.uint8 or vil.ndim != 4 or min(vil.shape) < 1:
            raise UserError(f"'{path}' holds {vil.dtype} data of shape {vil.shape}, not events, rows, columns and times of uint8")
        if ids.dtype.kind != "S" or ids.shape != vil.shape[:1]:
            raise UserError(f"'{path}' holds ids of {ids.dtype} and shape {ids.shape} for {vil.shape[0]} events")
        offset = vil.id.get_offset() if vil.chunks is None else None
        if offset is not None and offset + vil.nbytes > path.stat().st_size:
            raise UserError(f"'{path}' is truncated: its events end at byte {offset + vil.nbytes}, but it has {path.stat().st_size}")
        return _File(path, vil.shape, offset, tuple(name.decode("ascii", "replace") for name in ids[()]), ids.dtype.itemsize)


def _refuse_other(file: _File, event: Event) -> None:
    """Refuse an event that is not where the catalogue says."""
    where = f"the catalogue, line {event.line}, has the event {event.name}"
    if event.index >= file.shape[0]:
        raise UserError(f"'{file.path}' holds {file.shape[0]} events, but {where} at file_index {event.index}")
    # Ids of random events are longer than the 10 characters that the files keep.
    if file.ids[event.index] != event.name[: file.id_length]:
        raise UserError(
            f"'{file.path}' holds the event {file.ids[event.index]} at {event.index}, but {where} there; they do not belong together"
        )
    if file.shape[3] != len(event.times):
        raise UserError(f"'{file.path}' holds {file.shape[3]} frames an event, but {where} with {len(event.times)} minute_offsets")


@lru_cache(maxsize=1)
def _whole_event(file: _File, index: int, modified: int, size: int) -> NDArray[np.uint8]:
    """Return one event ``(T, H, W)``; clips of an event that follow one another read it once."""
    return frames_first(_stored_event(file, index))


def _stored_event(file: _File, index: int) -> NDArray[np.uint8]:
    """Return one event ``(H, W, T)`` as it is stored, by one read where its bytes stand one after the other."""
    if file.offset is None:
        with hdf5.open_file(file.path) as opened:
            return np.asarray(hdf5.dataset(opened, "vil")[index])
    event = np.empty(file.shape[1:], dtype=np.uint8)
    with file.path.open("rb", buffering=0) as opened:
        opened.seek(file.offset + index * event.nbytes)
        view, done = event.reshape(-1), 0
        while done < event.nbytes:
            count = opened.readinto(view[done:].data)
            if not count:
                raise UserError(
                    f"'{file.path}' is truncated: event {index} lacks {event.nbytes - done} bytes; get it again or leave it out"
                )
            done += count
    return event


def frames_first(event: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Turn ``(H, W, T)`` into ``(T, H, W)``."""
    height, width, length = event.shape
    # OpenCV goes through the image block by block; numpy's copy along the other axis takes several times as long.
    turned: NDArray[Any] = np.asarray(cv2.transpose(event.reshape(height * width, length)))
    return turned.reshape(length, height, width)
