"""What is scored: predictors, baselines and saved forecasts under names of their own, and what they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from stpredict.baselines import BASELINES, Baseline, TrainingMean
from stpredict.data.clips import ClipSet
from stpredict.errors import UserError
from stpredict.fitting import check_fit
from stpredict.forecasts import SavedForecasts
from stpredict.predictor import Predictor, free_name, load_predictor
from stpredict.processes import Processes

DIGEST_SIZE = 16


class Forecaster(Protocol):
    """What can be scored: a trained predictor, a baseline, or anything with this face; ``spec`` is optional.

    Attributes:
        name: what tables and files call it.
    """

    name: str

    def forecast(self, observed: Any, horizon: int, *, members: int | None = None, known: Any = None) -> Any:
        """Return what follows ``observed`` ``(B, K, C, H, W)``: ``(B, horizon, C, H, W)``, both physical."""
        ...


def open_contestants(
    predictors: Any, data: ClipSet, baselines: bool, training_clips: ClipSet | None, device: torch.device
) -> tuple[dict[str, Any], int, ClipSet | None]:
    """Return what is to be scored, each under a name of its own; how many were asked for, others being baselines; training clips.

    Args:
        predictors: one or several: a predictor, saved forecasts, or a path or name that :func:`stpredict.load_predictor` knows.
        data: the split.
        baselines: whether to add those that can be had and are not among the predictors already.
        training_clips: the training split, for its mean frame, which :func:`with_training_means` takes; None: what
            ``data.training_split()`` gives, if there is such.
        device: where weights go.

    Raises:
        UserError: there is nothing to score, or a predictor cannot be read or does not fit the data.
    """
    several = isinstance(predictors, Iterable) and not isinstance(predictors, str | Path)
    named = list(predictors) if several else [predictors]
    if training_clips is None and (baselines or any(one == "training-mean" or isinstance(one, TrainingMean) for one in named)):
        training_clips = _training_split(data)
    given = [load_predictor(one, device=device) if isinstance(one, str | Path) else one for one in named]
    has_mean = training_clips is not None and training_clips.spec.shape == data.spec.shape
    kinds = [kind for kind in BASELINES.values() if has_mean or kind is not TrainingMean] if baselines else []
    added = [kind() for kind in kinds if not any(isinstance(one, kind) for one in given)]
    contestants: dict[str, Any] = {}
    for one in (*given, *added):
        contestants[free_name(one.name, contestants)] = one
    if not contestants:
        raise UserError("There is nothing to score: give a predictor, or leave the baselines in")
    for name, one in contestants.items():
        check_fit(name, one, data)
    return contestants, len(given), training_clips


def with_training_means(contestants: Mapping[str, Any], training: ClipSet | None, processes: Processes) -> dict[str, Any]:
    """Return the contestants, where a training mean that has no mean yet has that of the training clips, which the first process reads."""
    waiting = [name for name, one in contestants.items() if isinstance(one, TrainingMean) and one.mean_frame is None]
    if training is None or not waiting:
        return dict(contestants)
    mean = processes.from_first(lambda: TrainingMean.of(training).mean_frame)
    return {**contestants, **{name: TrainingMean(mean) for name in waiting}}


def _training_split(data: ClipSet) -> ClipSet | None:
    find = getattr(data, "training_split", None)
    return find() if callable(find) else None


def clips_of_all(contestants: Mapping[str, Any], data: ClipSet, count: int) -> tuple[list[int], list[str]]:
    """Return which of the first ``count`` clips all saved forecasts have, and what is to be said of that and of them.

    Raises:
        UserError: forecasts are of other data, or have no clip in common.
    """
    saved = {name: one.clips(data, count) for name, one in contestants.items() if isinstance(one, SavedForecasts)}
    common = set(range(count)).intersection(*saved.values())
    if not common:
        raise UserError(f"No clip of the split '{data.split}' of '{data.card}' is forecast by all of {', '.join(saved)}")
    lacking = [f"'{name}' forecasts {len(have)}" for name, have in saved.items() if len(have) < count]
    told = [f"Scored are {len(common)} of {count} clips: {', '.join(lacking)}"] if lacking else []
    said = [warning for one in contestants.values() if isinstance(one, SavedForecasts) for warning in one.warnings]
    return sorted(common), [*told, *said]


def describe(predictor: Any, digests: Sequence[bytes] = ()) -> dict[str, Any]:
    """Return what a predictor is: ``kind``, ``network``, ``weights`` (how many), ``hash`` (of what it learnt) and ``provenance``.

    Args:
        predictor: the predictor.
        digests: of each forecast that was read, in the order of the clips, where it is a file of forecasts.
    """
    about: dict[str, Any] = {"kind": "predictor", "network": None, "weights": None, "hash": None, "provenance": {}}
    if isinstance(predictor, Predictor):
        weights = sum(weight.numel() for weight in predictor.network.parameters())
        about |= {"network": predictor.network_name, "weights": weights, "hash": predictor_hash(predictor)}
        about["provenance"] = dict(predictor.provenance)
    elif isinstance(predictor, SavedForecasts):
        digest = hashlib.blake2b(b"".join(digests), digest_size=DIGEST_SIZE)
        about |= {"kind": "forecasts", "hash": digest.hexdigest()}
        about["provenance"] = dict(predictor.provenance)
    elif isinstance(predictor, Baseline):
        about["kind"] = "baseline"
        if isinstance(predictor, TrainingMean) and predictor.mean_frame is not None:
            about["hash"] = _digest({}, {"mean_frame": torch.as_tensor(predictor.mean_frame)})
    return about


def predictor_hash(predictor: Predictor) -> str:
    """Return what identifies a predictor: BLAKE2b-128 of network, settings, frame spec and weights, whatever it is called."""
    header = predictor.header()
    return _digest({name: header[name] for name in ("network", "spec")}, predictor.network.state_dict())


def _digest(facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(json.dumps(facts, sort_keys=True, default=str).encode(), digest_size=DIGEST_SIZE)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
