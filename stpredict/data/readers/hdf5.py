"""Open HDF5 files that nobody vouches for: no link is followed out of the file, no size is believed that is not stored.

Source: The HDF Group, HDF5 File Format Specification, version 3.0, section III.E (global heaps).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import h5py

from stpredict.data.readers.finding import naming
from stpredict.errors import UserError, nearest

DEFLATE_LIMIT = 1032  # no stream of the deflate format expands further than this

# What h5py raises where the bytes of a file make no sense; the last three, where those of a type, a text or a number do not.
_DAMAGE = (OSError, RuntimeError, KeyError, TypeError, ValueError, OverflowError)
_HEAP = b"GCOL\x01\x00\x00\x00"
_OBJECT = struct.Struct("<HHIQ")  # number (0: what is free, which counts these bytes too), references, nothing, bytes
_SEARCHED = 1 << 24  # bytes from the start of a file; h5py and NetCDF put their heaps in front


@contextmanager
def open_file(path: Path) -> Iterator[h5py.File]:
    """Open a file to read; damage that shows while it is open becomes a UserError that names the file."""
    with naming(path, "HDF5 file", *_DAMAGE):
        status = path.stat()
        _refuse_endless_heaps(path, status.st_mtime_ns, status.st_size)
        with h5py.File(path, "r") as file:
            yield file


@lru_cache(maxsize=1 << 16)
def _refuse_endless_heaps(path: Path, modified: int, size: int) -> None:
    """Refuse a file in whose global heaps, which hold texts and lists, an object does not end: the library would never return from it."""
    with path.open("rb") as file:
        content = file.read(_SEARCHED)
    start = content.find(_HEAP)
    while start >= 0:
        place = start + len(_HEAP) + 8
        end = min(start + int.from_bytes(content[place - 8 : place], "little"), len(content))
        while place + _OBJECT.size <= end:
            number, _, _, length = _OBJECT.unpack_from(content, place)
            step = length if number == 0 else _OBJECT.size + (length + 7) // 8 * 8
            if step == 0 or step >= 1 << 63:
                raise UserError(f"'{path}' is damaged: a heap of its texts and lists has no end; get it again or leave it out")
            place += step
        start = content.find(_HEAP, start + 1)


def member(file: h5py.File, name: str) -> h5py.Group | h5py.Dataset:
    """Return a group or data set of an open file.

    Raises:
        UserError: there is none of this name, or a link stands in the way.
    """
    found: h5py.Group | h5py.Dataset = file
    for part in name.strip("/").split("/"):
        if not isinstance(found, h5py.Group) or part not in found:
            raise UserError(f"'{file.filename}' has no '{name}'{nearest(name, dataset_names(file))}")
        if not isinstance(found.get(part, getlink=True), h5py.HardLink):
            raise UserError(f"'{file.filename}': '{name}' is a link, which is not followed")
        found = found[part]
    return found


def dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """Return a data set of an open file.

    Raises:
        UserError: there is none of this name, it lies in another file, or it declares more data than the file can hold.
    """
    found = member(file, name)
    if not isinstance(found, h5py.Dataset):
        raise UserError(f"'{file.filename}': '{name}' is a group, not a data set{nearest(name, dataset_names(file))}")
    if found.is_virtual or found.external:
        raise UserError(f"'{file.filename}': the data of '{name}' lie in another file, which is not followed")
    stored = found.id.get_storage_size()
    if found.nbytes > stored * DEFLATE_LIMIT:
        raise UserError(f"'{file.filename}': '{name}' declares {found.nbytes} bytes but stores {stored}; the file is damaged or not filled")
    return found


def dataset_names(file: h5py.File) -> list[str]:
    """Return the names of all data sets in the file itself."""
    names: list[str] = []
    file.visititems(lambda name, item: names.append(str(name)) if isinstance(item, h5py.Dataset) else None)
    return names
