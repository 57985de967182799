"""One nowcast in one file: what all kinds of such files say of themselves."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stpredict.data.readers.hdf5 import DEFLATE_LIMIT
from stpredict.errors import UserError
from stpredict.frames import Grid

_SMALL = 1 << 26  # bytes that may be declared whatever is stored


@dataclass(frozen=True)
class NowcastFile(ABC):
    """What one nowcast says of itself.

    Attributes:
        path: of the file.
        start: the time that it forecasts from, that of the newest frame it knew, or was to know.
        times: ``(T,)`` datetime64[s] of its frames, increasing, all after the start.
        members: M of an ensemble, or None.
        size: channels, rows, columns.
        units: of its values.
        period: seconds over which a frame was gathered, or None.
        grid: where its pixels lie, or None.
        z_r: a and b of ``Z = a R^b``, where the file says them.
        minimum: what stands for no rain, where the file says it.
        made_by: what made it, as far as it says so.
    """

    path: Path
    start: np.datetime64
    times: NDArray[np.datetime64]
    members: int | None
    size: tuple[int, int, int]
    units: str
    period: float | None
    grid: Grid | None
    z_r: tuple[float, float] | None
    minimum: float | None
    made_by: str

    def __post_init__(self) -> None:
        if not len(self.times) or (np.diff(self.times) <= np.timedelta64(0, "s")).any():
            raise UserError(f"'{self.path}' is no nowcast: its frames do not follow one another in time")
        if not self.start < self.times[0]:
            raise UserError(
                f"'{self.path}' is no nowcast: it says that it begins at {self.start}, and its first frame is of {self.times[0]}"
            )

    def leads_at(self, times: NDArray[np.datetime64], tolerance: float = 0.0) -> NDArray[np.int64] | None:
        """Return which of its leads are at these times, give or take so many seconds; None where one of them is lacking."""
        return places_of(times, self.times, tolerance)

    @abstractmethod
    def read(self, leads: NDArray[np.int64]) -> Tensor:
        """Return ``(M, T, C, H, W)`` float32 of some leads, in the file's units, NaN = missing; M is 1 without an ensemble.

        Raises:
            UserError: the file is damaged, or declares more than it can hold.
        """

    def refuse_large(self, leads: int, itemsize: int) -> None:
        """Refuse frames of more bytes than the file can hold.

        Raises:
            UserError: so many leads would be so large.
        """
        declared, stored = (self.members or 1) * leads * math.prod(self.size) * itemsize, self.path.stat().st_size
        if declared > max(_SMALL, stored * DEFLATE_LIMIT):
            raise UserError(f"'{self.path}' declares {declared} bytes of {leads} frames in a file of {stored}: it is damaged")


def places_of(wanted: NDArray[np.datetime64], moments: NDArray[np.datetime64], tolerance: float) -> NDArray[np.int64] | None:
    """Return which of some moments are nearest to others, one for each; both increase.

    None where one of them is off by more than ``tolerance`` seconds, or two are the same.
    """
    after = np.searchsorted(moments, wanted).clip(max=len(moments) - 1)
    before = (after - 1).clip(min=0)
    places = np.where(np.abs(moments[before] - wanted) <= np.abs(moments[after] - wanted), before, after).astype(np.int64)
    off = np.abs(moments[places] - wanted) / np.timedelta64(1, "s")
    return places if bool((off <= tolerance).all() and (np.diff(places) > 0).all()) else None


def watched_cycle(about: dict[str, Any]) -> np.datetime64 | None:
    """Return the time of the cycle of a watch, by what its product says of itself; None for another.

    However old the newest frame was that it knew, it forecasts from the cycle on.
    """
    watched = about.get("watch")
    cycle = watched.get("cycle") if isinstance(watched, dict) else None
    told = isinstance(cycle, str) and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", cycle, re.ASCII)
    return np.datetime64(str(cycle), "s") if told else None


def told_numbers(about: Any, name: str, count: int) -> tuple[float, ...] | None:
    """Return so many finite numbers that a product's frame spec holds under a name, or None if that is not what it holds."""
    spec = about.get("spec") if isinstance(about, dict) else None
    value = spec.get(name) if isinstance(spec, dict) else None
    values = value if isinstance(value, list) else [value]
    numbers = tuple(float(one) for one in values if isinstance(one, int | float) and math.isfinite(one))
    return numbers if len(numbers) == len(values) == count else None


def told_pair(about: Any) -> tuple[float, float] | None:
    """Return a and b of ``Z = a R^b`` by a product's frame spec, or None."""
    pair = told_numbers(about, "z_r", 2)
    return None if pair is None or min(pair) <= 0 else (pair[0], pair[1])


def told_minimum(about: Any) -> float | None:
    """Return the least value there can be, by a product's frame spec, or None."""
    least = told_numbers(about, "minimum", 1)
    return None if least is None else least[0]


def one_line(text: Any) -> str:
    """Return a text of a file that nobody vouches for as a short line."""
    return " ".join(str(text).split())[:100]


def describe_files(files: Sequence[NowcastFile]) -> str:
    """Say what several nowcasts are, and by what they were made."""
    first = files[0]
    leads = sorted({len(file.times) for file in files})
    frames = f"{leads[0]} frames" if len(leads) == 1 else f"{leads[0]} to {leads[-1]} frames"
    starts = sorted(file.start for file in files)
    span = f"from {starts[0]}" if len(files) == 1 else f"from {starts[0]} to {starts[-1]}"
    members = "" if first.members is None else f" of {first.members} members"
    makers = sorted({file.made_by for file in files if file.made_by})
    by = f", by {', '.join(makers[:3])}{' and others' if len(makers) > 3 else ''}" if makers else ""
    return f"{len(files)} nowcast(s) of {frames}{members} in {first.units}, {span}{by}"
