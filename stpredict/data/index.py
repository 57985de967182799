"""What was found out about the files of an archive, kept in the user's cache folder so that it is found out once.

Opening an archive looks at the header of each of its files; what it says is kept here by the file's size and time of change. Nothing
depends on it: what is damaged, old or cannot be written is as if it were not there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
import time
import typing
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

import stpredict
from stpredict.errors import UserError
from stpredict.files import cache_folder, write_text

T = TypeVar("T")

LEAST_FILES = 64
"""An archive of fewer files is looked at anew each time, which takes an instant."""

_KEPT = 200  # indexes; the oldest goes when there is one more
_LARGEST = 1 << 30  # bytes of an index that is still read
_SETTLED = 2_000_000_000  # ns: a file that changed later than this before it was looked at may change again without a new time
_DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, UserError)


def index_folder() -> Path | None:
    """Return where indexes are kept: ``$STPREDICT_INDEX`` (``off``: nowhere), else ``stpredict/index`` in the user's cache folder."""
    return None if os.environ.get("STPREDICT_INDEX") == "off" else cache_folder("index", "STPREDICT_INDEX")


def index_name(kind: str, *about: object) -> str:
    """Return the name of the index of one thing: plain values that tell it from all others, and the version of this program."""
    text = json.dumps([stpredict.__version__, *about], default=str, sort_keys=True)
    return f"{kind}-{hashlib.blake2b(text.encode(), digest_size=12).hexdigest()}.json"


def load_index(name: str) -> Any:
    """Return what was kept under a name, or None."""
    folder = index_folder()
    if folder is None:
        return None
    try:
        path = folder / name
        return json.loads(path.read_bytes()) if path.stat().st_size <= _LARGEST else None
    except _DAMAGE:
        return None


def save_index(name: str, content: Any) -> None:
    """Keep plain data under a name, whole or not at all, in place of what was kept there."""
    folder = index_folder()
    if folder is None:
        return
    with suppress(OSError):  # an archive can be read without an index
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / name, json.dumps(content, separators=(",", ":")))
        by_age = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        for path in by_age[:-_KEPT]:
            path.unlink(missing_ok=True)


class HeaderIndex(Generic[T]):
    """The headers of the files of one archive; what is the same in many is kept once."""

    def __init__(self, root: Path, inspect: Callable[[Path], T], header: type[T], depends: object = None) -> None:
        """Read what is known.

        Args:
            root: folder of the archive.
            inspect: looks at a file.
            header: what it returns: a dataclass whose fields hold numbers, texts, moments, dtypes, paths, or tuples, lists, dicts and
                dataclasses of them; or one of these, such as ``tuple``.
            depends: plain settings on which headers depend besides the file.
        """
        self._root, self._inspect, self._header = root, inspect, header
        self._classes = {kind.__name__: kind for kind in _dataclasses_of(header)}
        self._fields = [field.name for field in dataclasses.fields(header)] if dataclasses.is_dataclass(header) else []
        code = inspect if hasattr(inspect, "__qualname__") else type(inspect)
        told = (code.__module__, code.__qualname__, header.__qualname__, self._fields, _version_of(code.__module__), depends)
        self._name = index_name("headers", str(root.resolve()), *told)
        self._values: list[Any] = []
        self._texts: list[str] = []
        self._files: dict[str, list[int]] = {}
        self._new = 0
        kept = load_index(self._name)
        try:
            if kept is not None:
                self._values = [_decode(value, self._classes) for value in kept["values"]]
                self._texts = [_text(value) for value in kept["values"]]
                self._files = dict(kept["files"])
        except _DAMAGE:
            self._values, self._texts, self._files = [], [], {}
        self._numbers = {text: number for number, text in enumerate(self._texts)}

    def look(self, path: Path) -> T:
        """Return the header of a file: what is known of it, or else what is found now."""
        name, before = os.path.relpath(path, self._root), path.stat()
        known = self._known(name, before)
        if known is not None:
            return known
        header = self._inspect(path)
        after = path.stat()
        same = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
        if same and time.time_ns() - after.st_mtime_ns > _SETTLED:
            parts = [getattr(header, field) for field in self._fields] if self._fields else [header]
            encoded = [_encode(part) for part in parts]
            self._files[name] = [after.st_size, after.st_mtime_ns, *(self._number(value) for value in encoded)]
            self._new += 1
        return header

    def save(self, count: int) -> None:
        """Keep what is new of an archive of ``count`` files, if it is worth writing all of it again."""
        if self._new <= count // 1000:
            return
        if len(self._files) > 2 * count + 1000:  # files come and go in an archive that is always the newest day
            self._files = dict(list(self._files.items())[-count:])
        save_index(self._name, {"values": [json.loads(text) for text in self._texts], "files": self._files})

    def _known(self, name: str, now: os.stat_result) -> T | None:
        entry = self._files.get(name)
        try:
            if entry is None or entry[:2] != [now.st_size, now.st_mtime_ns] or min(entry) < 0:
                return None
            parts = [self._values[number] for _, number in zip(self._fields or [""], entry[2:], strict=True)]
            return self._header(*parts) if self._fields else parts[0]
        except _DAMAGE:
            return None

    def _number(self, value: Any) -> int:
        text = _text(value)
        if text not in self._numbers:
            self._numbers[text] = len(self._texts)
            self._texts.append(text)
            self._values.append(_decode(value, self._classes))
        return self._numbers[text]


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _version_of(module: str) -> list[object]:
    """Return what changes when the file of a module does."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or not Path(file).is_file():
        return []
    about = Path(file).stat()
    return [about.st_size, about.st_mtime_ns]


def _dataclasses_of(kind: Any) -> set[type]:
    """Return a dataclass and all those that its fields are annotated with."""
    found: set[type] = set()
    waiting = [kind]
    while waiting:
        one = waiting.pop()
        waiting += typing.get_args(one)
        if isinstance(one, type) and dataclasses.is_dataclass(one) and one not in found:
            found.add(one)
            waiting += typing.get_type_hints(one).values()
    return found


def _encode(value: Any) -> Any:
    """Return a value as JSON can hold it, so that :func:`_decode` gives it back with its type."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [_encode(getattr(value, field.name)) for field in dataclasses.fields(value)]
        return {"class": type(value).__name__, "fields": fields}
    if type(value) in (tuple, list):
        return {type(value).__name__: [_encode(part) for part in value]}
    if type(value) is dict:
        return {"dict": [[_encode(key), _encode(part)] for key, part in value.items()]}
    if isinstance(value, np.datetime64):
        return {"datetime64": [int(value.astype(np.int64)), np.datetime_data(value.dtype)[0]]}
    if isinstance(value, np.dtype):
        return {"dtype": value.str}
    if isinstance(value, np.number):
        return {"number": [value.dtype.str, value.item()]}
    if isinstance(value, Path):
        return {"path": str(value)}
    raise TypeError(f"an index cannot hold {value!r}")


def _decode(plain: Any, classes: Mapping[str, type]) -> Any:
    if not isinstance(plain, dict):
        return plain
    if "class" in plain:
        return classes[plain["class"]](*(_decode(part, classes) for part in plain["fields"]))
    ((kind, content),) = plain.items()
    if kind in ("tuple", "list"):
        parts = [_decode(part, classes) for part in content]
        return tuple(parts) if kind == "tuple" else parts
    if kind == "dict":
        return {_decode(key, classes): _decode(part, classes) for key, part in content}
    if kind == "datetime64":
        return np.datetime64(*content)
    if kind == "number":
        return np.dtype(content[0]).type(content[1])
    return {"dtype": np.dtype, "path": Path}[kind](content)
