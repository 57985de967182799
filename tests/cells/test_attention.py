"""Attention by whole matrices against the softmax written out in float64, and against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stpredict import kernels
from stpredict.cells.attention import attend, shares
from stpredict.kernels import compiled

SHAPES = [(1, 5, 3), (2, 40, 16), (2, 33, 128)]  # samples, tokens of a memory, features
MEMORIES = 3


def tensors(shape: tuple[int, int, int]) -> tuple[Tensor, list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(0)
    query, *pool, goal = (torch.randn(shape, generator=generator) * 0.5 for _ in range(MEMORIES + 2))
    return query, pool, goal


def by_hand(query: Tensor, pool: list[Tensor]) -> Tensor:
    keys = torch.cat(pool, dim=1)
    return torch.softmax(query @ keys.transpose(1, 2), dim=2) @ keys


def taken(compute: object, query: Tensor, pool: list[Tensor], goal: Tensor) -> list[Tensor]:
    inputs = [tensor.detach().clone().requires_grad_() for tensor in (query, *pool)]
    found = compute(inputs[0], inputs[1:])  # type: ignore[operator]
    return [found.detach(), *torch.autograd.grad((found * goal.to(found)).sum(), inputs)]


def worst(found: list[Tensor], exact: list[Tensor]) -> float:
    return max(float((one - right).abs().max() / right.abs().max()) for one, right in zip(found, exact, strict=True))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scores", [1 << 22, 200])
def test_values_and_gradients(shape: tuple[int, int, int], scores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stpredict.cells.attention._SCORES", scores)
    query, pool, goal = tensors(shape)
    exact = taken(by_hand, query.double(), [memory.double() for memory in pool], goal.double())
    assert worst(taken(attend, query, pool, goal), exact) < 3e-6
    with kernels.using("reference"):
        assert worst(taken(attend, query, pool, goal), exact) < 3e-6


@pytest.mark.skipif(compiled.library() is None, reason="without compiled kernels everything is torch's")
def test_half_precision_is_for_what_the_scores_weigh() -> None:
    query, pool, goal = tensors(SHAPES[-1])
    exact = taken(by_hand, query.double(), [memory.double() for memory in pool], goal.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = taken(attend, query, pool, goal)
    assert 1e-4 < worst(found, exact) < 3e-2
    assert all(tensor.dtype == torch.float32 for tensor in found)
    loud = [memory * 8.0 for memory in pool]  # scores of some hundred, of which bf16 would lose whole units
    wanted = by_hand(query.double(), [memory.double() for memory in loud])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, plain = (worst([compute(query, loud)], [wanted]) for compute in (attend, by_hand))
    assert ours < 1e-2 and plain > 5 * ours


def test_of_half_precision_comes_half_precision() -> None:
    query, pool, _ = tensors(SHAPES[0])
    found = attend(query.bfloat16(), pool)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), by_hand(query.bfloat16().float(), pool), atol=1e-2, rtol=0)


def test_little_is_kept() -> None:
    """The query, and the memories, which are there anyway: neither scores, nor what the memories are side by side."""
    query, pool, _ = tensors(SHAPES[1])
    inputs = [tensor.requires_grad_() for tensor in (query, *pool)]
    kept: set[int] = set()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.add(tensor.data_ptr()) or tensor, lambda tensor: tensor):  # type: ignore[func-returns-value]
        attend(inputs[0], inputs[1:])
    assert kept <= {tensor.data_ptr() for tensor in inputs}


def test_shares_are_the_weights_of_each_memory() -> None:
    query, pool, _ = tensors(SHAPES[1])
    weights = torch.softmax(query @ torch.cat(pool, dim=1).transpose(1, 2), dim=2)
    torch.testing.assert_close(shares(query, pool), weights.unflatten(2, (MEMORIES, -1)).sum(dim=3), atol=1e-6, rtol=0)
