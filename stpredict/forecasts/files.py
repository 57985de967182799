"""Forecast files: the forecasts of a predictor for the clips of one split, which can stand wherever a predictor is scored.

A file is HDF5 (``.h5``) or a zip of arrays that ``numpy.load`` reads (``.npz``, not compressed). It holds

* ``forecast``: float32 ``(N, horizon, C, H, W)``, physical;
* ``indices``: int64 ``(N,)``, which clip of its split each row continues;
* ``digests``: uint8 ``(N, 16)``, what the true clip was (:func:`clip_digests`);
* ``times``: the times of the forecast frames ``(N, horizon)``, where the film has a clock: int64 seconds since 1970 in UTC;
* ``about``: JSON (an attribute of the HDF5 file, the entry ``about.json`` of the zip): predictor, card, split, context, horizon, the
  hash of the truth, frame spec and version of stpredict.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, TypeVar

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import stpredict
from stpredict.data.clips import ClipSet
from stpredict.errors import UserError
from stpredict.files import refuse_full_disk, whole_file
from stpredict.frames import Batch, FrameSpec

Format = TypeVar("Format")
Entry = TypeVar("Entry")

DIGEST_SIZE = 16
ABOUT_LIMIT = 1 << 20
"""The most bytes that the JSON of a forecast file may have."""


def clip_digests(batch: Batch) -> list[bytes]:
    """Return what identifies each clip of a batch: BLAKE2b-128 of its packed frames, mask and times."""
    parts = [part.numpy() for part in (batch.frames, batch.valid, batch.times) if part is not None]
    return [_digest(part[row] for part in parts) for row in range(len(batch.indices))]


def _digest(arrays: Iterable[NDArray[Any]]) -> bytes:
    digest = hashlib.blake2b(digest_size=DIGEST_SIZE)
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.digest()


def truth_hash(context: int, horizon: int, digests: Iterable[bytes]) -> str:
    """Return what identifies the clips that were scored: BLAKE2b-128 of context, horizon and the clips' digests in index order."""
    digest = hashlib.blake2b(f"{context} {horizon}\n".encode(), digest_size=DIGEST_SIZE)
    for clip in digests:
        digest.update(clip)
    return digest.hexdigest()


class ForecastWriter:
    """Writes a forecast file while forecasts are made, in constant memory, whole or not at all.

    Used in a ``with`` statement; the file stands at ``path`` when that ends without an error.
    """

    def __init__(self, path: str | Path, predictor: str, data: ClipSet, clips: int) -> None:
        """Prepare to write.

        Args:
            path: where to, ending in ``.h5`` or ``.npz``.
            predictor: its name.
            data: the split whose clips are continued.
            clips: N, how many of them.

        Raises:
            UserError: ``path`` ends in something else.
        """
        self.path, self.predictor, self.data = Path(path), predictor, data
        self.shape = (clips, data.horizon, *data.spec.shape)
        formats: dict[str, type[_Writer]] = {".h5": _Hdf5Writer, ".npz": _ZipWriter}
        self._format = _by_suffix(self.path, formats)
        self._indices: list[int] = []
        self._digests: list[bytes] = []
        self._times: list[NDArray[np.int64]] = []

    def __enter__(self) -> ForecastWriter:
        self._file = self._open()
        self._writer = self._file.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.__exit__(kind, error, trace)

    def write(self, forecast: Tensor, batch: Batch, digests: Sequence[bytes]) -> None:
        """Append the forecasts ``(B, horizon, C, H, W)``, physical, of the clips of a batch, which have these digests."""
        assert forecast.shape == (len(batch.indices), *self.shape[1:]), "a forecast for each clip of the batch"
        self._writer.append(forecast.to("cpu", torch.float32).contiguous().numpy())
        self._indices += batch.indices
        self._digests += digests
        if batch.times is not None:
            self._times.append(batch.times[:, self.data.context :].numpy())

    @contextmanager
    def _open(self) -> Iterator[_Writer]:
        with whole_file(self.path) as temporary, closing(self._format(temporary, self.shape)) as writer:
            yield writer
            assert len(self._indices) == self.shape[0], "as many clips as were announced"
            writer.finish(self._small_arrays(), json.dumps(self._about()))

    def _small_arrays(self) -> dict[str, NDArray[Any]]:
        arrays: dict[str, NDArray[Any]] = {
            "indices": np.array(self._indices, dtype=np.int64),
            "digests": np.frombuffer(b"".join(self._digests), dtype=np.uint8).reshape(-1, DIGEST_SIZE),
        }
        return {**arrays, "times": np.concatenate(self._times)} if self._times else arrays

    def _about(self) -> dict[str, Any]:
        return {
            "predictor": self.predictor,
            "card": self.data.card,
            "split": self.data.split,
            "context": self.data.context,
            "horizon": self.data.horizon,
            "hash": truth_hash(self.data.context, self.data.horizon, self._digests),
            "spec": self.data.spec.to_dict(),
            "version": stpredict.__version__,
        }


class _Writer(Protocol):
    def __init__(self, path: Path, shape: Sequence[int]) -> None: ...

    def append(self, forecast: NDArray[np.float32]) -> None: ...

    def finish(self, arrays: Mapping[str, NDArray[Any]], about: str) -> None: ...

    def close(self) -> None: ...


class _Hdf5Writer:
    def __init__(self, path: Path, shape: Sequence[int]) -> None:
        index = shape[0] * (shape[1] * 128 + 64)  # of the chunks, and what stands beside the forecasts of a clip
        refuse_full_disk(path, math.prod(shape) * 4 + index + (1 << 16))
        self.file = h5py.File(path, "w")
        self.forecast = self.file.create_dataset("forecast", tuple(shape), np.float32, chunks=(1, 1, *shape[2:]))
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


class _ZipWriter:
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


class ForecastFile:
    """Forecasts that were saved, in the place of the predictor that made them.

    Attributes:
        name: the last part of the path.
        path: of the file.
        predictor: the name of the predictor that made the forecasts.
        card: the name of the card whose clips they continue.
        split: the name of the split.
        spec: what the numbers mean.
        context: observed frames of a clip.
        horizon: forecast frames of a clip.
        hash: of the truth, all clips together (:func:`truth_hash`).
        times: ``(N, horizon)`` datetime64[s] of the forecast frames, or None.
    """

    def __init__(self, path: str | Path) -> None:
        """Read everything but the forecasts themselves.

        Raises:
            UserError: there is no such file, or it is damaged or not a forecast file.
        """
        self.path = Path(path)
        self.name = self.path.name
        self._read = _by_suffix(self.path, {".h5": _read_hdf5, ".npz": _read_zip})
        if not self.path.is_file():
            raise UserError(f"There is no forecast file {self.path}")
        try:
            with self._read(self.path) as (arrays, about):
                self._take(arrays, json.loads(about))
        except (*_DAMAGE, RecursionError) as error:
            raise self._damaged(error) from None

    def _take(self, arrays: Mapping[str, Any], about: Any) -> None:
        self.predictor, self.card, self.split = (_entry(about, key, str) for key in ("predictor", "card", "split"))
        self.context, self.horizon = _entry(about, "context", int), _entry(about, "horizon", int)
        self.hash = _entry(about, "hash", str)
        self.spec = FrameSpec.from_dict(_entry(about, "spec", dict))
        clips = len(arrays["indices"])
        _check_array(arrays, "forecast", np.float32, (clips, self.horizon, *self.spec.shape))
        _check_array(arrays, "indices", np.int64, (clips,))
        _check_array(arrays, "digests", np.uint8, (clips, DIGEST_SIZE))
        self.times: NDArray[np.datetime64] | None = None
        if "times" in arrays:
            _check_array(arrays, "times", np.int64, (clips, self.horizon))
            self.times = np.array(arrays["times"]).astype("datetime64[s]")
        indices = [int(index) for index in np.array(arrays["indices"])]
        self._rows = {index: row for row, index in enumerate(indices)}
        self._digests = dict(zip(indices, (row.tobytes() for row in np.array(arrays["digests"])), strict=True))
        if len(self._rows) != clips:
            raise ValueError("a clip is in it twice")

    def __len__(self) -> int:
        """Return the number of clips that are forecast."""
        return len(self._rows)

    def check(self, data: ClipSet, count: int) -> None:
        """Check that the file forecasts the first ``count`` clips of ``data``, as far as can be told before the clips are read.

        Raises:
            UserError: it is of another card, split, context, horizon or frame size, or lacks a clip.
        """
        facts = [(fact, getattr(self, fact), getattr(data, fact)) for fact in ("card", "split", "context", "horizon")]
        facts += [("frames", _size(self.spec.shape), _size(data.spec.shape))]
        differing = [f"{fact} {ours} instead of {theirs}" for fact, ours, theirs in facts if ours != theirs]
        if differing:
            raise UserError(f"{self.path} forecasts other clips: {', '.join(differing)}; it can be scored only where it was made")
        self._rows_of(range(count))

    def check_truth(self, indices: Sequence[int], digests: Sequence[bytes]) -> None:
        """Check that clips with these numbers and :func:`clip_digests` are the ones that the forecasts continue.

        Raises:
            UserError: a clip holds other frames or times.
        """
        for index, digest in zip(indices, digests, strict=True):
            if self._digests.get(index, digest) != digest:
                raise UserError(
                    f"{self.path} forecasts other clips: clip {index} of '{self.card}' {self.split} had other frames or times "
                    "when the file was made; make it again from these data"
                )

    def forecast_clips(self, indices: Sequence[int], horizon: int) -> Tensor:
        """Return the forecasts ``(B, horizon, C, H, W)`` of these clips, in physical units.

        Raises:
            UserError: the file lacks one of them, has another horizon or is damaged.
        """
        if horizon != self.horizon:
            raise UserError(f"{self.path} holds forecasts of {self.horizon} frames, not {horizon}")
        rows = self._rows_of(indices)
        try:
            with self._read(self.path) as (arrays, _):
                return torch.from_numpy(np.stack([arrays["forecast"][row] for row in rows]))
        except _DAMAGE as error:
            raise self._damaged(error) from None

    def _rows_of(self, indices: Iterable[int]) -> list[int]:
        try:
            return [self._rows[index] for index in indices]
        except KeyError as missing:
            raise UserError(f"{self.path} forecasts {len(self)} clips, and clip {missing} is not among them: ask for those alone") from None

    def _damaged(self, error: BaseException) -> UserError:
        return UserError(f"{self.path} is no whole forecast file ({error}): make it again with --save-forecasts")


_DAMAGE = (OSError, EOFError, KeyError, TypeError, ValueError, RuntimeError, zipfile.BadZipFile, struct.error)
"""What h5py, numpy, json and zipfile raise for a file that is not what it should be."""


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


def _by_suffix(path: Path, formats: Mapping[str, Format]) -> Format:
    if path.suffix not in formats:
        raise UserError(f"A forecast file ends in {' or '.join(formats)}, not in '{path.suffix}': {path}")
    return formats[path.suffix]


def _entry(about: Any, key: str, kind: type[Entry]) -> Entry:
    value = about[key]
    if type(value) is not kind:
        raise ValueError(f"'{key}' is {value!r:.40}")
    return value


def _check_array(arrays: Mapping[str, Any], name: str, dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    array = arrays[name]
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(f"'{name}' is {array.dtype} {_size(array.shape)} instead of {np.dtype(dtype)} {_size(shape)}")


def _size(shape: Iterable[int]) -> str:
    return " x ".join(str(length) for length in shape)
