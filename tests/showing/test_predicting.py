"""Forecasts as they are shown."""

from __future__ import annotations

import numpy as np

from stpredict.showing.predicting import PredictedClip


def test_beyond_a_radars_reach_a_forecast_says_nothing() -> None:
    truth = np.ones((5, 1, 4, 4), np.float32)
    truth[:, :, 0] = np.nan  # never seen
    truth[3, :, 1] = np.nan  # missing once
    clip = PredictedClip("clip", truth, None, {"dry": np.zeros((2, 1, 4, 4), np.float32)}, context=3)
    film = clip.film("dry", observed=True)
    np.testing.assert_array_equal(film[:3], truth[:3])
    assert np.isnan(film[3:, :, 0]).all()
    np.testing.assert_array_equal(film[3:, :, 1:], 0.0)
    assert np.isnan(clip.film("dry", observed=False)[:3]).all()
    np.testing.assert_array_equal(clip.error("dry")[4, :, 1:], -1.0)
