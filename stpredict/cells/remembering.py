"""What recurrent cells do between their convolutions: a memory forgets and takes in, and shows itself through a gate.

For gradients little is kept: with the kernels ``auto``, in float32 on a CPU, a gate is kept in 16 bits of fixed point, whose steps are a
65,534th of the range that its values have. The way forward loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from stpredict import kernels
from stpredict.cells.gates import gate, is_watched

_STEPS = 32767.0


class Remembered(NamedTuple):
    """A memory after one step, and what the step has added to it."""

    memory: Tensor
    increment: Tensor


def remember(gates: Sequence[Tensor], memory: Tensor, forget_bias: float, of: str = "") -> Remembered:
    """Return ``s(f + forget_bias) . memory + s(i) . tanh(g)`` and ``s(i) . tanh(g)`` from the gates i, f and g.

    Gates are called input and forget, and ``of`` says of which memory, if there is more than one.
    """
    i, f, g = gates
    if _keeps_little(i, f, g, memory):
        return Remembered(*_Remember.apply(i, f, g, memory, forget_bias))  # type: ignore[no-untyped-call]
    increment = gate(f"input{of}", i) * torch.tanh(g)
    return Remembered(gate(f"forget{of}", f + forget_bias) * memory + increment, increment)


def expose(o: Tensor, shown: Tensor, activation: Callable[[Tensor], Tensor] = torch.sigmoid, *, kept: bool = False) -> Tensor:
    """Return ``activation(o) . tanh(shown)``, what the output gate shows; ``kept``: what is shown is a state, which is there anyway."""
    if _keeps_little(o, shown):
        exposed: Tensor = _Expose.apply(o, shown, activation, kept)  # type: ignore[no-untyped-call]
        return exposed
    return gate("output", o, activation) * torch.tanh(shown)


def _keeps_little(*tensors: Tensor) -> bool:
    """Whether there is a gradient for which little is to be kept, and nobody who wants to see the gates."""
    if not torch.is_grad_enabled() or is_watched() or not kernels.may_replace(*tensors):
        return False
    return any(tensor.requires_grad for tensor in tensors)


class _Packed(NamedTuple):
    """Numbers in 16 bits of fixed point between the least and the greatest of them."""

    steps: Tensor
    middle: Tensor
    reach: Tensor


def _pack(opened: Tensor) -> _Packed:
    least, greatest = torch.aminmax(opened)
    middle, reach = (greatest + least) / 2.0, ((greatest - least) / 2.0).clamp_min(torch.finfo(opened.dtype).tiny)
    return _Packed(((opened - middle) * (_STEPS / reach)).round_().to(torch.int16), middle, reach)


def _unpack(packed: Sequence[Tensor]) -> Tensor:
    steps, middle, reach = packed
    return steps.to(torch.float32).mul_(reach / _STEPS).add_(middle)


class _Remember(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, i: Tensor, f: Tensor, g: Tensor, memory: Tensor, forget_bias: float) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        i, f, g = torch.sigmoid(i), torch.sigmoid(f + forget_bias), torch.tanh(g)
        ctx.save_for_backward(*_pack(i), *_pack(f), *_pack(g), memory)
        increment = i * g
        return f * memory + increment, increment

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_memory: Tensor | None, to_increment: Tensor | None) -> tuple[Tensor | None, ...]:
        *packed, memory = ctx.saved_tensors
        i, f, g = _unpack(packed[:3]), _unpack(packed[3:6]), _unpack(packed[6:])
        if to_memory is None:
            to_memory = torch.zeros_like(memory)
        both = to_memory if to_increment is None else to_memory + to_increment
        to_i = both * g * (i * (1.0 - i))
        to_f = to_memory * memory * (f * (1.0 - f))
        to_g = both * i * (1.0 - g * g)
        return to_i, to_f, to_g, to_memory * f, None


class _Expose(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, o: Tensor, shown: Tensor, activation: Callable[[Tensor], Tensor], kept: bool) -> Tensor:
        opened, seen = activation(o), torch.tanh(shown)
        ctx.activation, ctx.kept = activation, kept
        ctx.save_for_backward(*_pack(opened), *((shown,) if kept else _pack(seen)))
        return opened * seen

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        opened, seen = _unpack(saved[:3]), torch.tanh(saved[3]) if ctx.kept else _unpack(saved[3:])
        slope = 1.0 - opened * opened if ctx.activation is torch.tanh else opened * (1.0 - opened)
        return gradient * seen * slope, gradient * opened * (1.0 - seen * seen), None, None
