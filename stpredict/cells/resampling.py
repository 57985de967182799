"""Convolutions that halve, keep or double the size of what they see.

Source: Gao et al., SimVP (CVPR 2022, arXiv 2206.05099), in the form of OpenSTL.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional


class ResamplingConvolution(nn.Module):
    """Convolution, group norm over two halves of the channels (eps 1e-5, affine), SiLU: ``(B, in, H, W)`` to ``(B, out, H', W')``.

    With ``size="half"`` the convolution has stride 2. With ``size="double"`` it makes four times the channels, and these are
    shuffled into pixels before the norm: ``out[c, 2 r + a, 2 s + b] = in[4 c + 2 a + b, r, s]``.
    """

    def __init__(self, inputs: int, outputs: int, kernel_size: int, size: Literal["half", "same", "double"] = "same") -> None:
        super().__init__()
        self.doubles = size == "double"
        made, stride = (4 * outputs if self.doubles else outputs), (2 if size == "half" else 1)
        self.convolution = nn.Conv2d(inputs, made, kernel_size, stride, padding=kernel_size // 2)
        self.norm = nn.GroupNorm(2, outputs)
        nn.init.trunc_normal_(self.convolution.weight, std=0.02)
        assert self.convolution.bias is not None
        nn.init.zeros_(self.convolution.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Take ``(B, inputs, H, W)``; H and W even where they are halved."""
        x = self.convolution(x)
        return functional.silu(self.norm(functional.pixel_shuffle(x, 2) if self.doubles else x))
