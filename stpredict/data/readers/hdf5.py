"""Open HDF5 files that nobody vouches for: no link is followed out of the file, no size is believed that is not stored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from stpredict.data.readers.finding import naming
from stpredict.errors import UserError, nearest

DEFLATE_LIMIT = 1032  # no stream of the deflate format expands further than this


@contextmanager
def open_file(path: Path) -> Iterator[h5py.File]:
    """Open a file to read; damage that shows while it is open becomes a UserError that names the file."""
    with naming(path, "HDF5 file", OSError, RuntimeError, KeyError), h5py.File(path, "r") as file:
        yield file


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
