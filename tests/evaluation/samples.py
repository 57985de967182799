"""Small data and predictors of known error, for the tests of evaluation, which load this file by ``runpy``."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stpredict.data.clips import ClipSet
from stpredict.frames import Clip, FrameSpec, Packing, Transform

HEIGHT, WIDTH, CONTEXT, HORIZON = 12, 16, 3, 4
SPEC = FrameSpec(1, HEIGHT, WIDTH, units="mm/h", transform=Transform(high=25.0), fill=2.0, time_step=300.0)


class Toy(ClipSet):
    card, split, spec, packing, context, horizon = "toy", "test", SPEC, Packing(scale=0.1, missing=(255,)), CONTEXT, HORIZON

    def __init__(self, clips: int = 7, seed: int = 0, missing: float = 0.1, known: bool = False, valid: bool = False) -> None:
        random = np.random.default_rng(seed)
        self.frames = random.integers(0, 255, (clips, CONTEXT + HORIZON, 1, HEIGHT, WIDTH), dtype=np.uint8)
        self.frames[random.random(self.frames.shape) < missing] = 255
        self.known = random.normal(size=(clips, CONTEXT + HORIZON, 2, HEIGHT, WIDTH)).astype(np.float32) if known else None
        self.valid = random.random(self.frames.shape) < 0.9 if valid else None

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Clip:
        return Clip(
            self.frames[index],
            None if self.valid is None else self.valid[index],
            None if self.known is None else self.known[index],
        )

    def physical(self) -> NDArray[np.float64]:
        values = np.where(self.frames == 255, np.nan, np.float32(0.1) * self.frames.astype(np.float32)).astype(np.float64)
        return values if self.valid is None else np.where(self.valid, values, np.nan)


class Constant:
    """Forecasts one value everywhere."""

    spec: FrameSpec | None = SPEC

    def __init__(self, value: float = 3.0, name: str = "constant") -> None:
        self.value, self.name = value, name

    def forecast(self, observed: torch.Tensor, horizon: int, *, members: int | None = None, known: Any = None) -> torch.Tensor:
        assert torch.is_inference_mode_enabled() and observed.dtype == torch.float32 and observed.shape[1] == CONTEXT
        return torch.full((len(observed), horizon, *observed.shape[2:]), self.value)


class Rain(Toy):
    """The same films with thresholds, cut from three films."""

    spec = replace(SPEC, z_r=(200.0, 1.6), minimum=0.0, thresholds=(2.0, 10.0))
    index = np.array([[number // 3, 0] for number in range(7)])


class Ensemble(Constant):
    """Forecasts other values for each member."""

    def forecast(self, observed: torch.Tensor, horizon: int, *, members: int | None = None, known: Any = None) -> torch.Tensor:
        forecast = super().forecast(observed, horizon)
        if members is None:
            return forecast
        return forecast.unsqueeze(1) + torch.arange(members).view(1, -1, 1, 1, 1, 1)
