"""Reflectivity from the radars of FMI, the Finnish weather service: one PGM image, packed by gzip, for each time.

The header of an image, in lines that begin with ``#``, tells the time, the projection and two corners. What it does not tell - how pixels
become dBZ, the radius of the Earth, the Z-R pair - is as FMI's users have it; pysteps has it in ``import_fmi_pgm``.
"""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from stpredict.data.clips import Reader
from stpredict.data.readers.finding import find_files, inspect_each, naming, refuse_different
from stpredict.data.readers.hdf5 import DEFLATE_LIMIT
from stpredict.data.readers.ordering import order_films
from stpredict.errors import UserError
from stpredict.frames import Grid, Packing

EARTH_RADIUS = 6_371_288.0
"""Metres."""

Z_R = (223.0, 1.53)

_UNSEEN = 255
_LONGEST_HEADER = 1 << 16
_LONGEST_LINE = 1 << 10
_DAMAGE = (gzip.BadGzipFile, zlib.error, EOFError, OSError)
_NAME = re.compile(r"(\d{12})_.*\.pgm(?:\.gz)?", re.ASCII | re.IGNORECASE)
_SIZE = re.compile(rb"\s*(\d{1,6})\s+(\d{1,6})\s*", re.ASCII)


@dataclass(frozen=True)
class _Header:
    """What one file says of itself; all but ``time`` is the same in all files of an archive."""

    time: np.datetime64
    start: int
    height: int
    width: int
    grid: Grid

    @property
    def kind(self) -> str:
        return f"{self.height} x {self.width} frames on {self.grid.projection} {self.grid.corners}"


class Fmi(Reader):
    """Reads FMI's composites as one film of reflectivities in dBZ, in order of time.

    A pixel p is (p - 64) / 2 dBZ, and 255 is missing. The time is that of the header, or, if that has none, that of the name. Row 0 is
    north.

    Args:
        root: a folder, searched with all its folders, or one file.
        files: shell patterns of the file names.
        leave_out: patterns of paths below the root that are not read.

    Raises:
        UserError: there is no such file, one is damaged or lies elsewhere, or two are of one time.
    """

    def __init__(self, root: Path, *, files: Sequence[str] = ("*_fmi*.pgm.gz", "*_fmi*.pgm"), leave_out: Sequence[str] = ()) -> None:
        paths = find_files(root, files, leave_out)
        headers = inspect_each(root, paths, _read_header, cache=_Header)
        refuse_different(root, paths, [header.kind for header in headers])
        self.films, self._paths = order_films(root, paths, [header.time for header in headers], "one")
        self._starts = {path: header.start for path, header in zip(paths, headers, strict=True)}
        first = headers[0]
        self.channels, self.height, self.width = 1, first.height, first.width
        self.packing = Packing(scale=0.5, offset=-32.0, missing=(float(_UNSEEN),))
        self.facts = {"units": "dBZ", "grid": first.grid, "z_r": Z_R}

    def read(self, film: int, positions: range) -> NDArray[np.uint8]:
        """Return packed frames ``(T, 1, H, W)``."""
        frames = np.empty((len(positions), 1, self.height, self.width), dtype=np.uint8)
        for frame, position in zip(frames, positions, strict=True):
            path = self._paths[film][position]
            start = self._starts[path]
            with _open(path) as file:
                # One byte more than there should be, so that the checksum at the end of the stream is reached and compared.
                content = file.read(start + frame.size + 1)
            if len(content) != start + frame.size:
                amount = "more" if len(content) > start + frame.size else "fewer"
                raise UserError(f"'{path}' is damaged: it holds {amount} pixels than the {self.height} x {self.width} of its header")
            frame[0] = np.frombuffer(content, np.uint8, offset=start).reshape(frame.shape[1:])
        return frames


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    with naming(path, "PGM image packed by gzip", *_DAMAGE), path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if not packed:
            yield file
            return
        with gzip.GzipFile(fileobj=file) as unpacked:
            yield unpacked  # type: ignore[misc]  # it reads as a file does


def _read_header(path: Path) -> _Header:
    facts: dict[str, str] = {}
    with _open(path) as file:
        lines = _lines(path, file)
        if next(lines).strip() != b"P5":
            raise UserError(f"'{path}' is no PGM image: it does not begin with P5")
        for line in lines:
            if not line.startswith(b"#"):
                break
            key, _, value = line[1:].decode("ascii", "replace").strip().partition(" ")
            facts[key] = value.strip()
        size, most = _SIZE.fullmatch(line), next(lines).strip()
        start = file.tell()
    if size is None or most != b"255":
        raise UserError(f"'{path}' has no size and greatest value 255 in its header: it is no FMI image")
    width, height = int(size[1]), int(size[2])
    if width * height == 0 or width * height > path.stat().st_size * DEFLATE_LIMIT:
        raise UserError(f"'{path}' declares {height} x {width} pixels, which its {path.stat().st_size} bytes cannot hold; it is damaged")
    return _Header(_moment(path, facts), start, height, width, _grid(path, facts))


def _lines(path: Path, file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a header, none of them too long to be one."""
    while file.tell() < _LONGEST_HEADER:
        line = file.readline(_LONGEST_LINE)
        if not line.endswith(b"\n"):
            break
        yield line
    raise UserError(f"'{path}' is damaged or is no PGM image: its header has no end; get it again or leave it out")


def _moment(path: Path, facts: dict[str, str]) -> np.datetime64:
    named = _NAME.fullmatch(path.name)
    text = facts.get("obstime") or (named[1] if named else "")
    if re.fullmatch(r"\d{12}", text, re.ASCII):
        try:
            return np.datetime64(f"{text[:4]}-{text[4:6]}-{text[6:8]}T{text[8:10]}:{text[10:]}:00", "s")
        except ValueError:
            pass
    raise UserError(f"'{path}' tells no time: neither '# obstime 201705091045' in its header nor 201705091045_... as its name")


def _grid(path: Path, facts: dict[str, str]) -> Grid:
    wanted = {"centrallongitude": 1, "centrallatitude": 1, "truelatitude": 1, "bottomleft": 2, "topright": 2}
    try:
        told = {name: [float(word) for word in facts[name].split()] for name in wanted}
    except (KeyError, ValueError):
        told = {}
    if not told or any(len(told[name]) != count or not np.isfinite(told[name]).all() for name, count in wanted.items()):
        raise UserError(f"'{path}' does not tell where it lies: its header needs numbers for {', '.join(wanted)}")
    (meridian,), (pole,), (true,) = told["centrallongitude"], told["centrallatitude"], told["truelatitude"]
    if facts.get("type") != "stereographic" or pole != 90:
        projection = f"'{facts.get('type')}' around {pole:g} degrees north"
        raise UserError(f"'{path}' is in the projection {projection}; only the polar stereographic one is read")
    (left, bottom), (right, top) = (_stereographic(told[name], meridian, true) for name in ("bottomleft", "topright"))
    if not (left < right and bottom < top):
        raise UserError(f"'{path}' has its lower left corner {told['bottomleft']} right of or above its upper right one {told['topright']}")
    projection = f"+proj=stere +lat_0=90 +lat_ts={true:g} +lon_0={meridian:g} +R={EARTH_RADIUS:.0f} +units=m +no_defs"
    return Grid(projection, (left, bottom, right, top), "north")


def _stereographic(point: Sequence[float], meridian: float, true: float) -> tuple[float, float]:
    """Return the coordinates in metres of longitude and latitude: Snyder, Map Projections (1987), equations 21-5 to 21-7."""
    longitude, latitude = point
    turn = math.radians(longitude - meridian)
    distance = EARTH_RADIUS * (1 + math.sin(math.radians(true))) * math.tan(math.radians(90 - latitude) / 2)
    return round(distance * math.sin(turn), 2), round(-distance * math.cos(turn), 2)
