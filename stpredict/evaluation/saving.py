"""Saving forecasts while several processes make them: each its share, and the first joins them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stpredict.files import remove_leftovers
from stpredict.forecasts import join_forecasts
from stpredict.processes import Processes


def part_path(path: Path, rank: int) -> Path:
    """Return where a process saves its share of the forecasts that are to be written to ``path``."""
    return path.with_name(f".{path.stem}.of-process-{rank}{path.suffix}")


@contextmanager
def saving(path: Path | None, processes: Processes) -> Iterator[Path | None]:
    """Yield where this process is to save its share; at the end the first writes ``path``, whole or not at all, and no part is left.

    A process that has no share writes nothing.
    """
    if path is None or processes.count == 1:
        yield path
        return
    own = part_path(path, processes.rank)
    own.unlink(missing_ok=True)
    try:
        yield own
        processes.wait()  # until all parts are there
        if processes.first:
            join_forecasts([part for rank in range(processes.count) if (part := part_path(path, rank)).exists()], path)
        processes.wait()  # until nobody needs them
    finally:
        own.unlink(missing_ok=True)


def clear_parts(path: Path) -> None:
    """Remove what processes that were killed have left of forecasts that were to be written to ``path``."""
    stem = re.escape(path.stem)
    remove_leftovers(path.parent, rf"{stem}|\.{stem}\.of-process-\d+")
    for part in path.parent.glob(".*"):
        if re.fullmatch(rf"\.{stem}\.of-process-\d+{re.escape(path.suffix)}", part.name):
            part.unlink()
