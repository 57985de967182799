"""The only loop over time: a recurrent network driven along a film.

A rollout stands at a *place*: the state after the last step and the prediction made there. From a place it goes on with
observed frames, with its own predictions, or with a mixture chosen by a truth mask. Training, forecasts and streams are the
same steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

from stpredict.devices import carry
from stpredict.draws import Draws
from stpredict.errors import UserError
from stpredict.kernels import forget
from stpredict.networks.contract import Constants, DirectNetwork, Network, RecurrentNetwork, State
from stpredict.patches import pad_to_patches

_PLACE = 2
"""How many times as much a step keeps for the gradients as a place does."""


@dataclass(frozen=True)
class Place:
    """Where a rollout of a recurrent network stands.

    Attributes:
        state: the network's state.
        constants: what the network prepared for this rollout.
        frame: the last prediction ``(B, C, H, W)``, scaled and padded, or None before the first.
        noise: ``(B, N, H, W)``: what every step is given for its noise inputs, behind the known ones; None: these hold the noise.
    """

    state: State
    constants: Constants
    frame: Tensor | None = None
    noise: Tensor | None = None


def begin(network: RecurrentNetwork, batch: int, height: int, width: int, draws: Draws | None = None) -> Place:
    """Return the place before the first frame; height and width are those of padded frames, in pixels. Noise inputs are zero."""
    noise = None
    if network.noise_channels:
        noise = next(network.parameters()).new_zeros(batch, network.noise_channels, height, width)
    return Place(network.initial_state(batch, height, width), prepare(network, batch, draws), noise=noise)


def prepare(network: Network, batch: int, draws: Draws | None = None) -> Constants:
    """Return what a network prepares for a rollout, in which its weights stay what they are now."""
    forget(network.parameters())
    return network.prepare(batch, draws)


def advance(
    network: RecurrentNetwork,
    place: Place,
    steps: int,
    frames: Tensor | None = None,
    use_truth: Tensor | None = None,
    valid: Tensor | None = None,
    known: Tensor | None = None,
    recompute: int = 0,
) -> tuple[Tensor | None, Place, Tensor | None]:
    """Take ``steps`` steps from a place.

    Args:
        network: the network.
        place: where to start.
        steps: how many.
        frames: true frames ``(B, steps, C, H, W)``; None: every step is fed the prediction before it, or, by a network that
            does not predict its context, nothing.
        use_truth: ``(B, steps)`` bool: which steps are fed the true frame, the others the prediction before; None: all.
        valid: ``(B, steps, C, H, W)`` bool beside ``frames``, for a network that takes it.
        known: ``(B, steps, K, H, W)``: the known inputs of the frames that the steps predict, without noise if the place has it.
        recompute: for gradients, keep only the place after every so many steps, and take the steps between again; 0: keep everything.

    Returns:
        the predictions ``(B, steps, C, H, W)`` (None if the network made none), the new place, and the sum of penalties ``(B,)``.
    """
    if network.takes_valid and frames is not None and valid is not None:
        frames = torch.cat([frames, valid.to(frames.dtype)], dim=2)
    elif network.takes_valid and frames is not None:
        frames = torch.cat([frames, torch.ones_like(frames)], dim=2)

    if place.noise is not None:
        quiet = place.noise[:, None].expand(-1, steps, -1, -1, -1)
        known = quiet if known is None else torch.cat([known, quiet.to(known.dtype)], dim=2)

    observe = getattr(network, "observe", None)
    if observe is not None and frames is not None and use_truth is None and steps > 0:
        seen, state, penalty = observe(frames, place.state, place.constants, known)
        return seen, replace(place, state=state, frame=None if seen is None else seen[:, -1]), penalty

    def take(span: range, place: Place) -> tuple[list[Tensor], Place, Tensor | None]:
        state, previous = place.state, place.frame
        made, penalty = [], None
        for step in span:
            frame = _choose(network, step, frames, use_truth, previous)
            previous, state, extra = network.step(frame, state, place.constants, None if known is None else known[:, step])
            if previous is not None:
                made.append(previous)
            penalty = _sum(penalty, extra)
        return made, replace(place, state=state, frame=previous), penalty

    predictions: list[Tensor] = []
    penalty = None
    again = recompute > 0 and torch.is_grad_enabled()
    for start in range(0, steps, recompute if again else max(1, steps)):
        span = range(start, min(steps, start + recompute) if again else steps)
        made, place, extra = checkpoint(take, span, place, use_reentrant=False) if again else take(span, place)
        predictions += made
        penalty = _sum(penalty, extra)
    return torch.stack(predictions, dim=1) if predictions else None, place, penalty


def _sum(penalty: Tensor | None, extra: Tensor | None) -> Tensor | None:
    return extra if penalty is None else penalty if extra is None else penalty + extra


def _choose(
    network: RecurrentNetwork, step: int, frames: Tensor | None, use_truth: Tensor | None, previous: Tensor | None
) -> Tensor | None:
    """Return what a step is fed; by selection, so that NaN in a frame that is not fed cannot leak."""
    if frames is not None and (use_truth is None or previous is None):
        return frames[:, step]
    if previous is None or not network.predicts_context:
        return None
    own = torch.cat([previous, torch.ones_like(previous)], dim=1) if network.takes_valid else previous
    if frames is None or use_truth is None:
        return own
    return torch.where(use_truth[:, step, None, None, None], frames[:, step].to(own.dtype), own)


def finish(network: RecurrentNetwork, place: Place, horizon: int, known: Tensor | None = None) -> Tensor:
    """Forecast from the place that the context has led to, from own predictions alone.

    Args:
        network: the network.
        place: after the last frame of the context has been fed.
        horizon: frames to forecast, at least 1. A network that predicts its context has made the first of them already.
        known: ``(B, horizon, K, H, W)``: the known inputs of the future frames.

    Returns:
        the future ``(B, horizon, C, H, W)``, scaled and padded.
    """
    made = 1 if network.predicts_context else 0
    first = place.frame
    place = replace(place, state=network.begin_forecast(place.state))
    rest, _, _ = advance(network, place, horizon - made, known=None if known is None else known[:, made:])
    if not made:
        assert rest is not None, "a forecaster makes a frame at every step"
        return rest
    assert first is not None, "the last frame of the context has been fed"
    return first[:, None] if rest is None else torch.cat([first[:, None], rest], dim=1)


def forecast_at_once(
    network: DirectNetwork, observed: Tensor, horizon: int, known: Tensor | None, constants: Constants
) -> tuple[Tensor, Tensor | None]:
    """Return what a direct network forecasts, ``(B, horizon, C, H, W)``, and its penalty ``(B,)`` or None."""
    made = network.forecast(observed, horizon, known, **({} if constants is None else {"constants": constants}))
    return made if isinstance(made, tuple) else (made, None)


def complete(network: Network, frames: Tensor, valid: Tensor | None, fill: float) -> tuple[Tensor, Tensor]:
    """Fill what is missing in ``(B, T, C, H, W)``, and pad to whole patches: the padding counts as missing."""
    if valid is None:
        valid = torch.ones_like(frames, dtype=torch.bool)
    else:
        frames = torch.where(valid, frames, fill)
    return pad_to_patches(frames, network.patch_size, fill), pad_to_patches(valid, network.patch_size, False)


def with_noise(network: Network, known: Tensor | None, frames: Tensor, steps: int, draws: Draws | None) -> Tensor | None:
    """Return the known inputs of a clip with its noise behind them ``(B, steps, K, H, W)``; as they are for a network without any.

    The noise is a normal number for each sample, step, channel and patch, the same in all pixels of a patch; without draws it is zero.

    Args:
        network: the network.
        known: ``(B, steps, K', H, W)``, padded, or None.
        frames: padded frames ``(B, T, C, H, W)`` of the clips.
        steps: context and horizon together.
        draws: of the noise.
    """
    count, patch = network.noise_channels, network.patch_size
    if not count:
        return known
    batch, _, _, height, width = frames.shape
    if draws is None:
        noise = frames.new_zeros(batch, steps, count, height, width)
    else:
        drawn = carry(draws.normal("noise inputs", steps, count, height // patch, width // patch), frames.device)
        noise = drawn.repeat_interleave(patch, dim=3).repeat_interleave(patch, dim=4)
    return noise if known is None else torch.cat([known, noise], dim=2)


class Unroll(nn.Module):
    """A network along whole clips, as training needs it.

    Attributes:
        network: the network.
        fill: the scaled value that stands for missing pixels and padding.
        recompute: keep, for gradients, only some sqrt(2 T) of the T places of a clip and take the steps between them again: memory for
            about a quarter more time.
    """

    def __init__(self, network: Network, fill: float = 0.0, recompute: bool = False) -> None:
        super().__init__()
        self.network, self.fill, self.recompute = network, fill, recompute

    def forward(
        self,
        frames: Tensor,
        context: int,
        horizon: int,
        use_truth: Tensor | None = None,
        valid: Tensor | None = None,
        known: Tensor | None = None,
        draws: Draws | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Predict along clips.

        Args:
            frames: scaled ``(B, T, C, H, W)``, T at least ``context``; frames after the context are read where ``use_truth`` says so.
            context: observed frames.
            horizon: frames to forecast.
            use_truth: ``(B, context + horizon - 1)`` bool: which of the frames fed to steps 0, 1, ... are true ones; step 0 always is.
                None: the context is, the rest are own predictions. A network that does not predict its context has no use for it.
            valid: ``(B, T, C, H, W)`` bool; missing pixels are fed as the fill.
            known: ``(B, context + horizon, K, H, W)``.
            draws: for what the network draws at random, and its noise inputs.

        Returns:
            predictions, scaled, of frames 1 .. context + horizon - 1 (of the future alone by a network that does not predict its
            context), and the mean penalty ``(B,)`` of a step, or None.
        """
        [(predictions, penalty)] = self.stretches(frames, context, horizon, use_truth, valid, known, draws)
        assert predictions is not None, "a whole clip has predictions"
        return predictions, penalty

    def stretches(
        self,
        frames: Tensor,
        context: int,
        horizon: int,
        use_truth: Tensor | None = None,
        valid: Tensor | None = None,
        known: Tensor | None = None,
        draws: Draws | None = None,
        length: int | None = None,
    ) -> Iterator[tuple[Tensor | None, Tensor | None]]:
        """Predict along clips a stretch of ``length`` steps after the other, no gradient reaching from one into the one before.

        Whoever goes backward from each stretch before taking the next needs the memory of one: truncated back-propagation through time
        (Williams and Peng 1990). Without a length there is one stretch, and a direct network, which takes no steps, has no other.

        Yields:
            the predictions of a stretch (None where an encoder made none), and its share of the mean penalty; the first, one after the
            other, and the sum of the second are what :meth:`forward` returns.
        """
        network = self.network
        height, width = frames.shape[-2:]
        frames, valid = complete(network, frames, valid, self.fill)
        known = None if known is None else pad_to_patches(known, network.patch_size, 0.0)
        known = with_noise(network, known, frames, context + horizon, draws)
        if isinstance(network, DirectNetwork):
            observed = frames[:, :context]
            if network.takes_valid:
                observed = torch.cat([observed, valid[:, :context].to(observed.dtype)], dim=2)
            future, penalty = forecast_at_once(network, observed, horizon, known, prepare(network, observed.shape[0], draws))
            yield future[..., :height, :width], penalty
            return

        if not network.predicts_context:
            use_truth = None
        steps = context + horizon - (1 if network.predicts_context else 0)
        state, previous = network.initial_state(frames.shape[0], frames.shape[-2], frames.shape[-1]), None
        for start in range(0, steps, length or steps):
            span = range(start, min(steps, start + (length or steps)))
            place = Place(state, prepare(network, frames.shape[0], draws), previous)
            predictions, place, penalty = self._along(span, place, context, frames, use_truth, valid, known)
            yield None if predictions is None else predictions[..., :height, :width], None if penalty is None else penalty / steps
            state, previous = pytree.tree_map_only(Tensor, Tensor.detach, (place.state, place.frame))

    def _along(
        self, span: range, place: Place, context: int, frames: Tensor, use_truth: Tensor | None, valid: Tensor, known: Tensor | None
    ) -> tuple[Tensor | None, Place, Tensor | None]:
        """Take some steps of a clip, of the context, of the forecast, or from the one into the other."""
        network, predictions, penalty = self.network, [], None
        recompute = max(1, math.isqrt(len(span) // _PLACE)) if self.recompute else 0
        assert isinstance(network, RecurrentNetwork), "a direct network takes no steps"
        start = max(span.start, context)
        kept = max(start, span.stop - recompute)  # the last steps, which the gradient comes to at once
        for steps in (range(span.start, min(span.stop, context)), range(start, kept), range(kept, span.stop)):
            if not steps:
                continue
            if steps.start == context:
                place = replace(place, state=network.begin_forecast(place.state))
            fed, mixed = slice(steps.start, steps.stop), use_truth is not None
            ahead = 1 if network.predicts_context or steps.start < context else 0
            made, place, extra = advance(
                network,
                place,
                len(steps),
                frames[:, fed] if mixed or steps.start < context else None,
                use_truth[:, fed] if use_truth is not None else None,
                valid[:, fed] if mixed or steps.start < context else None,
                None if known is None else known[:, steps.start + ahead : steps.stop + ahead],
                0 if steps.start == kept else recompute,
            )
            predictions += [] if made is None else [made]
            penalty = _sum(penalty, extra)
        return torch.cat(predictions, dim=1) if predictions else None, place, penalty


def rollout(
    network: Network,
    frames: Tensor,
    context: int,
    *,
    use_truth: Tensor | None = None,
    valid: Tensor | None = None,
    known: Tensor | None = None,
    fill: float = 0.0,
) -> Tensor:
    """Predict frames 1 .. T-1 of clips, from the true frames of the context and then from its own predictions.

    Args:
        network: a recurrent or direct network.
        frames: scaled ``(B, T, C, H, W)``; those after the context are only read where ``use_truth`` says so.
        context: observed frames, at least 1 and less than T.
        use_truth: ``(B, T-1)`` bool, overrides which frames fed are true ones.
        valid: ``(B, T, C, H, W)`` bool, True where a value exists; what is missing is fed as ``fill``.
        known: ``(B, T, K, H, W)`` inputs known for every step; a step is given those of the frame it predicts.
        fill: the scaled value of missing pixels and of the padding to whole patches.

    Returns:
        ``(B, T-1, C, H, W)`` scaled; from a network that does not predict its context the future only, ``(B, T-context, C, H, W)``.

    Raises:
        UserError: the context does not fit, or a tensor has another shape than these.
    """
    if frames.ndim != 5:
        raise UserError(f"frames must be (B, T, C, H, W), not {tuple(frames.shape)}")
    batch, total = frames.shape[:2]
    if not 1 <= context < total:
        raise UserError(f"A clip of {total} frames has a context of 1 to {total - 1} frames, not {context}")
    if use_truth is not None and tuple(use_truth.shape) != (batch, total - 1):
        raise UserError(f"use_truth must be (B, T-1) = {(batch, total - 1)}, not {tuple(use_truth.shape)}")
    if valid is not None and valid.shape != frames.shape:
        raise UserError(f"valid must have the shape of frames, {tuple(frames.shape)}, not {tuple(valid.shape)}")
    if known is not None and tuple(known.shape[:2]) != (batch, total):
        raise UserError(f"known must hold all {total} steps of {batch} clips, not {tuple(known.shape[:2])}")
    predictions, _ = Unroll(network, fill).forward(frames, context, total - context, use_truth, valid, known)
    return predictions
