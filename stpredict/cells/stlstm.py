"""The spatiotemporal LSTM cell of PredRNN.

Source: Wang et al., PredRNN (NeurIPS 2017); the form of predrnn-pytorch and OpenSTL: no biases, forget bias 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stpredict.cells.gates import GateConvolution, Norm


class SpatioTemporalLSTMCell(nn.Module):
    """One ST-LSTM unit: a temporal memory c of its own, and a memory m that zigzags through the layers::

    X = N(x * Wx) = [i f g i' f' g' o]    A = N(h * Wh) = [i f g o]    D = N(m * Wm) = [i' f' g']
    i  = s(Xi  + Ai )   f  = s(Xf  + Af  + forget_bias)   g  = tanh(Xg  + Ag )   c' = f  . c + i  . g
    i' = s(Xi' + Di')   f' = s(Xf' + Df' + forget_bias)   g' = tanh(Xg' + Dg')   m' = f' . m + i' . g'
    o = s(Xo + Ao + N([c' m'] * Wo))       h' = o . tanh([c' m'] * W1x1)
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        kernel_size: int,
        *,
        bias: bool = False,
        norm: Norm = "none",
        forget_bias: float = 1.0,
        grid: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.hidden, self.forget_bias = hidden, forget_bias
        self.x = GateConvolution(inputs, 7 * hidden, kernel_size, bias=bias, norm=norm, grid=grid)
        self.h = GateConvolution(hidden, 4 * hidden, kernel_size, bias=False, norm=norm, grid=grid)
        self.m = GateConvolution(hidden, 3 * hidden, kernel_size, bias=False, norm=norm, grid=grid)
        self.o = GateConvolution(2 * hidden, hidden, kernel_size, bias=False, norm=norm, grid=grid)
        self.out = nn.Conv2d(2 * hidden, hidden, 1, bias=bias)

    def forward(self, x: Tensor, h: Tensor, c: Tensor, m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Take input ``(B, inputs, H, W)`` and states ``(B, hidden, H, W)``; return the new h, c and m."""
        n = self.hidden
        from_x, from_h = self.x(x), self.h(h)
        temporal = from_x[:, : 3 * n] + from_h[:, : 3 * n]
        spatial = from_x[:, 3 * n : 6 * n] + self.m(m)
        c = self._remember(temporal, c)
        m = self._remember(spatial, m)
        memories = torch.cat([c, m], dim=1)
        output_gate = torch.sigmoid(from_x[:, 6 * n :] + from_h[:, 3 * n :] + self.o(memories))
        return output_gate * torch.tanh(self.out(memories)), c, m

    def _remember(self, gates: Tensor, memory: Tensor) -> Tensor:
        i, f, g = torch.chunk(gates, 3, dim=1)
        return torch.sigmoid(f + self.forget_bias) * memory + torch.sigmoid(i) * torch.tanh(g)
