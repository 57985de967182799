"""What scoring found: numbers by predictor and score, as JSON and as tables."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

import stpredict
from stpredict.files import write_text

WIDEST = 12
"""Scores of more numbers than this are in the file alone."""


@dataclass(frozen=True)
class Scores:
    """Scores of some predictors over the clips of one split.

    Attributes:
        protocol: the convention of scoring, one of :data:`stpredict.evaluation.PROTOCOLS`.
        card: the name of the card.
        split: the name of the split.
        hash: what identifies the clips that were scored (:func:`~stpredict.forecasts.truth_hash`).
        clips: how many were scored.
        context: observed frames of a clip.
        horizon: forecast frames of a clip.
        units: in which the frames were scored.
        scores: predictor -> score -> ``mean`` (over clips and leads) and ``per_lead`` (a list, mean over clips); NaN where
            nothing was valid or a forecast was NaN. A score of several numbers, such as one for each threshold, also has ``parts``:
            name -> ``mean`` and ``per_lead`` of that number alone.
        baselines: which of the predictors are baselines.
        better: score -> ``lower`` or ``higher``, for the scores that say so.
        version: of stpredict.
        members: M, if the forecasts were ensembles.
        skill: ``over`` (the baseline), ``resample`` (``clips`` or ``films``), ``replicates``, and ``scores``: predictor -> score ->
            ``value``, ``low`` and ``high`` (of the 95 % interval); None if it was not asked for.
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
    baselines: tuple[str, ...] = ()
    better: Mapping[str, str] = field(default_factory=dict)
    version: str = stpredict.__version__
    members: int | None = None
    skill: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; numbers that are not finite become None."""
        data = {key: getattr(self, key) for key in ("card", "split", "hash", "clips", "context", "horizon", "units")}
        asked = {"members": self.members, "skill": None if self.skill is None else _finite(self.skill)}
        added = {key: value for key, value in asked.items() if value is not None}
        return {"protocol": self.protocol, "data": data, **added, "scores": _finite(self.scores), "version": self.version}

    def write(self, path: str | Path) -> None:
        """Write the JSON of :meth:`to_dict`, whole or not at all."""
        write_text(path, json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n")

    def tables(self) -> list[Table]:
        """Return tables for a terminal: the means, scores of several numbers one by one, and the skill, as far as there are such."""
        tables = []
        for sheet in self._sheets():
            table = Table(title=Text(sheet.title))
            table.add_column("predictor")
            for heading in sheet.headings:
                table.add_column(Text(heading), justify="right")
            for predictor, cells in sheet.rows.items():
                if predictor in self.baselines[:1]:
                    table.add_section()
                table.add_row(Text(predictor), *(Text(text, style="bold" if best else "") for text, best in cells))
            tables.append(table)
        return tables

    def table(self) -> Table:
        """Return the means as a table for a terminal: the best of each column in bold, baselines below a line."""
        return self.tables()[0]

    def markdown(self) -> str:
        """Return the same tables in Markdown, the best of each column in bold."""
        return "\n".join(sheet.markdown() for sheet in self._sheets())

    def _sheets(self) -> list[_Sheet]:
        names = self._score_names()
        means = {predictor: [scores[name]["mean"] for name in names] for predictor, scores in self.scores.items()}
        sheets = [_Sheet(self._title(), [self._heading(name) for name in names], _marked(means, [self.better.get(name) for name in names]))]
        for name in names:
            by_part = {predictor: scores[name].get("parts", {}) for predictor, scores in self.scores.items()}
            parts = list(dict.fromkeys(part for numbers in by_part.values() for part in numbers))
            if 1 < len(parts) <= WIDEST:
                means = {
                    predictor: [numbers.get(part, {"mean": math.nan})["mean"] for part in parts] for predictor, numbers in by_part.items()
                }
                sheets.append(_Sheet(self._heading(name), parts, _marked(means, [self.better.get(name)] * len(parts))))
        if self.skill is not None:
            skilled = {predictor: list(scores.values()) for predictor, scores in self.skill["scores"].items()}
            rows = {predictor: [(_with_interval(numbers), False) for numbers in cells] for predictor, cells in skilled.items()}
            title = f"skill over {self.skill['over']}, with 95 % intervals over {self.skill['resample']}"
            sheets.append(_Sheet(title, list(next(iter(self.skill["scores"].values()), {})), rows))
        return sheets

    def _title(self) -> str:
        return (
            f"{self.card} {self.split}: {self.clips} clips, {self.context} + {self.horizon} frames, units {self.units}, "
            f"protocol {self.protocol}"
        )

    def _score_names(self) -> list[str]:
        return list(dict.fromkeys(name for scores in self.scores.values() for name in scores))

    def _heading(self, name: str) -> str:
        return name + {"lower": " \N{DOWNWARDS ARROW}", "higher": " \N{UPWARDS ARROW}", None: ""}[self.better.get(name)]


@dataclass(frozen=True)
class _Sheet:
    """A table before it is drawn: for each predictor, the text of each cell and whether it is the best of its column."""

    title: str
    headings: Sequence[str]
    rows: Mapping[str, Sequence[tuple[str, bool]]]

    def markdown(self) -> str:
        lines = ["| predictor | " + " | ".join(_escape(heading) for heading in self.headings) + " |"]
        lines.append("|---|" + "---:|" * len(self.headings))
        for predictor, cells in self.rows.items():
            lines.append(f"| {_escape(predictor)} | " + " | ".join(f"**{text}**" if best else text for text, best in cells) + " |")
        return f"{_escape(self.title)}\n\n" + "\n".join(lines) + "\n"


def _marked(means: Mapping[str, Sequence[float]], better: Sequence[str | None]) -> dict[str, list[tuple[str, bool]]]:
    """Return the cells of a table of numbers, a row for each predictor, and which are the best of their column."""
    goals = []
    for column, direction in zip(zip(*means.values(), strict=True), better, strict=True):
        ranked = [number for number in column if not math.isnan(number)]
        goals.append(None if not ranked or direction is None else min(ranked) if direction == "lower" else max(ranked))
    return {name: [(f"{number:.4g}", number == goal) for number, goal in zip(row, goals, strict=True)] for name, row in means.items()}


def _with_interval(skill: Mapping[str, float]) -> str:
    return f"{skill['value']:.3f} [{skill['low']:.3f}, {skill['high']:.3f}]"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _escape(text: str) -> str:
    return html.escape(text, quote=False).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
