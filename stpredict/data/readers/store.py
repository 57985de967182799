"""Prepared archives: one HDF5 file that ``stpredict data prepare`` makes, from which clips are read fast.

The file holds ``frames`` (N, C, H, W), packed as the reader of the archive gives them, whole or cropped, a chunk for each frame; ``crc32``
(N) of the bytes of each frame; ``times`` (N), seconds since 1970 UTC; ``films``, JSON: name, first frame, length, and whether it has times;
``sources``, JSON: the files it was made of, size and time of change in ns; and ``about``, JSON: packing, facts, reader, settings, card.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from stpredict.data.clips import Film, Reader
from stpredict.data.readers import hdf5
from stpredict.data.readers.finding import SourceFile
from stpredict.errors import UserError
from stpredict.frames import Grid, Packing

MARK = "stpredict_store"
"""The attribute that only a prepared file has, with its version. It is written last."""

VERSION = 1
SUFFIXES = (".h5", ".hdf5")


@dataclass(frozen=True)
class About:
    """What a prepared file says of itself.

    Attributes:
        reader: that read the archive, as the card named it.
        settings: of that reader.
        card: the text of the card.
        packing: how packed numbers become physical.
        facts: of the reader.
        compression: ``gzip`` or ``none``.
        size: height and width of the archive's frames.
        crop: top, left, height and width of the part of them that the file holds; None: they are whole.
        root: the archive's folder.
        version: of the program that made it.
        date: UTC, when it was made.
    """

    reader: str
    settings: Mapping[str, Any]
    card: str
    packing: Packing
    facts: dict[str, Any]
    compression: str
    size: tuple[int, int]
    crop: tuple[int, int, int, int] | None
    root: str
    version: str
    date: str

    def to_json(self) -> str:
        """Return what :meth:`from_json` reads."""
        facts = {name: asdict(value) if isinstance(value, Grid) else value for name, value in self.facts.items()}
        return json.dumps({**asdict(self), "settings": plain(self.settings), "facts": facts})

    @classmethod
    def from_json(cls, text: str) -> About:
        """Read what :meth:`to_json` wrote; anything else raises ValueError, KeyError or TypeError."""
        told = json.loads(text)
        facts = {name: _tuples(value) for name, value in told["facts"].items()}
        if facts.get("grid") is not None:
            facts["grid"] = Grid(**facts["grid"])
        packing = Packing(**{name: _tuples(value) for name, value in told["packing"].items()})
        height, width = told["size"]
        crop = None if told["crop"] is None else tuple(int(number) for number in told["crop"])
        return cls(**{**told, "packing": packing, "facts": facts, "size": (int(height), int(width)), "crop": crop})


def plain(settings: Any) -> Any:
    """Return settings as JSON gives them back, so that they can be compared."""
    return json.loads(json.dumps(settings, default=str))


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _tuples(part) for name, part in value.items()}
    return tuple(_tuples(part) for part in value) if isinstance(value, list) else value


def is_store(path: Path) -> bool:
    """Whether a file is one that ``stpredict data prepare`` made; one that cannot be opened is not."""
    if path.suffix not in SUFFIXES or not path.is_file() or not h5py.is_hdf5(path):
        return False
    try:
        with hdf5.open_file(path) as file:
            return MARK in file.attrs
    except UserError:
        return False


class Store(Reader):
    """Reads a prepared file: the films of the archive that it was made of, bit for bit.

    Args:
        root: the file.

    Raises:
        UserError: it is no prepared file, is damaged, or is of a version that this program does not know.

    Attributes:
        about: what the file says of itself.
    """

    about: About

    def __init__(self, root: Path) -> None:
        if not is_store(root):
            raise UserError(f"'{root}' is no prepared file: 'stpredict data prepare CARD --root FOLDER --out {root.stem}.h5' makes one")
        self._path = root
        with hdf5.open_file(root) as file:
            version = int(file.attrs[MARK])
            if version != VERSION:
                raise UserError(f"'{root}' is a prepared file of version {version}; this program reads {VERSION}: prepare it again")
            frames, times = hdf5.dataset(file, "frames"), hdf5.dataset(file, "times")
            self._shape, self._dtype = frames.shape, frames.dtype
            crc32 = hdf5.dataset(file, "crc32")
            count = self._shape[0] if len(self._shape) == 4 else 0
            if min(self._shape, default=0) < 1 or self._dtype.kind not in "uif" or not times.shape == crc32.shape == (count,):
                raise UserError(
                    f"'{root}' holds {self._dtype} frames of shape {self._shape}, {times.size} times and {crc32.size} checksums"
                )
            moments = times[()].astype("datetime64[s]")
            films = _read_json(file, "films")
            about = read_text(file, "about")
        try:
            self.films, self._first = _films(films, moments)
            self.about = About.from_json(about)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise UserError(f"'{root}' is damaged or was changed ({error}); prepare it again") from None
        self.channels, (self.height, self.width) = self._shape[1], self.about.size
        top, left, height, width = self.about.crop or (0, 0, self.height, self.width)
        if (height, width) != self._shape[2:] or min(top, left) < 0 or top + height > self.height or left + width > self.width:
            raise UserError(
                f"'{root}' is damaged or was changed: it holds frames of shape {self._shape} of {self.about.size}; prepare it again"
            )
        self.packing, self.facts = self.about.packing, self.about.facts

    def read(self, film: int, positions: range) -> NDArray[Any]:
        """Return packed frames ``(T, C, H, W)``; where the file holds a part of each, all else is 0."""
        with hdf5.open_file(self._path) as file:
            part = self._read(file, "frames", film, positions)
        if self.about.crop is None:
            return part
        top, left, height, width = self.about.crop
        frames = np.zeros((*part.shape[:2], self.height, self.width), dtype=part.dtype)  # memory that is not touched costs nothing
        frames[..., top : top + height, left : left + width] = part
        return frames

    def verify(self, film: int, positions: range) -> None:
        """Compare frames with their checksums.

        Raises:
            UserError: one has changed since it was written.
        """
        with hdf5.open_file(self._path) as file:
            frames, sums = self._read(file, "frames", film, positions), self._read(file, "crc32", film, positions)
        for frame, wanted, position in zip(frames, sums, positions, strict=True):
            if zlib.crc32(np.ascontiguousarray(frame).data) != wanted:
                name = self.films[film].name
                raise UserError(f"'{self._path}': frame {position} of '{name}' is not what was written: prepare it again")

    def refuse_beyond(self, card: str, crop: tuple[int, int, int, int] | None) -> None:
        """Refuse a card that asks for pixels that the file does not hold.

        Raises:
            UserError: it does.
        """
        if self.about.crop is None:
            return
        top, left, height, width = self.about.crop
        wanted = crop or (0, 0, self.height, self.width)
        inside = wanted[0] >= top and wanted[1] >= left and wanted[0] + wanted[2] <= top + height and wanted[1] + wanted[3] <= left + width
        if not inside:
            asked = f"the crop {list(crop)}" if crop is not None else "whole frames"
            raise UserError(
                f"'{self._path}' holds only the part {list(self.about.crop)} (top, left, height, width) of each frame, but the card "
                f"'{card}' asks for {asked}: crop to what is there, or prepare it again"
            )

    def refuse_other(self, card: str, reader: str, settings: Mapping[str, Any]) -> None:
        """Refuse a card by which the archive would be read in another way.

        Raises:
            UserError: its reader or one of its settings is another one.
        """
        again = f"'stpredict data prepare {card}' makes a file of your own, and --root FOLDER reads the archive"
        if reader != self.about.reader:
            raise UserError(f"'{self._path}' was made by the reader {self.about.reader}, but the card '{card}' names {reader}: {again}")
        ours, theirs = plain(settings), self.about.settings
        for name in sorted({*ours, *theirs}):
            if ours.get(name) != theirs.get(name):
                told = f"settings.{name} {theirs.get(name)}, but the card '{card}' says {ours.get(name)}"
                raise UserError(f"'{self._path}' was made with {told}: {again}")

    def _read(self, file: h5py.File, name: str, film: int, positions: range) -> NDArray[Any]:
        found = hdf5.member(file, name)
        if not isinstance(found, h5py.Dataset) or found.shape[:1] != self._shape[:1]:
            raise UserError(f"'{self._path}' has changed since it was opened")
        if name == "frames" and (found.shape != self._shape or found.dtype != self._dtype):
            raise UserError(f"'{self._path}' has changed since it was opened")
        first = self._first[film]
        part = np.empty((len(positions), *found.shape[1:]), dtype=found.dtype)
        if len(positions):
            found.read_direct(part, np.s_[first + positions.start : first + positions[-1] + 1 : positions.step])
        return part


def _films(told: Sequence[Mapping[str, Any]], times: NDArray[np.datetime64]) -> tuple[list[Film], list[int]]:
    films, firsts, end = [], [], 0
    for film in told:
        first, length = int(film["first"]), int(film["length"])
        if first != end or length < 1:
            raise ValueError(f"the film '{film['name']}' has {length} frames from {first}, not from {end}")
        end = first + length
        moment = np.datetime64(film["moment"], "s") if film.get("moment") is not None else None
        films.append(Film(str(film["name"]), length, times[first:end] if film["timed"] else None, moment))
        firsts.append(first)
    if end != len(times):
        raise ValueError(f"the films have {end} frames, but there are {len(times)}")
    return films, firsts


def read_sources(path: Path) -> list[SourceFile]:
    """Return the files that a prepared file was made of.

    Raises:
        UserError: it is damaged.
    """
    with hdf5.open_file(path) as file:
        told = _read_json(file, "sources")
    try:
        return [SourceFile(str(name), int(size), int(mtime_ns)) for name, size, mtime_ns in told]
    except (ValueError, TypeError) as error:
        raise UserError(f"'{path}' is damaged or was changed ({error}); prepare it again") from None


def write_text(file: h5py.File, name: str, text: str) -> None:
    """Write a text as a data set of bytes in UTF-8."""
    content = np.frombuffer(text.encode(), dtype=np.uint8)
    file.create_dataset(name, data=content, compression="gzip" if content.size > 1000 else None)


def read_text(file: h5py.File, name: str) -> str:
    """Read what :func:`write_text` wrote."""
    found = hdf5.dataset(file, name)
    if found.ndim != 1 or found.dtype != np.uint8:
        raise UserError(f"'{file.filename}': '{name}' is no text; the file was changed: prepare it again")
    return bytes(found[()]).decode("utf-8", "replace")


def _read_json(file: h5py.File, name: str) -> Any:
    try:
        return json.loads(read_text(file, name))
    except (ValueError, RecursionError) as error:
        raise UserError(f"'{file.filename}': '{name}' is damaged ({error}); prepare it again") from None
