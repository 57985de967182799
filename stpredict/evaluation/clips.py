"""Which clips one process scores, and of which films clips are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stpredict.data.clips import ClipSet
from stpredict.data.loader import share
from stpredict.data.together import Together
from stpredict.errors import UserError


def own_batches(indices: Sequence[int], batch_size: int, rank: int, processes: int) -> list[list[int]]:
    """Return batches of this process's share of the clips, in order; shares are pieces one after the other."""
    mine = share(indices, rank, processes)
    return [mine[start : start + batch_size] for start in range(0, len(mine), batch_size)]


def film_numbers(data: ClipSet, count: int) -> NDArray[np.int64] | None:
    """Return a number for the film of each of the first clips, the same for clips of one film; None where clips are of no films."""
    if isinstance(data, Together):
        parts = [film_numbers(part, len(part)) for part in data.sets]
        if any(part is None for part in parts):
            return None
        ends = np.cumsum([0, *(int(part.max()) + 1 for part in parts if part is not None)])
        joined: NDArray[np.int64] = np.concatenate([part + end for part, end in zip(parts, ends, strict=False) if part is not None])
        return joined[:count]
    index = getattr(data, "index", None)
    if index is None:
        return None
    films: NDArray[np.int64] = np.asarray(index)[:count, 0].astype(np.int64)
    return films


def check_films(data: ClipSet, indices: Sequence[int]) -> NDArray[np.int64]:
    """Return the number of the film of each clip, as far as the last of these, from whose films is drawn.

    Raises:
        UserError: these clips are of no films, or of one.
    """
    films = film_numbers(data, max(indices) + 1)
    if films is None or len({int(films[index]) for index in indices}) < 2:
        raise UserError(f"The clips of '{data.card}' {data.split} are not of several films to draw from: resample clips instead")
    return films


def film_name(data: ClipSet, clip: int) -> str:
    """Return what the film of a clip is called, or nothing where it has no name."""
    if isinstance(data, Together):
        for part in data.sets:
            if clip < len(part):
                return f"{part.card}: {film_name(part, clip)}"
            clip -= len(part)
    index, reader = getattr(data, "index", None), getattr(data, "reader", None)
    return "" if index is None or reader is None else str(reader.films[int(index[clip][0])].name)
