"""The spatiotemporal LSTM cell of PredRNN.

Source: Wang et al., PredRNN (NeurIPS 2017); the form of predrnn-pytorch and OpenSTL: no biases, forget bias 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stpredict.cells.gates import Gates
from stpredict.cells.remembering import Remembered, expose, remember_together


class SpatioTemporalLSTMCell(nn.Module):
    """One ST-LSTM unit: a temporal memory c of its own, and a memory m that zigzags through the layers::

    X = N(x * Wx) = [i f g i' f' g' o]    A = N(h * Wh) = [i f g o]    D = N(m * Wm) = [i' f' g']
    i  = s(Xi  + Ai )   f  = s(Xf  + Af  + forget_bias)   g  = tanh(Xg  + Ag )   c' = f  . c + i  . g
    i' = s(Xi' + Di')   f' = s(Xf' + Df' + forget_bias)   g' = tanh(Xg' + Dg')   m' = f' . m + i' . g'
    o = s(Xo + Ao + N([c' m'] * Wo))       h' = o . tanh([c' m'] * W1x1)
    """

    def __init__(self, inputs: int, hidden: int, gates: Gates, *, forget_bias: float = 1.0) -> None:
        super().__init__()
        self.hidden, self.forget_bias = hidden, forget_bias
        self.x, self.h, self.m = gates(inputs, 7 * hidden), gates(hidden, 4 * hidden), gates(hidden, 3 * hidden)
        self.o = gates(2 * hidden, hidden)
        self.out = gates.pointwise(2 * hidden, hidden)

    def forward(self, x: Tensor, h: Tensor, c: Tensor, m: Tensor) -> tuple[Tensor, Remembered, Remembered]:
        """Take input ``(B, inputs, ...)`` and states ``(B, hidden, ...)``; return the new h, and c and m with their increments."""
        n = self.hidden
        x_to_c, x_to_m, x_to_o = torch.split(self.x(x), [3 * n, 3 * n, n], dim=1)
        h_to_c, h_to_o = torch.split(self.h(h), [3 * n, n], dim=1)
        gates = [torch.chunk(x_to_c + h_to_c, 3, dim=1), torch.chunk(x_to_m + self.m(m), 3, dim=1)]
        memories, of_c, of_m = remember_together(gates, [c, m], self.forget_bias, [" of c", " of m"])
        h = expose(x_to_o + h_to_o + self.o(memories), self.out(memories))
        c, m = torch.chunk(memories, 2, dim=1)
        return h, Remembered(c, of_c), Remembered(m, of_m)
