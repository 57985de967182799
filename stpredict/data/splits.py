"""Which frames belong to which split: whole films, or pieces of films in order of time.

No frame is in two splits, for any context and horizon: the boundaries do not depend on the clip, and every later piece
of a film begins a whole clip after its boundary.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import accumulate, pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stpredict.data.clips import Film
from stpredict.errors import UserError

ALL = "all"
"""A split that every card has: all films, whole. It holds the frames of the others too."""


class Piece(NamedTuple):
    """Frames of one film that belong to a split."""

    film: int
    positions: range


@dataclass(frozen=True)
class Splits:
    """How an archive is split. Exactly one of the three mappings from split names is given, in order.

    Attributes:
        by: ``film`` (a film is whole in one split) or ``time`` (the first part of every film, the next part, ...).
        fractions: the share of the films, or of the frames of every film, that each split gets; they sum to 1.
        films: for ``by: film``, shell patterns of film names.
        until: the moment (UTC) before which a split's frames lie, or, for ``by: film``, before which its films begin or, if they
            have a moment of their own, count as happening; null for the last split means no end.
    """

    by: Literal["film", "time"]
    fractions: Mapping[str, float] | None = None
    films: Mapping[str, Sequence[str]] | None = None
    until: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.by not in ("film", "time"):
            raise UserError(f"splits.by is 'film' or 'time', not '{self.by}'")
        rules = ("fractions", "films", "until") if self.by == "film" else ("fractions", "until")
        given = [key for key in ("fractions", "films", "until") if getattr(self, key) is not None]
        if len(given) != 1 or given[0] not in rules:
            wanted = "', '".join(rules[:-1]) + f"' or '{rules[-1]}"
            raise UserError(f"splits by {self.by} need one of '{wanted}'; given: {', '.join(given) or 'none'}")
        if not self.names:
            raise UserError("splits name no split; write for instance fractions: {train: 0.8, validation: 0.1, test: 0.1}")
        if self.fractions is not None:
            _check_fractions(self.fractions)
        if self.until is not None:
            _moments(self.until)

    @property
    def names(self) -> list[str]:
        """Return the names of the splits, in order."""
        return list(self.fractions or self.films or self.until or ())

    def refuse_unknown(self, split: str) -> None:
        """Raise UserError, with the names of the splits, unless ``split`` is one of them or ``all``."""
        if split not in (*self.names, ALL):
            raise UserError(f"There is no split '{split}'; the splits are {', '.join(self.names)}, and {ALL}, which is everything")

    def pieces(self, films: Sequence[Film], split: str, gap: int) -> list[Piece]:
        """Return the pieces of ``films`` that belong to ``split``.

        Args:
            films: all films of the archive, in order.
            split: one of :attr:`names`, or ``all``.
            gap: frames left out between neighbouring splits of one film: a whole clip.

        Raises:
            UserError: the split is unknown, there are too few films for it, a pattern fits no film or two splits claim
                one film, or a boundary is a moment and a film has no clock.
        """
        self.refuse_unknown(split)
        if split not in self.names:
            return [Piece(number, range(film.length)) for number, film in enumerate(films)]
        if self.by == "film":
            chosen = self._chosen_films(films, self.names.index(split))
            return [Piece(film, range(films[film].length)) for film in chosen]
        return [Piece(number, self._positions(film, self.names.index(split), gap)) for number, film in enumerate(films)]

    def _chosen_films(self, films: Sequence[Film], split: int) -> list[int]:
        if self.films is not None:
            return _films_by_pattern(films, self.films)[split]
        if self.until is not None:
            return _films_by_moment(films, _moments(self.until))[split]
        assert self.fractions is not None
        if len(films) < len(self.names):
            raise UserError(
                f"{len(films)} film(s) cannot be split by film into {len(self.names)} splits ({', '.join(self.names)}); "
                "split them by time (splits: {by: time, ...}) or name fewer splits"
            )
        cuts = [0]
        for number, share in enumerate(accumulate(self.fractions.values()), start=1):
            # Every split gets a film at least, however small its share is.
            cuts.append(min(max(round(share * len(films)), cuts[-1] + 1), len(films) - len(self.names) + number))
        return list(range(cuts[split], cuts[split + 1]))

    def _positions(self, film: Film, split: int, gap: int) -> range:
        if self.fractions is not None:
            cuts = [0, *(round(share * film.length) for share in accumulate(self.fractions.values()))]
        else:
            assert self.until is not None
            times = _times(film)
            moments = _moments(self.until)
            cuts = [0, *(film.length if moment is None else int(np.searchsorted(times, moment)) for moment in moments)]
        start, stop = cuts[split], cuts[split + 1]
        return range(min(start + gap, stop) if start > 0 else start, stop)


def _check_fractions(fractions: Mapping[str, float]) -> None:
    for name, share in fractions.items():
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
            raise UserError(f"splits.fractions.{name} is a share between 0 and 1, not {share!r}")
    if not math.isclose(sum(fractions.values()), 1.0, abs_tol=1e-6):
        raise UserError(f"splits.fractions sum to {sum(fractions.values()):g}; they must sum to 1")


def _films_by_pattern(films: Sequence[Film], patterns: Mapping[str, Sequence[str]]) -> list[list[int]]:
    chosen: list[list[int]] = []
    owner: dict[int, str] = {}
    for split, wanted in patterns.items():
        matching = [number for number, film in enumerate(films) if any(fnmatchcase(film.name, pattern) for pattern in wanted)]
        if not matching:
            names = ", ".join(film.name for film in films[:5])
            raise UserError(f"No film fits splits.films.{split} ({', '.join(wanted)}); the films are called {names}, ...")
        for number in matching:
            if number in owner:
                raise UserError(f"The film '{films[number].name}' is claimed by two splits, '{owner[number]}' and '{split}'")
            owner[number] = split
        chosen.append(matching)
    return chosen


def _films_by_moment(films: Sequence[Film], moments: Sequence[np.datetime64 | None]) -> list[list[int]]:
    """Return the films of each split: those that count as happening before its moment and not before that of the split before it."""
    chosen: list[list[int]] = [[] for _ in moments]
    for number, film in enumerate(films):
        start = _times(film)[0] if film.moment is None else film.moment
        split = next((split for split, moment in enumerate(moments) if moment is None or start < moment), None)
        if split is not None:
            chosen[split].append(number)
    return chosen


def _times(film: Film) -> NDArray[np.datetime64]:
    if film.times is None:
        raise UserError(f"The film '{film.name}' has no clock, so it cannot be split by moments: use splits.fractions")
    return film.times


def _moments(until: Mapping[str, Any]) -> list[np.datetime64 | None]:
    moments = [_moment(name, value) for name, value in until.items()]
    if None in moments[:-1]:
        raise UserError("Only the last split of splits.until may be null (no end)")
    dated = [moment for moment in moments if moment is not None]
    if any(later <= earlier for earlier, later in pairwise(dated)):
        raise UserError("The moments of splits.until must increase from split to split")
    return moments


def _moment(name: str, value: Any) -> np.datetime64 | None:
    if value is None:
        return None
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        value = value.astimezone(datetime.UTC).replace(tzinfo=None)
    if isinstance(value, (str, datetime.date)):
        try:
            return np.datetime64(value, "s")
        except ValueError:
            pass
    raise UserError(f"splits.until.{name} is a moment such as 2010-08-26T04:30, not {value!r}")
