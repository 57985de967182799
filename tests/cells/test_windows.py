"""A convolution of windows is torch's own in three dimensions."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from stpredict import kernels
from stpredict.cells.gates import WindowConvolution


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize(("window", "size", "channels"), [(2, 5, (20, 24)), (3, 3, (4, 6)), (1, 1, (3, 2))])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chosen", ["reference", "auto"])
def test_windows(depth: int, window: int, size: int, channels: tuple[int, int], bias: bool, chosen: kernels.Kernels) -> None:
    generator = torch.Generator().manual_seed(0)
    padding = ((depth - 1) // 2, size // 2, size // 2)
    module = WindowConvolution(*channels, (depth, size, size), padding=padding, bias=bias)
    inputs = torch.randn(2, channels[0], window, 9, 11, generator=generator, requires_grad=True)
    before, after = (depth - 1) // 2, depth // 2
    padded = functional.pad(inputs.double(), (0, 0, 0, 0, before, after))
    weight = module.weight.double()
    expected = functional.conv3d(padded, weight, None if module.bias is None else module.bias.double(), padding=(0, size // 2, size // 2))
    with kernels.using(chosen):
        made = module(inputs)
        found = torch.autograd.grad(made.square().sum(), [inputs, module.weight])
    torch.testing.assert_close(made.double(), expected, atol=1e-4, rtol=0)
    for gradient, right in zip(found, torch.autograd.grad(expected.square().sum(), [inputs, module.weight]), strict=True):
        assert (gradient - right).abs().max() < 1e-4 * right.abs().max()
