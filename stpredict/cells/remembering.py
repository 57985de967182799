"""What recurrent cells do between their convolutions: a memory forgets and takes in, and shows itself through a gate.

For gradients little is kept: with the kernels ``auto``, in float32 on a CPU, a gate is kept in 16 bits of fixed point, whose steps are a
65,534th of the range that its values have, and what a memory takes in is not kept at all, but told from the memory before and after. The
way forward loses nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from stpredict import kernels
from stpredict.cells.gates import gate, is_watched

_STEPS = 32767.0
_LEAST = 1e-30


class Remembered(NamedTuple):
    """A memory after one step, and what the step has added to it."""

    memory: Tensor
    increment: Tensor


def remember(gates: Sequence[Tensor], memory: Tensor, forget_bias: float, of: str = "") -> Remembered:
    """Return ``s(f + forget_bias) . memory + s(i) . tanh(g)`` and ``s(i) . tanh(g)`` from the gates i, f and g.

    Gates are called input and forget, and ``of`` says of which memory, if there is more than one.
    """
    return Remembered(*remember_together([gates], [memory], forget_bias, [of]))


def remember_together(gates: Sequence[Sequence[Tensor]], memories: Sequence[Tensor], forget_bias: float, of: Sequence[str]) -> list[Tensor]:
    """Do the same with several memories, and return them side by side in the axis of channels, and then the increment of each."""
    each = [(*gates, memory) for gates, memory in zip(gates, memories, strict=True)]
    together = list(itertools.chain.from_iterable(each))
    if _keeps_little(*together):
        return list(_Remember.apply(forget_bias, *together))  # type: ignore[no-untyped-call]
    increments = [gate(f"input{name}", i) * torch.tanh(g) for name, (i, _, g, _) in zip(of, each, strict=True)]
    opened = [gate(f"forget{name}", f + forget_bias) for name, (_, f, _, _) in zip(of, each, strict=True)]
    updated = [f * memory + increment for f, memory, increment in zip(opened, memories, increments, strict=True)]
    return [_side_by_side(updated), *increments]


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
    """Keeps i and f alone: the increment is what the new memory has beyond what it remembers of the old, and g is increment / i."""

    @staticmethod
    def forward(ctx: Any, forget_bias: float, *together: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        kept, updated, increments = [], [], []
        for i, f, g, memory in zip(*(together[place::4] for place in range(4)), strict=True):
            i, f = torch.sigmoid(i), torch.sigmoid(f + forget_bias)
            increments.append(i * torch.tanh(g))
            updated.append(f * memory + increments[-1])
            kept += [*_pack(i), *_pack(f), memory]
        joined = _side_by_side(updated)
        ctx.save_for_backward(joined, *kept)
        return joined, *increments

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_joined: Tensor | None, *to_increments: Tensor | None) -> tuple[Tensor | None, ...]:
        joined, *kept = ctx.saved_tensors
        gradients: list[Tensor | None] = [None]
        count = len(to_increments)
        to_memories = torch.chunk(torch.zeros_like(joined) if to_joined is None else to_joined, count, dim=1)
        for number, (updated, to_memory, to_increment) in enumerate(
            zip(torch.chunk(joined, count, dim=1), to_memories, to_increments, strict=True)
        ):
            *packed, memory = kept[7 * number : 7 * number + 7]
            i, f = _unpack(packed[:3]), _unpack(packed[3:])
            increment = updated - f * memory
            both = to_memory if to_increment is None else to_memory + to_increment
            to_i = both * increment * (1.0 - i)
            to_f = to_memory * memory * (f * (1.0 - f))
            to_g = both * (i - torch.minimum(increment * increment / i.clamp_min(_LEAST), i))  # i (1 - g^2)
            gradients += [to_i, to_f, to_g, to_memory * f]
        return tuple(gradients)


def _side_by_side(memories: Sequence[Tensor]) -> Tensor:
    return memories[0] if len(memories) == 1 else torch.cat(tuple(memories), dim=1)


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
