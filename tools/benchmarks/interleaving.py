"""Things timed in turns, A B A B, so that what else the machine does meets all of them alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from benchmarks.timing import seconds_of

Round = tuple[float, ...]
"""The seconds of each thing, one after the other."""


def interleaved(things: Sequence[Callable[[], object]], rounds: int) -> list[Round]:
    """Return the seconds of every round of turns; a first round does not count."""
    return [tuple(seconds_of(thing) for thing in things) for _ in range(rounds + 1)][1:]


def median_of(rounds: Sequence[Round], place: int) -> float:
    """Return the median of the seconds of one thing."""
    return statistics.median(one[place] for one in rounds)


def median_ratio(rounds: Sequence[Round], above: int, below: int) -> float:
    """Return the median over the rounds of how many times as long one thing took as another."""
    return statistics.median(one[above] / one[below] for one in rounds)
