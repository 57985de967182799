"""The folder of a report: it appears whole or not at all, takes the place of an earlier report at once, and of nothing else."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stpredict.errors import UserError
from stpredict.files import lives, write_text

LISTING = "report.json"
"""Lists the files of a report: by it a folder is known as one, and what somebody else put there is told from it."""

_FORMAT = 1
_CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EBUSY)
"""By these the system says that a place is not to be written to."""

_EXCHANGE, _HERE = 2, -100
"""``RENAME_EXCHANGE`` and ``AT_FDCWD`` of Linux's renameat2."""


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Yield a fresh folder beside ``out``; on success it is listed and takes the place of ``out``, otherwise nothing has changed.

    Raises:
        UserError: ``out`` holds something else than a report, or nothing may be written there.
        OSError: the files could not be written, for instance because the disk is full; it names the file below ``out``.
    """
    out = out.resolve()
    _refuse_other(out)
    fresh = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        _remove_leftovers(out)
        fresh.mkdir()
        yield fresh
        names = sorted(path.relative_to(fresh).as_posix() for path in fresh.rglob("*") if path.is_file())
        write_text(fresh / LISTING, json.dumps({"format": _FORMAT, "files": names}, indent=2) + "\n")
        _refuse_other(out)  # somebody may have put something there meanwhile
        _put(fresh, out)
    except OSError as error:
        named = error.filename if isinstance(error.filename, str) else ""
        if named and not Path(named).is_relative_to(fresh) and Path(named) != out:
            raise  # a file that was read
        if error.errno in _CLOSED:
            raise UserError(f"No report can be written to {out} ({error.strerror}): name another place") from None
        where = out / Path(named).relative_to(fresh) if named and Path(named).is_relative_to(fresh) else out
        raise OSError(error.errno, error.strerror or str(error), str(where)) from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def new_page(out: Path) -> None:
    """Refuse a page whose folder is not there, or whose name a folder has.

    Raises:
        UserError: it is so.
    """
    if not out.parent.is_dir():
        raise UserError(f"There is no folder '{out.parent}' to write '{out.name}' in; make it first")
    if out.is_dir():
        raise UserError(f"'{out}' is a folder; name a file")


def _refuse_other(out: Path) -> None:
    """Refuse a place that holds anything but a report, or whose folder is not there.

    Raises:
        UserError: it does.
    """
    if not out.parent.is_dir():
        raise UserError(f"There is no folder '{out.parent}' to write '{out.name}' in; make it first")
    if not os.path.lexists(out):
        return
    if not out.is_dir():
        raise UserError(f"'{out}' is a file; name a folder for the report")
    others = _not_of_a_report(out)
    if others:
        raise UserError(
            f"The folder {out} holds '{others[0]}', which is of no report: name a folder that is new or holds an earlier report"
        )


def _not_of_a_report(folder: Path) -> list[str]:
    """Return what a folder holds besides the files of the report in it."""
    held = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    try:
        listed = json.loads((folder / LISTING).read_text(encoding="utf-8"))
        ours = {LISTING, *(str(name) for name in listed["files"])}
    except (OSError, ValueError, TypeError, KeyError):
        ours = set()
    return [name for name in held if name not in ours]


def _remove_leftovers(out: Path) -> None:
    """Remove what killed processes left of a report at ``out``; that of this one's number is of one before it."""
    for path in out.parent.iterdir():
        named = re.fullmatch(rf"\.{re.escape(out.name)}\.(\d+)\.part", path.name)
        if named and (int(named[1]) == os.getpid() or not lives(int(named[1]))):
            shutil.rmtree(path, ignore_errors=True)


def _put(fresh: Path, out: Path) -> None:
    """Give a folder the name ``out``; what had it until then is removed."""
    if not out.exists():
        os.rename(fresh, out)
    elif not _exchange(fresh, out):
        old = fresh.with_suffix(".old")
        os.rename(out, old)
        try:
            os.rename(fresh, out)
        except OSError:
            os.rename(old, out)
            raise
        shutil.rmtree(old, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Let two folders change names, in one step; return whether this system and its disk can."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    return rename is not None and rename(_HERE, os.fsencode(first), _HERE, os.fsencode(second), _EXCHANGE) == 0
