"""Forecasts that were saved: they can stand wherever a predictor is scored or shown."""

from __future__ import annotations

from stpredict.forecasts.contract import SavedForecasts
from stpredict.forecasts.files import ForecastFile, ForecastWriter, clip_digests, truth_hash

__all__ = ["ForecastFile", "ForecastWriter", "SavedForecasts", "clip_digests", "truth_hash"]
