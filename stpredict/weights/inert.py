"""Pickles read as data: no name is imported, nothing is called, whatever the pickle says.

A pickle is a program for a small stack machine that may call any function by its name. This machine takes the same
instructions (PEP 307, PEP 3154; parsed by the standard library's :mod:`pickletools`) and writes down what would have been called.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from stpredict.errors import UserError

MAX_BYTES = 64 << 20
MAX_STEPS = 2_000_000  # the checkpoints of large networks have some 100,000; a step makes an object of at most 216 bytes
_MAX_NAME = 1000
_MAX_BITS = 1000

# Whoever names one of these in a checkpoint wants a program to run; a dotted entry means itself and all below it.
_RUN_CODE_TEXT = """
    os posix nt subprocess _posixsubprocess popen2 commands sys importlib imp runpy shutil socket pty ctypes _ctypes webbrowser
    antigravity pip code codeop bdb pdb timeit cProfile profile trace doctest asyncio multiprocessing threading _thread concurrent signal
    urllib urllib2 http httplib ftplib smtplib requests pickle _pickle cPickle dill cloudpickle joblib marshal
    types.FunctionType types.CodeType io.open _io.open io.FileIO _io.FileIO
    operator.attrgetter operator.methodcaller _operator.attrgetter _operator.methodcaller
    torch.hub torch.load torch.serialization.load torch.jit torch.package torch.utils.cpp_extension torch.utils.collect_env
    numpy.load numpy.save numpy.memmap numpy.fromfile numpy.testing numpy.f2py numpy.distutils
"""
_RUN_CODE = frozenset(_RUN_CODE_TEXT.split())
_BUILTIN_MODULES = ("builtins", "__builtin__")
_HARMLESS_TEXT = """
    getattr object dict list tuple set frozenset int long float complex bool str unicode basestring bytes bytearray slice range xrange
    Ellipsis NotImplemented
"""
_HARMLESS_BUILTINS = frozenset(_HARMLESS_TEXT.split())
_DICTS = frozenset({"collections.OrderedDict", "collections.defaultdict", "builtins.dict", "__builtin__.dict"})
_SEQUENCES = frozenset(
    {"torch.Size", *(f"{module}.{name}" for module in _BUILTIN_MODULES for name in ("list", "tuple", "set", "frozenset"))}
)


@dataclass(eq=False, repr=False, slots=True)
class Inert:
    """What a pickle would have imported or made; it does nothing.

    Attributes:
        name: dotted name of the function or class.
        args: what it would have been called with; None if it was only named.
        state: what the made object would have been given by ``__setstate__``.
        items: what would have been set by key.
        elements: what would have been appended.
    """

    name: str
    args: tuple[Any, ...] | None = None
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)


def read_pickle(file: IO[bytes], path: Path, persistent: Callable[[Any], Any]) -> Any:
    """Read the next pickle of a file; the file then stands behind it.

    Args:
        file: where the pickle begins; anything with ``read``, ``readline`` and ``tell``.
        path: the file's name, for errors.
        persistent: makes a value of a persistent identifier, as torch uses for the memory of a tensor.

    Returns:
        None, numbers, texts, bytes, lists, tuples, sets and dicts, with :class:`Inert` for all else. A value may hold itself.

    Raises:
        UserError: the pickle names something that would run a program.
        ValueError: it is no whole pickle, or out of all proportion.
        IndexError: it takes more from its stack than there is.
    """
    return _Machine(path, persistent).run(file)


class _Machine:
    def __init__(self, path: Path, persistent: Callable[[Any], Any]) -> None:
        self.path, self.persistent = path, persistent
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under the open marks
        self.memo: dict[int, Any] = {}
        self.steps = 0

    def run(self, file: IO[bytes]) -> Any:
        start = file.tell()
        for opcode, argument, position in pickletools.genops(file):
            self._count(1)
            if position is not None and position - start > MAX_BYTES:
                raise ValueError(f"its pickle is longer than {MAX_BYTES >> 20} MiB")
            if opcode.name in _VALUES:
                if isinstance(argument, int) and argument.bit_length() > _MAX_BITS:
                    raise ValueError("its pickle holds an endless number")
                self.stack.append(argument)
            elif opcode.name in _CONSTANTS:
                self.stack.append(_CONSTANTS[opcode.name]())
            elif opcode.name in _STEPS:
                _STEPS[opcode.name](self, argument)
            elif opcode.name not in ("PROTO", "FRAME", "STOP"):
                raise ValueError(f"its pickle uses {opcode.name}, which no checkpoint needs")
        return self.stack.pop()

    def _count(self, steps: int) -> None:
        self.steps += steps
        if self.steps > MAX_STEPS:
            raise ValueError(f"its pickle takes more than {MAX_STEPS:,} steps")

    def mark(self, _: object) -> None:
        self.below.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.below.pop()
        return items

    def pop(self, _: object) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.since_mark()

    def pop_mark(self, _: object) -> None:
        self.since_mark()

    def duplicate(self, _: object) -> None:
        self.stack.append(self.stack[-1])

    def get(self, number: int) -> None:
        if number not in self.memo:
            raise ValueError("its pickle refers to a value that it does not hold")
        self.stack.append(self.memo[number])

    def put(self, number: int) -> None:
        self.memo[number] = self.stack[-1]

    def memoize(self, _: object) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def tuple_of(self, length: int) -> None:
        if length > len(self.stack):
            raise IndexError("its pickle takes more values than it has")
        items = self.stack[len(self.stack) - length :]
        del self.stack[len(self.stack) - length :]
        self.stack.append(tuple(items))

    def tuple_since_mark(self, _: object) -> None:
        items = self.since_mark()
        self.stack.append(tuple(items))

    def list_since_mark(self, _: object) -> None:
        items = self.since_mark()
        self.stack.append(items)

    def dict_since_mark(self, _: object) -> None:
        items = self.since_mark()
        self.stack.append(dict(_pairs(items)))

    def frozenset_since_mark(self, _: object) -> None:
        items = self.since_mark()
        self.stack.append(frozenset(_as_key(item) for item in items))

    def append(self, _: object) -> None:
        item = self.stack.pop()
        self._extend([item])

    def appends(self, _: object) -> None:
        self._extend(self.since_mark())

    def _extend(self, items: list[Any]) -> None:
        match self.stack[-1]:
            case list() as target:
                target.extend(items)
            case Inert() as target:
                target.elements.extend(items)
            case _:
                raise ValueError("its pickle appends to what is no list")

    def add_items(self, _: object) -> None:
        items = self.since_mark()
        match self.stack[-1]:
            case set() as target:
                target.update(_as_key(item) for item in items)
            case Inert() as target:
                target.elements.extend(items)
            case _:
                raise ValueError("its pickle adds to what is no set")

    def set_item(self, _: object) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    def set_items(self, _: object) -> None:
        self._update(self.since_mark())

    def _update(self, items: list[Any]) -> None:
        match self.stack[-1]:
            case dict() as target:
                target.update(_pairs(items))
            case Inert() as target:
                target.items.update(_pairs(items))
            case _:
                raise ValueError("its pickle sets an item of what is no dict")

    def global_pair(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(Inert(self._name(module, name)))

    def stack_global(self, _: object) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(Inert(self._name(module, name)))

    def _name(self, module: object, name: object) -> str:
        """Join the parts of a name.

        Raises:
            UserError: it is one that runs a program.
        """
        if not isinstance(module, str) or not isinstance(name, str) or len(module) + len(name) > _MAX_NAME:
            raise ValueError("its pickle holds a name that is none")
        full = f"{module}.{name}"
        parts = full.split(".")
        runs = any(".".join(parts[:end]) in _RUN_CODE for end in range(1, len(parts) + 1)) or any(
            part in _RUN_CODE for part in name.split(".")
        )
        if runs or (parts[0] in _BUILTIN_MODULES and parts[1] not in _HARMLESS_BUILTINS):
            raise UserError(
                f"{self.path} is refused, and nothing of it was run: unpickling it would have used '{full}', which runs or reaches "
                "other programs and which no checkpoint needs; get the weights from a source that you trust"
            )
        return full

    def reduce(self, _: object) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        self._make(function, args)

    def new_with_keywords(self, _: object) -> None:
        self.stack.pop()
        args, kind = self.stack.pop(), self.stack.pop()
        self._make(kind, args)

    def instance(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        args = self.since_mark()
        self._make(Inert(self._name(module, name)), tuple(args))

    def object_since_mark(self, _: object) -> None:
        kind, *args = self.since_mark() or [None]
        self._make(kind, tuple(args))

    def _make(self, function: object, args: object) -> None:
        """Push what a call would have made: a plain container where that is certain, a note of the call otherwise."""
        if not isinstance(function, Inert) or not isinstance(args, tuple):
            raise ValueError("its pickle calls what is no function")
        match function.name.rpartition(".")[2], args:
            case _ if function.name in _DICTS:
                pairs = args[0] if args and isinstance(args[0], list) else []
                self._count(len(pairs))
                if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
                    raise ValueError("its pickle makes a dict of what are no pairs")
                made: Any = {_as_key(key): value for key, value in pairs}
            case _, (list() | tuple() as only,) if function.name in _SEQUENCES:
                made = only  # no copy, so that a few bytes of pickle cannot ask for many
            case "getattr", (Inert() as target, str() as attribute) if function.name.partition(".")[0] in _BUILTIN_MODULES:
                made = Inert(self._name(target.name, attribute))
            case "_reconstructor", (Inert() as kind, *_) if function.name.partition(".")[0] in ("copyreg", "copy_reg"):
                made = Inert(kind.name, ())
            case _:
                made = Inert(function.name, args)
        self.stack.append(made)

    def build(self, _: object) -> None:
        state = self.stack.pop()
        made = self.stack[-1]
        if isinstance(made, Inert):
            made.state = state

    def persistent_value(self, _: object) -> None:
        self.stack.append(self.persistent(self.stack.pop()))


def _as_key(value: Any) -> Any:
    """Return what can stand for a value as a key; nested tuples, whose hash may take for ever, only as themselves."""
    plain = (str, int, float, bytes, Inert, type(None))
    if isinstance(value, plain) or (isinstance(value, tuple) and len(value) < 100 and all(isinstance(item, plain) for item in value)):
        return value
    return Inert("key", (value,))


def _pairs(items: list[Any]) -> list[tuple[Any, Any]]:
    if len(items) % 2:
        raise ValueError("its pickle has a key without a value")
    return [(_as_key(key), value) for key, value in zip(items[::2], items[1::2], strict=True)]


_VALUES_TEXT = """
    INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE SHORT_BINUNICODE BINUNICODE
    BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8
"""
_VALUES = frozenset(_VALUES_TEXT.split())
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
    "EMPTY_TUPLE": tuple,
}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.pop_mark,
    "DUP": _Machine.duplicate,
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.memoize,
    "TUPLE": _Machine.tuple_since_mark,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "LIST": _Machine.list_since_mark,
    "DICT": _Machine.dict_since_mark,
    "FROZENSET": _Machine.frozenset_since_mark,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "ADDITEMS": _Machine.add_items,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "GLOBAL": _Machine.global_pair,
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.reduce,
    "NEWOBJ_EX": _Machine.new_with_keywords,
    "INST": _Machine.instance,
    "OBJ": _Machine.object_since_mark,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent_value,
}
