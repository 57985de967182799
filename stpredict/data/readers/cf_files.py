"""Open NetCDF files and Zarr stores that nobody vouches for: nothing is unpickled, no link is followed, no declared size is believed."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from stpredict.data.readers import hdf5
from stpredict.data.readers.finding import find_files, name_below, naming, natural_key
from stpredict.errors import UserError, import_optional

if TYPE_CHECKING:
    from xarray import Dataset

LARGEST = 1 << 30  # bytes of a frame, of a chunk, of a coordinate
_SMALL = 1 << 26  # bytes that may be declared whatever is stored, since what was never written is not stored
_HDF5_START = b"\x89HDF\r\n\x1a\n"
_NETCDF = ("*.nc", "*.nc3", "*.nc4", "*.cdf", "*.netcdf")
_ZARR = ("zarr.json", ".zgroup", ".zmetadata")
_REMOTE = re.compile(r"([a-z][a-z0-9+]+):/+(.+)", re.ASCII)  # a path has one slash where the address had two
_UNDECODED = {"mask_and_scale": False, "decode_times": False, "concat_characters": False, "decode_coords": False}
_DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, IndexError, AttributeError, ArithmeticError, MemoryError, SystemError)


def address(place: Path) -> str | None:
    """Return the address of a remote store such as ``s3://bucket/rain.zarr``; None for a local path."""
    match = _REMOTE.fullmatch(place.as_posix())
    return None if match is None or place.exists() else f"{match[1]}://{match[2]}"


def is_zarr(place: Path) -> bool:
    """Return whether a path is a Zarr store: a folder with its marks, or an address."""
    return address(place) is not None or any((place / mark).is_file() for mark in _ZARR)


def find_places(root: Path, files: Sequence[str], leave_out: Sequence[str]) -> list[Path]:
    """Return the NetCDF files and Zarr stores that ``root`` is or holds, in natural order.

    Args:
        root: a file, a Zarr store or its address, or a folder of files and stores.
        files: shell patterns of their names; empty: by the usual suffixes.
        leave_out: patterns of paths below the root that are not wanted.

    Raises:
        UserError: there is none.
    """
    if root.is_file() or is_zarr(root):
        return [root]
    stores = []
    for folder, folders, _ in os.walk(root):
        found = [name for name in folders if is_zarr(Path(folder, name))]
        folders[:] = [name for name in folders if name not in found and not name.startswith(".")]
        stores += [Path(folder, name) for name in found if not files or any(fnmatchcase(name, pattern) for pattern in files)]
    kept = [place for place in stores if not any(fnmatchcase(name_below(root, place), pattern) for pattern in leave_out)]
    if not kept:
        return find_files(root, files or _NETCDF, leave_out)
    return sorted(kept, key=lambda place: natural_key(name_below(root, place)))


@contextmanager
def opened(place: Path) -> Iterator[Dataset]:
    """Open a file or store as an xarray data set of undecoded, lazy variables; damage becomes a UserError that names it.

    Raises:
        UserError: it is damaged, holds pickles or links, declares more than it can hold, or a library is missing.
    """
    xarray = import_optional("xarray", "radar")
    if is_zarr(place):
        import_optional("zarr", "radar")
        with _naming_remote(place), naming(place, "Zarr store", *_DAMAGE):
            target, consolidated = _check_zarr(place)
            yield xarray.backends.ZarrBackendEntrypoint().open_dataset(target, consolidated=consolidated, **_UNDECODED)
        return
    if not _is_hdf5(place):  # the classic form, of which the NetCDF library believes any number in a header, and counts to it
        import_optional("scipy", "radar")
        with naming(place, "NetCDF file", *_DAMAGE), closing(xarray.backends.ScipyDataStore(str(place), mmap=True)) as store:
            yield xarray.backends.StoreBackendEntrypoint().open_dataset(store, **_UNDECODED)
        return
    netcdf = import_optional("netCDF4", "radar")
    _refuse_links(place)
    with naming(place, "NetCDF file", *_DAMAGE), netcdf.Dataset(place) as file:
        stored = place.stat().st_size
        for name, variable in file.variables.items():
            chunks = variable.chunking()
            shape = variable.shape if len(variable.shape) < 2 else chunks if isinstance(chunks, list) else variable.shape[-2:]
            _refuse_size(place, name, shape, np.dtype(variable.dtype).itemsize, stored)
        # The data set is not closed on its own: that would close the file twice. (xarray.open_dataset would look up every library that
        # can open anything, which takes seconds.)
        yield xarray.backends.StoreBackendEntrypoint().open_dataset(xarray.backends.NetCDF4DataStore(file), **_UNDECODED)


def refuse_large_frames(place: Path, name: str, frame: Sequence[int], itemsize: int) -> None:
    """Refuse frames of more bytes than a file can hold.

    Raises:
        UserError: they are so large.
    """
    _refuse_size(place, name, frame, itemsize, None if is_zarr(place) else place.stat().st_size)


def read_stored(place: Path, name: str, index: tuple[int | slice, ...]) -> NDArray[Any]:
    """Return stored, undecoded numbers of one variable.

    Raises:
        UserError: the file is damaged, or has changed.
    """
    if not is_zarr(place) and _is_hdf5(place):
        with hdf5.open_file(place) as file:  # five times as fast as the NetCDF library, which opens all variables
            member = hdf5.member(file, name)
            if not isinstance(member, h5py.Dataset) or member.is_virtual or member.external:
                raise UserError(f"'{place}': '{name}' does not hold its data itself")
            with naming(place, "NetCDF file", *_DAMAGE):
                return np.asarray(member[index])
    with opened(place) as dataset:
        return np.asarray(dataset[name].variable[index].values)


def _is_hdf5(place: Path) -> bool:
    with place.open("rb") as file:
        return file.read(len(_HDF5_START)) == _HDF5_START


def _refuse_links(place: Path) -> None:
    with hdf5.open_file(place) as file:
        for name in file:
            if not isinstance(file.get(name, getlink=True), h5py.HardLink):
                raise UserError(f"'{place}': '{name}' is a link, which is not followed")
            item = file[name]
            if isinstance(item, h5py.Dataset) and (item.is_virtual or item.external):
                raise UserError(f"'{place}': the data of '{name}' lie in another file, which is not followed")


def _refuse_size(place: Path, name: str, shape: Iterable[int], itemsize: int, stored: int | None) -> None:
    declared = math.prod(int(size) for size in shape) * itemsize
    if declared > LARGEST or (stored is not None and declared > max(_SMALL, stored * hdf5.DEFLATE_LIMIT)):
        holds = "" if stored is None else f" in a file of {stored}"
        raise UserError(f"'{place}': '{name}' declares {declared} bytes in one piece{holds}; it is damaged, or too large to be read")


def _check_zarr(place: Path) -> tuple[str, bool]:
    """Return what xarray is to open, and whether its metadata are in one place, after a look at the metadata alone."""
    import zarr

    target = address(place) or str(place)
    group = zarr.open_group(target, mode="r")
    for name, array in group.arrays():
        about = array.metadata.to_dict()
        if re.search(r"[\"'](numcodecs\.)?pickle[\"']", json.dumps(about, default=repr)):
            raise UserError(f"'{target}': '{name}' is pickled, and a pickle may run anything, so it is not opened")
        _refuse_size(place, name, array.shape if array.ndim < 2 else array.chunks, array.dtype.itemsize, None)
    return target, group.metadata.consolidated_metadata is not None


@contextmanager
def _naming_remote(place: Path) -> Iterator[None]:
    """Say which library an address needs."""
    try:
        yield
    except ImportError as error:
        raise UserError(f"'{address(place) or place}' needs a library that is not installed: {' '.join(str(error).split())}") from None
