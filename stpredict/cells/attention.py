"""Attention to a pool of memories, which are keys and values at once: softmax(Q K^T) K, unscaled.

Neither the scores nor the joined pool are kept: for the gradients both are made again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from stpredict import kernels

_SCORES = 1 << 22
"""How many scores are held at a time."""


def attend(query: Tensor, pool: Sequence[Tensor]) -> Tensor:
    """Return what each token finds in a pool of memories: their mean, weighted by the softmax of its products with them.

    Scores are made in float32 at least, since the products are large. The kernels ``auto`` multiply what the scores weigh in the type that
    autocast wants.

    Args:
        query: Q, ``(B, N, features)``.
        pool: memories ``(B, M, features)``, which together are K.

    Returns:
        ``(B, N, features)``, of the type of ``query``.
    """
    device = query.device.type
    kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
    with torch.autocast(device, enabled=False):
        wanted, memories = _full(query), [_full(memory) for memory in pool]
        if kernels.may_replace(wanted, *memories):
            found: Tensor = _Attend.apply(kind, wanted, *memories)  # type: ignore[no-untyped-call]
        elif torch.is_grad_enabled() and wanted.requires_grad:
            found = checkpoint(_by_torch, wanted, *memories, use_reentrant=False)
        else:
            found = _by_torch(wanted, *memories)
        return found.to(query.dtype)


def shares(query: Tensor, pool: Sequence[Tensor]) -> Tensor:
    """Return which share of what each token finds comes from each memory.

    Returns:
        ``(B, N, len(pool))``, a sum of 1 for each of the N tokens.
    """
    with torch.autocast(query.device.type, enabled=False):
        wanted, keys = _full(query), _full(torch.cat(tuple(pool), dim=1))
        found = wanted.new_empty(*wanted.shape[:2], len(pool))
        for sample in range(len(wanted)):
            for some, weights in _weights(wanted[sample], keys[sample]):
                found[sample, some] = weights.reshape(len(weights), len(pool), -1).sum(dim=2)
        return found


def _by_torch(query: Tensor, *pool: Tensor) -> Tensor:
    keys = torch.cat(pool, dim=1)[:, None]
    return functional.scaled_dot_product_attention(query[:, None], keys, keys, scale=1.0)[:, 0]


def _weights(query: Tensor, keys: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield which of the tokens ``(N, features)`` are the next few, and how they weigh the keys ``(M, features)``: ``(n, M)``."""
    few = max(1, _SCORES // len(keys))
    for start in range(0, len(query), few):
        some = slice(start, start + few)
        yield some, torch.softmax(kernels.multiply(query[some], keys.T), dim=1)


class _Attend(torch.autograd.Function):
    """The same by whole matrices, a few queries at a time, which on a CPU are twice as fast as torch's blocks."""

    @staticmethod
    def forward(ctx: Any, kind: torch.dtype, query: Tensor, *pool: Tensor) -> Tensor:
        ctx.kind = kind
        ctx.save_for_backward(query, *pool)
        found = torch.empty_like(query, memory_format=torch.contiguous_format)
        for sample, keys in enumerate(torch.cat(pool, dim=1)):
            values = keys.to(kind)
            for some, weights in _weights(query[sample], keys):
                found[sample, some] = kernels.multiply(weights.to(kind), values).float()
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, *pool = ctx.saved_tensors
        joined = torch.cat(pool, dim=1)
        to_query, to_joined = torch.empty_like(query), torch.zeros_like(joined)
        for sample, keys in enumerate(joined):
            values = keys.to(ctx.kind)
            for some, weights in _weights(query[sample], keys):
                told = gradient[sample, some].to(ctx.kind)
                to_joined[sample] += kernels.multiply(weights.to(ctx.kind).T, told)
                to_weights = kernels.multiply(told, values.T).float()
                # A softmax passes on what a weight is told, less the mean of what all weights of its token are told.
                to_weights -= torch.linalg.vecdot(to_weights, weights)[:, None]
                to_scores = weights.mul_(to_weights).to(ctx.kind)
                to_query[sample, some] = kernels.multiply(to_scores, values).float()
                to_joined[sample] += kernels.multiply(to_scores.T, query[sample, some].to(ctx.kind))
        return None, to_query, *torch.split(to_joined, [memory.shape[1] for memory in pool], dim=1)


def _full(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
