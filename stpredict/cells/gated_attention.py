"""Attention by a gate that a large depthwise convolution makes, and a convolutional MLP.

Source: Tan et al., SimVP: towards simple yet powerful spatiotemporal predictive learning (arXiv 2211.12509), in the form of
OpenSTL; after Guo et al., Visual Attention Network (arXiv 2202.09741).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class GatedAttention(nn.Module):
    """A large receptive field, 23 x 23, makes features and their gates::

    b = N(x)    u = dw7,dilation 3 (dw5(GELU(b * Win)))    [f g] = u * Wgate    y = (f . s(g)) * Wout + b
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.project_in = nn.Conv2d(channels, channels, 1)
        self.near = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.far = nn.Conv2d(channels, channels, 7, padding=9, dilation=3, groups=channels)
        self.gate = nn.Conv2d(channels, 2 * channels, 1)
        self.project_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Take and return ``(B, channels, H, W)``."""
        x = self.norm(x)
        features, gate = torch.chunk(self.gate(self.far(self.near(functional.gelu(self.project_in(x))))), 2, dim=1)
        attended: Tensor = self.project_out(features * torch.sigmoid(gate)) + x
        return attended


class ConvolutionalMLP(nn.Module):
    """A pointwise MLP with a depthwise 3x3 convolution before its nonlinearity: ``GELU(dw3(N(x) * W1)) * W2``."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.expand = nn.Conv2d(channels, hidden, 1)
        self.mix = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.contract = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Take and return ``(B, channels, H, W)``."""
        mixed: Tensor = self.contract(functional.gelu(self.mix(self.expand(self.norm(x)))))
        return mixed


class GatedAttentionBlock(nn.Module):
    """Both on a residual path, each scaled by a learnt factor for every channel, then a 1x1 convolution if the width changes.

    The norms are batch norms: in training they use, and gather, statistics of the batch that this process has.

    Args:
        inputs: channels of what comes in, and of the residual path.
        outputs: channels of what goes out.
        mlp_ratio: width of the MLP, in ``inputs``.
    """

    def __init__(self, inputs: int, outputs: int, mlp_ratio: float) -> None:
        super().__init__()
        self.attention = GatedAttention(inputs)
        self.attention_scale = nn.Parameter(torch.full((inputs,), 0.01))
        self.mlp = ConvolutionalMLP(inputs, int(mlp_ratio * inputs))
        self.mlp_scale = nn.Parameter(torch.full((inputs,), 0.01))
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                area = part.kernel_size[0] * part.kernel_size[1]
                nn.init.normal_(part.weight, std=math.sqrt(2.0 * part.groups / (area * part.out_channels)))
                assert part.bias is not None
                nn.init.zeros_(part.bias)
        self.reduction = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, kept: Tensor | None = None) -> Tensor:
        """Take ``(B, inputs, H, W)`` and return ``(B, outputs, H, W)``.

        ``kept`` is ``(B, 2)``: factors of the two branches of each sample, for stochastic depth (Huang et al. 2016).
        """
        attention, mlp = (None, None) if kept is None else kept.to(x.dtype)[:, :, None, None, None].unbind(dim=1)
        x = x + _scaled(self.attention(x), self.attention_scale, attention)
        x = x + _scaled(self.mlp(x), self.mlp_scale, mlp)
        reduced: Tensor = self.reduction(x)
        return reduced


def _scaled(branch: Tensor, scale: Tensor, kept: Tensor | None) -> Tensor:
    branch = scale[:, None, None] * branch
    return branch if kept is None else kept * branch
