"""The tables of a study: scores over seeds, differences with both intervals, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from stpredict.results.text import ARROWS, Cell, Sheet
from stpredict.study.summary import Summary

SAID = {
    "clear": "neither another seed nor other clips are likely to turn it round",
    "luck of seeds": "these runs differ on any clips, but another seed may turn it round",
    "luck of clips": "every seed says so, but of these few clips",
    "luck of both": "nothing is told apart",
    "unknown": "one seed alone, or no scores of each clip",
}
"""What each verdict means."""


def tables(summary: Summary) -> list[Table]:
    """Return the tables for a terminal."""
    return [sheet.table() for sheet in sheets(summary)]


def markdown(summary: Summary) -> str:
    """Return the same tables in Markdown, with the commands behind the numbers."""
    words = [f"# {summary.name}", summary.question, *(f"- {warning}" for warning in summary.warnings)]
    words += [sheet.markdown().rstrip("\n") for sheet in sheets(summary)]
    commands = [command for about in summary.runs.values() for command in (about["train"], about["evaluate"])]
    return "\n\n".join([*filter(None, words), "Commands", "```sh\n" + "\n".join(commands) + "\n```"]) + "\n"


def sheets(summary: Summary) -> list[Sheet]:
    """Return the tables before they are drawn."""
    made = [_scores(summary), *_differences(summary), _costs(summary)]
    return [sheet for sheet in made if sheet.rows]


def settings_text(settings: Mapping[str, Any]) -> str:
    """Return in short what a variant sets."""
    return ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in settings.items())


def _scores(summary: Summary) -> Sheet:
    names = summary.score_names
    rows = {}
    for name, about in summary.variants.items():
        rows[name] = [_of_seeds(about["scores"].get(score)) for score in names]
    for column, score in enumerate(names):
        means = [cells[column].value for cells in rows.values() if math.isfinite(cells[column].value)]
        way = summary.better.get(score)
        best = min(means) if means and way == "lower" else max(means) if means and way == "higher" else None
        for name, cells in rows.items():
            cell = cells[column]
            rows[name][column] = Cell(cell.value, cell.low, cell.high, cell.value == best)
    variants = list(rows)
    for name, by_score in summary.baselines.items():
        rows[name] = [Cell(_number(by_score.get(score))) for score in names]
    title = f"{summary.name}: mean over {_seeds(summary)}"
    if summary.data:
        title += ", {clips} clips of {card} {split}, {context} + {horizon} frames".format_map(summary.data)
    note = "in brackets: 95 % intervals over seeds (Student)" if len(summary.seeds) > 1 else ""
    breaks = [name for name in rows if name not in variants][:1]
    return Sheet(title, [_heading(summary, score) for score in names], rows, breaks, note, "variant")


def _differences(summary: Summary) -> list[Sheet]:
    """Return the differences with their intervals over seeds, and over clips."""
    names = [score for score in summary.score_names if any(score in pair["scores"] for pair in summary.comparisons)]
    made = []
    for kind, ends in {"seeds": ("low", "high"), "clips": ("clips_low", "clips_high")}.items():
        rows = {}
        for pair in summary.comparisons:
            found = [pair["scores"].get(score, {}) for score in names]
            if any(found):
                label = f"{pair['variant']} - {pair['against']}"
                rows[label] = [_difference(numbers, *(_number(numbers.get(end)) for end in ends)) for numbers in found]
        what = "another seed would do" if kind == "seeds" else "other clips would do to these very runs"
        note = f"in brackets: 95 % intervals over {kind}, what {what}; in bold: 0 lies outside"
        made.append(Sheet(f"differences, over {kind}", [_heading(summary, score) for score in names], rows, note=note, first="pair"))
    return made


def _costs(summary: Summary) -> Sheet:
    """Return what each variant costs: the mean over its runs of what was measured."""
    rows = {}
    for name, about in summary.variants.items():
        runs = [summary.measured.get(run, {}) for run, of in summary.runs.items() if of["variant"] == name]
        processor = [one["processor"] for one in runs if one.get("processor") is not None]
        clock = [one["clock"] for one in runs if one.get("clock") is not None]
        adds = about["multiply_adds"]
        rows[name] = [
            Cell(_number(about["weights"]), decimals=0),
            Cell(_number(None if adds is None else adds / 1e9), decimals=3),
            Cell(_number(about["steps"]), decimals=0),
            Cell(_number(about["batch_size"]), decimals=0),
            Cell(_mean(processor), decimals=1),
            Cell(_mean(clock), decimals=1),
        ]
    headings = ["weights", "G multiply-adds a clip", "steps", "clips a step", "processor seconds a run", "seconds a run"]
    return Sheet("cost of training", headings, rows, note="processor seconds: of all cores, validation included", first="variant")


def _of_seeds(found: Mapping[str, Any] | None) -> Cell:
    found = found or {}
    return Cell(_number(found.get("mean")), _number(found.get("low")), _number(found.get("high")))


def _difference(numbers: Mapping[str, Any], low: float, high: float) -> Cell:
    return Cell(_number(numbers.get("mean")), low, high, low > 0 or high < 0)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _heading(summary: Summary, score: str) -> str:
    return " ".join([score, *([ARROWS[way]] if (way := summary.better.get(score)) in ARROWS else [])])


def _seeds(summary: Summary) -> str:
    done = len(summary.runs) - len(summary.missing)
    told = f"{len(summary.seeds)} seed{'' if len(summary.seeds) == 1 else 's'}"
    return told if not summary.missing else f"{told} ({done} of {len(summary.runs)} runs so far)"
