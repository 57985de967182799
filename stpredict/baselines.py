"""Predictors without training, with the face of a trained one: what every forecast has to beat."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from stpredict.arrays import Restore, take_film
from stpredict.data.clips import ClipSet
from stpredict.data.loader import batches
from stpredict.errors import UserError
from stpredict.frames import FrameSpec
from stpredict.motion import NEWEST, advect, hold, motion_and_last


class Memory(ABC):
    """What a baseline keeps of the frames that it has seen: enough to name those that it forecasts."""

    @abstractmethod
    def add(self, frames: Tensor) -> None:
        """Take in ``(B, K, C, H, W)``, NaN = missing."""

    @abstractmethod
    def frames(self, horizon: int) -> Tensor:
        """Return the frames ``(B, horizon, C, H, W)`` to forecast."""


class BaselineStream:
    """A forecast that goes on while frames come in; it equals a forecast from all frames seen."""

    def __init__(self, memory: Memory, shape: torch.Size, restore: Restore) -> None:
        self._memory, self._shape, self._restore = memory, shape, restore

    def observe(self, frame: Any) -> None:
        """Take in the next frame ``(B, C, H, W)``, physical, NaN = missing.

        Raises:
            UserError: the frame is of another shape than those before.
        """
        frames, _ = take_film(frame[:, None])
        if frames[:, 0].shape != self._shape:
            raise UserError(f"The stream takes frames of shape {tuple(self._shape)}, not {tuple(frames[:, 0].shape)}")
        self._memory.add(frames)

    def forecast(self, horizon: int, members: int | None = None) -> Any:
        """Return ``(B, horizon, C, H, W)``, or ``(B, M, horizon, C, H, W)``: what follows the frames observed so far.

        Raises:
            UserError: a number is below 1.
        """
        if horizon < 1:
            raise UserError(f"The horizon must be at least 1 frame, not {horizon}")
        if members is not None and members < 1:
            raise UserError(f"An ensemble has at least one member, not {members}")
        frames = self._memory.frames(horizon)
        return self._restore(frames if members is None else frames.unsqueeze(1).repeat(1, members, 1, 1, 1, 1))


class Baseline(ABC):
    """A predictor that learns nothing from a training split, or no more than its mean.

    Attributes:
        name: what tables call it.
        spec: None: frames of any meaning.
        context: None: any number of observed frames.
        horizon: None: any number of forecast frames.
    """

    name: str
    spec: FrameSpec | None = None
    context: int | None = None
    horizon: int | None = None

    @abstractmethod
    def remember(self, observed: Tensor) -> Memory:
        """Return the memory after frames ``(B, K, C, H, W)``."""

    def start(self, observed: Any, known: Any = None) -> BaselineStream:
        """Begin a stream from ``(B, K, C, H, W)``: a tensor, an array or an xarray.DataArray, physical, NaN = missing.

        Raises:
            UserError: ``observed`` holds no such frames.
        """
        frames, restore = take_film(observed)
        return BaselineStream(self.remember(frames), frames[:, 0].shape, restore)

    def forecast(self, observed: Any, horizon: int, *, members: int | None = None, known: Any = None) -> Any:
        """Forecast what follows.

        Args:
            observed: ``(B, K, C, H, W)``: a tensor, an array or an xarray.DataArray, physical, NaN = missing.
            horizon: frames to forecast, at least 1.
            members: M, the size of an ensemble; its members are equal, since a baseline draws nothing at random.
            known: taken as by every predictor; a baseline looks at the film alone.

        Returns:
            ``(B, horizon, C, H, W)``, or ``(B, M, horizon, C, H, W)`` with members, in physical units, of the kind of ``observed``.

        Raises:
            UserError: ``observed`` holds no such frames, or a number is below 1.
        """
        return self.start(observed).forecast(horizon, members)


class Persistence(Baseline):
    """The last frame stays; a pixel missing there keeps its newest valid value, NaN if it never had one."""

    name = "persistence"

    def remember(self, observed: Tensor) -> Memory:
        """Return the newest valid value of each pixel."""
        return _Newest(observed)


class ContextMean(Baseline):
    """The mean over time of each pixel's valid values in the observed frames, NaN if it never had one."""

    name = "context-mean"

    def remember(self, observed: Tensor) -> Memory:
        """Return the mean of each pixel."""
        return _Mean(observed)


class Extrapolation(Baseline):
    """The last frame moves on as the newest three moved, by optical flow; NaN where something unseen comes in."""

    name = "extrapolation"

    def remember(self, observed: Tensor) -> Memory:
        """Return the newest frames: a pixel lost in the last takes what moves there from those before; one frame alone stays."""
        return _Moving(observed)


class TrainingMean(Baseline):
    """The mean frame of the training split, whatever was observed: the best guess of one who does not look."""

    name = "training-mean"

    def __init__(self, mean_frame: Tensor | None = None) -> None:
        """Take the frame ``(C, H, W)`` to repeat, in physical units; without one it is still to be made with :meth:`of`."""
        self.mean_frame = None if mean_frame is None else mean_frame.float()

    @classmethod
    def of(cls, clips: ClipSet, limit: int = 1000) -> TrainingMean:
        """Average each pixel's valid values over the frames of at most ``limit`` clips, spread evenly over the split.

        Raises:
            UserError: the split holds no clip.
        """
        count = min(len(clips), limit)
        if count < 1:
            raise UserError(f"The split '{clips.split}' of '{clips.card}' holds no clip to average")
        chosen = [[position * len(clips) // count] for position in range(count)]
        mean = _Mean(torch.full((1, 1, *clips.spec.shape), torch.nan))
        for batch in batches(clips, chosen):
            mean.add(batch.physical(clips.packing, "cpu"))
        return cls(mean.mean()[0])

    def remember(self, observed: Tensor) -> Memory:
        """Return the mean frame for each clip.

        Raises:
            UserError: there is no mean frame yet, or it is of another size than the observed frames.
        """
        if self.mean_frame is None:
            raise UserError("'training-mean' has seen no training clips yet: make it with TrainingMean.of(load_data(card, split='train'))")
        if observed.shape[2:] != self.mean_frame.shape:
            raise UserError(
                f"The mean training frame is {_size(self.mean_frame)} and the observed frames are {_size(observed[0, 0])}: "
                "take the mean over training clips of the same size"
            )
        return _Fixed(self.mean_frame.to(observed.device).expand(observed.shape[0], -1, -1, -1))


class _Moving(Memory):
    def __init__(self, frames: Tensor) -> None:
        self.newest = frames[:, -NEWEST:]

    def add(self, frames: Tensor) -> None:
        self.newest = torch.cat([self.newest, frames], 1)[:, -NEWEST:]

    def frames(self, horizon: int) -> Tensor:
        motion, last = motion_and_last(self.newest)
        return advect(last, motion, horizon)


class _Newest(Memory):
    def __init__(self, frames: Tensor) -> None:
        self.newest = torch.full_like(frames[:, 0], torch.nan)
        self.add(frames)

    def add(self, frames: Tensor) -> None:
        self.newest = hold(torch.cat([self.newest.unsqueeze(1), frames], 1))[:, -1]

    def frames(self, horizon: int) -> Tensor:
        return _repeat(self.newest, horizon)


class _Mean(Memory):
    def __init__(self, frames: Tensor) -> None:
        self.total = torch.zeros_like(frames[:, 0], dtype=torch.float64)
        self.count = torch.zeros_like(self.total)
        self.add(frames)

    def add(self, frames: Tensor) -> None:
        self.total = self.total + frames.nansum(1, dtype=torch.float64)
        self.count = self.count + (~frames.isnan()).sum(1)

    def frames(self, horizon: int) -> Tensor:
        return _repeat(self.mean(), horizon)

    def mean(self) -> Tensor:
        return (self.total / self.count).float()  # 0 / 0 = NaN where a pixel was never valid


class _Fixed(Memory):
    def __init__(self, frame: Tensor) -> None:
        self.fixed = frame

    def add(self, frames: Tensor) -> None:
        """Nothing that is observed changes the answer."""

    def frames(self, horizon: int) -> Tensor:
        return _repeat(self.fixed, horizon)


def _repeat(frame: Tensor, horizon: int) -> Tensor:
    return frame.unsqueeze(1).repeat(1, horizon, 1, 1, 1)


def _size(frame: Tensor) -> str:
    return " x ".join(str(length) for length in frame.shape)


BASELINES: dict[str, type[Baseline]] = {baseline.name: baseline for baseline in (Persistence, Extrapolation, ContextMean, TrainingMean)}
"""The baselines by name, each made without arguments."""
