"""Scores of predictors over a split, beside those of the baselines: one pass over the clips, in constant memory."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text
from torch import Tensor

import stpredict
from stpredict.baselines import BASELINES, Baseline, TrainingMean
from stpredict.data.clips import ClipSet
from stpredict.data.loader import batches, ordered
from stpredict.devices import choose_device
from stpredict.errors import UserError, nearest
from stpredict.files import write_text
from stpredict.forecasts import ForecastFile, ForecastWriter, clip_digests, truth_hash
from stpredict.frames import Batch
from stpredict.metrics import RunningScore, Score, better_direction, create_scores

PROTOCOLS = {"per-pixel": "forecasts are scored as they are, neither clipped nor rounded, against the truth in physical units"}
"""The conventions of scoring by name, each with what it means."""

# Scores look at a few clips at a time, so that what they work on stays in the processor's cache.
PIXELS_AT_ONCE = 1 << 17


class Forecaster(Protocol):
    """What can be scored: a trained predictor, a baseline, or anything with this face; ``spec`` is optional.

    Attributes:
        name: what tables and files call it.
    """

    name: str

    def forecast(self, observed: Any, horizon: int, *, members: int | None = None, known: Any = None) -> Any:
        """Return what follows ``observed`` ``(B, K, C, H, W)``: ``(B, horizon, C, H, W)``, both physical."""
        ...


@dataclass(frozen=True)
class Scores:
    """Scores of some predictors over the clips of one split.

    Attributes:
        protocol: the convention of scoring, one of :data:`PROTOCOLS`.
        card: the name of the card.
        split: the name of the split.
        hash: what identifies the clips that were scored (:func:`~stpredict.forecasts.truth_hash`).
        clips: how many were scored.
        context: observed frames of a clip.
        horizon: forecast frames of a clip.
        units: of the frames.
        scores: predictor -> score -> ``mean`` (over clips and leads) and ``per_lead`` (a list, mean over clips); NaN where
            nothing was valid or a forecast was NaN.
        baselines: which of the predictors are baselines.
        better: score -> ``lower`` or ``higher``, for the scores that say so.
        version: of stpredict.
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

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; numbers that are not finite become None."""
        data = {key: getattr(self, key) for key in ("card", "split", "hash", "clips", "context", "horizon", "units")}
        return {"protocol": self.protocol, "data": data, "scores": _finite(self.scores), "version": self.version}

    def write(self, path: str | Path) -> None:
        """Write the JSON of :meth:`to_dict`, whole or not at all."""
        write_text(path, json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n")

    def table(self) -> Table:
        """Return the means as a table for a terminal: the best of each column in bold, baselines below a line."""
        table = Table(title=Text(self._title()))
        table.add_column("predictor")
        for name in self._score_names():
            table.add_column(Text(self._heading(name)), justify="right")
        best = self._best()
        for predictor in self.scores:
            if predictor in self.baselines[:1]:
                table.add_section()
            cells = [Text(text, style="bold" if (predictor, name) in best else "") for name, text in self._row(predictor)]
            table.add_row(Text(predictor), *cells)
        return table

    def markdown(self) -> str:
        """Return the means as a Markdown table, the best of each column in bold."""
        names = self._score_names()
        lines = ["| predictor | " + " | ".join(_escape(self._heading(name)) for name in names) + " |", "|---|" + "---:|" * len(names)]
        best = self._best()
        for predictor in self.scores:
            cells = [f"**{text}**" if (predictor, name) in best else text for name, text in self._row(predictor)]
            lines.append(f"| {_escape(predictor)} | " + " | ".join(cells) + " |")
        return f"{_escape(self._title())}\n\n" + "\n".join(lines) + "\n"

    def _title(self) -> str:
        return (
            f"{self.card} {self.split}: {self.clips} clips, {self.context} + {self.horizon} frames, units {self.units}, "
            f"protocol {self.protocol}"
        )

    def _score_names(self) -> list[str]:
        return list(dict.fromkeys(name for scores in self.scores.values() for name in scores))

    def _heading(self, name: str) -> str:
        return name + {"lower": " \N{DOWNWARDS ARROW}", "higher": " \N{UPWARDS ARROW}", None: ""}[self.better.get(name)]

    def _row(self, predictor: str) -> list[tuple[str, str]]:
        return [(name, f"{self.scores[predictor][name]['mean']:.4g}") for name in self._score_names()]

    def _best(self) -> set[tuple[str, str]]:
        """Return the (predictor, score) pairs whose mean is the best of all predictors."""
        best = set()
        for name, direction in self.better.items():
            means = {predictor: scores[name]["mean"] for predictor, scores in self.scores.items()}
            ranked = [mean for mean in means.values() if not math.isnan(mean)]
            if ranked:
                goal = min(ranked) if direction == "lower" else max(ranked)
                best |= {(predictor, name) for predictor, mean in means.items() if mean == goal}
        return best


def evaluate(
    predictors: Any,
    data: ClipSet,
    protocol: str | None = None,
    *,
    scores: Sequence[str] | None = None,
    baselines: bool = True,
    training_clips: ClipSet | None = None,
    batch_size: int = 16,
    limit: int | None = None,
    save_forecasts: str | Path | None = None,
    device: str = "auto",
    workers: int = 0,
    progress: bool = False,
) -> Scores:
    """Score predictors over the clips of a split.

    Where the truth is missing nothing counts. A forecast that is NaN where the truth is not makes its scores NaN; a baseline
    forecasts the spec's fill for a pixel that it never saw.

    Args:
        predictors: one or several: a predictor, a forecast file, or a path or name that :func:`stpredict.load_predictor` knows.
        data: the split.
        protocol: the convention of scoring, one of :data:`PROTOCOLS` (default ``per-pixel``).
        scores: names of scores, ours or ``package.module:Class`` (default: all of ours).
        baselines: whether to add the baselines; the training mean only where there are training clips.
        training_clips: the training split, for its mean frame (default: what ``data.training_split()`` gives, if there is such).
        batch_size: clips at a time; it changes no score.
        limit: score the first ``limit`` clips only.
        save_forecasts: a ``.h5`` or ``.npz`` file to write the forecasts of the one predictor to.
        device: ``auto``, ``cpu`` or ``cuda``.
        workers: processes that read clips ahead.
        progress: whether to show a progress bar where stderr is a terminal.

    Raises:
        UserError: predictor and data do not fit, a forecast file is of other clips, a name is unknown, or a number is below 1.
    """
    protocol = protocol or "per-pixel"
    if protocol not in PROTOCOLS:
        raise UserError(f"There is no protocol '{protocol}'{nearest(protocol, PROTOCOLS)}")
    if batch_size < 1 or (limit is not None and limit < 1):
        raise UserError(f"batch_size and limit are at least 1, not {batch_size} and {limit}")
    count = len(data) if limit is None else min(len(data), limit)
    if count == 0:
        raise UserError(f"The split '{data.split}' of '{data.card}' holds no clip of {data.context} + {data.horizon} frames")

    where = choose_device(device)
    named = _several(predictors)
    asks = baselines or any(one == "training-mean" or isinstance(one, TrainingMean) for one in named)
    training = _training_split(data) if training_clips is None and asks else training_clips
    given = [_open(predictor, where, training) for predictor in named]
    added = _baselines(where, training, besides=given) if baselines else []
    contestants = _by_name([*given, *added])
    if not contestants:
        raise UserError("There is nothing to score: give a predictor, or leave the baselines in")
    for name, predictor in contestants.items():
        _check_fit(name, predictor, data)
        if isinstance(predictor, ForecastFile):
            predictor.check(data, count)
    if save_forecasts is not None and len(given) != 1:
        raise UserError(f"A forecast file holds the forecasts of one predictor: evaluate one to write {save_forecasts}, not {len(given)}")

    chosen = create_scores(scores)
    running = {name: {score.name: RunningScore(data.horizon) for score in chosen} for name in contestants}
    digests: list[bytes] = []
    saved = next(iter(contestants))
    writing = nullcontext() if save_forecasts is None else ForecastWriter(save_forecasts, saved, data, count)
    order = ordered(count, batch_size)
    console = Console(stderr=True)
    silent = not (progress and console.is_terminal)
    loader = track(batches(data, order, workers), "Scoring", len(order), console=console, disable=silent)
    with torch.inference_mode(), writing as writer:
        for batch in loader:
            digests += (new := clip_digests(batch))
            physical = batch.physical(data.packing, where)
            for name, predictor in contestants.items():
                forecast = _forecast(predictor, name, batch, new, physical, data)
                _score(chosen, running[name], forecast, physical[:, data.context :], data)
                if writer is not None and name == saved:
                    writer.write(forecast, batch, new)

    means = {name: {score: _means(sums) for score, sums in by_score.items()} for name, by_score in running.items()}
    return Scores(
        protocol=protocol,
        card=data.card,
        split=data.split,
        hash=truth_hash(data.context, data.horizon, digests),
        clips=count,
        context=data.context,
        horizon=data.horizon,
        units=data.spec.units,
        scores=means,
        baselines=tuple(contestants)[len(given) :],
        better={score.name: better for score in chosen if (better := better_direction(score)) is not None},
    )


def _forecast(
    predictor: Forecaster | ForecastFile, name: str, batch: Batch, digests: list[bytes], physical: Tensor, data: ClipSet
) -> Tensor:
    """Return the forecast ``(B, horizon, C, H, W)`` of a batch whose frames are ``physical``, on the same device."""
    observed, truth = physical[:, : data.context], physical[:, data.context :]
    if isinstance(predictor, ForecastFile):
        predictor.check_truth(batch.indices, digests)
        return predictor.forecast_clips(batch.indices, data.horizon).to(physical.device)
    known = None if batch.known is None else batch.known.to(physical.device)
    forecast = predictor.forecast(observed, data.horizon, known=known)
    if not isinstance(forecast, Tensor) or forecast.shape != truth.shape:
        shape = tuple(getattr(forecast, "shape", ()))
        raise UserError(f"The predictor '{name}' answered with {type(forecast).__name__} {shape} instead of a tensor {tuple(truth.shape)}")
    if isinstance(predictor, Baseline):
        # It has nothing to say of a pixel that it never saw; a trained predictor says what the fill there leads it to.
        forecast = torch.where(torch.isnan(forecast), data.spec.fill, forecast)
    return forecast.to(physical.device, torch.float32)


def _score(scores: Iterable[Score], running: Mapping[str, RunningScore], forecast: Tensor, truth: Tensor, data: ClipSet) -> None:
    at_once = len(truth) if truth.is_cuda else max(1, PIXELS_AT_ONCE // truth[0].numel())
    for some, true in zip(torch.split(forecast, at_once), torch.split(truth, at_once), strict=True):
        for score in scores:
            total, weight = score(some, true, data.spec)
            if total.shape != true.shape[:2] or weight.shape != true.shape[:2]:
                raise UserError(f"The score '{score.name}' must return two tensors {tuple(true.shape[:2])}, a total and a weight")
            running[score.name].add(total, weight)


def _several(predictors: Any) -> list[Any]:
    return list(predictors) if isinstance(predictors, Iterable) and not isinstance(predictors, str | Path) else [predictors]


def _open(predictor: Any, device: torch.device, training: ClipSet | None) -> Any:
    if isinstance(predictor, str | Path):
        from stpredict.predictor import load_predictor

        predictor = load_predictor(predictor, device=device)
    if isinstance(predictor, TrainingMean) and predictor.mean_frame is None and training is not None:
        return TrainingMean.of(training)
    return predictor


def _baselines(device: torch.device, training: ClipSet | None, besides: Sequence[Any]) -> list[Any]:
    """Return the baselines that can be had and are not among the predictors already."""
    kinds = [kind for kind in BASELINES.values() if kind is not TrainingMean or training is not None]
    return [_open(kind(), device, training) for kind in kinds if not any(isinstance(predictor, kind) for predictor in besides)]


def _training_split(data: ClipSet) -> ClipSet | None:
    find = getattr(data, "training_split", None)
    return find() if callable(find) else None


def _by_name(predictors: Sequence[Any]) -> dict[str, Any]:
    """Give each predictor a name of its own: the second of two of one name is called ``name (2)``."""
    named: dict[str, Any] = {}
    for predictor in predictors:
        name, number = predictor.name, 1
        while name in named:
            number += 1
            name = f"{predictor.name} ({number})"
        named[name] = predictor
    return named


def _check_fit(name: str, predictor: Any, data: ClipSet) -> None:
    spec = getattr(predictor, "spec", None)
    if spec is None:
        return
    facts = [("channels", spec.channels, data.spec.channels), ("units", spec.units, data.spec.units)]
    if spec.time_step is not None and data.spec.time_step is not None:
        facts.append(("a time step in seconds of", spec.time_step, data.spec.time_step))
    differing = [f"{fact} {its} instead of {theirs}" for fact, its, theirs in facts if its != theirs]
    if differing:
        raise UserError(f"The predictor '{name}' does not fit the data '{data.card}': it has {', '.join(differing)}")


def _means(sums: RunningScore) -> dict[str, Any]:
    return {"mean": sums.mean(), "per_lead": sums.per_lead().tolist()}


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return value if math.isfinite(value) else None


def _escape(text: str) -> str:
    return html.escape(text, quote=False).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
