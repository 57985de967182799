"""Forecasts that were saved: they can stand wherever a predictor is scored or shown."""

from __future__ import annotations

from stpredict.forecasts.archive import ForecastArchive
from stpredict.forecasts.contract import SavedForecasts
from stpredict.forecasts.digests import clip_digests, truth_hash
from stpredict.forecasts.files import ForecastFile
from stpredict.forecasts.opening import open_forecasts
from stpredict.forecasts.saved_arrays import SavedArrays
from stpredict.forecasts.writing import ForecastWriter, join_forecasts

__all__ = [
    "ForecastArchive",
    "ForecastFile",
    "ForecastWriter",
    "SavedArrays",
    "SavedForecasts",
    "clip_digests",
    "join_forecasts",
    "open_forecasts",
    "truth_hash",
]
