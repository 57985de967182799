"""Checkpoints that torch has saved, as a zip archive or in the older format, without unpickling them.

Zip (torch >= 1.6): ``<folder>/data.pkl`` and, stored as they are, the memory of tensors as ``<folder>/data/<key>``, little-endian.
Older: five pickles (magic number, protocol, system, content, keys), then for each key the number of elements, int64, and the memory.
"""

from __future__ import annotations

import io
import math
import mmap
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from stpredict.errors import UserError
from stpredict.weights.inert import MAX_BYTES, Inert, read_pickle

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "UntypedStorage": torch.uint8,
}
_LARGEST_AXIS = 2**40


@dataclass(frozen=True)
class _Storage:
    """The memory of a tensor, as a pickle names it: which record, and its elements; ``dtype`` is None for kinds that are not read."""

    key: str
    dtype: torch.dtype | None
    kind: str
    elements: int


@dataclass(frozen=True)
class _Record:
    """Where bytes lie in the file."""

    start: int
    size: int


@dataclass(frozen=True)
class TorchFile:
    """A checkpoint that torch has saved: its content, and the memory of its tensors, which is read when asked for.

    Attributes:
        path: the file.
        content: what was saved, as :func:`stpredict.weights.inert.read_pickle` gives it.
    """

    path: Path
    content: Any
    _memory: mmap.mmap
    _records: Mapping[str, _Record]
    _copies: dict[str, Tensor] = field(default_factory=dict)

    def tensors(self, named: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return tensors by name, on the CPU, each memory copied once: tensors that share it in the file share it here.

        Args:
            named: parts of the content for which :func:`is_tensor` holds.

        Raises:
            UserError: one is quantised or damaged.
        """
        with _naming(self.path):
            return {name: self._tensor(name, node) for name, node in named.items()}

    def _tensor(self, name: str, node: Inert) -> Tensor:
        node = _without_parameter(node)
        args = node.args or ()
        match node.name.rpartition(".")[2], args:
            case ("_rebuild_tensor" | "_rebuild_tensor_v2", (_Storage() as storage, offset, size, stride, *more)):
                dtype, metadata = storage.dtype, more[2:3]
            case ("_rebuild_tensor_v3", (_Storage() as storage, offset, size, stride, _, _, Inert() as kind, *metadata)):
                found = vars(torch).get(kind.name.removeprefix("torch."))
                dtype = found if isinstance(found, torch.dtype) else None
            case _:
                raise ValueError(f"what it tells of the tensor '{name}' is not understood")
        if dtype is None or metadata not in ([], [None], [{}]):
            raise UserError(
                f"{self.path}: the tensor '{name}' ({storage.kind}) is quantised, conjugated or of an unknown kind; "
                "save it as plain float32"
            )
        size, stride = _numbers(size), _numbers(stride)
        (offset,) = _numbers((offset,))
        memory = self._copy(storage)
        elements = memory.numel() // dtype.itemsize
        if len(size) != len(stride) or math.prod(n for n in size if n) > _LARGEST_AXIS or math.prod(size) > elements:
            raise ValueError(f"the tensor '{name}' of shape {size} does not fit its memory of {elements} elements")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if 0 not in size and last >= elements:
            raise ValueError(f"the tensor '{name}' of shape {size} reaches beyond its memory of {elements} elements")
        if 0 in size:
            return torch.empty(size, dtype=dtype)
        return memory[: elements * dtype.itemsize].view(dtype).as_strided(size, stride, offset)

    def _copy(self, storage: _Storage) -> Tensor:
        if storage.key not in self._copies:
            record = self._records.get(storage.key)
            if record is None:
                raise ValueError(f"it lacks the memory '{storage.key}' of a tensor")
            self._copies[storage.key] = _copy(self._memory, record)
        memory = self._copies[storage.key]
        wanted = storage.elements * (storage.dtype or torch.uint8).itemsize
        if memory.numel() != wanted:
            raise ValueError(f"the memory '{storage.key}' has {memory.numel()} bytes, not the {wanted} that it should have")
        return memory


def read_torch(path: Path) -> TorchFile:
    """Read a file of ``torch.save``; the memory of its tensors is read later.

    Raises:
        UserError: it is none, is damaged or big-endian, is a TorchScript program, or names something that would run a program.
    """
    with _naming(path), path.open("rb") as file:
        if file.seek(0, io.SEEK_END) == 0:
            raise ValueError("it is empty")
        # A private map: nothing is written back, and torch takes its memory without a warning.
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        return _read_zip(path, memory) if memory[:4] == b"PK\x03\x04" else _read_legacy(path, memory)


def is_tensor(node: Any) -> bool:
    """Return whether part of a content is a dense tensor or a parameter."""
    node = _without_parameter(node)
    return isinstance(node, Inert) and node.name in _TENSORS and node.args is not None


_PARAMETERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
_TENSORS = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3")


def _without_parameter(node: Any) -> Any:
    while isinstance(node, Inert) and node.name in _PARAMETERS and node.args:
        node = node.args[0]
    return node


def _read_zip(path: Path, memory: mmap.mmap) -> TorchFile:
    records = _records(memory)
    folders = [name.removesuffix("/data.pkl") for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(folders) != 1:
        raise ValueError("it is a zip archive without the 'data.pkl' of torch, such as numpy and Keras write")
    (folder,) = folders
    if any(name.startswith(f"{folder}/code/") for name in records):
        raise UserError(f"{path} is a TorchScript program; load it with torch.jit and save its state_dict() with torch.save")
    order = records.get(f"{folder}/byteorder")
    if order is not None and _read(memory, order) != b"little":
        raise UserError(f"{path} was saved on a big-endian machine, which is not read; load and save it with torch once more")
    pickle = records[f"{folder}/data.pkl"]
    if pickle.size > MAX_BYTES:
        raise ValueError(f"its pickle is longer than {MAX_BYTES >> 20} MiB")
    content = read_pickle(io.BytesIO(_read(memory, pickle)), path, _storage)
    data = f"{folder}/data/"
    return TorchFile(path, content, memory, {name.removeprefix(data): where for name, where in records.items() if name.startswith(data)})


def _records(memory: mmap.mmap) -> dict[str, _Record]:
    """Return where the entries of a zip archive lie, all of them stored as they are and apart from each other."""
    records: dict[str, _Record] = {}
    try:
        with zipfile.ZipFile(cast(IO[bytes], memory)) as archive:  # a map can be read like a file
            entries = archive.infolist()
    except zipfile.BadZipFile as error:
        raise ValueError(f"the list at its end is missing or wrong, so it may not have been copied whole ({error})") from None
    for entry in entries:
        name = entry.filename
        if name in records or name.startswith("/") or "\\" in name or ".." in name.split("/"):
            raise ValueError(f"its entry {name!r} is there twice, or has a name that leads out of it")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
            raise ValueError(f"its entry '{name}' is compressed or encrypted, which torch never does; unpack it and pack it with 'zip -0'")
        header = entry.header_offset
        signature, lengths = memory[header : header + 4], memory[header + 26 : header + 30]
        if signature != b"PK\x03\x04" or len(lengths) != 4:
            raise ValueError(f"its entry '{name}' is not where it should be")
        start = header + 30 + sum(struct.unpack("<HH", lengths))
        records[name] = _Record(start, entry.file_size)
    last = 0
    for record in sorted(records.values(), key=lambda record: record.start):
        if record.start < last or record.start + record.size > len(memory):
            raise ValueError("its entries overlap, or reach beyond its end")
        last = record.start + record.size
    for entry in entries:  # of the optimiser's state too, which is not read: what is damaged in one place is not to be trusted
        record = records[entry.filename]
        with memoryview(memory) as everything, everything[record.start : record.start + record.size] as found:
            if zlib.crc32(found) != entry.CRC:
                raise ValueError(f"a checksum does not fit, that of its entry '{entry.filename}'")
        _give_back(memory, record)
    return records


def _read_legacy(path: Path, memory: mmap.mmap) -> TorchFile:
    file = cast(IO[bytes], memory)
    if memory[:1] != b"\x80":
        raise ValueError("it begins like no file of torch.save")
    if read_pickle(file, path, _storage) != _MAGIC:
        raise UserError(f"{path} is a pickle, but not of torch.save; nothing of it was run; save the weights with torch.save")
    if read_pickle(file, path, _storage) != _PROTOCOL:
        raise ValueError("its format is of an unknown version")
    system = read_pickle(file, path, _storage)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise UserError(f"{path} was saved on a big-endian machine, which is not read; load and save it with torch once more")
    storages: dict[str, _Storage] = {}

    def note_storage(identifier: Any) -> Any:
        storage = _storage(identifier)
        if isinstance(storage, _Storage) and storages.setdefault(storage.key, storage).elements != storage.elements:
            raise ValueError(f"it tells two sizes of the memory '{storage.key}'")
        return storage

    content = read_pickle(file, path, note_storage)
    keys = read_pickle(file, path, _storage)
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in storages for key in keys) or len(set(keys)) != len(keys):
        raise ValueError("its list of memories does not fit its content")
    records: dict[str, _Record] = {}
    position = memory.tell()
    for key in keys:
        storage = storages[key]
        if storage.dtype is None:
            raise UserError(f"{path} holds a {storage.kind}, which is not read; save plain float32 tensors")
        length = memory[position : position + 8]
        if len(length) != 8 or struct.unpack("<q", length)[0] != storage.elements:
            raise ValueError(f"the memory '{key}' is cut off, or not of the size that it should have")
        records[key] = _Record(position + 8, storage.elements * storage.dtype.itemsize)
        position += 8 + records[key].size
    if position > len(memory):
        raise ValueError(f"it is cut off: {position} bytes are told, {len(memory)} are there")
    return TorchFile(path, content, memory, records)


def _storage(identifier: Any) -> Any:
    """Return what a persistent identifier stands for: the memory of a tensor, or, in old files, a class with its source."""
    match identifier:
        case ("storage", Inert(name=kind), str(key), str(), int(elements), *view) if elements >= 0 and view in ([], [None]):
            module, _, short = kind.rpartition(".")
            known = module in ("torch", "torch.cuda", "torch.storage")
            return _Storage(key, _STORAGES.get(short) if known else None, short, elements)
        case ("module", Inert() as kind, *_):
            return kind
    raise ValueError("it names the memory of a tensor in an unknown way")


def _numbers(values: Any) -> tuple[int, ...]:
    if not isinstance(values, tuple | list) or not all(type(value) is int and 0 <= value <= _LARGEST_AXIS for value in values):
        raise ValueError("a shape, stride or offset in it is none")
    if len(values) > 64:
        raise ValueError("a shape in it has more than 64 axes")
    return tuple(values)


def _read(memory: mmap.mmap, record: _Record) -> bytes:
    return bytes(_copy(memory, record).numpy())


def _copy(memory: mmap.mmap, record: _Record) -> Tensor:
    """Return a copy of the bytes of a record."""
    if record.size == 0:
        return torch.empty(0, dtype=torch.uint8)
    copy = torch.frombuffer(memory, dtype=torch.uint8, count=record.size, offset=record.start).clone()
    _give_back(memory, record)
    return copy


def _give_back(memory: mmap.mmap, record: _Record) -> None:
    """Give back the pages of a record that were read, which count as ours until then."""
    if record.size and hasattr(mmap, "MADV_DONTNEED"):
        first = record.start - record.start % mmap.PAGESIZE
        memory.madvise(mmap.MADV_DONTNEED, first, record.start + record.size - first)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn what damage raises into a UserError that names the file."""
    try:
        yield
    except UserError:
        raise
    except (ValueError, LookupError, NotImplementedError, struct.error) as error:
        raise UserError(f"{path} is damaged or no torch checkpoint: {error}") from None
