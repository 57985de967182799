"""``stpredict runs``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stpredict.cli.options import Commands, add_command, new_file, table_console

if TYPE_CHECKING:
    from rich.table import Table

    from stpredict.training.overview import Overview, RunRow

_MOST_COLUMNS = 6
"""Keys that differ and are shown; the others are named below the table."""

_LONGEST_VALUE = 28
"""Letters of a value that are shown."""


def add_commands(commands: Commands) -> None:
    """Add the commands of this module."""
    parser = add_command(
        commands, "runs", "list runs with their state, scores, and the settings in which they differ", "stpredict runs --sort best"
    )
    parser.add_argument("folder", metavar="FOLDER", nargs="?", type=Path, default=Path("runs"), help="where they are (default: runs)")
    words = "name, network, data, state, step, best, loss, seconds, age, or a key of the configs such as network.hidden (default: name)"
    parser.add_argument("--sort", metavar="KEY", default="name", help=f"what to sort by: {words}")
    parser.add_argument("--json", metavar="FILE", type=new_file, help="write all that is known, every key of every config too")
    parser.set_defaults(action=_runs)


def _runs(arguments: argparse.Namespace) -> int:
    from stpredict.training.overview import survey_runs

    overview = survey_runs(arguments.folder).sorted_by(arguments.sort)
    if arguments.json is not None:
        overview.write(arguments.json)
    console = table_console()
    if not overview.runs:
        console.print(f"There are no runs below {arguments.folder}", markup=False, highlight=False)
        return 0
    console.print(_table(overview))
    if overview.groups:
        console.print(_group_table(overview))
    return 0


def _table(overview: Overview) -> Table:
    """Return a row for each run, with a column for each of the first keys in which they differ."""
    from rich.table import Table
    from rich.text import Text

    keys, left = overview.differing[:_MOST_COLUMNS], overview.differing[_MOST_COLUMNS:]
    problems = any(run.problem for run in overview.runs)
    caption = f"{len(left)} more differ: {', '.join(left)}" if left else ""
    table = Table(title=Text(f"runs below {overview.folder}"), caption=Text(caption))
    for name in ("run", "network", "data", "state"):
        table.add_column(name)
    for name in ("step", "best", "at step", "loss", "time", "age"):
        table.add_column(name, justify="right")
    for name in (*keys, *(["problem"] if problems else [])):
        table.add_column(Text(name))
    for run in overview.runs:
        cells = [*_cells(run), *(_value(run.config, key) for key in keys), *([run.problem] if problems else [])]
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _group_table(overview: Overview) -> Table:
    """Return a row for each group of runs that differ by their seed only."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text("done, and differ by the seed only"))
    table.add_column("runs")
    for name in ("seeds", "best, mean", "deviation"):
        table.add_column(name, justify="right")
    for group in overview.groups:
        table.add_row(Text(", ".join(group.runs)), str(len(group.seeds)), f"{group.mean:.6g}", f"{group.deviation:.2g}")
    return table


def _cells(run: RunRow) -> list[str]:
    steps = "" if run.step is None else f"{run.step} of {run.max_steps}" if run.max_steps else str(run.step)
    at = "" if run.best_step is None else str(run.best_step)
    figures = [steps, _number(run.best), at, _number(run.loss), _span(run.seconds), _span(run.age)]
    return [run.name, run.network or "", run.data or "", run.state, *figures]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _span(seconds: float | None) -> str:
    from stpredict.training.elapsed import elapsed

    if seconds is None:
        return ""
    return elapsed(seconds) if seconds < 172800 else f"{seconds / 86400:.1f} d"


def _value(config: Mapping[str, Any], key: str) -> str:
    if key not in config:
        return "-"
    text = "null" if config[key] is None else str(config[key])
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."
