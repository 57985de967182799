"""One training step: a function of the settings, the step's number, and the weights and optimiser state before it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stpredict.data.loader import share
from stpredict.devices import autocast
from stpredict.draws import Draws
from stpredict.frames import Batch
from stpredict.gradients import layer_norms
from stpredict.sampling import draw_truth
from stpredict.training.augmentation import augment, cut_out
from stpredict.training.schedules import first_beta, learning_rate
from stpredict.training.state import State
from stpredict.training.work import Work


@dataclass(frozen=True)
class Outcome:
    """What came of a step.

    Attributes:
        loss: over the global batch.
        norm: of the whole gradient, before it was clipped.
        skipped: the loss or the gradient was not finite, so the weights stayed as they were.
        stop: whether any process was asked to stop.
        norms: of the gradient of each layer, where asked for.
    """

    loss: float
    norm: float
    skipped: bool
    stop: bool
    norms: dict[str, float] = field(default_factory=dict)


def take_step(work: Work, state: State, batch: Batch, stop: bool, by_layer: bool = False) -> Outcome:
    """Take one step on this process's share of a batch; ``by_layer`` asks for the gradient's norms by layer."""
    settings, processes = work.settings, work.processes
    size = settings.data.batch_size
    positions = share(range(state.step * size, (state.step + 1) * size), processes.rank, processes.count)
    _set_rate(work, state)
    clips = _prepare(work, state, batch, positions)
    outcome = _update(work, state, clips, positions, stop, by_layer)
    if settings.data.reversed_pass:
        again = _update(work, state, clips.reversed(), positions, stop, by_layer)
        loss, norm = (outcome.loss + again.loss) / 2.0, max(outcome.norm, again.norm)
        outcome = Outcome(loss, norm, outcome.skipped or again.skipped, outcome.stop or again.stop, again.norms)
    return outcome


@dataclass(frozen=True)
class _Clips:
    """Scaled clips as long as the horizon is now, all ``(B, T, ..., H, W)``."""

    horizon: int
    truth: Tensor
    valid: Tensor
    known: Tensor | None

    def reversed(self) -> _Clips:
        """Return the same, running backwards."""
        return _Clips(self.horizon, self.truth.flip(1), self.valid.flip(1), None if self.known is None else self.known.flip(1))


def _update(work: Work, state: State, clips: _Clips, positions: Sequence[int], stop: bool, by_layer: bool) -> Outcome:
    """Go forward and backward along clips, and move the weights."""
    settings, processes, truth, valid = work.settings, work.processes, clips.truth, clips.valid
    scale = state.scale if settings.trainer.precision == "fp16" else 1.0
    work.optimizer.zero_grad(set_to_none=True)
    statistics = [buffer for buffer in work.network.buffers() if buffer.is_floating_point()]  # of batch norms
    before = [buffer.clone() for buffer in statistics]
    future_alone = settings.loss.get("over", "all") == "future" or not work.network.predicts_context
    length = clips.horizon if future_alone else truth.shape[1] - 1
    with torch.no_grad():  # what the sum of the loss is divided by must be known before its first part goes backward
        _, count = work.loss(truth[:, -length:], truth[:, -length:], valid[:, -length:])
        count = processes.sum(count).clamp(min=1)
    loss = torch.zeros((), device=work.device)
    for rows in _parts(len(positions), settings.trainer.accumulate):
        first, at = truth.shape[1] - length, 1 if work.network.predicts_context else work.clips.context
        for predictions, penalty in _stretches(work, state, clips, rows, positions[rows]):
            part = torch.zeros((), device=work.device) if penalty is None else penalty.sum() / settings.data.batch_size
            if predictions is not None:
                start, at = max(first, at), at + predictions.shape[1]
                summed, _ = work.loss(predictions[:, start - at :], truth[rows, start:at], valid[rows, start:at])
                part = part + summed / count
            if part.requires_grad:  # a stretch that nothing is asked of has no gradient
                (part * scale).backward()  # type: ignore[no-untyped-call]
            loss += part.detach()
    return _move(work, state, statistics, before, loss, scale, stop, by_layer)


def _stretches(
    work: Work, state: State, clips: _Clips, rows: slice, positions: Sequence[int]
) -> Iterator[tuple[Tensor | None, Tensor | None]]:
    """Yield predictions and penalties of some rows, stretch by stretch."""
    trainer, context, draws = work.settings.trainer, work.clips.context, Draws(work.settings.seed, state.step, tuple(positions))
    truth, valid, known = clips.truth[rows], clips.valid[rows], None if clips.known is None else clips.known[rows]
    use_truth = None
    if work.network.predicts_context:
        use_truth = draw_truth(work.schedule, state.step + 1, draws, context, clips.horizon).to(work.device)
    stretches = work.along.stretches(truth, context, clips.horizon, use_truth, valid, known, draws, trainer.truncate)
    while True:
        with autocast(work.device, trainer.precision):
            stretch = next(stretches, None)
        if stretch is None:
            return
        yield stretch


def _prepare(work: Work, state: State, batch: Batch, positions: Sequence[int]) -> _Clips:
    """Scale the frames of a batch, change them as augmentation wants it, and cut them to the horizon of this step."""
    clips, kinds, crop = work.clips, work.settings.data.augment, work.settings.data.random_crop
    draws = Draws(work.settings.seed, state.step, tuple(positions))
    if crop is not None:
        batch = cut_out(batch, *crop, draws)
    truth, valid = clips.spec.scale(batch.physical(clips.packing, work.device))
    known = None if batch.known is None else batch.known.to(work.device)
    if kinds:
        truth, valid, *rest = augment([truth, valid, *([] if known is None else [known])], kinds, draws)
        known = rest[0] if rest else None
    horizon = work.growing.at(state.step + 1, clips.horizon)
    total = clips.context + horizon
    return _Clips(horizon, truth[:, :total], valid[:, :total], None if known is None else known[:, :total])


def _parts(count: int, parts: int) -> list[slice]:
    """Return so many nearly equal parts of a batch, none of them empty."""
    bounds = [round(count * number / parts) for number in range(parts + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(bounds) if stop > start]


def _move(
    work: Work, state: State, statistics: list[Tensor], before: list[Tensor], loss: Tensor, scale: float, stop: bool, by_layer: bool
) -> Outcome:
    """Sum gradients over the processes and move the weights, unless something is not finite.

    ``statistics`` are averaged in the same message, since each process has seen its own share of the batch; after a step that is
    skipped they are what they were ``before``.
    """
    settings, processes = work.settings, work.processes
    parameters = [parameter for group in work.optimizer.param_groups for parameter in group["params"]]
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    asked = torch.tensor(float(stop), device=work.device)
    own = [parameter.grad for parameter in parameters if parameter.grad is not None]
    *sums, loss, asked = processes.sum_flat([*own, *statistics, loss, asked])
    gradients = sums[: len(parameters)]
    for buffer, summed in zip(statistics, sums[len(parameters) :], strict=True):
        buffer.copy_(summed / processes.count)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient if scale == 1.0 else gradient.div_(scale)
    norm = torch.nn.utils.get_total_norm(gradients)
    wrong = not (math.isfinite(loss) and math.isfinite(norm))
    outcome = Outcome(float(loss), float(norm), wrong, bool(asked > 0), layer_norms(work.network) if by_layer else {})
    if outcome.skipped:
        for buffer, value in zip(statistics, before, strict=True):
            buffer.copy_(value)
        if scale == 1.0 or not state.overflowed():
            state.skipped += 1
            state.skipped_in_a_row += 1
    else:
        if settings.optimizer.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, settings.optimizer.clip_norm, norm)
        work.optimizer.step()
        state.went_well()
        if settings.optimizer.ema is not None:
            state.follow(work.network, settings.optimizer.ema)
    return outcome


def _set_rate(work: Work, state: State) -> None:
    optimizer, steps = work.settings.optimizer, work.settings.trainer.max_steps
    for group in work.optimizer.param_groups:
        group["lr"] = learning_rate(optimizer, state.step, steps, state.reductions)
        if "betas" in group:
            group["betas"] = (first_beta(optimizer, state.step, steps), optimizer.betas[1])
