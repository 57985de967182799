"""The ConvLSTM cell.

Source: Shi et al., Convolutional LSTM Network (NeurIPS 2015, arXiv 1506.04214), without peepholes, as in OpenSTL 1.x.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stpredict.cells.gates import GateConvolution, Norm


class ConvLSTMCell(nn.Module):
    """One ConvLSTM unit; gates in the order i, f, g, o::

        i = s(Xi + Ai)   f = s(Xf + Af + forget_bias)   g = tanh(Xg + Ag)   o = s(Xo + Ao)
        c' = f . c + i . g        h' = o . tanh(c')

    with X = N(x * Wx) and A = N(h * Wh).
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        kernel_size: int,
        *,
        bias: bool = False,
        norm: Norm = "none",
        forget_bias: float = 0.0,
        grid: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.hidden, self.forget_bias = hidden, forget_bias
        self.x = GateConvolution(inputs, 4 * hidden, kernel_size, bias=bias, norm=norm, grid=grid)
        self.h = GateConvolution(hidden, 4 * hidden, kernel_size, bias=False, norm=norm, grid=grid)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Take input ``(B, inputs, H, W)`` and states ``(B, hidden, H, W)``; return the new h and c."""
        i, f, g, o = torch.chunk(self.x(x) + self.h(h), 4, dim=1)
        c = torch.sigmoid(f + self.forget_bias) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c
