"""How long something takes, and what a row of figures is."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

Row = dict[str, Any]
"""Figures by the name of their column."""


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    """Return the median of the seconds that ``work`` takes, once warm."""
    work()
    return statistics.median(seconds_of(work) for _ in range(repeats))


def seconds_of(work: Callable[[], object]) -> float:
    """Return the seconds that ``work`` takes, once."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
