"""Fields of closed form for the oracles, so that a number computed once by another library can stand in a test."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray


def wave_fields(count: int = 2, height: int = 20, width: int = 24) -> NDArray[np.float64]:
    """Return ``(count, H, W)``: waves of which what is below 0 is cut off, as rain is."""
    rows, columns, number = np.ogrid[:height, :width, :count]
    waves = np.sin(0.7 * rows + 0.3 * columns + number) + np.cos(0.2 * rows * number - 0.5 * columns)
    return np.maximum(4.0 * waves, 0.0).transpose(2, 0, 1)


@pytest.fixture
def waves():
    return wave_fields


@pytest.fixture
def rain_films():
    """Return a function that makes a forecast and a truth ``(B, T, C, H, W)`` float32 with rain in places, truth missing in some."""

    def make(shape=(5, 3, 1, 16, 20), seed=0, missing=0.2):
        random = np.random.default_rng(seed)
        truth, prediction = np.maximum(random.normal(-1, 4, (2, *shape)), 0).astype(np.float32)
        truth[random.random(shape) < missing] = np.nan
        return torch.from_numpy(prediction), torch.from_numpy(truth)

    return make
