"""Convolutions of several sizes side by side.

Source: Gao et al., SimVP (CVPR 2022, arXiv 2206.05099), in the form of OpenSTL.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class InceptionBranch(nn.Module):
    """Grouped "same" convolution, group norm (eps 1e-5, affine), leaky ReLU of slope 0.2."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int, groups: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, kernel_size, padding=kernel_size // 2, groups=groups)
        self.norm = nn.GroupNorm(groups, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Take ``(B, inputs, H, W)`` and return ``(B, outputs, H, W)``."""
        return functional.leaky_relu(self.norm(self.convolution(x)), 0.2)


class Inception(nn.Module):
    """A 1x1 convolution to ``squeezed`` channels, then the sum of one branch for each kernel size::

    a = x * W1x1    y = sum over k of leaky(N(a * Wk))
    """

    def __init__(self, inputs: int, squeezed: int, outputs: int, groups: int, kernel_sizes: Sequence[int] = (3, 5, 7, 11)) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.branches = nn.ModuleList(InceptionBranch(squeezed, outputs, size, groups) for size in kernel_sizes)

    def forward(self, x: Tensor) -> Tensor:
        """Take ``(B, inputs, H, W)`` and return ``(B, outputs, H, W)``."""
        squeezed = self.squeeze(x)
        total: Tensor = self.branches[0](squeezed)
        for branch in self.branches[1:]:
            total = total + branch(squeezed)
        return total


class InceptionUNet(nn.Module):
    """Inceptions in the shape of a U of one size: each on the way back also sees what its mirror image on the way there made.

    Args:
        channels: of what comes in and goes out.
        hidden: channels between.
        layers: inceptions on the way there, and as many on the way back; at least 2.
    """

    def __init__(self, channels: int, hidden: int, layers: int) -> None:
        super().__init__()
        squeezed, groups = hidden // 2, inception_groups(hidden)
        there = [channels, *[hidden] * layers]
        back = [*[hidden] * layers, channels]
        self.encoder = nn.ModuleList(Inception(there[i], squeezed, there[i + 1], groups) for i in range(layers))
        self.decoder = nn.ModuleList(Inception(back[i] * (2 if i else 1), squeezed, back[i + 1], groups) for i in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        """Take and return ``(B, channels, H, W)``."""
        skips: list[Tensor] = []
        for inception in self.encoder:
            x = inception(x)
            skips.append(x)
        x = self.decoder[0](skips.pop())
        for inception in self.decoder[1:]:
            x = inception(torch.cat([x, skips.pop()], dim=1))
        return x


def inception_groups(hidden: int) -> int:
    """Return the groups of the convolutions and norms in an :class:`InceptionUNet`: 8, or 1 where 8 do not divide its half width."""
    return 1 if (hidden // 2) % 8 else 8
