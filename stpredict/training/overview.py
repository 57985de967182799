"""All runs below a folder side by side: how far each has got, how good it is, and what tells their configs apart."""

from __future__ import annotations

import csv
import fcntl
import json
import math
import os
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from stpredict.checkpoint import checkpoints
from stpredict.configuration import read_yaml
from stpredict.errors import UserError, nearest
from stpredict.files import write_text
from stpredict.predictor import read_header
from stpredict.training.settings import make_settings

State = Literal["done", "running", "interrupted", "failed", "new", "broken"]
T = TypeVar("T")

SORT_KEYS = ("name", "network", "data", "state", "step", "best", "loss", "seconds", "age")

_SHOWN_ANYWAY = ("name", "run.folder", "network.name", "data.card", "trainer.max_steps")
"""Keys of a config that have a column of their own, or say no more than the folder's name."""

NOT_THE_RESULT = (
    "seed",
    "name",
    "data.root",
    "data.workers",
    "trainer.device",
    "trainer.threads",
    "trainer.kernels",
    "trainer.recompute",
    "trainer.compile",
    "trainer.devices",
    "trainer.accumulate",
    "trainer.max_hours",
    "trainer.milestone_every",
    "trainer.checkpoint_every",
    "trainer.keep",
    "trainer.log_every",
)
"""Keys, besides the seed and ``run.*``, in which runs of one experiment may differ: they say where and how it is computed."""


@dataclass(frozen=True)
class RunRow:
    """What is known of one run; None where it is not known, or not yet.

    Attributes:
        name: its folder, seen from the folder that was searched.
        state: ``running`` (a process holds it), ``done``, ``interrupted`` (all that the log tells of is saved), ``failed`` (it ended
            otherwise, and goes on from its newest checkpoint), ``new`` (no step was begun), ``broken`` (its config cannot be read).
        network: name of the network.
        data: name of the card.
        step: training steps done.
        max_steps: training steps to do.
        best: the lowest mean squared error on the validation split, of scaled values.
        best_step: the step of it.
        loss: of the last row of the log.
        seconds: on the clock while it trained, all its continuations together.
        age: seconds since anything was written.
        config: every key, dotted, with its value.
        problem: what is broken, or empty.
    """

    name: str
    state: State
    network: str | None = None
    data: str | None = None
    step: int | None = None
    max_steps: int | None = None
    best: float | None = None
    best_step: int | None = None
    loss: float | None = None
    seconds: float | None = None
    age: float | None = None
    config: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class SeedGroup:
    """Runs that have ended and differ by their seed only.

    Attributes:
        runs: their names, one for each seed: of several with the same seed the youngest.
        seeds: their seeds.
        mean: of their best scores.
        deviation: the standard deviation of these, of a sample (divided by one less than their number).
    """

    runs: tuple[str, ...]
    seeds: tuple[int, ...]
    mean: float
    deviation: float


@dataclass(frozen=True)
class Overview:
    """The runs below a folder.

    Attributes:
        folder: that was searched.
        runs: a row each.
        groups: those of two seeds or more.
        differing: the dotted keys in which the configs differ, but for those that have a column anyway.
    """

    folder: Path
    runs: tuple[RunRow, ...]
    groups: tuple[SeedGroup, ...]
    differing: tuple[str, ...]

    def sorted_by(self, key: str) -> Overview:
        """Return the same with the runs in the order of one column or of a dotted key of their configs; what is not known comes last.

        Raises:
            UserError: there is no such column, and no run has such a key.
        """
        known = dict.fromkeys([*SORT_KEYS, *(key for run in self.runs for key in run.config)])
        if self.runs and key not in known:
            raise UserError(f"There is no '{key}' to sort runs by{nearest(key, known)}")
        values = {run.name: getattr(run, key) if key in SORT_KEYS else run.config.get(key) for run in self.runs}
        runs = sorted(self.runs, key=lambda run: (_order(values[run.name]), _order(run.name)))
        return Overview(self.folder, tuple(runs), self.groups, self.differing)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, in which a number that is not finite is a text such as ``nan``."""
        plain = {
            "folder": str(self.folder),
            "runs": [asdict(run) for run in self.runs],
            "groups": [asdict(group) for group in self.groups],
            "differing": self.differing,
        }
        result: dict[str, Any] = _finite(plain)
        return result

    def write(self, path: str | Path) -> None:
        """Write the JSON of :meth:`to_dict`, whole or not at all."""
        write_text(path, json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n")


def survey_runs(folder: str | Path) -> Overview:
    """Look at all runs below a folder, or at one run; nothing is changed.

    A run that is held by this very process looks free, and is let go of: POSIX locks are a process's. So a program that trains
    asks another process.

    Raises:
        UserError: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"There is no folder '{folder}' to look for runs in: name the one that holds them")
    runs = sorted((_look_at(path, folder) for path in _run_folders(folder, set())), key=lambda run: _order(run.name))
    return Overview(folder, tuple(runs), tuple(_group(runs)), tuple(_differing(runs)))


def _run_folders(folder: Path, seen: set[str]) -> Iterator[Path]:
    """Yield the run folders at or below a folder; links are followed, but to no folder twice."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    if any(os.path.isfile(folder / name) for name in ("config.yaml", "log.csv")) or os.path.isdir(folder / "checkpoints"):
        yield folder
        return
    try:
        inside = sorted(folder.iterdir())
    except OSError:
        yield folder  # its row says why it could not be listed
        return
    for path in inside:
        if not path.name.startswith(".") and os.path.isdir(path):
            yield from _run_folders(path, seen)


def _look_at(folder: Path, below: Path) -> RunRow:
    """Return what is known of a run; what cannot be read is told in its row."""
    problems: list[str] = []
    nothing: Mapping[str, Any] = {}

    def attempt(read: Callable[[], T], otherwise: T) -> T:
        try:
            return read()
        except UserError as error:
            problems.append(" ".join(str(error).split()))
        except OSError as error:
            problems.append(f"{error.filename or folder}: {error.strerror or error}")
        return otherwise

    name = folder.relative_to(below).as_posix() if folder != below else folder.resolve().name
    plain = attempt(lambda: read_yaml(folder / "config.yaml"), nothing)
    readable = not problems
    config = dotted(attempt(lambda: make_settings(plain).to_dict(), plain)) if readable else {}
    log: list[dict[str, float]] = attempt(lambda: read_log(folder / "log.csv"), [])
    saved = attempt(lambda: _provenance(folder / "last.safetensors"), nothing).get("step")
    best = attempt(lambda: _provenance(folder / "best.safetensors"), nothing)
    held = attempt(lambda: _held(folder), False)
    steps = [*_saved_steps(folder), *([saved] if isinstance(saved, int) else [])]
    logged = [int(row["step"]) for row in log]
    scores = [(row["validation_mse"], int(row["step"])) for row in log if "validation_mse" in row]
    lowest = min(scores, default=(None, None), key=lambda pair: (math.isnan(pair[0]), pair[0]))
    if isinstance(best.get("validation_mse"), float) and isinstance(best.get("step"), int):
        lowest = (best["validation_mse"], best["step"])
    most = config.get("trainer.max_steps")
    return RunRow(
        name=name,
        state=_state(folder, held, readable, max(steps, default=None), max(logged, default=0)),
        network=_text(config.get("network.name")),
        data=_text(config.get("data.card")),
        step=max([*steps, *logged], default=0),
        max_steps=most if isinstance(most, int) else None,
        best=lowest[0],
        best_step=lowest[1],
        loss=next((row["loss"] for row in reversed(log) if "loss" in row), None),
        seconds=next((row["seconds"] for row in reversed(log) if "seconds" in row), None),
        age=_age(folder),
        config=config,
        problem="; ".join(problems),
    )


def _state(folder: Path, held: bool, readable: bool, saved: int | None, logged: int) -> State:
    if held:
        return "running"
    if not readable:
        return "broken"
    if os.path.exists(folder / "done"):
        return "done"
    if saved is None:
        return "failed" if os.path.exists(folder / "log.csv") else "new"
    return "interrupted" if logged <= saved else "failed"


def _held(folder: Path) -> bool:
    """Whether another process works on a run: then it holds the lock alone, and no second one can share it, be it for an instant."""
    try:
        file = (folder / ".lock").open("rb")
    except FileNotFoundError:
        return False
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return True
    return False


def read_log(path: Path) -> list[dict[str, float]]:
    """Return the rows of a log, without empty cells; a last line that is being written is left out.

    Raises:
        UserError: it is no table of numbers by step.
    """
    if not os.path.lexists(path):
        return []
    try:
        text = path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1].splitlines()
        rows = [{key: float(cell) for key, cell in row.items() if cell} for row in csv.DictReader(whole)]
        for row in rows:
            int(row["step"])
    except (ValueError, TypeError, KeyError, OverflowError, csv.Error) as error:
        raise UserError(f"{path} is no log of a run: {type(error).__name__} {error}") from None
    return rows


def _provenance(path: Path) -> Mapping[str, Any]:
    """Return what a predictor file says of its run; nothing where there is no file.

    Raises:
        UserError: it is no whole predictor file.
    """
    if not os.path.lexists(path):
        return {}
    said = read_header(path).get("provenance")
    if not isinstance(said, Mapping):
        raise UserError(f"{path} does not say where it comes from: its header has no section 'provenance'")
    return said


def _saved_steps(folder: Path) -> list[int]:
    names = [path.stem.removeprefix("step-") for path in checkpoints(folder / "checkpoints")]
    return [int(name) for name in names if name.isdecimal()]


def _age(folder: Path) -> float | None:
    names = ("config.yaml", "log.csv", "best.safetensors", "last.safetensors", "done")
    written = [os.path.getmtime(folder / name) for name in names if os.path.exists(folder / name)]
    return max(0.0, time.time() - max(written)) if written else None


def dotted(section: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Flatten sections: ``{"trainer": {"keep": 2}}`` becomes ``{"trainer.keep": 2}``."""
    flat: dict[str, Any] = {}
    for key, value in section.items():
        flat |= dotted(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return flat


def _differing(runs: Sequence[RunRow]) -> list[str]:
    read = [run.config for run in runs if run.config]
    keys = dict.fromkeys(key for config in read for key in config if key not in _SHOWN_ANYWAY)
    return [key for key in keys if len({repr(config.get(key, ...)) for config in read}) > 1]


def _group(runs: Sequence[RunRow]) -> Iterator[SeedGroup]:
    """Yield the groups of runs that have ended with a score and differ by their seed, and by what changes no result, only."""
    together: dict[str, dict[int, RunRow]] = {}
    for run in runs:
        seed = run.config.get("seed")
        if run.state != "done" or run.best is None or not math.isfinite(run.best) or not isinstance(seed, int):
            continue
        experiment = {key: value for key, value in run.config.items() if key not in NOT_THE_RESULT and not key.startswith("run.")}
        seeds = together.setdefault(repr(sorted(experiment.items())), {})
        if seed not in seeds or (run.age or 0.0) < (seeds[seed].age or 0.0):
            seeds[seed] = run
    for seeds in together.values():
        if len(seeds) > 1:
            scores = [run.best for run in seeds.values() if run.best is not None]
            names = tuple(run.name for run in seeds.values())
            yield SeedGroup(names, tuple(seeds), statistics.fmean(scores), statistics.stdev(scores))


def _order(value: Any) -> tuple[Any, ...]:
    """Return what to sort by: numbers, then texts with the numbers in them counted (``demo-2`` before ``demo-10``), then nothing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return (2,)
    if isinstance(value, int | float):
        return (0, value)
    return (1, *((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", str(value))))


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _finite(value: Any) -> Any:
    """Return plain data for JSON, which has no word for what is not finite."""
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
