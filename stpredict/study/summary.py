"""What a study found: each variant over its seeds, differences with their intervals, what it cost, and the command behind each number."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import stpredict
from stpredict.costs import measure_costs
from stpredict.errors import UserError
from stpredict.files import write_text
from stpredict.predictor import load_predictor
from stpredict.results import Scores
from stpredict.results.scores import differing
from stpredict.study.plan import PLAN, Study
from stpredict.study.scoring import BASELINES, COSTS, commands_of, read_clips, read_scores
from stpredict.study.statistics import difference_of, over_seeds
from stpredict.training.overview import survey_runs

SUMMARY = "study.json"
"""The file in a study's folder that holds what it found."""

_LARGEST = 1 << 26
"""The most bytes that a summary may have."""

_PARTS = ("question", "data", "variants", "baselines", "comparisons", "runs", "measured")


@dataclass(frozen=True)
class Summary:
    """What a study found, as plain data for JSON: a number that is not known, or not finite, is None.

    All but :attr:`measured` is the same, bit for bit, whenever the same is computed on the same machine by a CPU.

    Attributes:
        name: of the study.
        question: in words.
        seeds: that were asked for.
        data: ``card``, ``split``, ``clips``, ``hash``, ``context``, ``horizon``, ``protocol`` and ``units`` of what was scored; empty
            while nothing is.
        better: score -> ``lower`` or ``higher``.
        variants: name -> ``settings`` (dotted keys in which variants differ), ``weights``, ``multiply_adds`` and ``state_bytes`` (of one
            clip), ``steps``, ``batch_size`` and ``scores``: score -> ``mean``, ``low`` and ``high`` (its 95 % interval over seeds),
            ``least``, ``most``, and ``seeds``: seed -> number.
        baselines: name -> score -> number.
        comparisons: each ``variant``, ``against`` and ``scores``: score -> ``mean`` (the one minus the other), ``low`` and ``high`` (over
            seeds), ``clips_low`` and ``clips_high`` (over clips), ``seeds`` (seed -> difference) and ``verdict``.
        runs: name -> ``variant``, ``seed``, ``state``, ``best_step``, ``validation_mse``, ``scored``, and the commands ``train`` and
            ``evaluate`` that give its numbers again.
        measured: name of a run -> ``processor`` (seconds of all cores for all steps) and ``clock`` (seconds while it trained).
        warnings: what should be known before the numbers are believed.
        version: of stpredict.
    """

    name: str
    question: str
    seeds: tuple[int, ...]
    data: Mapping[str, Any]
    better: Mapping[str, str]
    variants: Mapping[str, Mapping[str, Any]]
    baselines: Mapping[str, Mapping[str, Any]]
    comparisons: tuple[Mapping[str, Any], ...]
    runs: Mapping[str, Mapping[str, Any]]
    measured: Mapping[str, Mapping[str, Any]]
    warnings: tuple[str, ...] = ()
    version: str = stpredict.__version__

    @property
    def score_names(self) -> tuple[str, ...]:
        """Return the scores that there are."""
        return tuple(dict.fromkeys(score for about in self.variants.values() for score in about["scores"]))

    @property
    def missing(self) -> tuple[str, ...]:
        """Return the runs that are not scored yet."""
        return tuple(name for name, about in self.runs.items() if not about["scored"])

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        plain: dict[str, Any] = _finite(asdict(self))
        return plain

    def json(self) -> str:
        """Return the JSON of :meth:`to_dict`."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"

    def csv(self) -> str:
        """Return a row for each number: of each variant and seed, of each mean, baseline and difference."""
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["study", "of", "against", "seed", "score", "value", "low", "high", "clips_low", "clips_high"])

        def write(of: str, against: str, score: str, found: Mapping[str, Any]) -> None:
            for seed, value in found["seeds"].items():
                rows.writerow([self.name, of, against, seed, score, *map(_cell, (value, None, None, None, None))])
            ends = (found["mean"], found["low"], found["high"], found.get("clips_low"), found.get("clips_high"))
            rows.writerow([self.name, of, against, "", score, *map(_cell, ends)])

        for name, about in self.variants.items():
            for score, found in about["scores"].items():
                write(name, "", score, found)
        for name, by_score in self.baselines.items():
            for score, value in by_score.items():
                rows.writerow([self.name, name, "", "", score, *map(_cell, (value, None, None, None, None))])
        for pair in self.comparisons:
            for score, found in pair["scores"].items():
                write(pair["variant"], pair["against"], score, found)
        return text.getvalue()

    def write(self, folder: Path) -> None:
        """Write ``study.json`` and the tables ``study.csv`` and ``study.md`` to the study's folder."""
        from stpredict.study.tables import markdown

        write_text(folder / "study.csv", self.csv())
        write_text(folder / "study.md", markdown(self))
        write_text(folder / SUMMARY, self.json())


def is_study(path: Path) -> bool:
    """Whether a path is the folder of a study."""
    return (path / PLAN).is_file()


def read_summary(folder: str | Path) -> Summary:
    """Read what a study found so far.

    Raises:
        UserError: the folder is of no study, or of one of which no run is scored yet, or its file is damaged.
    """
    path = Path(folder) / SUMMARY
    if not path.is_file():
        raise UserError(f"{folder} holds no study of which a run is scored: begin or go on with one by 'stpredict study'")
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError("it is too large")
        plain = json.loads(path.read_text(encoding="utf-8"))
        for name in _PARTS:
            if not isinstance(plain[name], str if name == "question" else list if name == "comparisons" else dict):
                raise ValueError(f"'{name}' is something else")
        if any(Path(run).name != run for run in plain["runs"]):
            raise ValueError("a run lies outside its folder")
        tuples = {name: tuple(plain[name]) for name in ("seeds", "comparisons", "warnings")}
        return Summary(**{**plain, **tuples})
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is no whole summary of a study ({error}): make it again by 'stpredict study {folder}'") from None


def sum_up(study: Study, folder: Path) -> Summary:
    """Return what is known so far.

    Raises:
        UserError: runs were scored on different clips, or a file is damaged.
    """
    found = {name: scores for name in study.runs if (scores := read_scores(study, folder, name)) is not None}
    of_baselines = read_scores(study, folder, BASELINES)
    everything = {**found, **({BASELINES: of_baselines} if of_baselines is not None else {})}
    _check_same_clips(everything)
    clips = {name: read_clips(folder, name).get(name, {}) for name in found}
    first = next(iter(found.values()), None)
    facts = ("card", "split", "clips", "hash", "context", "horizon", "protocol", "units")
    said = dict.fromkeys(words for scores in everything.values() for words in scores.warnings)
    odd = study.differing()
    return Summary(
        name=study.name,
        question=study.question,
        seeds=study.seeds,
        data={} if first is None else {fact: getattr(first, fact) for fact in facts},
        better={} if first is None else dict(first.better),
        variants={name: {"settings": odd[name], **_about(study, folder, name, found)} for name in study.variants},
        baselines={} if of_baselines is None else _means_of(of_baselines),
        comparisons=tuple(_compare(study, pair, found, clips) for pair in study.pairs),
        runs={name: _run_facts(study, folder, name, name in found) for name in study.runs},
        measured={name: _measured(folder, name) for name in study.runs if (folder / name).is_dir()},
        warnings=(*study.unequal(), *said),
    )


def _check_same_clips(everything: Mapping[str, Scores]) -> None:
    names = list(everything)
    for name in names[1:]:
        odd = differing(everything[names[0]], everything[name])
        if odd:
            raise UserError(
                f"The runs '{names[0]}' and '{name}' were not scored alike ({'; '.join(odd)}): remove the folder 'scores' of the study "
                "and start it again"
            )


def _means_of(scores: Scores) -> dict[str, dict[str, float]]:
    return {name: {score: numbers["mean"] for score, numbers in by_score.items()} for name, by_score in scores.scores.items()}


def _of_seeds(study: Study, variant: str, score: str, found: Mapping[str, Scores]) -> dict[int, float]:
    """Return the number of each seed of a variant that is scored."""
    runs = {seed: f"{variant}-{seed}" for seed in study.seeds}
    return {seed: found[run].scores[run][score]["mean"] for seed, run in runs.items() if run in found}


def _about(study: Study, folder: Path, variant: str, found: Mapping[str, Scores]) -> dict[str, Any]:
    settings = study.settings_of(variant, study.seeds[0])
    about: dict[str, Any] = dict.fromkeys(("weights", "multiply_adds", "state_bytes"))
    about |= {"steps": settings.trainer.max_steps or None, "batch_size": settings.data.batch_size, "scores": {}}
    runs = [f"{variant}-{seed}" for seed in study.seeds if f"{variant}-{seed}" in found]
    if not runs:
        return about
    run = folder / runs[0]
    about |= _costs_of(run, settings.network["name"], (run / "done").stat().st_mtime_ns)
    for score in found[runs[0]].scores[runs[0]]:
        values = _of_seeds(study, variant, score, found)
        about["scores"][score] = {**asdict(over_seeds(list(values.values()))), "seeds": {str(seed): one for seed, one in values.items()}}
    return about


@cache
def _costs_of(run: Path, allowed: str, ended: int) -> dict[str, int | None]:
    """Return what the predictor of a run costs, counted once for each end of the run."""
    predictor = load_predictor(run, allow=[allowed])
    weights = sum(weight.numel() for weight in predictor.network.parameters())
    try:
        costs = measure_costs(predictor.network, predictor.spec.shape, predictor.context, predictor.horizon)
    except UserError:  # a network of the user's own whose work depends on the frames
        return {"weights": weights}
    return {"weights": weights, "multiply_adds": costs.multiply_adds, "state_bytes": costs.state_bytes}


def _compare(
    study: Study, pair: tuple[str, str], found: Mapping[str, Scores], clips: Mapping[str, Mapping[str, NDArray[np.float64]]]
) -> dict[str, Any]:
    variant, against = pair
    names = dict.fromkeys(score for run in found for score in found[run].scores[run])
    scores: dict[str, Any] = {}
    for score in names:
        own, other = (_of_seeds(study, name, score, found) for name in pair)
        own_clips, other_clips = (
            {seed: by_score[score] for seed in seeds if score in (by_score := clips[f"{name}-{seed}"])}
            for name, seeds in ((variant, own), (against, other))
        )
        difference = difference_of(own, other, own_clips, other_clips)
        if difference is not None:
            scores[score] = {
                **asdict(difference.over_seeds),
                "clips_low": difference.clips_low,
                "clips_high": difference.clips_high,
                "seeds": {str(seed): value for seed, value in zip(difference.seeds, difference.per_seed, strict=True)},
                "verdict": difference.verdict,
            }
    return {"variant": variant, "against": against, "scores": scores}


def _run_facts(study: Study, folder: Path, name: str, scored: bool) -> dict[str, Any]:
    variant, seed = study.runs[name]
    facts: dict[str, Any] = {"variant": variant, "seed": seed, "state": "not begun", "best_step": None, "validation_mse": None}
    if (folder / name).is_dir():
        row = survey_runs(folder / name).runs[0]
        facts |= {"state": row.state, "best_step": row.best_step, "validation_mse": row.best}
    return {**facts, "scored": scored, **commands_of(study, folder, name)}


def _measured(folder: Path, name: str) -> dict[str, float | None]:
    """Return what a run took; what was spent on steps that were lost, or on those of a part that was killed, is not known.

    The seconds of the parts that ended are taken for as many steps as the run has, so that they are those of the whole run.
    """
    row = survey_runs(folder / name).runs[0]
    path = folder / COSTS / f"{name}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    parts = [json.loads(line) for line in lines if line.endswith("}")]
    steps, seconds = sum(part["steps"] for part in parts), sum(part["processor"] for part in parts)
    whole = seconds / steps * row.step if steps and row.step else None
    return {"processor": whole, "clock": row.seconds}


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(value: object) -> str:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else repr(value)
