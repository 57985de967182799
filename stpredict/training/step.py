"""One training step: a function of the settings, the step's number, and the weights and optimiser state before it."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stpredict.data.loader import share
from stpredict.devices import autocast
from stpredict.draws import Draws
from stpredict.frames import Batch
from stpredict.gradients import layer_norms
from stpredict.sampling import draw_truth
from stpredict.training.augmentation import augment
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
    scale = state.scale if settings.trainer.precision == "fp16" else 1.0
    _set_rate(work, state.step)
    work.optimizer.zero_grad(set_to_none=True)
    statistics = [buffer for buffer in work.network.buffers() if buffer.is_floating_point()]  # of batch norms
    before = [buffer.clone() for buffer in statistics]

    horizon = work.growing.at(state.step + 1, work.clips.horizon)
    truth, valid, known = _prepare(work, batch, horizon, Draws(settings.seed, state.step, tuple(positions)))
    length = horizon if settings.loss.get("over", "all") == "future" or not work.network.predicts_context else truth.shape[1] - 1
    with torch.no_grad():  # what the sum of the loss is divided by must be known before its first part goes backward
        _, count = work.loss(truth[:, -length:], truth[:, -length:], valid[:, -length:])
        count = processes.sum(count).clamp(min=1)
    loss = torch.zeros((), device=work.device)
    for rows in _parts(len(positions), settings.trainer.accumulate):
        draws = Draws(settings.seed, state.step, tuple(positions[rows]))
        use_truth = None
        if work.network.predicts_context:
            use_truth = draw_truth(work.schedule, state.step + 1, draws, work.clips.context, horizon).to(work.device)
        seen = None if known is None else known[rows]
        with autocast(work.device, settings.trainer.precision):
            predictions, penalty = work.along.forward(truth[rows], work.clips.context, horizon, use_truth, valid[rows], seen, draws)
        part, _ = work.loss(predictions[:, -length:], truth[rows, -length:], valid[rows, -length:])
        part = part / count
        if penalty is not None:
            part = part + penalty.sum() / size
        (part * scale).backward()  # type: ignore[no-untyped-call]
        loss += part.detach()
    outcome = _move(work, state, statistics, loss, scale, stop, by_layer)
    if outcome.skipped:
        for buffer, value in zip(statistics, before, strict=True):
            buffer.copy_(value)
    return outcome


def _prepare(work: Work, batch: Batch, horizon: int, draws: Draws) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return scaled frames, their mask, and known inputs, as long as the horizon is now."""
    clips, kinds = work.clips, work.settings.data.augment
    truth, valid = clips.spec.scale(batch.physical(clips.packing, work.device))
    known = None if batch.known is None else batch.known.to(work.device)
    if kinds:
        truth, valid, *rest = augment([truth, valid, *([] if known is None else [known])], kinds, draws)
        known = rest[0] if rest else None
    total = clips.context + horizon
    return truth[:, :total], valid[:, :total], None if known is None else known[:, :total]


def _parts(count: int, parts: int) -> list[slice]:
    """Return so many nearly equal parts of a batch, none of them empty."""
    bounds = [round(count * number / parts) for number in range(parts + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(bounds) if stop > start]


def _move(work: Work, state: State, statistics: list[Tensor], loss: Tensor, scale: float, stop: bool, by_layer: bool) -> Outcome:
    """Sum gradients over the processes and move the weights, unless something is not finite.

    ``statistics`` are averaged in the same message, since each process has seen its own share of the batch.
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


def _set_rate(work: Work, step: int) -> None:
    optimizer, steps = work.settings.optimizer, work.settings.trainer.max_steps
    for group in work.optimizer.param_groups:
        group["lr"] = learning_rate(optimizer, step, steps)
        if "betas" in group:
            group["betas"] = (first_beta(optimizer, step, steps), optimizer.betas[1])
