"""One training step: a function of the settings, the step's number, and the weights and optimiser state before it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from stpredict.data.loader import share
from stpredict.devices import Arriving, autocast, carry, laid_out_like
from stpredict.draws import Draws
from stpredict.frames import Batch
from stpredict.gradients import layer_norms
from stpredict.losses import by_member
from stpredict.sampling import draw_truth
from stpredict.training.augmentation import augment, cut_out
from stpredict.training.schedules import first_beta, learning_rate
from stpredict.training.state import State
from stpredict.training.work import Work


class Outcome:
    """What came of a step; a GPU may still be at it, and whoever asks for a number waits until it is there.

    Attributes:
        step: which one, counted from 1.
        late: whether the state knows only when :meth:`note` is called.
        norms: of the gradient of each layer, where asked for.
    """

    def __init__(self, step: int, passes: Sequence[_Pass], late: bool, norms: dict[str, float]) -> None:
        self.step, self.late, self.norms, self._passes = step, late, norms, tuple(passes)

    def and_then(self, other: Outcome) -> Outcome:
        """Return what came of a step that moved the weights twice."""
        return Outcome(self.step, (*self._passes, *other._passes), self.late, other.norms)

    @cached_property
    def _numbers(self) -> list[list[float]]:
        return [part.numbers.read() for part in self._passes]

    @property
    def loss(self) -> float:
        """Return the loss over the global batch, the mean of the passes."""
        return sum(loss for loss, *_ in self._numbers) / len(self._numbers)

    @property
    def norm(self) -> float:
        """Return the norm of the whole gradient before it was clipped, the larger one of two passes."""
        return max(norm for _, norm, *_ in self._numbers)

    @property
    def skipped(self) -> bool:
        """Whether the loss or the gradient of a pass was not finite, so that it moved nothing."""
        return any(skipped for _, _, skipped, _ in self._numbers)

    @property
    def stop(self) -> bool:
        """Whether any process was asked to stop."""
        return any(asked for *_, asked in self._numbers)

    def note(self, state: State) -> None:
        """Let the state know, if it does not yet."""
        for part, (_, _, skipped, _) in zip(self._passes, self._numbers, strict=True):
            if not part.noted:
                state.note(bool(skipped), part.scaled)
                part.noted = True


@dataclass
class _Pass:
    """One movement of the weights: its loss, norm, whether it was skipped, and whether to stop; ``scaled`` as fp16 scales losses."""

    numbers: Arriving
    scaled: bool
    noted: bool = False


def take_step(work: Work, state: State, batch: Batch, stop: bool, by_layer: bool = False) -> Outcome:
    """Take one step on this process's share of a batch; ``by_layer`` asks for the gradient's norms by layer."""
    settings, processes = work.settings, work.processes
    size = settings.data.batch_size
    positions = share(range(state.step * size, (state.step + 1) * size), processes.rank, processes.count)
    _set_rate(work, state)
    clips = _prepare(work, state, batch, positions)
    outcome = _update(work, state, clips, positions, stop, by_layer)
    if settings.data.reversed_pass:
        outcome = outcome.and_then(_update(work, state, clips.reversed(), positions, stop, by_layer))
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
            part = torch.zeros((), device=work.device)
            if penalty is not None:
                part = part + penalty.sum() / (settings.data.batch_size * work.members)
            if predictions is not None:
                start, at = max(first, at), at + predictions.shape[1]
                made = by_member(predictions[:, start - at :], work.members)
                summed, _ = work.loss(made, truth[rows, start:at], valid[rows, start:at])
                part = part + summed / count
            if part.requires_grad:  # a stretch that nothing is asked of has no gradient
                (part * scale).backward()  # type: ignore[no-untyped-call]
            loss += part.detach()
    return _move(work, state, statistics, before, loss, scale, stop, by_layer)


def _stretches(
    work: Work, state: State, clips: _Clips, rows: slice, positions: Sequence[int]
) -> Iterator[tuple[Tensor | None, Tensor | None]]:
    """Yield predictions and penalties of some rows, stretch by stretch; of every member of a clip, one after the other.

    The members of a clip are fed the same true frames, and draw everything else for themselves.
    """
    trainer, context, draws = work.settings.trainer, work.clips.context, Draws(work.settings.seed, state.step, tuple(positions))
    truth, valid, known = clips.truth[rows], clips.valid[rows], None if clips.known is None else clips.known[rows]
    use_truth = None
    if work.network.predicts_context:
        use_truth = carry(draw_truth(work.schedule, state.step + 1, draws, context, clips.horizon), work.device)
    if work.members > 1:
        draws = draws.of_members(work.members)
        truth, valid = truth.repeat_interleave(work.members, 0), valid.repeat_interleave(work.members, 0)
        known = None if known is None else known.repeat_interleave(work.members, 0)
        use_truth = None if use_truth is None else use_truth.repeat_interleave(work.members, 0)
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
    known = None if batch.known is None else carry(batch.known, work.device)
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
    skipped they are what they were ``before``. Where the optimiser can leave out a step by itself, nobody waits to learn whether it does.
    """
    settings, processes = work.settings, work.processes
    optimizer: Any = work.optimizer
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    asked = torch.full((), float(stop), device=work.device)
    own = [parameter.grad for parameter in parameters if parameter.grad is not None]
    *sums, loss, asked = processes.sum_flat([*own, *statistics, loss, asked])
    gradients = [laid_out_like(*pair) for pair in zip(sums[: len(parameters)], parameters, strict=True)]
    for buffer, summed in zip(statistics, sums[len(parameters) :], strict=True):
        buffer.copy_(summed / processes.count)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient if scale == 1.0 else gradient.div_(scale)
    norm = torch.nn.utils.get_total_norm(gradients)
    wrong = ~(torch.isfinite(loss) & torch.isfinite(norm))
    numbers = Arriving(torch.stack([number.double() for number in (loss, norm, wrong, asked)]))
    # The loss scale of the next step hangs on this one under fp16.
    late = bool(optimizer.defaults.get("fused")) and settings.trainer.precision != "fp16"
    outcome = Outcome(state.step + 1, [_Pass(numbers, scale != 1.0)], late, layer_norms(work.network) if by_layer else {})
    for buffer, value in zip(statistics, before, strict=True):
        buffer.copy_(torch.where(wrong, value, buffer))
    if not late:
        outcome.note(state)
    if late or not outcome.skipped:
        if settings.optimizer.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, settings.optimizer.clip_norm, norm)
        if late:
            optimizer.found_inf = wrong.float()  # a fused optimiser moves nothing where this is 1
        optimizer.step()
        if settings.optimizer.ema is not None:
            state.follow(work.network, settings.optimizer.ema, wrong)
    return outcome


def _set_rate(work: Work, state: State) -> None:
    optimizer, steps = work.settings.optimizer, work.settings.trainer.max_steps
    for group in work.optimizer.param_groups:
        group["lr"] = learning_rate(optimizer, state.step, steps, state.reductions)
        if "betas" in group:
            group["betas"] = (first_beta(optimizer, state.step, steps), optimizer.betas[1])
