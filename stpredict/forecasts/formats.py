"""How a forecast file lies on the disk: HDF5, or a zip of arrays, written part by part and read without believing any size."""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from stpredict.errors import UserError
from stpredict.files import refuse_full_disk

ABOUT_LIMIT = 1 << 20
"""The most bytes that the JSON of a forecast file may have."""

DAMAGE = (OSError, EOFError, KeyError, TypeError, ValueError, RuntimeError, RecursionError, zipfile.BadZipFile, struct.error)
"""What h5py, numpy, json and zipfile raise for a file that is not what it should be."""


class Writing(Protocol):
    """A forecast file under way; made with its path and the shape ``(N, (M,) horizon, C, H, W)`` of all forecasts."""

    def __init__(self, path: Path, shape: Sequence[int]) -> None: ...

    def append(self, forecast: NDArray[np.float32]) -> None:
        """Write the forecasts of the next clips, contiguous."""

    def finish(self, arrays: Mapping[str, NDArray[Any]], about: str) -> None:
        """Write what stands beside the forecasts."""

    def close(self) -> None:
        """Close the file."""


@dataclass(frozen=True)
class Format:
    """A kind of forecast file.

    Attributes:
        write: makes what writes it.
        read: opens a file; gives its arrays by name, none of which is read yet, and its JSON.
    """

    write: type[Writing]
    read: _Read


class _Read(Protocol):
    def __call__(self, path: Path) -> AbstractContextManager[tuple[Mapping[str, Any], str]]: ...


class _Hdf5Writing:
    def __init__(self, path: Path, shape: Sequence[int]) -> None:
        index = shape[0] * (math.prod(shape[1:-3]) * 128 + 64)  # of the chunks, and what stands beside the forecasts of a clip
        refuse_full_disk(path, math.prod(shape) * 4 + index + (1 << 16))
        self.file = h5py.File(path, "w")
        chunks = (*(1 for _ in shape[:-3]), *shape[-3:])
        self.forecast = self.file.create_dataset("forecast", tuple(shape), np.float32, chunks=chunks)
        self.written = 0

    def append(self, forecast: NDArray[np.float32]) -> None:
        self.forecast[self.written : self.written + len(forecast)] = forecast
        self.written += len(forecast)

    def finish(self, arrays: Mapping[str, NDArray[Any]], about: str) -> None:
        for name, array in arrays.items():
            self.file.create_dataset(name, data=array)
        self.file.attrs["about"] = about

    def close(self) -> None:
        self.file.close()


class _ZipWriting:
    def __init__(self, path: Path, shape: Sequence[int]) -> None:
        self.file = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED)
        self.forecast = self.file.open("forecast.npy", "w", force_zip64=True)
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)), "fortran_order": False, "shape": tuple(shape)}
        np.lib.format.write_array_header_1_0(self.forecast, header)

    def append(self, forecast: NDArray[np.float32]) -> None:
        self.forecast.write(forecast.data)

    def finish(self, arrays: Mapping[str, NDArray[Any]], about: str) -> None:
        self.forecast.close()
        for name, array in arrays.items():
            with self.file.open(f"{name}.npy", "w") as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)
        self.file.writestr("about.json", about)

    def close(self) -> None:
        self.forecast.close()
        self.file.close()


@contextmanager
def _read_hdf5(path: Path) -> Iterator[tuple[Mapping[str, Any], str]]:
    with h5py.File(path, "r") as file:
        yield {name: _hdf5_array(file, name) for name in file}, _hdf5_text(file, "about")


def _hdf5_array(file: h5py.File, name: str) -> h5py.Dataset:
    """Return a dataset whose numbers lie in this file, uncompressed, so that its size on disk bounds what it takes in memory."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"'{name}' points out of the file")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external is not None:
        raise ValueError(f"'{name}' is no array of its own")
    if dataset.id.get_create_plist().get_nfilters() or dataset.id.get_storage_size() != dataset.nbytes:
        raise ValueError(f"'{name}' is compressed or not whole")
    return dataset


def _hdf5_text(file: h5py.File, name: str) -> str:
    attribute = file.attrs.get_id(name)
    if attribute.shape != () or not h5py.check_string_dtype(attribute.dtype):
        raise ValueError(f"'{name}' is no text")
    return str(file.attrs[name])


@contextmanager
def _read_zip(path: Path) -> Iterator[tuple[Mapping[str, Any], str]]:
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        entries = {entry.filename: entry for entry in archive.infolist()}
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise ValueError("it is compressed")
        about = entries["about.json"]
        if about.file_size > ABOUT_LIMIT:
            raise ValueError("'about.json' is too large")
        arrays = {name.removesuffix(".npy"): _zip_array(file, entry) for name, entry in entries.items() if name.endswith(".npy")}
        yield arrays, archive.read(about).decode()


def _zip_array(file: IO[bytes], entry: zipfile.ZipInfo) -> NDArray[Any]:
    """Return a memory map of an uncompressed array in a zip file."""
    # The local header repeats the name and has an extra field whose length the central directory does not tell.
    file.seek(entry.header_offset)
    signature, name_length, extra_length = struct.unpack("<4s22xHH", file.read(30))
    start = file.seek(name_length + extra_length, 1)
    if signature != b"PK\3\4":
        raise ValueError(f"'{entry.filename}' has no header")
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"'{entry.filename}' has array format {version}")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    offset = file.tell()
    whole = dtype.itemsize * math.prod(shape) == entry.file_size - (offset - start)
    if dtype.hasobject or fortran_order or min(shape, default=1) < 1 or not whole:
        raise ValueError(f"'{entry.filename}' is not the array that its header says")
    return np.memmap(file, dtype, "r", offset, shape)


FORMATS: dict[str, Format] = {".h5": Format(_Hdf5Writing, _read_hdf5), ".npz": Format(_ZipWriting, _read_zip)}
"""The kinds of forecast file, by the ending of the name."""


def format_of(path: Path) -> Format:
    """Return the kind of forecast file that a name says.

    Raises:
        UserError: it says none.
    """
    if path.suffix not in FORMATS:
        raise UserError(f"A forecast file ends in {' or '.join(FORMATS)}, not in '{path.suffix}': {path}")
    return FORMATS[path.suffix]
