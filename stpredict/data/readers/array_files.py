"""Arrays in .npy, .npz and HDF5 files, read a part at a time.

Headers are checked against the size of the file before any memory is taken, and nothing is unpickled.

Source: numpy.lib.format (the NPY format, version 1.0 and 2.0) and PKWARE's APPNOTE (local file headers of ZIP).
"""

from __future__ import annotations

import math
import struct
import tokenize
import zipfile
import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from stpredict.data.readers import hdf5
from stpredict.data.readers.finding import naming
from stpredict.errors import UserError, nearest

_NPY_DAMAGE = (ValueError, SyntaxError, tokenize.TokenError)
_ZIP_DAMAGE = (*_NPY_DAMAGE, OSError, RuntimeError, zipfile.BadZipFile, zlib.error, EOFError, struct.error)
DTYPES = ("uint8", "uint16", "int16", "float32", "float64")
SUFFIXES = (".npy", ".npz", ".h5", ".hdf5", ".hdf")

Index = tuple[int | slice, ...]


@dataclass(frozen=True)
class ArrayFile(ABC):
    """One array in one file.

    Attributes:
        path: the file.
        shape: of the whole array.
        dtype: as stored, its byte order included.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __post_init__(self) -> None:
        if self.dtype.name not in DTYPES:
            raise UserError(f"'{self.path}' holds {self.dtype}; frames are {', '.join(DTYPES)}: convert it")
        if min(self.shape, default=1) < 1:
            raise UserError(f"'{self.path}' holds an empty array, {self.shape}")

    @property
    def byte_count(self) -> int:
        """Return how many bytes the whole array takes."""
        return math.prod(self.shape) * self.dtype.itemsize

    @abstractmethod
    def read(self, index: Index) -> NDArray[Any]:
        """Return a part of the array, in memory.

        Raises:
            UserError: the file is damaged.
        """


def open_array(path: Path, name: str | None = None) -> ArrayFile:
    """Look at the header of an array file.

    Args:
        path: a file that ends in .npy, .npz, .h5, .hdf5 or .hdf.
        name: the array in a file that holds several (.npz) or a path in it (HDF5); may be left out where there is one.

    Raises:
        UserError: the file is damaged, or holds no such array, or none of numbers that serve as frames.
    """
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return _open_npy(path)
    if suffix == ".npz":
        return _open_npz(path, name)
    if suffix in SUFFIXES:
        return _open_hdf5(path, name)
    raise UserError(f"'{path}' is no array file; known endings: {', '.join(SUFFIXES)}")


@dataclass(frozen=True)
class _Mapped(ArrayFile):
    """An array whose bytes stand in the file as they are; only the pages that are asked for are read."""

    fortran: bool
    offset: int

    def read(self, index: Index) -> NDArray[Any]:
        with naming(self.path, "array file", ValueError):
            order: Any = "F" if self.fortran else "C"
            return np.array(np.memmap(self.path, self.dtype, "r", self.offset, self.shape, order)[index])


@dataclass(frozen=True)
class _Deflated(ArrayFile):
    """An array in a compressed .npz, which can only be read whole; each process keeps the one it read last."""

    member: str

    def read(self, index: Index) -> NDArray[Any]:
        status = self.path.stat()
        return np.array(_inflate(self.path, self.member, status.st_mtime_ns, status.st_size)[index])


@lru_cache(maxsize=1)
def _inflate(path: Path, member: str, modified: int, size: int) -> NDArray[Any]:
    with naming(path, "npz file", *_ZIP_DAMAGE):
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
            file.read()  # to the end, so that the checksum is compared
        return array


@dataclass(frozen=True)
class _Hdf5(ArrayFile):
    name: str

    def read(self, index: Index) -> NDArray[Any]:
        with hdf5.open_file(self.path) as file:
            return np.asarray(hdf5.dataset(file, self.name)[index])


def _open_npy(path: Path) -> ArrayFile:
    with naming(path, "npy file", *_NPY_DAMAGE), path.open("rb") as file:
        shape, fortran, dtype = _npy_header(file)
        array = _Mapped(path, shape, dtype, fortran, file.tell())
        needed, there = array.offset + array.byte_count, path.stat().st_size
        if needed > there:
            raise UserError(f"'{path}' is truncated: its header tells of {needed} bytes, but it has {there}")
        return array


def _open_npz(path: Path, name: str | None) -> ArrayFile:
    with naming(path, "npz file", *_ZIP_DAMAGE), zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist() if info.filename.endswith(".npy")}
        member = members[_one_of(path, name, list(members))]
        with archive.open(member) as file:
            shape, fortran, dtype = _npy_header(file)
            header = file.tell()
        array: ArrayFile
        if member.compress_type == zipfile.ZIP_STORED:
            array = _Mapped(path, shape, dtype, fortran, _data_start(path, member.header_offset) + header)
        else:
            array = _Deflated(path, shape, dtype, member.filename)
        needed = header + array.byte_count
        stored = min(member.compress_size, path.stat().st_size)
        if needed != member.file_size or needed > stored * hdf5.DEFLATE_LIMIT:
            raise UserError(f"'{path}' is damaged: the array '{name or member.filename}' tells of {needed} bytes, which it cannot hold")
        return array


def _open_hdf5(path: Path, name: str | None) -> ArrayFile:
    with hdf5.open_file(path) as file:
        name = _one_of(path, name, hdf5.dataset_names(file)) if name is None else name
        found = hdf5.dataset(file, name)
        return _Hdf5(path, found.shape or (), found.dtype, name)


def _npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"version {version[0]}.{version[1]} of the format")
    return read(file)


def _data_start(path: Path, header_offset: int) -> int:
    with path.open("rb") as file:
        file.seek(header_offset + 26)
        name_length, extra_length = struct.unpack("<HH", file.read(4))
    return header_offset + 30 + int(name_length) + int(extra_length)


def _one_of(path: Path, name: str | None, names: list[str]) -> str:
    if name is None and len(names) == 1:
        return names[0]
    if name is None:
        raise UserError(f"'{path}' holds {len(names)} arrays; say which by the setting 'dataset'{nearest('', names)}")
    if name not in names:
        raise UserError(f"'{path}' holds no array '{name}'{nearest(name, names)}")
    return name
