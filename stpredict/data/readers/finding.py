"""Find the files of an archive, and say which of them cannot be used."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple, TypeVar

from stpredict.data.index import LEAST_FILES, HeaderIndex
from stpredict.errors import UserError

T = TypeVar("T")


class BadFiles(UserError):
    """Some files of an archive cannot be used.

    Attributes:
        sentences: what is wrong, by the name of the file below the root.
    """

    def __init__(self, sentences: dict[str, str]) -> None:
        self.sentences = sentences
        first = next(iter(sentences.values()))
        others = len(sentences) - 1
        super().__init__(f"{first} ({others} more file(s) cannot be used: stpredict data check names them)" if others else first)


def natural_key(name: str) -> tuple[str | int, ...]:
    """Return a sort key by which ``frame2`` comes before ``frame10``."""
    parts = re.split(r"([0-9]+)", name)
    return (*(int(part) if number % 2 else part for number, part in enumerate(parts)), name)


def find_files(root: Path, patterns: Sequence[str], leave_out: Sequence[str] = ()) -> list[Path]:
    """Return the files under ``root`` whose name fits a shell pattern, whatever the case, in natural order.

    Args:
        root: a folder, searched with all its folders, or a single file.
        patterns: of file names.
        leave_out: patterns of paths below the root that are not wanted.

    Raises:
        UserError: there is no such folder, or no such file in it.
    """
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise UserError(f"There is no folder or file '{root}'")
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(folder, name)
            wanted = not name.startswith(".") and _fits(name.lower(), [pattern.lower() for pattern in patterns])
            if wanted and not _fits(name_below(root, path), leave_out):
                found.append(path)
    if not found:
        but = " that is not left out" if leave_out else ""
        raise UserError(f"The folder '{root}' holds no file called {', '.join(patterns)}{but}")
    return sorted(found, key=lambda path: natural_key(name_below(root, path)))


class SourceFile(NamedTuple):
    """A file of an archive, and what changes when it does."""

    name: str
    size: int
    mtime_ns: int


def list_sources(root: Path, but: Collection[Path] = ()) -> list[SourceFile]:
    """Return all files of an archive but hidden ones and those of ``but``, in order of name."""
    if root.is_file():
        about = root.stat()
        return [SourceFile(root.name, about.st_size, about.st_mtime_ns)]
    left_out = {path.resolve() for path in but}
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(folder, name)
            if not name.startswith(".") and path.is_file() and path.resolve() not in left_out:
                about = path.stat()
                found.append(SourceFile(name_below(root, path), about.st_size, about.st_mtime_ns))
    return sorted(found)


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)


def name_below(root: Path, path: Path) -> str:
    """Return the path of a file or folder below the root; the root's own name for the root itself."""
    return path.resolve().name if path == root else path.relative_to(root).as_posix()


def inspect_each(
    root: Path, paths: Sequence[Path], inspect: Callable[[Path], T], cache: type[T] | None = None, depends: object = None
) -> list[T]:
    """Return what ``inspect`` says of each file.

    Args:
        root: of the archive.
        paths: of its files.
        inspect: looks at a file.
        cache: the type of what ``inspect`` returns, a dataclass of plain values or one of these, if it may be kept
            (:mod:`stpredict.data.index`): that is, if it depends on the file alone, and on
        depends: plain settings.

    Raises:
        BadFiles: it raised UserError for some of them.
    """
    index = HeaderIndex(root, inspect, cache, depends) if cache is not None and len(paths) >= LEAST_FILES else None
    results, bad = [], {}
    for path in paths:
        try:
            results.append(inspect(path) if index is None else index.look(path))
        except UserError as error:
            bad[name_below(root, path)] = str(error)
    if index is not None:
        index.save(len(paths))
    if bad:
        raise BadFiles(bad)
    return results


def refuse_different(root: Path, paths: Sequence[Path], facts: Sequence[str]) -> None:
    """Refuse files of which the fact (such as ``64 x 64 frames of uint8``) differs from that of the first.

    Raises:
        BadFiles: there are such files.
    """
    bad = {
        name_below(root, path): f"'{path}' holds {fact}, but '{paths[0]}' holds {facts[0]}; one archive has one kind of frames"
        for path, fact in zip(paths, facts, strict=True)
        if fact != facts[0]
    }
    if bad:
        raise BadFiles(bad)


@contextmanager
def naming(path: Path, kind: str, *errors: type[Exception]) -> Iterator[None]:
    """Turn the errors by which a library says that a file is damaged into a UserError that names the file."""
    try:
        yield
    except UserError:
        raise
    except errors as error:
        if isinstance(error, FileNotFoundError | PermissionError) and error.errno is not None:
            raise type(error)(error.errno, os.strerror(error.errno), str(path)) from None  # HDF5's own names no file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"'{path}' is damaged or is no {kind} ({reason}); get it again or leave it out") from None
