"""Products of matrices, however they lie in memory, against float64."""

from __future__ import annotations

import pytest
import torch

from stpredict.kernels import multiply


@pytest.mark.parametrize(("rows", "depth", "columns"), [(1, 1, 1), (7, 5, 3), (64, 128, 300), (1, 16, 9), (33, 1, 4)])
@pytest.mark.parametrize("turned", [(False, False), (True, False), (False, True), (True, True)])
def test_products(rows: int, depth: int, columns: int, turned: tuple[bool, bool]) -> None:
    generator = torch.Generator().manual_seed(0)
    left = torch.randn((depth, rows) if turned[0] else (rows, depth), generator=generator)
    right = torch.randn((columns, depth) if turned[1] else (depth, columns), generator=generator)
    left, right = left.T if turned[0] else left, right.T if turned[1] else right
    exact = left.double() @ right.double()
    torch.testing.assert_close(multiply(left, right).double(), exact, atol=5e-5, rtol=0)
    assert torch.equal(multiply(left.double(), right.double()), exact)


def test_parts_of_larger_matrices() -> None:
    whole = torch.randn(20, 30, generator=torch.Generator().manual_seed(0))
    left, right = whole[3:9, 4:15], whole[5:16, 20:27]
    torch.testing.assert_close(multiply(left, right).double(), left.double() @ right.double(), atol=5e-5, rtol=0)
