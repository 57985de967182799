"""Scores of predictors over a split, beside those of the baselines: one pass over the clips, in constant memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from stpredict.baselines import BASELINES, Baseline, TrainingMean
from stpredict.data.clips import ClipSet
from stpredict.data.loader import batches, ordered
from stpredict.devices import choose_device
from stpredict.errors import UserError, nearest
from stpredict.forecasts import ForecastFile, ForecastWriter, clip_digests, truth_hash
from stpredict.frames import Batch, FrameSpec
from stpredict.metrics import RunningScore, Score, better_direction, create_scores, default_scores
from stpredict.metrics.running import names_of_parts
from stpredict.metrics.skill import REPLICATES, skill_over
from stpredict.rain import in_units, spec_in_units
from stpredict.results import Scores

__all__ = ["PROTOCOLS", "Forecaster", "Scores", "evaluate"]

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
    units: str | None = None,
    thresholds: Sequence[float] | None = None,
    members: int | None = None,
    skill: str | None = None,
    resample: str = "clips",
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
        scores: names of scores, ours or ``package.module:Class`` (default: those that every kind of frame has, and ``csi`` where the
            frame spec has thresholds).
        baselines: whether to add the baselines; the training mean only where there are training clips.
        training_clips: the training split, for its mean frame (default: what ``data.training_split()`` gives, if there is such).
        batch_size: clips at a time; it changes no score.
        limit: score the first ``limit`` clips only.
        units: score in these units, ``mm/h``, ``mm`` or ``dBZ``; the thresholds of the card are converted too.
        thresholds: those of events, in the units in which is scored, in place of the card's.
        members: M: every predictor forecasts an ensemble. Scores that do not take ensembles see the mean of the members.
        skill: the name of a predictor, such as ``persistence``, over which the skill of all others is to be said, with intervals. The
            sums of each clip and lead are then kept in memory.
        resample: ``clips`` or ``films``: what is drawn again at random for the intervals. Clips that overlap, or are of one event, are
            not independent, so that intervals over clips are then too narrow; ``films`` draws whole films.
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
    if thresholds is not None and not np.isfinite(thresholds).all():
        raise UserError(f"Thresholds are finite numbers, not {list(thresholds)}")
    if resample not in ("clips", "films"):
        raise UserError(f"What is drawn again is 'clips' or 'films', not '{resample}'")
    count = len(data) if limit is None else min(len(data), limit)
    if count == 0:
        raise UserError(f"The split '{data.split}' of '{data.card}' holds no clip of {data.context} + {data.horizon} frames")

    where = choose_device(device)
    named = _several(predictors)
    asks = baselines or any(one == "training-mean" or isinstance(one, TrainingMean) for one in named)
    training = _training_split(data) if training_clips is None and asks else training_clips
    given = [_open(predictor, where, training) for predictor in named]
    added = _baselines(where, training, given) if baselines else []
    contestants = _by_name([*given, *added])
    if not contestants:
        raise UserError("There is nothing to score: give a predictor, or leave the baselines in")
    for name, predictor in contestants.items():
        _check_fit(name, predictor, data)
        if isinstance(predictor, ForecastFile):
            predictor.check(data, count)
    if save_forecasts is not None and len(given) != 1:
        raise UserError(f"A forecast file holds the forecasts of one predictor: evaluate one to write {save_forecasts}, not {len(given)}")
    if save_forecasts is not None and members is not None:
        raise UserError("A forecast file holds single forecasts: leave out members, or the file")
    if skill is not None and skill not in contestants:
        raise UserError(f"There is no predictor '{skill}' over which to say the skill{nearest(skill, contestants)}")

    films = _films(data, count) if skill is not None and resample == "films" else None
    spec = data.spec if units is None else spec_in_units(data.spec, units)
    spec = spec if thresholds is None else replace(spec, thresholds=tuple(thresholds))
    chosen = create_scores(default_scores(spec) if scores is None else scores)
    for score in chosen:
        names_of_parts(score, spec, 1)  # refuses a score that lacks its thresholds before anything is forecast
    running = {name: {score.name: RunningScore(data.horizon, score, skill is not None) for score in chosen} for name in contestants}
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
                forecast = _forecast(predictor, name, batch, new, physical, data, members)
                _score(chosen, running[name], forecast, physical[:, data.context :], data.spec, spec)
                if writer is not None and name == saved:
                    writer.write(forecast, batch, new)

    means = {name: {score: _means(sums, spec) for score, sums in by_score.items()} for name, by_score in running.items()}
    return Scores(
        protocol=protocol,
        card=data.card,
        split=data.split,
        hash=truth_hash(data.context, data.horizon, digests),
        clips=count,
        context=data.context,
        horizon=data.horizon,
        units=spec.units,
        scores=means,
        baselines=tuple(contestants)[len(given) :],
        better={score.name: better for score in chosen if (better := better_direction(score)) is not None},
        members=members,
        skill=None if skill is None else _skill(running, skill, resample, films),
    )


def _forecast(
    predictor: Forecaster | ForecastFile,
    name: str,
    batch: Batch,
    digests: list[bytes],
    physical: Tensor,
    data: ClipSet,
    members: int | None,
) -> Tensor:
    """Return the forecast of a batch whose frames are ``physical``, on the same device.

    It is ``(B, horizon, C, H, W)``, or ``(B, M, horizon, C, H, W)`` of M members; what a file holds is an ensemble of one.
    """
    observed, truth = physical[:, : data.context], physical[:, data.context :]
    if isinstance(predictor, ForecastFile):
        predictor.check_truth(batch.indices, digests)
        saved = predictor.forecast_clips(batch.indices, data.horizon).to(physical.device)
        return saved if members is None else saved.unsqueeze(1)
    known = None if batch.known is None else batch.known.to(physical.device)
    ensemble = {} if members is None else {"members": members}
    forecast = predictor.forecast(observed, data.horizon, known=known, **ensemble)
    wanted = tuple(truth.shape) if members is None else (len(truth), members, *truth.shape[1:])
    if not isinstance(forecast, Tensor) or forecast.shape != wanted:
        shape = tuple(getattr(forecast, "shape", ()))
        raise UserError(f"The predictor '{name}' answered with {type(forecast).__name__} {shape} instead of a tensor {wanted}")
    if isinstance(predictor, Baseline):
        # It has nothing to say of a pixel that it never saw; a trained predictor says what the fill there leads it to.
        forecast = torch.where(torch.isnan(forecast), data.spec.fill, forecast)
    return forecast.to(physical.device, torch.float32)


def _score(
    scores: Iterable[Score], running: Mapping[str, RunningScore], forecast: Tensor, truth: Tensor, spec: FrameSpec, scored: FrameSpec
) -> None:
    """Score a batch in the units of ``scored``; forecast and truth are in those of ``spec``."""
    at_once = len(truth) if truth.is_cuda else max(1, PIXELS_AT_ONCE // truth[0].numel())
    for some, true in zip(torch.split(forecast, at_once), torch.split(truth, at_once), strict=True):
        some, true = in_units(some, spec, scored.units), in_units(true, spec, scored.units)
        single = some if some.ndim == true.ndim else _mean_of_members(some)
        for score in scores:
            total, weight = score(some if getattr(score, "takes_members", False) else single, true, scored)
            if total.shape[:2] != true.shape[:2] or weight.shape[:2] != true.shape[:2]:
                raise UserError(f"The score '{score.name}' must return two tensors {tuple(true.shape[:2])}, a total and a weight")
            running[score.name].add(total, weight)


def _mean_of_members(members: Tensor) -> Tensor:
    """Return the mean ``(B, T, C, H, W)`` of ``(B, M, T, C, H, W)``; of equal members, exactly what they are."""
    return members[:, 0] + (members - members[:, :1]).mean(1)


def _films(data: ClipSet, count: int) -> NDArray[np.int64]:
    """Return the film of each of the first clips, numbered from 0 by those that there are.

    Raises:
        UserError: the clips are of no films, or of one.
    """
    index = getattr(data, "index", None)
    films = None if index is None else np.unique(np.asarray(index)[:count, 0], return_inverse=True)[1].astype(np.int64)
    if films is None or films.max() == 0:
        raise UserError(f"The clips of '{data.card}' {data.split} are not of several films to draw from: resample clips instead")
    return films


def _skill(running: Mapping[str, Mapping[str, RunningScore]], over: str, resample: str, units: NDArray[np.int64] | None) -> dict[str, Any]:
    """Return the skill of all predictors but the one that they are compared with."""
    skills: dict[str, dict[str, Any]] = {}
    for name, by_score in running.items():
        if name != over:
            found = {score: skill_over(sums, running[over][score], units) for score, sums in by_score.items()}
            skills[name] = {score: asdict(skill) for score, skill in found.items() if skill is not None}
    return {"over": over, "resample": resample, "replicates": REPLICATES, "scores": skills}


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
    kinds = [kind for kind in BASELINES.values() if training is not None or kind is not TrainingMean]
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


def _means(sums: RunningScore, spec: FrameSpec) -> dict[str, Any]:
    """Return the numbers of a score as :class:`Scores` has them."""
    numbers: dict[str, Any] = {"mean": sums.mean(), "per_lead": sums.per_lead().tolist()}
    parts, per_lead = sums.parts(), sums.parts_per_lead()
    if parts is not None and per_lead is not None:
        names = names_of_parts(sums.score, spec, len(parts))
        if len(names) != len(parts):
            raise UserError(f"The score '{sums.score.name}' has {len(parts)} numbers, but names {len(names)} parts")
        alone = [{"mean": float(mean), "per_lead": leads.tolist()} for mean, leads in zip(parts, per_lead.T, strict=True)]
        numbers["parts"] = dict(zip(names, alone, strict=True))
    return numbers
