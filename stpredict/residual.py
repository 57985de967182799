"""A network that learns what a baseline gets wrong: its output is added to the baseline's forecast, which it also sees.

The baseline is the very one that stands in tables beside it: ``extrapolation`` or ``persistence``, of physical frames. The network starts
with a readout of zeros, so before any training its forecast *is* the baseline's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stpredict import extensions, unroll
from stpredict.configuration import settings_of
from stpredict.draws import Draws
from stpredict.errors import UserError
from stpredict.frames import FrameSpec
from stpredict.motion import NEWEST, advect, hold, motion_and_last
from stpredict.networks import NETWORKS, make_network
from stpredict.networks.contract import DirectNetwork, Network
from stpredict.networks.corrected import CorrectedNetwork, smooth
from stpredict.patches import pad_to_patches

_READOUTS = ("readout", "forecaster.readout")


class Residual(DirectNetwork):
    """The forecast of a baseline, plus what any other network makes of it.

    With each frame the network is given, as known inputs, what the baseline has for the frame to be predicted, and where it has
    anything; the clip's own known inputs follow. In the context that is the last frame, carried one step along the motion from which the
    future is extrapolated. The sum of baseline and output is the prediction, and what the network is fed next. Where the baseline has
    nothing, the fill stands for it. A direct network, such as SimVP, is given the baseline of the frames that a pass is to make beside
    those that it is fed.

    No gradient goes through the baseline. Motion is followed on the CPU, clip beside clip; frames are advected on the device, all at once.

    Args:
        channels: C of a frame.
        of: ``name`` and settings of the network that learns.
        base: ``extrapolation`` or ``persistence``.
        smoothing: pixels of the squares over which the output is averaged, twice, before it is added; with the size of a patch the edges of
            patches do not show. 1 leaves it as it is.
        context: observed frames, for a network whose weights depend on it.
        frame_size: (H, W), for a network whose weights depend on it.
        spec: what the numbers of a frame mean; without one scaled frames count as physical.
        known_channels: K of the clip's own known inputs.

    Raises:
        UserError: the network cannot be made, takes no known inputs, or has no last layer that could start at zero, or the smoothing
            is below 1.
    """

    takes_valid = True

    def __init__(
        self,
        *,
        channels: int,
        of: dict[str, Any],
        base: Literal["extrapolation", "persistence"] = "extrapolation",
        smoothing: int = 1,
        context: int | None = None,
        frame_size: tuple[int, int] | None = None,
        spec: FrameSpec | None = None,
        known_channels: int = 0,
    ) -> None:
        super().__init__()
        if smoothing < 1:
            raise UserError(f"network.smoothing is a number of pixels, at least 1, not {smoothing}")
        self.smoothing = smoothing
        self.channels, self.base, self.spec, self.known_channels = channels, base, spec, known_channels
        self.fill = 0.0 if spec is None else spec.scaled_fill
        self.of = _make_inner(of, channels, context, frame_size, spec, 2 * channels + known_channels)
        self.stochastic = self.of.stochastic

    def prepare(self, batch: int, draws: Draws | None = None) -> Draws | None:
        """Return the draws, of which the network takes its own."""
        return draws

    def forecast(
        self, observed: Tensor, horizon: int, known: Tensor | None = None, constants: Draws | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Take ``(B, context, 2 C, H, W)``, frames and their mask, and return the future and the penalty of the network.

        Raises:
            UserError: known inputs are missing.
        """
        given = 0 if known is None else known.shape[2]
        if given != self.known_channels:
            raise UserError(f"The network takes {self.known_channels} known channels and was given {given}")
        context, (height, width), network = observed.shape[1], observed.shape[-2:], self.of
        frames, valid = observed[:, :, : self.channels], observed[:, :, self.channels :] > 0
        span = min(context, getattr(network, "context", context)) if isinstance(network, DirectNetwork) else 1
        members = 1 if constants is None else constants.members
        base, covered = self.baseline(frames[::members], valid[::members], -(-horizon // span) * span)
        if members > 1:
            base, covered = base.repeat_interleave(members, 0), covered.repeat_interleave(members, 0)
        frames, valid = unroll.complete(network, frames, valid, self.fill)
        base = pad_to_patches(base, network.patch_size, self.fill)
        rest = [covered.to(base.dtype)] if known is None else [covered.to(base.dtype), _extended(known.to(base.dtype), base.shape[1])]
        seen = torch.cat([base, pad_to_patches(torch.cat(rest, 2), network.patch_size, 0.0)], 2)
        if isinstance(network, DirectNetwork):
            future, penalty = self._in_passes(network, frames, valid, seen, span, constants)
        else:
            along = unroll.Unroll(CorrectedNetwork(network, self.channels, self.smoothing), self.fill)
            future, penalty = along.forward(frames, context, horizon, None, valid, seen, constants)
            future = future[:, -horizon:]
        return future[:, :horizon, :, :height, :width], penalty

    def _in_passes(
        self, network: DirectNetwork, frames: Tensor, valid: Tensor, seen: Tensor, span: int, draws: Draws | None
    ) -> tuple[Tensor, Tensor | None]:
        """Let a direct network make ``span`` frames after the other, each pass fed the sums of the one before."""
        context, constants, made = frames.shape[1], unroll.prepare(network, len(frames), draws), []
        fed, mask, penalty = frames[:, -span:], valid[:, -span:].to(frames.dtype), None
        for start in range(context, seen.shape[1], span):
            ahead = seen[:, start : start + span, : 2 * self.channels]
            # The network may read the inputs beside the frames that it is fed or beside those that it makes.
            inputs = torch.cat([ahead.repeat(1, 2, 1, 1, 1), seen[:, start - span : start + span, 2 * self.channels :]], 2)
            observed = torch.cat([fed, mask], 2) if network.takes_valid else fed
            output, extra = unroll.forecast_at_once(network, observed, span, inputs, constants)
            fed = ahead[:, :, : self.channels] + smooth(output, self.smoothing)
            mask, penalty = torch.ones_like(fed), extra if penalty is None or extra is None else penalty + extra
            made.append(fed)
        return torch.cat(made, 1), penalty

    @torch.no_grad()
    def baseline(self, frames: Tensor, valid: Tensor, horizon: int) -> tuple[Tensor, Tensor]:
        """Return what the baseline has for every frame of a clip, and where it has something.

        Args:
            frames: observed ``(B, K, C, H, W)``, scaled.
            valid: ``(B, K, C, H, W)`` bool.
            horizon: frames that follow.

        Returns:
            ``(B, K + horizon, C, H, W)`` scaled, the fill where there is nothing, and the same of bool. There is nothing for frame 0; for
            the others of the context there is what follows from the frame before.
        """
        with torch.autocast(frames.device.type, enabled=False):
            exact = frames if frames.dtype == torch.float64 else frames.float()
            physical = torch.where(valid, exact if self.spec is None else self.spec.unscale(exact), torch.nan)
            nothing = torch.full_like(physical[:, :1], torch.nan)
            carried = self._persisted(physical, horizon) if self.base == "persistence" else _extrapolated(physical, horizon)
            film = torch.cat([nothing, carried], 1)
            covered = ~film.isnan()
            scaled = torch.where(covered, film if self.spec is None else self.spec.transform.scale(film), self.fill)
        return scaled.to(frames.dtype), covered

    @staticmethod
    def _persisted(physical: Tensor, horizon: int) -> Tensor:
        held = hold(physical)
        return torch.cat([held, held[:, -1:].expand(-1, horizon - 1, -1, -1, -1)], 1)


def _extrapolated(physical: Tensor, horizon: int) -> Tensor:
    """Return ``(B, K - 1 + horizon, C, H, W)``: each frame but the last carried one step, then the future."""
    batch, before = physical.shape[0], physical.shape[1] - 1
    motion, last = _motion_and_last(physical[:, -NEWEST:])
    future = advect(last, motion, horizon)
    if not before:
        return future
    carried = advect(physical[:, :-1].flatten(0, 1), motion.repeat_interleave(before, 0), 1)
    return torch.cat([carried.reshape(batch, before, *carried.shape[2:]), future], 1)


@torch.library.custom_op("stpredict::motion_and_last", mutates_args=(), schema="(Tensor films) -> (Tensor, Tensor)")
def _motion_and_last(films: Tensor) -> tuple[Tensor, Tensor]:
    """As :func:`stpredict.motion.motion_and_last`; what is counted or traced without numbers goes around it."""
    motion, last = motion_and_last(films)
    return motion, last.clone()


@_motion_and_last.register_fake
def _shapes_of_motion_and_last(films: Tensor) -> tuple[Tensor, Tensor]:
    batch, _, channels, height, width = films.shape
    return films.new_empty(batch, 2, height, width), films.new_empty(batch, channels, height, width)


def _extended(known: Tensor, length: int) -> Tensor:
    """Repeat the last known inputs ``(B, T, K, H, W)``, for frames that are made and not asked for."""
    return torch.cat([known, known[:, -1:].expand(-1, length - known.shape[1], -1, -1, -1)], 1)


def _make_inner(
    of: Mapping[str, Any],
    channels: int,
    context: int | None,
    frame_size: tuple[int, int] | None,
    spec: FrameSpec | None,
    known_channels: int,
) -> Network:
    """Make the network that learns, with a readout of zeros."""
    settings = dict(of)
    name = settings.pop("name", None)
    if not isinstance(name, str):
        raise UserError("The key 'network.of.name' is missing; it wants the name of the network that learns, such as predrnn")
    if name == "residual":
        raise UserError("network.of.name cannot be 'residual': one baseline is enough, so name the network that learns")
    if "known_channels" in settings:
        raise UserError("'network.of.known_channels' follows from the baseline and the data and cannot be set")
    if "noise_channels" in settings:
        raise UserError("'network.of.noise_channels' stands one level too deep: write it beside 'of', as network.noise_channels")
    takes, open_ended = settings_of(extensions.find("networks", name, NETWORKS))
    if "known_channels" not in takes and not open_ended:
        raise UserError(f"network.of: '{name}' takes no known inputs, and so cannot see the baseline: name another network")
    settings["known_channels"] = known_channels
    network = make_network(name, settings, channels=channels, frame_size=frame_size, context=context, spec=spec, where="network.of")
    if frame_size is not None and network.patch_size > min(frame_size):
        sides = " x ".join(map(str, frame_size))
        raise UserError(f"network.of.patch_size {network.patch_size} is larger than the frame of {sides} pixels")
    modules = dict(network.named_modules())
    readout = next((modules[path] for path in _READOUTS if path in modules), None)
    if readout is None:
        raise UserError(f"network.of: '{name}' has no last layer called 'readout' that could start at zero, as a residual network's has to")
    for weight in readout.parameters():
        nn.init.zeros_(weight)
    return network
