"""What scoring found: numbers by predictor and score, as JSON, as tables, and clip by clip."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

import stpredict
from stpredict.errors import UserError
from stpredict.files import whole_file, write_text
from stpredict.results.reading import read_scores
from stpredict.results.text import ARROWS, Cell, Sheet

WIDEST = 12
"""Scores of more numbers than this are in the files alone."""

_FACTS = ("protocol", "card", "split", "hash", "units", "context", "horizon", "members")
"""What scores must have in common to stand in one table."""


@dataclass(frozen=True)
class Scores:
    """Scores of some predictors over the clips of one split.

    Attributes:
        protocol: the convention of scoring, one of :data:`stpredict.protocols.PROTOCOLS`.
        card: the name of the card.
        split: the name of the split.
        hash: what identifies the clips that were scored (:func:`~stpredict.forecasts.truth_hash`).
        clips: how many were scored.
        context: observed frames of a clip.
        horizon: forecast frames of a clip.
        units: in which the frames were scored.
        scores: predictor -> score -> ``mean`` (over clips and leads), ``interval`` (the ends of its 95 % interval), ``per_lead`` (a
            list, mean over clips) and ``per_lead_interval`` (a list of lower and one of upper ends); NaN where nothing was valid or a
            forecast was NaN, and an interval also where there is one clip, or film. A score of several numbers, such as one for each
            threshold, also has ``parts``: name -> ``mean``, ``interval`` and ``per_lead`` of that number alone.
        predictors: name -> ``kind`` (``predictor``, ``baseline`` or ``forecasts``), ``network``, ``weights`` (how many), ``hash`` (of
            what it learnt, or of what it forecast) and ``provenance``.
        better: score -> ``lower`` or ``higher``, for the scores that say so.
        time_step: seconds from one frame to the next, or None.
        version: of stpredict.
        members: M, if the forecasts were ensembles.
        resample: what the intervals draw again, ``clips`` or ``films``.
        selected: score -> predictor -> ``best``, ``median`` and ``worst``: clips of the split.
        over: ``name`` (a reference), ``skill`` over it and ``differences`` from it, both predictor -> score -> ``value``, ``low`` and
            ``high`` (of the 95 % interval), ``per_lead`` and ``per_lead_interval``; None if it was not asked for.
        published: title -> ``page`` and ``scores`` (score -> number): what others have published for these very clips.
        warnings: what should be known before the numbers are believed.
        per_clip: predictor -> score -> ``(clips,)`` of each clip on its own; not in the JSON.
        indices: which clip of the split each of these is.
        films: what the film of each is called, where it has a name.
        starts: when the first frame of each was seen, seconds since 1970 in UTC; empty where there is no clock.
    """

    protocol: str
    card: str
    split: str
    hash: str
    clips: int
    context: int
    horizon: int
    units: str
    scores: Mapping[str, Mapping[str, Mapping[str, Any]]]
    predictors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    better: Mapping[str, str] = field(default_factory=dict)
    time_step: float | None = None
    version: str = stpredict.__version__
    members: int | None = None
    resample: str = "clips"
    selected: Mapping[str, Mapping[str, Mapping[str, int]]] = field(default_factory=dict)
    over: Mapping[str, Any] | None = None
    published: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    per_clip: Mapping[str, Mapping[str, NDArray[np.float64]]] = field(default_factory=dict, compare=False, repr=False)
    indices: tuple[int, ...] = field(default=(), compare=False, repr=False)
    films: tuple[str, ...] = field(default=(), compare=False, repr=False)
    starts: tuple[int, ...] = field(default=(), compare=False, repr=False)

    @property
    def baselines(self) -> tuple[str, ...]:
        """Return which of the predictors are baselines."""
        return tuple(name for name, about in self.predictors.items() if about.get("kind") == "baseline")

    def with_published(self, published: Mapping[str, Mapping[str, Any]]) -> Scores:
        """Return the same scores with published figures beside them: title -> ``page`` and ``scores`` (score -> number)."""
        return replace(self, published=dict(published))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; numbers that are not finite become None."""
        facts = ("card", "split", "hash", "clips", "context", "horizon", "units", "time_step")
        plain: dict[str, Any] = {"protocol": self.protocol, "data": {name: getattr(self, name) for name in facts}}
        if self.members is not None:
            plain["members"] = self.members
        plain |= {"predictors": _finite(self.predictors), "scores": _finite(self.scores), "better": dict(self.better)}
        plain |= {"resample": self.resample, "selected": _finite(self.selected)}
        added = {"over": self.over, "published": self.published, "warnings": list(self.warnings)}
        plain |= {name: _finite(value) for name, value in added.items() if value}
        return {**plain, "version": self.version}

    @classmethod
    def from_dict(cls, plain: Any) -> Scores:
        """Make scores from what :meth:`to_dict` gave; what each clip scored alone is not in it.

        Raises:
            ValueError: it is something else.
        """
        return cls(**read_scores(plain))

    @classmethod
    def read(cls, path: str | Path) -> Scores:
        """Read the JSON that :meth:`write` wrote.

        Raises:
            UserError: there is no such file, or it is damaged or something else.
        """
        path = Path(path)
        if not path.is_file():
            raise UserError(f"There is no file of scores {path}")
        try:
            if path.stat().st_size > _LARGEST:
                raise ValueError("it is too large")
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, OverflowError, RecursionError) as error:
            raise UserError(f"{path} is no whole file of scores ({error}): make it by 'stpredict evaluate ... --out {path.name}'") from None

    def write(self, path: str | Path) -> None:
        """Write the scores whole or not at all: JSON (``.json``), a table of all numbers (``.csv``), or tables (``.md``, ``.tex``).

        Raises:
            UserError: ``path`` ends in something else.
        """
        write_text(path, writer_of(path)(self))

    def json(self) -> str:
        """Return the JSON of :meth:`to_dict`."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"

    def csv(self) -> str:
        """Return a row for each number: predictor, score, part (if of several numbers) and lead (empty: over all leads)."""
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        facts = ("protocol", "card", "split", "hash", "units", "resample")
        rows.writerow([*facts, "predictor", "score", "part", "lead", "mean", "low", "high"])
        constant = [getattr(self, name) for name in facts]
        for name, by_score in self.scores.items():
            for score, numbers in by_score.items():
                for part, lead, figures in _all_numbers(numbers):
                    rows.writerow([*constant, name, score, part, lead, *map(_csv_number, figures)])
        return text.getvalue()

    def write_clips(self, path: str | Path) -> None:
        """Write CSV with a row for each predictor and clip: its number, its film, when it starts, and each score of it alone."""
        names = self._score_names()
        with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(["predictor", "clip", "film", "start", *names])
            for predictor, by_score in self.per_clip.items():
                for row, clip in enumerate(self.indices):
                    film = self.films[row] if self.films else ""
                    start = str(np.datetime64(self.starts[row], "s")) if self.starts else ""
                    rows.writerow([predictor, clip, film, start, *(_csv_number(float(by_score[name][row])) for name in names)])

    def tables(self) -> list[Table]:
        """Return tables for a terminal: the means, scores of several numbers one by one, skill and differences."""
        return [sheet.table() for sheet in self._sheets()]

    def table(self) -> Table:
        """Return the means as a table for a terminal: the best of each column in bold, baselines below a line."""
        return self.tables()[0]

    def markdown(self) -> str:
        """Return the same tables in Markdown, with intervals."""
        return "\n".join(sheet.markdown() for sheet in self._sheets())

    def latex(self) -> str:
        """Return the same tables in LaTeX; it takes the package ``booktabs``."""
        return "\n".join(sheet.latex() for sheet in self._sheets())

    def _sheets(self) -> list[Sheet]:
        names = self._score_names()
        means = {predictor: [scores.get(name, {}) for name in names] for predictor, scores in self.scores.items()}
        better = [self.better.get(name) for name in names]
        rows = _marked(means, better)
        theirs = {
            f"{title} (published)": [Cell(float(about["scores"].get(name, math.nan))) for name in names]
            for title, about in self.published.items()
            if set(about["scores"]) & set(names)
        }
        breaks = [*self._first_of_baselines(), *list(theirs)[:1]]
        note = self._note(means.values())
        sheets = [Sheet(self._title(), [self._heading(name) for name in names], {**rows, **theirs}, breaks, note)]
        for name in names:
            by_part = {predictor: scores.get(name, {}).get("parts", {}) for predictor, scores in self.scores.items()}
            parts = list(dict.fromkeys(part for numbers in by_part.values() for part in numbers))
            if 1 < len(parts) <= WIDEST:
                of_parts = {predictor: [numbers.get(part, {}) for part in parts] for predictor, numbers in by_part.items()}
                rows = _marked(of_parts, [self.better.get(name)] * len(parts))
                sheets.append(Sheet(self._heading(name), parts, rows, self._first_of_baselines(), self._note(of_parts.values())))
        return [*sheets, *self._comparisons()]

    def _comparisons(self) -> Iterator[Sheet]:
        """Yield the tables of skill over the reference and of differences from it."""
        if self.over is None:
            return
        reference = self.over["name"]
        titles = {"skill": f"skill over {reference}", "differences": f"difference from {reference}"}
        for kind, title in titles.items():
            by_score = self.over[kind]
            names = [name for name in self._score_names() if any(name in found for found in by_score.values())]
            rows = {
                predictor: [_estimate(found.get(name, {}), 3 if kind == "skill" else None) for name in names]
                for predictor, found in by_score.items()
            }
            note = f"in brackets: 95 % intervals over {self.resample}; in bold: 0 lies outside"
            yield Sheet(title, names, rows, note=note)

    def _first_of_baselines(self) -> list[str]:
        """Return the first of the baselines behind all others, if there are others."""
        last = list(self.scores)
        while last and last[-1] in self.baselines:
            last.pop()
        return list(self.scores)[len(last) : len(last) + 1] if last else []

    def _note(self, rows: Any) -> str:
        known = any(not math.isnan(end) for numbers in rows for one in numbers for end in one.get("interval", ()))
        return f"in brackets: 95 % intervals over {self.resample}" if known else ""

    def _title(self) -> str:
        return (
            f"{self.card} {self.split}: {self.clips} clips, {self.context} + {self.horizon} frames, units {self.units}, "
            f"protocol {self.protocol}"
        )

    def _score_names(self) -> list[str]:
        return list(dict.fromkeys(name for scores in self.scores.values() for name in scores))

    def _heading(self, name: str) -> str:
        return " ".join([name, *([ARROWS[way]] if (way := self.better.get(name)) in ARROWS else [])])


_LARGEST = 1 << 28
"""The most bytes that a file of scores may have."""

_WRITERS: dict[str, Callable[[Scores], str]] = {
    ".json": Scores.json,
    ".csv": Scores.csv,
    ".md": Scores.markdown,
    ".tex": Scores.latex,
}


def writer_of(path: str | Path) -> Callable[[Scores], str]:
    """Return what makes the text of a file by how its name ends.

    Raises:
        UserError: it ends in nothing that scores can be written as.
    """
    suffix = Path(path).suffix
    if suffix not in _WRITERS:
        raise UserError(f"Scores are written as {', '.join(_WRITERS)}, not as '{suffix}': {path}")
    return _WRITERS[suffix]


def differing(first: Scores, second: Scores) -> list[str]:
    """Return in what two scores differ so that they may not stand in one table, in words; nothing where they may."""
    facts = [(fact, getattr(first, fact), getattr(second, fact)) for fact in _FACTS]
    return [f"{'clips' if fact == 'hash' else fact} {ours} and {theirs}" for fact, ours, theirs in facts if ours != theirs]


def compatible(first: Scores, second: Scores) -> bool:
    """Whether two scores may stand in one table: of one protocol, card, split, window, units and the same clips."""
    return not differing(first, second)


def grouped(several: Sequence[Scores]) -> list[list[Scores]]:
    """Return the scores in groups, each of which may stand in one table, in the order in which they came."""
    groups: list[list[Scores]] = []
    for scores in several:
        group = next((group for group in groups if compatible(group[0], scores)), None)
        if group is None:
            groups.append([scores])
        else:
            group.append(scores)
    return groups


def _all_numbers(numbers: Mapping[str, Any]) -> Iterator[tuple[str, int | str, tuple[float, float, float]]]:
    """Yield part, lead, and mean with both ends of its interval, of all numbers of a score."""
    for part, figures in {"": numbers, **numbers.get("parts", {})}.items():
        yield part, "", (figures["mean"], *_ends(figures))
        leads = figures["per_lead"]
        lows, highs = figures.get("per_lead_interval", [[math.nan] * len(leads)] * 2)
        for lead, row in enumerate(zip(leads, lows, highs, strict=True), start=1):
            yield part, lead, row


def _ends(numbers: Mapping[str, Any]) -> tuple[float, float]:
    low, high = numbers.get("interval", (math.nan, math.nan))
    return low, high


def _csv_number(number: float) -> str:
    return "" if math.isnan(number) else repr(float(number))


def _marked(numbers: Mapping[str, Sequence[Mapping[str, Any]]], better: Sequence[str | None]) -> dict[str, list[Cell]]:
    """Return the cells of a table, a row for each predictor, the best of each column in bold."""
    cells = {name: [Cell(one.get("mean", math.nan), *_ends(one)) for one in row] for name, row in numbers.items()}
    goals = []
    for column, direction in zip(zip(*cells.values(), strict=True), better, strict=True):
        ranked = [cell.value for cell in column if not math.isnan(cell.value)]
        goals.append(None if not ranked or direction is None else min(ranked) if direction == "lower" else max(ranked))
    return {name: [replace(cell, bold=cell.value == goal) for cell, goal in zip(row, goals, strict=True)] for name, row in cells.items()}


def _estimate(numbers: Mapping[str, float], decimals: int | None) -> Cell:
    value, low, high = (numbers.get(name, math.nan) for name in ("value", "low", "high"))
    return Cell(value, low, high, low > 0 or high < 0, decimals)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
