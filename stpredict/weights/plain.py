"""Plain data out of a pickle: numbers, texts, lists, dicts and numeric numpy arrays, such as hyper-parameters."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpredict.weights.inert import Inert

_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")  # numpy 1, numpy 2
_DEEPEST = 8
_MOST = 100_000
_LARGEST = 64 << 20


def mapping(node: Any) -> dict[Any, Any] | None:
    """Return the items of a dict, of a class derived from it, or of a namespace; None for all else."""
    match node:
        case dict():
            return node
        case Inert(args=tuple(), items=items) if items:
            return items
        case Inert(name="argparse.Namespace" | "types.SimpleNamespace", state=dict() as state):
            return state
    return None


def plain_facts(node: Any) -> dict[str, Any]:
    """Return the entries of a mapping that are plain data; the others are left out.

    Raises:
        ValueError: there are too many of them, or an array is damaged.
    """
    taken = _Taken()
    facts = {name: taken.plain(value, 0) for name, value in (mapping(node) or {}).items() if isinstance(name, str)}
    return {name: value for name, value in facts.items() if value is not _NOT_PLAIN}


_NOT_PLAIN = object()


class _Taken:
    """Copies plain data and counts, since a few bytes of pickle can tell of endlessly many values."""

    def __init__(self) -> None:
        self.values = self.bytes = 0

    def plain(self, node: Any, depth: int) -> Any:
        self.values += 1
        if self.values > _MOST:
            raise ValueError(f"it tells more than {_MOST:,} hyper-parameters")
        if depth > _DEEPEST:
            return _NOT_PLAIN
        match node:
            case None | bool() | int() | float():
                return node
            case str():
                self._weigh(len(node))
                return node
            case list() | tuple():
                items = [self.plain(item, depth + 1) for item in node]
                return _NOT_PLAIN if any(item is _NOT_PLAIN for item in items) else type(node)(items)
            case Inert(name=name, args=tuple() as args, state=state) if name.rpartition(".")[0] in _MODULES:
                return self._array(name.rpartition(".")[2], args, state)
        items_by_name = mapping(node)
        if items_by_name is None:
            return _NOT_PLAIN
        copied = {key: self.plain(value, depth + 1) for key, value in items_by_name.items() if not isinstance(key, Inert)}
        whole = len(copied) == len(items_by_name) and all(value is not _NOT_PLAIN for value in copied.values())
        return copied if whole else _NOT_PLAIN

    def _array(self, function: str, args: tuple[Any, ...], state: Any) -> Any:
        """Return the array of a ``_reconstruct`` with state (version, shape, dtype, is_fortran, bytes), or the number of a ``scalar``."""
        match function, args, state:
            case "_reconstruct", _, (_, tuple() as shape, kind, bool() | int() as fortran, data):
                pass
            case "scalar", (kind, data), _:
                shape, fortran = (), False
            case _:
                return _NOT_PLAIN
        dtype = _dtype(kind)
        stored = None if dtype is None else _stored(data)
        if dtype is None or stored is None:
            return _NOT_PLAIN
        if not all(type(n) is int and 0 <= n < 2**40 for n in shape) or math.prod(shape) * dtype.itemsize != len(stored):
            raise ValueError("an array among its hyper-parameters does not have the size that it should have")
        if len(shape) > 32 or math.prod(n for n in shape if n) > 2**40:
            raise ValueError("an array among its hyper-parameters has an impossible shape")
        self._weigh(len(stored))
        array: NDArray[Any] = np.frombuffer(stored, dtype).reshape(shape, order="F" if fortran else "C")
        array = array.astype(dtype.newbyteorder("="))
        return array.item() if function == "scalar" else array

    def _weigh(self, size: int) -> None:
        self.bytes += size
        if self.bytes > _LARGEST:
            raise ValueError(f"its hyper-parameters take more than {_LARGEST >> 20} MiB")


def _dtype(node: Any) -> np.dtype[Any] | None:
    """Return a numeric type ``numpy.dtype(code, ...)`` with the state (version, byte order, ...), or None for another."""
    match node:
        case Inert(name="numpy.dtype", args=(str(code), *_), state=(_, str(order), *_)):
            pass
        case _:
            return None
    plain = code[:1] in ("b", "i", "u", "f", "c") and code[1:] in ("1", "2", "4", "8", "16") and order in ("<", ">", "|", "=")
    if not plain or code in ("b2", "b4", "b8", "b16", "i16", "u16", "f1", "f16", "c1", "c2", "c4"):
        return None
    return np.dtype(code).newbyteorder("S" if order == ">" else "=")  # an unmarked code is of this machine, which is little-endian


def _stored(node: Any) -> bytes | None:
    """Return bytes; protocols before 3 tell them as text that is encoded as Latin-1 again."""
    match node:
        case bytes() | bytearray():
            return bytes(node)
        case str():
            return node.encode("latin-1")
        case Inert(name="_codecs.encode", args=(str(text), "latin1" | "latin-1")):
            return text.encode("latin-1")
        case Inert(name="builtins.bytes" | "__builtin__.bytes", args=()):
            return b""
    return None
