"""The scores of a study's runs, each kept in files of its own that ``stpredict evaluate`` would write alike."""

from __future__ import annotations

import csv
import shlex
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stpredict.baselines import BASELINES as KNOWN
from stpredict.data import load_data
from stpredict.data.card import read_card
from stpredict.data.clips import ClipSet
from stpredict.devices import choose_device
from stpredict.errors import UserError, nearest
from stpredict.evaluation import evaluate, prepare
from stpredict.evaluation.contestants import predictor_hash
from stpredict.predictor import Predictor, load_predictor
from stpredict.protocols import find_protocol
from stpredict.results import Scores
from stpredict.study.plan import Study
from stpredict.training.settings import Settings

SCORES = "scores"
"""The folder, in that of a study, of the scores of each run, and of each of its clips."""

COSTS = "costs"
"""The folder of what each run took."""

BASELINES = "baselines"
"""The name of the files with the scores of the baselines; no run is called so, since a run's name ends with its seed."""


def is_scored(study: Study, folder: Path, name: str) -> bool:
    """Whether a run has ended, and there are the scores that the study asks for, of what the run learnt."""
    if not (folder / name / "done").is_file():
        return False
    scores = read_scores(study, folder, name)
    if scores is None or name not in scores.scores:
        return False
    return scores.predictors[name].get("hash") == predictor_hash(load_of(folder, name))


def read_scores(study: Study, folder: Path, name: str) -> Scores | None:
    """Return the scores of a run, or of the baselines, if there are such as the study asks for now."""
    path = folder / SCORES / f"{name}.json"
    if not path.is_file() or not path.with_suffix(".csv").is_file():
        return None
    scores = Scores.read(path)
    asked, wanted = study.score, set(study.score.scores)
    card = read_card(_place_of(study, _settings_of(study, name))[0]).name
    same = (scores.card, scores.split, scores.protocol) == (card, asked.split, find_protocol(asked.protocol).name)
    enough = asked.clips is None or scores.clips == asked.clips
    found = all(wanted <= set(by_score) for by_score in scores.scores.values())
    if name == BASELINES:
        found = found and set(asked.baselines) <= set(scores.scores)
    return scores if same and enough and found else None


def _place_of(study: Study, settings: Settings) -> tuple[str, str | None]:
    """Return the card that a run is scored on, and where its files are."""
    card = study.score.card or settings.data.card
    return card, study.score.root or (settings.data.root if card == settings.data.card else None)


def _settings_of(study: Study, name: str) -> Settings:
    """Return the settings of a run; of the first one for the baselines."""
    return study.settings_of(*(study.runs[name] if name in study.runs else next(iter(study.runs.values()))))


def load_of(folder: Path, name: str, device: str = "cpu") -> Predictor:
    """Return the predictor of a run: its best on validation clips, or its last where there were none.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    predictor: Predictor = load_predictor(folder / name, device=device)
    return predictor


def check_scoring(study: Study) -> None:
    """Find out whether runs can be scored as asked, before any is trained.

    Raises:
        UserError: there is no such card, split, protocol, score or baseline, or there are fewer clips than asked for.
    """
    settings, asked = study.settings_of(next(iter(study.variants)), study.seeds[0]), study.score
    card, root = _place_of(study, settings)
    window = settings.data.window() if card == settings.data.card else {key: getattr(settings.data, key) for key in ("context", "horizon")}
    data = load_data(card, root, asked.split, **window)
    if asked.clips is not None and len(data) < asked.clips:
        raise UserError(f"score.clips is {asked.clips}, and the split '{data.split}' of '{data.card}' has {len(data)} clips")
    unknown = [name for name in asked.baselines if name not in KNOWN]
    if unknown:
        raise UserError(f"score.baselines: there is no baseline '{unknown[0]}'{nearest(unknown[0], KNOWN)}")
    prepare("persistence", data, asked.protocol, scores=asked.scores or None, limit=asked.clips, baselines=False, device="cpu")


def _clips_of(study: Study, predictor: Predictor, settings: Settings) -> ClipSet:
    card, root = _place_of(study, settings)
    window = {"context": predictor.context, "horizon": predictor.horizon, **predictor.data_changes(card)}
    return load_data(card, root, study.score.split, **window)


def score_run(study: Study, folder: Path, name: str, settings: Settings) -> Scores:
    """Score a run and write its scores; no baselines are among them.

    Raises:
        UserError: it cannot be scored.
    """
    predictor = load_of(folder, name, str(choose_device(settings.trainer.device)))
    data = _clips_of(study, predictor, settings)
    return _evaluate(study, folder, name, predictor, data, settings.trainer.device)


def score_baselines(study: Study, folder: Path) -> None:
    """Score the baselines on the clips of the first run that has a predictor, unless that was done before."""
    there = [name for name in study.runs if read_scores(study, folder, name) is not None]
    if not there or not study.score.baselines or read_scores(study, folder, BASELINES) is not None:
        return
    settings = study.settings_of(*study.runs[there[0]])
    data = _clips_of(study, load_of(folder, there[0]), settings)
    _evaluate(study, folder, BASELINES, list(study.score.baselines), data, settings.trainer.device)


def _evaluate(study: Study, folder: Path, name: str, predictors: object, data: ClipSet, device: str) -> Scores:
    asked = study.score
    scores = evaluate(
        predictors, data, asked.protocol, scores=asked.scores or None, limit=asked.clips, baselines=False, device=device, progress=True
    )
    scores.write_clips(folder / SCORES / f"{name}.csv")
    scores.write(folder / SCORES / f"{name}.json")  # the last, since it says that both are there
    return scores


def read_clips(folder: Path, name: str) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Return the scores of each clip as they were written: predictor -> score -> ``(N,)``, NaN where there is none.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / SCORES / f"{name}.csv"
    columns: dict[str, dict[str, list[float]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        names = [column for column in rows.fieldnames or () if column not in ("predictor", "clip", "film", "start")]
        try:
            for row in rows:
                of = columns.setdefault(row["predictor"], {score: [] for score in names})
                for score in names:
                    of[score].append(float(row[score] or "nan"))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is no whole table of clips ({error}): remove it and start the study again") from None
    return {predictor: {score: np.array(values) for score, values in of.items()} for predictor, of in columns.items()}


def commands_of(study: Study, folder: Path, name: str) -> dict[str, str]:
    """Return the commands behind the numbers of a run, ``train`` and ``evaluate``, or behind those of the baselines."""
    asked, baselines = study.score, name == BASELINES
    run = next(iter(study.runs)) if baselines else name
    card, root = _place_of(study, _settings_of(study, name))
    # Beside a run the baselines are scored on clips as long as the run's.
    words = ["evaluate", str(folder / run), *(asked.baselines if baselines else ()), "--data", card]
    words += [] if root is None else ["--root", root]
    words += ["--split", asked.split]
    words += [] if asked.clips is None else ["--limit", str(asked.clips)]
    words += [] if asked.protocol is None else ["--protocol", asked.protocol]
    words += ["--score", *asked.scores] if asked.scores else []
    commands = {"evaluate": shlex.join(["stpredict", *words, "--no-baselines", "--out", f"{name}.json", "--per-clip", f"{name}.csv"])}
    if baselines:
        return commands
    return {"train": shlex.join(["stpredict", "train", str(folder / name / "config.yaml"), f"--run.folder=again/{name}"]), **commands}
