"""Dates that numpy pickled into an .npz file, read without unpickling.

A pickle is a program. The only program that is taken here is the one that numpy writes for an array of ``datetime.datetime``: its
steps are written down as words, without doing any of them, and must spell that program; the bytes of each date stand among them.

Source: PEP 307 and PEP 3154 (parsed by the standard library's :mod:`pickletools`), ``datetime.datetime.__reduce__`` of CPython.
"""

from __future__ import annotations

import datetime
import io
import pickletools
import re
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpredict.data.readers.finding import naming
from stpredict.errors import UserError

MAX_BYTES = 16 << 20
"""A date takes about 30 bytes; an archive of a year in steps of 5 minutes has 105,000."""

_ZIP_DAMAGE = (OSError, RuntimeError, ValueError, SyntaxError, EOFError, zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError)
_STRINGS = ("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE")
_BYTES = ("SHORT_BINBYTES", "BINBYTES")
_PUT = ("BINPUT", "LONG_BINPUT", "PUT")
_GET = ("BINGET", "LONG_BINGET", "GET")
_NUMBERS = ("BININT", "BININT1", "BININT2")
_WORDS = {
    "NONE": "none",
    "NEWTRUE": "1",
    "NEWFALSE": "0",
    "MARK": "(",
    "TUPLE": ")",
    "TUPLE1": ")1",
    "TUPLE3": ")3",
    "EMPTY_LIST": "[]",
    "APPEND": "append",
    "APPENDS": "appends",
    "REDUCE": "call",
    "BUILD": "build",
}
_DATE = "datetime.datetime date )1 call"
_PROGRAM = re.compile(
    r"numpy\.(?:_core|core)\.multiarray\._reconstruct numpy\.ndarray 0 \)1 bytes \)3 call "
    r"\( 1 \d+ \)1 numpy\.dtype 'O8' 0 1 \)3 call \( 3 '\|' none none none -1 -1 63 \) build 0 \[\] "
    rf"(?:{re.escape(_DATE)} append |\( (?:{re.escape(_DATE)} )+appends )*"
    r"\) build"
)


def read_dates(path: Path, name: str) -> NDArray[np.datetime64]:
    """Return an array of pickled dates ``(N,)`` of an .npz file, as datetime64[s].

    Raises:
        UserError: there is no such array, the file is damaged, or the array holds anything but dates in order.
    """
    with naming(path, "npz file", *_ZIP_DAMAGE), zipfile.ZipFile(path) as archive:
        if f"{name}.npy" not in archive.namelist():
            raise UserError(f"'{path}' holds no array '{name}'")
        if archive.getinfo(f"{name}.npy").file_size > MAX_BYTES:
            raise UserError(f"'{path}': the array '{name}' is larger than {MAX_BYTES >> 20} MiB, which no dates are")
        content = io.BytesIO(archive.read(f"{name}.npy"))
        if np.lib.format.read_magic(content) != (1, 0):
            raise UserError(f"'{path}': the array '{name}' is of another version of the NPY format than 1.0")
        shape, _, dtype = np.lib.format.read_array_header_1_0(content)
    if dtype.kind != "O" or len(shape) != 1:
        raise UserError(f"'{path}': the array '{name}' holds {dtype} of shape {shape}, not a row of dates")
    try:
        dates = _dates(content.read())
    except (ValueError, IndexError, KeyError, UnicodeDecodeError) as error:
        raise UserError(f"'{path}': the array '{name}' is no pickled row of dates ({error}); it was not unpickled") from None
    if len(dates) != shape[0]:
        raise UserError(f"'{path}': the array '{name}' tells of {shape[0]} dates, but holds {len(dates)}")
    times = np.array(dates, dtype="datetime64[s]")
    if (np.diff(times) <= np.timedelta64(0)).any():
        raise UserError(f"'{path}': the dates of '{name}' are not in order")
    return times


def _dates(pickled: bytes) -> list[datetime.datetime]:
    words: list[str] = []
    memo: dict[int, str] = {}
    dates = []
    argument: Any  # of the type that the operation says
    for operation, argument, _ in pickletools.genops(pickled):
        match operation.name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "MEMOIZE":
                memo[len(memo)] = words[-1]
            case kind if kind in _PUT:
                memo[argument] = words[-1]
            case kind if kind in _GET:
                words.append(memo[argument])
            case kind if kind in _NUMBERS:
                words.append(str(argument))
            case kind if kind in _STRINGS:
                words.append(repr(argument))
            case kind if kind in _BYTES and argument == b"b":
                words.append("bytes")
            case kind if kind in _BYTES:
                dates.append(_date(argument))
                words.append("date")
            case "GLOBAL":
                words.append(argument.replace(" ", "."))
            case "STACK_GLOBAL":
                attribute, module = words.pop(), words.pop()
                words.append(f"{module}.{attribute}".replace("'", ""))
            case kind if kind in _WORDS:
                words.append(_WORDS[kind])
            case kind:
                raise ValueError(f"its pickle uses {kind}")
    if not _PROGRAM.fullmatch(" ".join(words)):
        raise ValueError("its pickle makes something else")
    return dates


def _date(code: bytes) -> datetime.datetime:
    """Return the date of ten bytes: the year in two, month, day, hour, minute, second, and microseconds in three."""
    if len(code) != 10:
        raise ValueError(f"{len(code)} bytes where a date has 10")
    high, low, month, day, hour, minute, second, *_ = code
    return datetime.datetime(256 * high + low, month, day, hour, minute, second)
