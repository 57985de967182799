"""Gradients to look at: how far back in time that of a loss reaches, and how large it is in each layer of a network.

The first shows what remembers: the faster the norm of d loss / d h falls with the steps back, the less of what a layer saw then can be
learnt from. It is how the gradient highway of PredRNN++ was looked at (Wang et al. 2018, arXiv 1804.06300).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stpredict.data.clips import ClipSet
from stpredict.data.loader import batches, ordered
from stpredict.errors import UserError
from stpredict.fitting import check_fit
from stpredict.networks.contract import DirectNetwork, Network, RecurrentNetwork
from stpredict.networks.watched import WatchedNetwork, cells_of, highways_of
from stpredict.predictor import Predictor
from stpredict.unroll import Unroll


@dataclass(frozen=True)
class GradientThroughTime:
    """Norms of the gradient of the error of the last forecast frame, against the lag.

    The lag counts steps back from the one that makes the last frame: lag 0 is the state that this frame is read from. The norm is that
    of the mean squared error of one clip's last frame, scaled, over all channels and places of h; then the mean over clips.

    Attributes:
        layers: layer -> norm at lag 0, 1, ...; NaN where the layer had no turn, as an encoder has none in the forecast.
        hidden: norm at lag 0, 1, ... with regard to the h of all cells at once: the root of the sum of their squares.
        horizon: forecast frames; the steps at lags below it made them.
        clips: how many the mean is over.
    """

    layers: dict[str, list[float]]
    hidden: list[float]
    horizon: int
    clips: int


def gradient_through_time(
    network: Network,
    frames: Tensor,
    context: int,
    *,
    teacher_forced: bool = False,
    valid: Tensor | None = None,
    known: Tensor | None = None,
    fill: float = 0.0,
) -> GradientThroughTime:
    """Measure the gradient with regard to h of every cell at every step, in one rollout of the network as it is.

    Args:
        network: a recurrent network whose layers are in an ``nn.ModuleList`` called ``cells``, each returning its h, alone or first of
            several; what it calls ``ghu``, a gradient highway, counts as a layer too.
        frames: scaled ``(B, T, C, H, W)``.
        context: observed frames, at least 1 and less than T.
        teacher_forced: feed every true frame, so that gradients pass through states alone; otherwise the forecast feeds itself, and
            they pass through its frames as well. A network that does not predict its context is fed no frame of the future anyway.
        valid: ``(B, T, C, H, W)`` bool, True where a value exists; what is missing counts in no error.
        known: ``(B, T, K, H, W)`` known inputs.
        fill: the scaled value of missing pixels.

    Raises:
        UserError: the network has no steps or no cells, or the context does not fit.
    """
    if isinstance(network, DirectNetwork):
        raise UserError("A direct network forecasts all frames at once: it has no state, and no gradient through time to look at")
    batch, total = frames.shape[:2]
    if not 1 <= context < total:
        raise UserError(f"A clip of {total} frames has a context of 1 to {total - 1} frames, not {context}")
    with torch.enable_grad(), _Watched(network).watch() as watched:
        use_truth = frames.new_ones(batch, total - 1, dtype=torch.bool) if teacher_forced else None
        given = frames.detach().requires_grad_()  # so that there is a gradient through frozen weights as well
        predictions, _ = Unroll(watched, fill).forward(given, context, total - context, use_truth, valid, known)
        counted = torch.ones_like(frames[:, -1], dtype=torch.bool) if valid is None else valid[:, -1]
        errors = torch.where(counted, predictions[:, -1] - frames[:, -1], 0.0).square().sum(dim=(1, 2, 3))
        loss = (errors / counted.sum(dim=(1, 2, 3)).clamp(min=1)).sum()
        tensors = [h for _, _, h in watched.seen]
        gradients = torch.autograd.grad(loss, tensors, allow_unused=True, materialize_grads=True)

    norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients])  # (tensors, B)
    lags = [watched.steps - 1 - step for _, step, _ in watched.seen]
    layers = {name: [math.nan] * watched.steps for name, _, _ in watched.seen}
    squares = norms.new_zeros(watched.steps, batch)
    for (name, _, _), lag, norm, mean in zip(watched.seen, lags, norms, norms.mean(dim=1).tolist(), strict=True):
        layers[name][lag] = mean
        if name not in watched.highways:
            squares[lag] += norm.square()
    return GradientThroughTime(layers, squares.sqrt().mean(dim=1).tolist(), total - context, batch)


def gradient_of_predictor(
    predictor: Any, data: ClipSet, clips: int, *, teacher_forced: bool = False, batch_size: int = 8
) -> GradientThroughTime:
    """Measure :func:`gradient_through_time` over the first clips of a split.

    Args:
        predictor: a trained predictor.
        data: the split.
        clips: how many of its clips, at least 1.
        teacher_forced: see :func:`gradient_through_time`.
        batch_size: clips at a time; it changes no number.

    Raises:
        UserError: it has no weights, or a direct network, or does not fit the data.
    """
    if not isinstance(predictor, Predictor):
        raise UserError(f"'{predictor.name}' is no trained predictor: it has no network, and no gradient to look at")
    check_fit(predictor.name, predictor, data)
    count = min(len(data), clips)
    if count < 1:
        raise UserError(
            f"There is no clip to look at: the split '{data.split}' of '{data.card}' holds {len(data)}, and {clips} were asked for"
        )
    parts = []
    for batch in batches(data, ordered(count, batch_size), 0):
        scaled, valid = predictor.spec.scale(batch.physical(data.packing, predictor.device))
        known = None if batch.known is None else batch.known.to(predictor.device)
        fill = predictor.spec.scaled_fill
        parts.append(
            gradient_through_time(
                predictor.network, scaled, data.context, teacher_forced=teacher_forced, valid=valid, known=known, fill=fill
            )
        )
    weights = [part.clips / count for part in parts]
    layers = {name: _mean([part.layers[name] for part in parts], weights) for name in parts[0].layers}
    return GradientThroughTime(layers, _mean([part.hidden for part in parts], weights), data.horizon, count)


def _mean(parts: Sequence[Sequence[float]], weights: Sequence[float]) -> list[float]:
    return [sum(weight * value for weight, value in zip(weights, values, strict=True)) for values in zip(*parts, strict=True)]


class _Watched(WatchedNetwork):
    """A network as it is, of which the h that its layers return in each step are kept."""

    def __init__(self, network: RecurrentNetwork) -> None:
        super().__init__(network)
        self.seen: list[tuple[str, int, Tensor]] = []
        self.highways = set(highways_of(network))

    @contextmanager
    def watch(self) -> Iterator[_Watched]:
        """Look on while the context lasts."""
        layers = cells_of(self.network)
        if not layers:
            raise UserError("This network has no layers to look at: they would be the modules of an nn.ModuleList called 'cells'")
        hooks = [module.register_forward_hook(self._keep(name)) for name, module in (layers | highways_of(self.network)).items()]
        try:
            yield self
        finally:
            for hook in hooks:
                hook.remove()

    def _keep(self, name: str) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            self.seen.append((name, self.steps, output if isinstance(output, Tensor) else output[0]))

        return keep


def layer_norms(network: nn.Module) -> dict[str, float]:
    """Return the norm of the gradient in each layer of a network, over all weights of the layer.

    A layer is a module of an ``nn.ModuleList``, wherever that stands, or a module without such lists in it: ``cells.0``, ``ghu``,
    ``readout``, ``encoder.cells.1``. Layers of which no weight has a gradient are left out. The numbers are those of the ``.grad``
    that is there: after a gradient was clipped or while it is scaled, the norms are too.
    """
    owners: dict[int, str] = {}
    for layer, module in _layers(network, ""):
        for weight in module.parameters():
            owners.setdefault(id(weight), layer)
    graded = [(owners.get(id(weight), name), weight.grad) for name, weight in network.named_parameters() if weight.grad is not None]
    if not graded:
        return {}
    # Stacked, so that a GPU is waited for once.
    norms = torch.stack([torch.linalg.vector_norm(grad, dtype=torch.promote_types(grad.dtype, torch.float32)) for _, grad in graded])
    by_layer: dict[str, list[float]] = {}
    for (layer, _), norm in zip(graded, norms.tolist(), strict=True):
        by_layer.setdefault(layer, []).append(norm)
    return {layer: math.hypot(*some) for layer, some in by_layer.items()}


def _layers(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if isinstance(module, nn.ModuleList) or not any(isinstance(part, nn.ModuleList) for part in child.modules()):
            yield path, child
        else:
            yield from _layers(child, f"{path}.")
