"""The recall of E3D-LSTM never holds its scores, and its memory grows by one entry a step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from stpredict.cells.eidetic import recall, to_tokens
from stpredict.networks import create_network
from stpredict.unroll import advance, begin


class LargestTensor(TorchDispatchMode):
    """Remembers the most numbers that any operation has returned at once."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for part in made if isinstance(made, tuple | list) else [made]:
            if isinstance(part, Tensor):
                self.numbers = max(self.numbers, part.numel())
        return made


@pytest.mark.parametrize("kind", ["positions", "rows"])
@pytest.mark.parametrize("backward", [False, True])
def test_scores_are_never_held(backward: bool, kind: Any) -> None:
    tokens, entries, width = 512, 6, 16
    query = torch.rand(1, width, 2, 16, 16, requires_grad=backward)
    pool = tuple(torch.rand(1, tokens, width, requires_grad=backward) for _ in range(entries))
    with LargestTensor() as largest, torch.set_grad_enabled(backward):
        found = recall(query, pool, kind)
        if backward:
            found.square().sum().backward()
    assert largest.numbers == entries * tokens * width, "the pool side by side is the most that is held"
    assert largest.numbers < tokens * tokens * entries / 10, "scores would be that many"


@pytest.mark.parametrize("tokens", ["positions", "rows"])
def test_recall_and_its_gradients(tokens: Any) -> None:
    """Against the softmax written out, in float64."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 3, 2, 2, 3, dtype=torch.float64, generator=generator).requires_grad_()
    entries = [torch.randn(2, 3, 2, 2, 3, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(3)]
    found = recall(query, tuple(to_tokens(entry, tokens) for entry in entries), tokens)

    def rows(part: Tensor) -> Tensor:
        return part.reshape(2, -1, 3) if tokens == "rows" else part.permute(0, 2, 3, 4, 1).reshape(2, -1, 3)

    keys = torch.cat([rows(entry) for entry in entries], dim=1)
    expected = torch.softmax(rows(query) @ keys.transpose(1, 2), dim=2) @ keys
    torch.testing.assert_close(rows(found), expected, atol=1e-12, rtol=0)
    goal = torch.randn(found.shape, dtype=torch.float64, generator=generator)
    ours = torch.autograd.grad((found * goal).sum(), [query, *entries])
    theirs = torch.autograd.grad((expected * rows(goal)).sum(), [query, *entries])
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("tau", "kept"), [(None, [1, 2, 3, 4, 5]), (3, [1, 2, 3, 3, 3])])
@torch.no_grad()
def test_the_pool_grows_by_one_a_step_unless_it_is_bounded(tau: int | None, kept: list[int]) -> None:
    network = create_network("e3d_lstm", channels=1, hidden=[4, 4], kernel_size=3, patch_size=2, recall=tau)
    place = begin(network, 1, 8, 8)
    lengths = []
    for _ in range(5):
        lengths.append([len(pool) for _, _, pool in place.state[1][0]])
        _, place, _ = advance(network, place, 1, torch.rand(1, 1, 1, 8, 8))
    assert lengths == [[length] * 2 for length in kept]
