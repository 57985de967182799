"""Checkpoints of TensorFlow 1 ("tensor bundles"), without TensorFlow.

``<prefix>.index`` is a table as LevelDB writes it (its doc/table_format.md): names with small protocol buffers (TensorFlow's
tensor_bundle.proto); ``<prefix>.data-<shard>-of-<shards>`` hold the tensors, little-endian, one after another.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stpredict.errors import UserError
from stpredict.weights.crc32c import crc32c, masked

_TABLE_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
_LARGEST_INDEX = 64 << 20
_DTYPES = {  # types.proto
    1: torch.float32,
    2: torch.float64,
    3: torch.int32,
    4: torch.uint8,
    5: torch.int16,
    6: torch.int8,
    9: torch.int64,
    10: torch.bool,
    14: torch.bfloat16,
    17: torch.uint16,
    19: torch.float16,
    22: torch.uint32,
    23: torch.uint64,
}
_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_Fields = dict[int, list[int | bytes]]


@dataclass(frozen=True)
class _Entry:
    """Where one tensor lies."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int


def read_bundle(prefix: Path) -> tuple[dict[str, Tensor], tuple[Path, ...]]:
    """Read all tensors of a checkpoint of TensorFlow 1.

    Args:
        prefix: the path without ``.index``.

    Returns:
        The tensors by variable name, with the axes as they are stored, and the files that were read.

    Raises:
        UserError: a file is missing or damaged, or the checkpoint is of a kind that is not read.
    """
    index = prefix.with_name(f"{prefix.name}.index")
    if not index.is_file():
        raise UserError(f"{index} is missing: a TensorFlow checkpoint is a .index file and its .data files in one folder")
    try:
        shards, entries = _read_index(index)
    except (ValueError, IndexError, struct.error) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{index} is damaged or no index of a TensorFlow checkpoint: {error}") from None
    tensors: dict[str, Tensor] = {}
    files = [index]
    for shard in range(shards):
        path = prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{shards:05d}")
        tensors |= _read_shard(path, {name: entry for name, entry in entries.items() if entry.shard == shard})
        files.append(path)
    return {name: tensors[name] for name in entries}, tuple(files)


def _read_shard(path: Path, entries: dict[str, _Entry]) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"{path} is missing: copy it to where the .index file of the checkpoint is")
    there, told = path.stat().st_size, max((entry.offset + entry.size for entry in entries.values()), default=0)
    if told > there:
        raise UserError(f"{path} is cut off: the .index file tells of {told} bytes, {there} are there; copy it again")
    if sum(entry.size for entry in entries.values()) > there:
        raise UserError(f"{path} is too small for what the .index file tells: it is of another checkpoint, or one of them is damaged")
    tensors = {name: torch.empty(entry.shape, dtype=entry.dtype) for name, entry in entries.items() if entry.size == 0}
    if len(tensors) == len(entries):
        return tensors
    with path.open("rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    for name, entry in entries.items():
        if entry.size:
            with memoryview(memory) as everything, everything[entry.offset : entry.offset + entry.size] as found:
                if masked(crc32c(found)) != entry.crc:
                    raise UserError(f"{path} is damaged: the checksum of '{name}' does not fit; copy it again")
            stored = torch.frombuffer(memory, dtype=torch.uint8, count=entry.size, offset=entry.offset).clone()
            tensors[name] = stored.view(entry.dtype).reshape(entry.shape)
    return tensors


def _read_index(path: Path) -> tuple[int, dict[str, _Entry]]:
    """Return the number of shards and where each tensor lies."""
    if path.stat().st_size > _LARGEST_INDEX:
        raise ValueError(f"it is larger than {_LARGEST_INDEX >> 20} MiB")
    table = path.read_bytes()
    if len(table) < _FOOTER or struct.unpack("<Q", table[-8:])[0] != _TABLE_MAGIC:
        raise ValueError("it does not end like one, so it may be cut off")
    _, _, position = _handle(table[-_FOOTER:], 0)
    start, size, _ = _handle(table[-_FOOTER:], position)
    shards = 0
    entries: dict[str, _Entry] = {}
    read_to = 0
    for _, handle in _block(path, table, start, size):
        start, size, _ = _handle(handle, 0)
        if start < read_to:
            raise ValueError("its blocks overlap")
        read_to = start + size
        for key, message in _block(path, table, start, size):
            if not key:
                shards = _read_header(path, message)
            elif (name := key.decode()) in entries:
                raise ValueError(f"it tells of '{name}' twice")
            else:
                entries[name] = _read_entry(path, name, message)
    if not 1 <= shards <= 99_999:
        raise ValueError("it does not tell how many data files there are")
    outside = [name for name, entry in entries.items() if entry.shard >= shards]
    if outside:
        raise ValueError(f"'{outside[0]}' is in data file {entries[outside[0]].shard} of {shards}")
    return shards, entries


def _block(path: Path, table: bytes, start: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a block; a key tells only what differs from the one before."""
    data, trailer = table[start : start + size], table[start + size : start + size + 5]
    if len(data) != size or len(trailer) != 5:
        raise ValueError("a block reaches beyond its end")
    if masked(crc32c(data + trailer[:1])) != struct.unpack("<I", trailer[1:])[0]:
        raise ValueError("a checksum does not fit")
    if trailer[0]:
        raise UserError(f"{path} is compressed (with Snappy), which is not read; load it with TensorFlow and save it once more")
    (restarts,) = struct.unpack("<I", data[-4:])
    end = len(data) - 4 * (restarts + 1)
    position, key = 0, b""
    while position < end:
        shared, position = _varint(data, position)
        own, position = _varint(data, position)
        length, position = _varint(data, position)
        if shared > len(key) or position + own + length > end:
            raise ValueError("a name in it reaches beyond its block")
        key = key[:shared] + data[position : position + own]
        if len(key) > 10_000:
            raise ValueError("a name in it is endless")
        position += own
        yield key, data[position : position + length]
        position += length


def _read_header(path: Path, message: bytes) -> int:
    fields = _fields(message)
    if _number(fields, 2):
        raise UserError(f"{path} was saved on a big-endian machine, which is not read; load and save it with TensorFlow once more")
    return _number(fields, 1)


def _read_entry(path: Path, name: str, message: bytes) -> _Entry:
    fields = _fields(message)
    if name == _OBJECT_GRAPH:
        raise UserError(f"{path} is of TensorFlow 2 and names objects, not variables; only checkpoints of TensorFlow 1 are read")
    if 7 in fields:
        raise UserError(f"{path}: the variable '{name}' is partitioned, which is not read; save it whole")
    dtype = _DTYPES.get(_number(fields, 1))
    if dtype is None:
        raise UserError(f"{path}: the variable '{name}' holds no plain numbers (type {_number(fields, 1)} of TensorFlow); save without it")
    shape: list[int] = []
    for axes in fields.get(2, []):
        for axis in _fields(_bytes(axes)).get(2, []):
            shape.append(_number(_fields(_bytes(axis)), 1))
    (crc,) = struct.unpack("<I", _bytes(fields.get(6, [bytes(4)])[-1]))
    entry = _Entry(dtype, tuple(shape), _number(fields, 3), _number(fields, 4), _number(fields, 5), crc)
    if len(shape) > 64 or math.prod(n for n in shape if n) > 2**40 or math.prod(shape) * dtype.itemsize != entry.size:
        raise ValueError(f"'{name}' of shape {entry.shape} cannot take {entry.size} bytes")
    return entry


def _fields(message: bytes) -> _Fields:
    """Return the fields of a protocol buffer by number: whole numbers, or bytes."""
    fields: _Fields = {}
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        value: int | bytes
        match tag & 7:
            case 0:
                value, position = _varint(message, position)
            case 1 | 2 | 5 as wire:
                length, position = (8, position) if wire == 1 else (4, position) if wire == 5 else _varint(message, position)
                value = message[position : position + length]
                position += length
                if len(value) != length:
                    raise ValueError("a message in it is cut off")
            case wire:
                raise ValueError(f"a message in it has a field of unknown kind {wire}")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _number(fields: _Fields, number: int) -> int:
    value = fields.get(number, [0])[-1]
    if not isinstance(value, int) or value >= 2**63:
        raise ValueError("a number in it is none")
    return value


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a message in it is none")
    return value


def _handle(data: bytes, position: int) -> tuple[int, int, int]:
    """Return where a block begins, its size, and where the handle ends."""
    start, position = _varint(data, position)
    size, position = _varint(data, position)
    return start, size, position


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, lowest first, and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number in it is endless")
