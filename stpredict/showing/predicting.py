"""What predictors forecast for one clip, made ready to be shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stpredict.baselines import TrainingMean
from stpredict.data.clips import ClipSet
from stpredict.data.loader import collate
from stpredict.errors import UserError
from stpredict.forecasts import SavedForecasts
from stpredict.frames import Batch
from stpredict.predictor import free_name, load_predictor

Contestants = Any
"""Predictors, baselines and saved forecasts, or names and paths of these: one, several, or a mapping that says what they are called."""


@dataclass(frozen=True, eq=False)
class PredictedClip:
    """A clip and what follows its context.

    Attributes:
        name: what it is called.
        truth: ``(T, C, H, W)`` float32, physical, NaN where missing.
        times: ``(T,)`` datetime64[s], or None.
        forecasts: predictor -> ``(horizon, C, H, W)``; of an ensemble the mean of its members. A baseline has NaN where it never saw
            anything.
        context: how many of the frames were observed.
    """

    name: str
    truth: NDArray[np.float32]
    times: NDArray[np.datetime64] | None
    forecasts: Mapping[str, NDArray[np.float32]]
    context: int

    def film(self, predictor: str, observed: bool) -> NDArray[np.float32]:
        """Return a forecast behind its context ``(T, C, H, W)``: the frames that were observed, or none.

        Where the truth has no value at any time, as beyond a radar's reach, the forecast is shown to have none either.
        """
        past = self.truth[: self.context]
        unseen = np.isnan(self.truth).all(axis=0)
        forecast = np.where(unseen, np.float32(np.nan), self.forecasts[predictor])
        return np.concatenate([past if observed else np.full_like(past, np.nan), forecast])

    def error(self, predictor: str) -> NDArray[np.float32]:
        """Return forecast minus truth ``(T, C, H, W)``; no frame of the context has one."""
        return self.film(predictor, observed=False) - self.truth


def by_name(predictors: Contestants, data: ClipSet) -> dict[str, Any]:
    """Return the predictors by name, the second of two of one name as ``name (2)``; a training mean knows its mean."""
    named: dict[str, Any] = {}
    several = isinstance(predictors, Iterable) and not isinstance(predictors, str | Path)
    given = predictors.values() if isinstance(predictors, Mapping) else predictors if several else [predictors]
    loaded = [load_predictor(one) if isinstance(one, str | Path) else one for one in given]
    names = list(predictors) if isinstance(predictors, Mapping) else [one.name for one in loaded]
    for called, predictor in zip(names, loaded, strict=True):
        if isinstance(predictor, TrainingMean) and predictor.mean_frame is None and data.training_split is not None:
            predictor = TrainingMean.of(data.training_split())
        named[free_name(called, named)] = predictor
    return named


@torch.inference_mode()
def predict_clip(predictors: Mapping[str, Any], data: ClipSet, index: int) -> PredictedClip:
    """Forecast one clip of a split.

    Raises:
        UserError: there is no such clip, or a predictor does not fit the data.
    """
    if not 0 <= index < len(data) and not (data.endless and index >= 0):
        raise UserError(f"The split '{data.split}' of '{data.card}' has clips 0 to {len(data) - 1}, not {index}")
    clip = data[index]
    batch = collate([(index, clip)])
    physical = batch.physical(data.packing, "cpu")
    forecasts = {name: _forecast(name, predictor, data, batch, physical)[0].numpy() for name, predictor in predictors.items()}
    return PredictedClip(clip.name or f"clip {index}", physical[0].numpy(), clip.times, forecasts, data.context)


def _forecast(name: str, predictor: Any, data: ClipSet, batch: Batch, physical: Tensor) -> Tensor:
    """Return the forecast ``(1, horizon, C, H, W)`` of a batch of one clip."""
    if isinstance(predictor, SavedForecasts):
        forecast = predictor.forecast_batch(batch, physical, data)
    else:
        forecast = predictor.forecast(physical[:, : data.context], data.horizon, known=batch.known)
    wanted = tuple(physical[:, data.context :].shape)
    if not isinstance(forecast, Tensor) or (*forecast.shape[:1], *forecast.shape[-4:]) != wanted or forecast.ndim not in (5, 6):
        shape = tuple(getattr(forecast, "shape", ()))
        raise UserError(f"The predictor '{name}' answered with {type(forecast).__name__} {shape} instead of a tensor {wanted}")
    return (forecast if forecast.ndim == 5 else forecast.mean(1)).to("cpu", torch.float32)
