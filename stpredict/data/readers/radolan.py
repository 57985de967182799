"""Rainfall composites of DWD, the German weather service, in the RADOLAN binary format: one file for each accumulation.

Source: DWD, RADOLAN/RADVOR composite format, version 2.5 (a line of header that ends with ETX, then 16-bit pixels from the south-west
on); the bits are taken apart by wradlib.
"""

from __future__ import annotations

import bz2
import gzip
import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpredict.data.clips import Reader
from stpredict.data.readers.finding import find_files, inspect_each, naming, refuse_different
from stpredict.data.readers.ordering import order_films
from stpredict.errors import UserError, import_optional
from stpredict.frames import Grid, Packing

MISSING = 65535  # a pixel has 12 bits, so this is none
_LARGEST = 1 << 26  # bytes of an unpacked file; the largest composite of 4800 x 4400 pixels has 42 million
_HEADER = 1 << 12  # bytes among which the header ends
_ACCUMULATIONS = ("RY", "YW", "EY", "RZ", "EZ", "RW", "EW", "RH", "EH", "RB", "EB", "RU", "RL", "SQ", "SH", "SF")
_DAMAGE = (OSError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError, UnicodeDecodeError, zlib.error)

_PROJECTION = "+proj=stere +lat_0=90 +lat_ts=60 +lon_0=10 {earth} +units=m +no_defs"
_SPHERE, _WGS84 = "+a=6370040 +b=6370040", "+ellps=WGS84"  # up to version 4 of the format, and since
# By the figure of the Earth, rows and columns, the outer south-west corner in metres. Pixels are of 1 km.
_CORNERS = {
    (_SPHERE, 900, 900): (-523462.2, -4658644.7),
    (_SPHERE, 1100, 900): (-443462.2, -4758644.7),
    (_SPHERE, 1500, 1400): (-673462.2, -5008644.7),
    (_WGS84, 900, 900): (-523696.8, -4672088.9),
    (_WGS84, 1100, 900): (-443696.8, -4772088.9),
    (_WGS84, 1200, 1100): (-543696.8, -4822088.9),
}


@dataclass(frozen=True)
class _Header:
    """What one file says of itself; all but ``end`` is the same in all files of an archive."""

    product: str
    end: np.datetime64
    seconds: int
    height: int
    width: int
    precision: float
    earth: str

    @property
    def kind(self) -> str:
        return f"{self.product}: {self.height} x {self.width} frames of {self.seconds} s, {self.precision:g} mm a unit, on {self.earth}"


class Radolan(Reader):
    """Reads the accumulations of RADOLAN and RADKLIM (RY, YW, RW and their kin) as one film of rain rates in mm/h.

    The time (of the end of the accumulation), its length, the unit and the size are those of the header. Row 0 is south.
    Files may be plain, ``.gz`` or ``.bz2``.

    Args:
        root: a folder, searched with all its folders, or one file.
        files: shell patterns of the file names.
        leave_out: patterns of paths below the root that are not read.

    Raises:
        UserError: there is no such file, one is damaged, a forecast or no accumulation, two are of one time, or they do not fit together.
    """

    def __init__(
        self, root: Path, *, files: Sequence[str] = ("raa*---bin", "raa*---bin.gz", "raa*---bin.bz2"), leave_out: Sequence[str] = ()
    ) -> None:
        paths = find_files(root, files, leave_out)
        headers = inspect_each(root, paths, lambda path: _read(path, pixels=False)[0], cache=_Header)
        refuse_different(root, paths, [header.kind for header in headers])
        self.films, (self._paths,) = order_films(root, paths, [header.end for header in headers], "one")

        first = headers[0]
        self.channels, self.height, self.width = 1, first.height, first.width
        self.packing = Packing(first.precision * 3600 / first.seconds, 0.0, (float(MISSING),))
        grid = _grid(first)
        self.facts = {"units": "mm/h", "time_step": float(first.seconds), "period": float(first.seconds), "grid": grid}
        times = self.films[0].times
        if times is not None and len(times) > 1:  # hourly sums come every five minutes, too
            self.facts["time_step"] = float(np.median(np.diff(times).astype("timedelta64[s]").astype(np.int64)))

    def read(self, film: int, positions: range) -> NDArray[np.uint16]:
        """Return packed frames ``(T, 1, H, W)``."""
        frames = np.empty((len(positions), 1, self.height, self.width), dtype=np.uint16)
        for frame, position in zip(frames, positions, strict=True):
            header, pixels = _read(self._paths[position], pixels=True)
            if pixels.shape != frame.shape[1:]:
                raise UserError(f"'{self._paths[position]}' has changed its size to {header.height} x {header.width}")
            frame[0] = pixels
        return frames


def _grid(header: _Header) -> Grid | None:
    place = (header.earth, header.height, header.width)
    if place not in _CORNERS:
        return None
    left, bottom = _CORNERS[place]
    corners = (left, bottom, left + 1000 * header.width, bottom + 1000 * header.height)
    return Grid(_PROJECTION.format(earth=header.earth), corners, "south")


def _read(path: Path, *, pixels: bool) -> tuple[_Header, NDArray[np.uint16]]:
    """Return what a file says of itself, and its pixels where they are asked for."""
    radolan = import_optional("wradlib.io.radolan", "radar")
    with naming(path, "RADOLAN file", *_DAMAGE):
        content, size = _unpacked(path, _LARGEST if pixels else _HEADER)
        end = content.find(b"\x03", 0, _HEADER)
        if end < 0:
            raise UserError(f"'{path}' has no RADOLAN header, which ends with ETX: it is damaged, or another kind of file")
        header = _header(path, radolan.parse_dwd_composite_header(content[:end].decode("ascii")))
        expected = end + 1 + header.height * header.width * 2
        if size is not None and size != expected:
            raise UserError(f"'{path}' should have {expected} bytes by its header but has {size}: it is damaged; get it again")
        if not pixels:
            return header, np.empty((0, 0), dtype=np.uint16)
        amounts, about = radolan.read_radolan_composite(io.BytesIO(content), missing=-1)
    units = np.rint(amounts / header.precision)
    # A pixel marked as clutter keeps its number, as wradlib keeps it; one marked as negative, which rain is not, is missing.
    raw = np.frombuffer(content, dtype="<u2", offset=end + 1).reshape(units.shape)
    gone = (amounts < 0) | (raw & 0x4000 != 0)
    assert about["producttype"] == header.product
    return header, np.where(gone, MISSING, units).astype(np.uint16)


def _unpacked(path: Path, most: int) -> tuple[bytes, int | None]:
    """Return up to ``most`` bytes of what a plain or compressed file holds, and how many it holds, or None where that is not known."""
    with path.open("rb") as plain:
        start = plain.read(3)
        plain.seek(0)
        if start[:2] != b"\x1f\x8b" and start != b"BZh":
            return plain.read(most), path.stat().st_size
        with gzip.open(plain) if start[:2] == b"\x1f\x8b" else bz2.open(plain) as file:
            content = file.read(most)
    return content, len(content) if len(content) < most or most == _LARGEST else None


def _header(path: Path, told: dict[str, Any]) -> _Header:
    product = told["producttype"]
    if product in ("RV", "RQ", "RS", "RE", "WN", "FZ", "FX") or told.get("predictiontime", 0) != 0:
        raise UserError(f"'{path}' is a forecast ({product}), not a measurement: leave it out")
    if product not in _ACCUMULATIONS:
        raise UserError(f"'{path}' holds the product {product}; accumulations can be read: {', '.join(_ACCUMULATIONS)}")
    seconds, height, width, precision = int(told["intervalseconds"]), int(told["nrow"]), int(told["ncol"]), float(told["precision"])
    if told["radarid"] != "10000" or min(seconds, height, width) < 1 or not 0 < precision < 10:
        raise UserError(f"'{path}' tells of {height} x {width} pixels of {precision:g} mm in {seconds} s from radar {told['radarid']}")
    earth = _WGS84 if int(told.get("formatversion", 3)) >= 5 else _SPHERE
    return _Header(product, np.datetime64(told["datetime"], "s"), seconds, height, width, precision, earth)
