"""Archives that keep each frame in a file of its own: the films that their files make, by folder and time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stpredict.data.clips import Film
from stpredict.data.readers.finding import BadFiles, name_below

Films = Literal["one", "folders"]
"""Whether the files of an archive are one film, or those of each folder are (a folder for each event)."""


def order_films(
    root: Path, paths: Sequence[Path], moments: Sequence[np.datetime64], films: Films
) -> tuple[list[Film], list[tuple[Path, ...]]]:
    """Return the films of an archive, and the files of each in order of time.

    Args:
        root: of the archive; a film is called by its folder below it.
        paths: the files, in natural order.
        moments: the time of each.
        films: one film of all files, or one of each folder, which are then in natural order.

    Raises:
        BadFiles: two files of the archive are of one time.
    """
    times = np.array(moments, dtype="datetime64[s]")
    _refuse_one_time(root, paths, times)
    numbers: dict[Path, list[int]] = {}
    for number, path in enumerate(paths):
        folder = path.parent if films == "folders" and path != root else root
        numbers.setdefault(folder, []).append(number)
    made, files = [], []
    for folder, members in numbers.items():
        ordered = [members[place] for place in np.argsort(times[members], kind="stable")]
        made.append(Film(name_below(root, folder), len(ordered), times[ordered]))
        files.append(tuple(paths[number] for number in ordered))
    return made, files


def _refuse_one_time(root: Path, paths: Sequence[Path], times: NDArray[np.datetime64]) -> None:
    order = np.argsort(times, kind="stable")
    bad = {
        name_below(root, paths[later]): f"'{paths[earlier]}' and '{paths[later]}' are of the same time, {times[later]}; keep one"
        for earlier, later in pairwise(order.tolist())
        if times[earlier] == times[later]
    }
    if bad:
        raise BadFiles(bad)
