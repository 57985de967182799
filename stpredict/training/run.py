"""The folder that a run writes, and who may write it."""

from __future__ import annotations

import csv
import errno
import fcntl
import io
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stpredict.configuration import dump_config, read_config
from stpredict.errors import UserError
from stpredict.files import append_text, write_text
from stpredict.training.settings import Settings, make_settings

INTERRUPTED = 75
"""Exit code of a run that was interrupted and can be resumed (EX_TEMPFAIL of sysexits.h)."""

_CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR)
"""By these the system says that a place is not to be written to."""


@dataclass
class Run:
    """A run on disk.

    Attributes:
        folder: holds ``config.yaml``, ``log.csv``, ``checkpoints/``, ``pictures/``, ``best.safetensors``, ``last.safetensors``, and
            ``done`` when it has ended.
        exit_code: 0, or 75 when it was interrupted and can be resumed.
    """

    folder: Path
    exit_code: int = 0

    @property
    def checkpoints(self) -> Path:
        """Return the folder of checkpoints."""
        return self.folder / "checkpoints"

    @property
    def pictures(self) -> Path:
        """Return the folder of pictures."""
        return self.folder / "pictures"

    @property
    def done(self) -> bool:
        """Whether the run has ended."""
        return (self.folder / "done").exists()

    @classmethod
    def create(cls, settings: Settings) -> Run:
        """Make the folder with the config in it, in one step, so that a run can be resumed as soon as its folder exists.

        Raises:
            UserError: the folder exists: a run is never overwritten; or nothing may be written there.
        """
        named = settings.run.folder
        parent = Path(named).parent if named else Path("runs")
        fresh = parent / f".{Path(named).name if named else settings.name}.{os.getpid()}.part"
        try:
            parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(fresh, ignore_errors=True)  # of a process before this one that had its number
            fresh.mkdir()
            (fresh / "checkpoints").mkdir()
            (fresh / "pictures").mkdir()
            write_text(fresh / "config.yaml", dump_config(settings.to_dict()))
            folder = Path(named) if named else _next_number(parent, settings.name)
            while True:
                if named and folder.exists():
                    raise UserError(
                        f"The run folder {folder} exists, and a run is never overwritten: go on with 'stpredict resume' or name another"
                    )
                try:
                    os.rename(fresh, folder)
                    return cls(folder)
                except OSError:
                    if named or not folder.exists():
                        raise
                    folder = _next_number(parent, settings.name)
        except OSError as error:
            if error.errno not in _CLOSED:
                raise
            why = "a file is in the way" if error.errno in (errno.EEXIST, errno.ENOTDIR) else error.strerror
            raise UserError(f"No run can be made in {parent} ({why}): name another place by run.folder") from None
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    @classmethod
    def open(cls, folder: str | Path) -> tuple[Run, Settings]:
        """Return a run that exists, and its settings.

        Raises:
            UserError: the folder is no run.
        """
        path = Path(folder)
        if not (path / "config.yaml").is_file():
            raise UserError(f"{path} is no run folder: it holds no config.yaml")
        return cls(path), make_settings(read_config(path / "config.yaml", []))

    def begin(self, settings: Settings) -> None:
        """Note what the run is to do from now on, so that a plain ``resume`` does the same; it has not ended yet."""
        self.pictures.mkdir(exist_ok=True)
        write_text(self.folder / "config.yaml", dump_config(settings.to_dict()))
        (self.folder / "done").unlink(missing_ok=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process; the kernel lets go of it when the process ends, however it ends.

        The lock is POSIX's (``lockf``), which forked workers do not inherit: one that outlives a killed run does not hold it.

        Raises:
            UserError: another process holds it.
        """
        with (self.folder / ".lock").open("w") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                raise UserError(f"Another process is working on the run {self.folder}: wait for it, or stop it first") from None
            yield


def _next_number(parent: Path, name: str) -> Path:
    numbers = [path.name.removeprefix(f"{name}-") for path in parent.glob(f"{name}-*")]
    return parent / f"{name}-{max((int(number) for number in numbers if number.isdigit()), default=0) + 1}"


class Log:
    """``log.csv``: a row every few steps; the columns that hold times are named in :data:`TIMING`."""

    COLUMNS = (
        "step",
        "loss",
        "learning_rate",
        "gradient_norm",
        "truth_in_context",
        "truth_after",
        "validation_loss",
        "validation_mse",
        "skipped",
        "seconds",
        "frames_per_second",
        "waiting",
    )
    TIMING = ("seconds", "frames_per_second", "waiting")

    def __init__(self, path: Path, last_step: int) -> None:
        """Open a log; rows after ``last_step`` and a row that was cut off are dropped, since they will be made again."""
        self.path = path
        self.rows = [row for row in self._read() if int(row["step"]) <= last_step]
        write_text(path, self._text(self.rows, header=True))

    def add(self, **values: float | int | None) -> None:
        """Append a row; what is None is left empty."""
        row = {name: "" if values.get(name) is None else repr(values[name]) for name in self.COLUMNS}
        self.rows.append(row)
        append_text(self.path, self._text([row], header=False))

    def column(self, name: str) -> list[tuple[int, float]]:
        """Return (step, value) wherever a column has a value."""
        return [(int(row["step"]), float(row[name])) for row in self.rows if row[name]]

    def _read(self) -> list[dict[str, str]]:
        if not self.path.is_file():
            return []
        text = self.path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        rows, empty = list(csv.DictReader(io.StringIO(whole))), dict.fromkeys(self.COLUMNS, "")
        # A version before may have had fewer columns.
        return [{**empty, **row} for row in rows if set(row) <= set(self.COLUMNS) and None not in row.values()]

    def _text(self, rows: list[dict[str, str]], *, header: bool) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, self.COLUMNS, lineterminator="\n")
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


def plain_versions() -> Mapping[str, Any]:
    """Return the versions of what computes."""
    import numpy
    import torch

    import stpredict

    return {"stpredict": stpredict.__version__, "torch": torch.__version__, "numpy": numpy.__version__}
