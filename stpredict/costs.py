"""What a forecast costs: multiply-adds, and the bytes of weights and state. Counted without memory or arithmetic, on fake tensors."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from stpredict import unroll
from stpredict.errors import UserError
from stpredict.kernels import using
from stpredict.networks import DirectNetwork, Network, RecurrentNetwork, given_channels
from stpredict.patches import pad_to_patches


@dataclass(frozen=True)
class Costs:
    """What one clip costs.

    Attributes:
        parameters: numbers that are learnt.
        weight_bytes: of the parameters and buffers, as they lie in memory.
        multiply_adds: of convolutions and matrix products, attention among them, from the first observed frame to the last forecast;
            norms, gates and other operations on single numbers are not counted.
        state_bytes: of what a recurrent network holds after its context; 0 for a direct network.
        state_growth: bytes by which the next step makes that larger.
    """

    parameters: int
    weight_bytes: int
    multiply_adds: int
    state_bytes: int
    state_growth: int


def measure_costs(network: Network, frame_shape: tuple[int, int, int], context: int, horizon: int) -> Costs:
    """Count what one clip costs, forecast by itself.

    Args:
        network: the network, in evaluation mode.
        frame_shape: ``(C, H, W)`` of its frames.
        context: observed frames.
        horizon: frames to forecast.

    Raises:
        UserError: the network reads numbers to choose what it does, so that they would have to be computed.
    """
    from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

    weights = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    counter = FlopCounterMode(display=False)
    try:
        # Convolutions are torch's own, and attention is two matrix products: the counter knows no other kernels of the CPU.
        with torch.no_grad(), fake, using("reference"), sdpa_kernel(SDPBackend.MATH):
            frames = torch.zeros(1, context, *frame_shape)
            extra = given_channels(network)
            known = torch.zeros(1, context + horizon, extra, *frame_shape[1:]) if extra else None
            shadows = {name: torch.empty_like(weight, device="cpu") for name, weight in weights.items()}
            with counter:
                _with_weights(unroll.Unroll(network), shadows, frames, context, horizon, None, None, known)
            before, after = (0, 0) if isinstance(network, DirectNetwork) else _with_weights(_Walk(network), shadows, frames, known)
    except (DataDependentOutputException, DynamicOutputShapeException):
        raise UserError("The multiply-adds of this network cannot be counted, since what it computes depends on the frames") from None
    return Costs(
        parameters=sum(weight.numel() for weight in network.parameters()),
        weight_bytes=sum(weight.nbytes for weight in weights.values()),
        multiply_adds=counter.get_total_flops() // 2,
        state_bytes=before,
        state_growth=after - before,
    )


def _with_weights(module: nn.Module, weights: dict[str, Tensor], *arguments: object) -> tuple[int, int]:
    """Call a module that holds a network as its ``network``, with other tensors in the place of the network's own."""
    result: tuple[int, int] = functional_call(module, {f"network.{name}": weight for name, weight in weights.items()}, arguments)
    return result


class _Walk(nn.Module):
    """The sizes of a recurrent network's state, in bytes: after its context, and a step later."""

    def __init__(self, network: RecurrentNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, frames: Tensor, known: Tensor | None) -> tuple[int, int]:
        """Take the observed frames ``(B, K, C, H, W)`` and the known inputs of all frames."""
        network, context = self.network, frames.shape[1]
        frames, valid = unroll.complete(network, frames, None, 0.0)
        known = None if known is None else pad_to_patches(known, network.patch_size, 0.0)
        place = unroll.begin(network, 1, *frames.shape[-2:])
        _, place, _ = unroll.advance(network, place, context, frames, None, valid, None if known is None else known[:, 1:])
        start = replace(place, state=network.begin_forecast(place.state))
        _, later, _ = unroll.advance(network, start, 1, known=None if known is None else known[:, -1:])
        return _bytes_of(start.state), _bytes_of(later.state)


def _bytes_of(state: object) -> int:
    return sum(part.nbytes for part in pytree.tree_leaves(state) if isinstance(part, Tensor))
