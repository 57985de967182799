"""The bytes that a forecast's operations read and write, counted without memory or arithmetic, on fake tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from stpredict import unroll
from stpredict.devices import Precision, autocast
from stpredict.networks import Network


class Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sums the bytes of all tensors that torch's operations take and give, but for views, which move none.

    Attributes:
        moved: the sum so far.
    """

    moved: int = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Do an operation and count it; questions, such as for a tensor's device, do not count."""
        result = operation(*args, **(kwargs or {}))
        if operation.namespace == "aten" and not operation.is_view:
            leaves = pytree.tree_leaves((args, kwargs, result))
            self.moved += sum(leaf.nbytes for leaf in leaves if isinstance(leaf, Tensor))
        return result


def count_bytes(network: Network, frames: tuple[int, int, int, int, int], horizon: int, precision: Precision) -> int:
    """Return the bytes that a forecast moves if each operation reads what it takes from memory and writes what it gives to it.

    It is what a machine without caches would move through networks as they are written, operation by operation; caches and operations
    that are joined to one move less.

    Args:
        network: the network, in evaluation mode.
        frames: ``(B, K, C, H, W)`` of the observed frames.
        horizon: frames to forecast.
        precision: under which autocast it forecasts.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    weights = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        # Autocast keeps what it makes of weights that learn, and makes it anew of others at each step.
        shadows = {
            f"network.{name}": torch.empty_like(weight, device="cpu").requires_grad_(weight.requires_grad)
            for name, weight in weights.items()
        }
        observed = torch.zeros(frames)
        traffic = Traffic()  # type: ignore[no-untyped-call]
        with traffic, autocast(torch.device("cpu"), precision):
            functional_call(unroll.Unroll(network), shadows, (observed, frames[1], horizon, None, None, None))
    moved: int = traffic.moved
    return moved
