"""What a page is made from: runs, predictors, baselines, saved forecasts and scores, each told from the others by what it is."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from stpredict.errors import UserError
from stpredict.page.runs import RunFolder, is_run, open_run
from stpredict.predictor import Predictor, free_name, is_known_name, load_predictor
from stpredict.results import Scores
from stpredict.study import Summary, is_study, read_summary
from stpredict.study.scoring import BASELINES, SCORES


@dataclass(frozen=True)
class Wanted:
    """Which clips a predictor is to be scored on; what is None is left to the card.

    Attributes:
        card: name or path of the card.
        root: folder of its files.
        context: observed frames.
        horizon: frames to forecast.
        changes: what else is not as the card says (crop, size, settings), as :func:`stpredict.load_data` takes it.
    """

    card: str
    root: str | None = None
    context: int | None = None
    horizon: int | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Contestant:
    """What can be scored.

    Attributes:
        source: what it was loaded from, as it was named.
        predictor: a predictor, a baseline or saved forecasts; its ``name`` is its own among all of the page.
        wanted: the data that it is of; None: that of the others.
        given: whether it was named, and not added as a baseline.
    """

    source: str
    predictor: Any
    wanted: Wanted | None = None
    given: bool = True

    @property
    def name(self) -> str:
        """Return what tables and films call it."""
        return str(self.predictor.name)


@dataclass
class Sources:
    """Everything that a page is made from.

    Attributes:
        runs: the runs, whole or not.
        contestants: what can be scored.
        scores: file -> scores that were found before.
        studies: what studies found; their runs are among the runs.
        warnings: what could not be used.
    """

    runs: list[RunFolder] = field(default_factory=list)
    contestants: list[Contestant] = field(default_factory=list)
    scores: dict[str, Scores] = field(default_factory=dict)
    studies: list[Summary] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class DataOptions:
    """What is said of the data for all sources; what is None is left to each of them.

    Attributes:
        card: name or path of the card.
        root: folder of its files.
        context: observed frames.
        horizon: frames to forecast.
    """

    card: str | None = None
    root: str | None = None
    context: int | None = None
    horizon: int | None = None


def open_sources(names: Sequence[str | Path], options: DataOptions, *, allow: Collection[str], device: torch.device) -> Sources:
    """Open the sources of a page.

    A run that is not whole is told of in the warnings; its curves can still be shown.

    Raises:
        UserError: a source is nothing of that kind, or a file is damaged.
    """
    sources, taken = Sources(), set[str]()
    for name in names:
        path = Path(name)
        if not is_known_name(name) and path.is_dir() and is_run(path):
            _add_run(sources, path, str(name), options, taken, allow, device)
        elif not is_known_name(name) and path.is_dir() and is_study(path):
            _add_study(sources, path, taken)
        elif path.suffix == ".json" and path.is_file():
            sources.scores[str(name)] = Scores.read(path)
        else:
            _refuse_folder_of_runs(path)
            predictor = load_predictor(name, allow=allow, device=device)
            predictor.name = unique(predictor.name, taken)
            data = predictor.provenance.get("data") if isinstance(predictor, Predictor) else None
            sources.contestants.append(Contestant(str(name), predictor, _wanted(predictor, data or {}, options)))
    return sources


def _add_study(sources: Sources, path: Path, taken: set[str]) -> None:
    """Add a study with its runs, as they were scored; they are not scored again."""
    summary = read_summary(path)
    sources.studies.append(summary)
    if summary.missing:
        done = len(summary.runs) - len(summary.missing)
        sources.warnings.append(f"The study '{summary.name}' is not whole: {done} of {len(summary.runs)} runs are scored")
    sources.warnings += summary.warnings
    for name, about in summary.runs.items():
        if (path / name).is_dir():
            sources.runs.append(open_run(path / name, unique(name, taken)))
        if about["scored"]:
            sources.scores[str(path / name)] = Scores.read(path / SCORES / f"{name}.json")
    if summary.baselines:
        sources.scores[str(path / BASELINES)] = Scores.read(path / SCORES / f"{BASELINES}.json")


def _refuse_folder_of_runs(path: Path) -> None:
    inside = sorted(folder for folder in path.iterdir() if folder.is_dir() and is_run(folder)) if path.is_dir() else []
    if inside:
        raise UserError(f"The folder {path} is no run, but holds runs: name these, such as {inside[0]}")


def unique(name: str, taken: set[str]) -> str:
    """Return a name that is not taken yet, and take it: the second of two of one name is called ``name (2)``."""
    free = free_name(name, taken)
    taken.add(free)
    return free


def _add_run(
    sources: Sources, path: Path, named: str, options: DataOptions, taken: set[str], allow: Collection[str], device: torch.device
) -> None:
    run = open_run(path, unique(path.resolve().name, taken))
    sources.runs.append(run)
    if run.problem:
        sources.warnings.append(run.problem)
    if not run.has_predictor:
        return
    try:
        predictor = load_predictor(path, allow=allow, device=device)
    except UserError as error:
        if str(error) not in run.problem:
            sources.warnings.append(f"The predictor of the run '{run.name}' cannot be scored: {error}")
        return
    predictor.name = run.name
    sources.contestants.append(Contestant(named, predictor, _wanted(predictor, run.data or predictor.provenance.get("data", {}), options)))


def _wanted(predictor: Any, data: Mapping[str, Any], options: DataOptions) -> Wanted | None:
    """Return the data of a trained predictor: what is asked for, else what it was trained on as ``data`` says."""
    card = options.card or data.get("card")
    if not isinstance(predictor, Predictor) or card is None:
        return None
    same = str(card) == str(data.get("card"))
    root = options.root or (data.get("root") if same else None)
    return Wanted(
        str(card),
        None if root is None else str(root),
        options.context or predictor.context,
        options.horizon or predictor.horizon,
        predictor.data_changes(str(card)),
    )
