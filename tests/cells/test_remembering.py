"""Memories and output gates against their formulas in float64, and how little is kept of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stpredict import kernels
from stpredict.cells import gates
from stpredict.cells.remembering import expose, remember
from stpredict.kernels import compiled

pytestmark = pytest.mark.skipif(compiled.library() is None, reason="without compiled kernels everything is torch's")

SHAPE = (2, 8, 6, 7)
FORGET_BIAS = 1.0
Compute = Callable[..., Tensor]


def numbers(count: int, scale: float = 2.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(SHAPE, generator=generator) * scale for _ in range(count)]


def remembered(i: Tensor, f: Tensor, g: Tensor, memory: Tensor) -> Tensor:
    made = remember((i, f, g), memory, FORGET_BIAS)
    return torch.cat([made.memory, 3.0 * made.increment])


def by_formula(i: Tensor, f: Tensor, g: Tensor, memory: Tensor) -> Tensor:
    increment = torch.sigmoid(i) * torch.tanh(g)
    return torch.cat([torch.sigmoid(f + FORGET_BIAS) * memory + increment, 3.0 * increment])


PAIRS: dict[str, tuple[Compute, Compute, int]] = {
    "remember": (remembered, by_formula, 4),
    "expose": (expose, lambda o, shown: torch.sigmoid(o) * torch.tanh(shown), 2),
    "expose a state": (lambda o, shown: expose(o, shown, kept=True), lambda o, shown: torch.sigmoid(o) * torch.tanh(shown), 2),
    "expose by tanh": (lambda o, shown: expose(o, shown, torch.tanh), lambda o, shown: torch.tanh(o) * torch.tanh(shown), 2),
}


def gradients(compute: Compute, inputs: list[Tensor], weights: Tensor) -> tuple[Tensor, list[Tensor]]:
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    made = compute(*inputs)
    return made.detach(), list(torch.autograd.grad((made * weights.to(made.dtype)).sum(), inputs))


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("scale", [0.01, 2.0, 20.0])
def test_values_are_torchs_and_gradients_are_off_by_little(name: str, scale: float) -> None:
    compute, formula, count = PAIRS[name]
    inputs = numbers(count, scale)
    weights = torch.randn(formula(*inputs).shape, generator=torch.Generator().manual_seed(1))
    made, found = gradients(compute, inputs, weights)
    _, exact = gradients(formula, [tensor.double() for tensor in inputs], weights)
    assert torch.equal(made, formula(*inputs))
    # An increment that is told from two memories is as exact as they are large.
    bound = 1e-4 * max(1.0, scale / 2.0)
    for gradient, right in zip(found, exact, strict=True):
        assert (gradient - right).abs().max() <= bound * right.abs().max()
    with kernels.using("reference"):
        _, plain = gradients(compute, inputs, weights)
    assert any(not torch.equal(*pair) for pair in zip(found, plain, strict=True))
    assert all((gradient - right).abs().max() <= 1e-6 * right.abs().max() for gradient, right in zip(plain, exact, strict=True))


def kept(compute: Compute, inputs: list[Tensor]) -> int:
    """Return the bytes kept for gradients, besides the inputs."""
    inputs = [tensor.requires_grad_() for tensor in inputs]
    own, found = {tensor.data_ptr() for tensor in inputs}, {}

    def note(tensor: Tensor) -> Tensor:
        found[tensor.data_ptr()] = 0 if tensor.data_ptr() in own else tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        made = compute(*inputs)
    assert made.requires_grad
    return sum(found.values())


@pytest.mark.parametrize(
    ("name", "halves", "plain"),
    [("remember", 2 + 2, 6), ("expose", 2, 4), ("expose a state", 1, 4), ("expose by tanh", 2, 4)],  # 2: the new memory, a state
)
def test_two_bytes_a_gate_are_kept(name: str, halves: int, plain: int) -> None:
    compute, _, count = PAIRS[name]
    each = torch.Size(SHAPE).numel() * 2
    assert halves * each <= kept(compute, numbers(count)) < halves * each + 64
    with kernels.using("reference"):
        assert kept(compute, numbers(count)) == plain * each


def test_gates_of_one_value_and_of_none() -> None:
    level = [torch.full(SHAPE, 0.5), torch.full(SHAPE, -1.0)]
    _, found = gradients(expose, level, torch.ones(SHAPE))
    _, exact = gradients(PAIRS["expose"][1], [tensor.double() for tensor in level], torch.ones(SHAPE))
    for gradient, right in zip(found, exact, strict=True):
        torch.testing.assert_close(gradient.double(), right, rtol=1e-6, atol=0.0)
    broken = [torch.full(SHAPE, float("nan")), torch.zeros(SHAPE)]
    made, _ = gradients(expose, broken, torch.ones(SHAPE))
    assert made.isnan().all()  # so that the loss tells


def test_who_watches_sees_gates_and_whole_gradients() -> None:
    seen: list[str] = []
    inputs, weights = numbers(4), torch.ones(2 * SHAPE[0], *SHAPE[1:])
    with gates.watching_gates(lambda name, gate: seen.append(name)):
        _, watched = gradients(remembered, inputs, weights)
    assert sorted(seen) == ["forget", "input"]
    with kernels.using("reference"):
        _, plain = gradients(remembered, inputs, weights)
    assert all(torch.equal(*pair) for pair in zip(watched, plain, strict=True))


@pytest.mark.parametrize("name", PAIRS)
def test_double_precision_is_exact(name: str) -> None:
    compute, _, count = PAIRS[name]
    inputs = [tensor[:1, :2, :2, :2].double().requires_grad_() for tensor in numbers(count)]
    assert torch.autograd.gradcheck(compute, inputs)
