"""Forecasting a batch and scoring it: what is summed of each predictor, and how several processes put their sums together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed
from torch import Tensor

from stpredict.baselines import Baseline
from stpredict.data.clips import ClipSet
from stpredict.errors import UserError
from stpredict.forecasts import SavedForecasts
from stpredict.frames import Batch, FrameSpec
from stpredict.metrics import RunningScore, Score
from stpredict.metrics.bootstrap import Draw, Numbers
from stpredict.metrics.running import as_numbers, overall
from stpredict.predictor import Predictor
from stpredict.processes import Processes
from stpredict.protocols import Protocol
from stpredict.rain import in_units

# Scores look at a few clips at a time, so that what they work on stays in the processor's cache.
PIXELS_AT_ONCE = 1 << 17

# What a clip adds to each replicate takes as long as its scores, unless some clips are added together.
CLIPS_AT_ONCE = 16


@dataclass(frozen=True)
class Judge:
    """How forecasts are scored.

    Attributes:
        scores: which scores.
        protocol: what is done to forecast and truth before each.
        spec: what the numbers of the data mean.
        scored: the same in the units in which is scored.
    """

    scores: Sequence[Score]
    protocol: Protocol
    spec: FrameSpec
    scored: FrameSpec

    def totals(self, forecast: Tensor, truth: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return total and weight ``(B, T, ...)`` of each score; forecast and truth are in the units of the data.

        Raises:
            UserError: a score answers with something else.
        """
        at_once = len(truth) if truth.is_cuda else max(1, PIXELS_AT_ONCE // truth[0].numel())
        pieces = zip(torch.split(forecast, at_once), torch.split(truth, at_once), strict=True)
        answers = [list(self._piece(some, true)) for some, true in pieces]
        if len(answers) == 1:
            return answers[0]
        return [(torch.cat([total for total, _ in one]), torch.cat([weight for _, weight in one])) for one in zip(*answers, strict=True)]

    def _piece(self, forecast: Tensor, truth: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        forecast, truth = in_units(forecast, self.spec, self.scored.units), in_units(truth, self.spec, self.scored.units)
        single = forecast if forecast.ndim == truth.ndim else _mean_of_members(forecast)
        treated: dict[Any, tuple[Tensor, Tensor]] = {}  # once for all scores that are treated alike
        for score in self.scores:
            takes_members = bool(getattr(score, "takes_members", False))
            kind = self.protocol.treatment(score.name), takes_members
            if kind not in treated:
                treated[kind] = self.protocol.treat(score.name, forecast if takes_members else single, truth, self.scored)
            total, weight = score(*treated[kind], self.scored)
            if total.shape[:2] != truth.shape[:2] or weight.shape[:2] != truth.shape[:2]:
                raise UserError(f"The score '{score.name}' must return two tensors {tuple(truth.shape[:2])}, a total and a weight")
            yield total, weight


@dataclass
class Tally:
    """What is known of one predictor so far.

    Attributes:
        running: sums of each score.
        per_clip: each score of each clip on its own, batch by batch.
        undefined: how many forecast frames are NaN where the truth is not.
        digests: of each forecast, if it was saved.
        waiting: totals and weights of each score, and the draw, of batches that are not yet in ``running`` and ``per_clip``.
    """

    running: dict[str, RunningScore]
    per_clip: dict[str, list[Numbers]]
    undefined: int = 0
    digests: list[bytes] = field(default_factory=list)
    waiting: list[tuple[list[tuple[Numbers, Numbers]], Draw]] = field(default_factory=list)

    @classmethod
    def of(cls, scores: Sequence[Score], horizon: int) -> Tally:
        """Start with nothing."""
        return cls({score.name: RunningScore(horizon, score) for score in scores}, {score.name: [] for score in scores})

    def add(self, judge: Judge, forecast: Tensor, truth: Tensor, draw: Draw) -> None:
        """Score the forecast ``(B, T, C, H, W)``, or ``(B, M, T, C, H, W)``, of a batch; :meth:`settle` when all have come."""
        self.waiting.append(([(as_numbers(total), as_numbers(weight)) for total, weight in judge.totals(forecast, truth)], draw))
        if sum(len(draw.units) for _, draw in self.waiting) >= CLIPS_AT_ONCE:
            self.settle()
        if torch.isnan(forecast.sum()):  # which a sum of infinities is too, so look
            missing = torch.isnan(forecast) if forecast.ndim == truth.ndim else torch.isnan(forecast).any(1)
            self.undefined += int((missing & ~torch.isnan(truth)).flatten(2).any(2).sum())

    def settle(self) -> None:
        """Take what is waiting into the sums and the scores of each clip."""
        if not self.waiting:
            return
        batches, draws = zip(*self.waiting, strict=True)
        self.waiting = []
        draw = draws[0] if len(draws) == 1 else Draw(np.concatenate([one.units for one in draws]), np.hstack([one.times for one in draws]))
        for (name, running), parts in zip(self.running.items(), zip(*batches, strict=True), strict=True):
            totals, weights = (part[0] if len(part) == 1 else np.concatenate(part) for part in zip(*parts, strict=True))
            running.add(totals, weights, draw)
            self.per_clip[name].append(overall(running.score, totals, weights))

    def clip_scores(self) -> dict[str, Numbers]:
        """Return each score of each clip, ``(clips,)``."""
        return {name: np.concatenate([np.empty(0), *parts]) for name, parts in self.per_clip.items()}

    def gather(self, processes: Processes) -> None:
        """Settle, and put together what all processes have; afterwards the first has it."""
        self.settle()
        if processes.count == 1:
            return
        for running in self.running.values():  # one at a time: replicates may be large
            for other in _gathered(running, processes)[1:]:
                running.merge(other)
        per_clip, undefined, digests = zip(*_gathered((self.per_clip, self.undefined, self.digests), processes), strict=True)
        self.per_clip = {name: [part for one in per_clip for part in one[name]] for name in self.per_clip}
        self.undefined, self.digests = sum(undefined), [digest for one in digests for digest in one]


def gather_lists(values: list[Any], processes: Processes) -> list[Any]:
    """Return the lists of all processes as one, in the order of their ranks; in all but the first, its own."""
    return [value for one in _gathered(values, processes) for value in one]


def _gathered(value: Any, processes: Processes) -> list[Any]:
    """Return the values of all processes by rank; in all but the first, the own one."""
    if processes.count == 1:
        return [value]
    box: list[Any] | None = [None] * processes.count if processes.first else None
    torch.distributed.gather_object(value, box)
    return [value] if box is None else [value, *box[1:]]


def forecast_batch(predictor: Any, name: str, batch: Batch, physical: Tensor, data: ClipSet, members: int | None) -> Tensor:
    """Return the forecast of a batch whose frames are ``physical``, on the same device.

    It is ``(B, horizon, C, H, W)``, or ``(B, M, horizon, C, H, W)`` of M members; a saved forecast without members is an ensemble of one.

    Raises:
        UserError: the predictor answers with something else.
    """
    observed, truth = physical[:, : data.context], physical[:, data.context :]
    if isinstance(predictor, SavedForecasts):
        saved = predictor.forecast_batch(batch, physical, data)
        return saved if members is None or saved.ndim > truth.ndim else saved.unsqueeze(1)
    known = None if batch.known is None else batch.known.to(physical.device)
    ensemble: dict[str, Any] = {} if members is None else {"members": members}
    if members is not None and isinstance(predictor, Predictor):
        ensemble["indices"] = batch.indices
    forecast = predictor.forecast(observed, data.horizon, known=known, **ensemble)
    wanted = tuple(truth.shape) if members is None else (len(truth), members, *truth.shape[1:])
    if not isinstance(forecast, Tensor) or forecast.shape != wanted:
        shape = tuple(getattr(forecast, "shape", ()))
        raise UserError(f"The predictor '{name}' answered with {type(forecast).__name__} {shape} instead of a tensor {wanted}")
    if isinstance(predictor, Baseline):
        # It has nothing to say of a pixel that it never saw; a trained predictor says what the fill there leads it to.
        forecast = torch.where(torch.isnan(forecast), data.spec.fill, forecast)
    return forecast.to(physical.device, torch.float32)


def _mean_of_members(members: Tensor) -> Tensor:
    """Return the mean ``(B, T, C, H, W)`` of ``(B, M, T, C, H, W)``; of equal members, exactly what they are."""
    return members[:, 0] + (members - members[:, :1]).mean(1)


def selected(per_clip: Mapping[str, Mapping[str, Numbers]], better: Mapping[str, str], indices: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Return, for each score with a better direction and each predictor, the ``best``, ``median`` and ``worst`` clip.

    Clips whose score is NaN are left out; of clips that are as good, the first is taken; of two in the middle, the better.
    """
    chosen: dict[str, dict[str, Any]] = {}
    for score, direction in better.items():
        chosen[score] = {}
        for name, values in per_clip.items():
            goodness = values[score] if direction == "lower" else -values[score]
            order = np.argsort(goodness, kind="stable")[: int((~np.isnan(goodness)).sum())]  # NaN is sorted to the end
            if len(order):
                worst = np.flatnonzero(goodness == goodness[order[-1]])[0]
                places = {"best": order[0], "median": order[(len(order) - 1) // 2], "worst": worst}
                chosen[score][name] = {place: int(indices[clip]) for place, clip in places.items()}
    return chosen
