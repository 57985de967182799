"""The causal LSTM cell and the gradient highway unit of PredRNN++.

Source: Wang et al., PredRNN++ (ICML 2018, arXiv 1804.06300), as in the authors' code predrnn-pp and in OpenSTL.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from stpredict.cells.gates import Gates, convolve_parts, gate
from stpredict.cells.remembering import expose, remember

TemporalFrom = Literal["cell", "memory"]


class CausalLSTMCell(nn.Module):
    """One causal LSTM unit: the temporal memory c is updated first, and the new c takes part in the update of the spatial memory m::

    X = N(x * Wx) = [i f g i' f' g' o]   A = N(h * Wh) = [i f g o]   Q = N(c * Wc) = [i f g]   D = N(m * Wm) = [i' f' u]
    i  = s(Xi + Ai + Qi)    f = s(Xf + Af + Qf + forget_bias)   g = tanh(Xg + Ag + Qg)     c' = f . c + i . g
    R  = N(c' * Wr) = [i' g' f' o]
    i' = s(Xi' + Di' + Ri')   f' = s(Xf' + Df' + Rf' + forget_bias)   g' = tanh(Xg' + Rg')   m' = f' . tanh(u) + i' . g'
    o  = tanh(Xo + Ao + Ro + N(m' * Wm'))        h' = o . tanh([c' m'] * W1x1)

    The layers may differ in width: m comes ``memory`` wide and leaves ``hidden`` wide. ``temporal_from="memory"`` is the cell of OpenSTL
    before December 2023, with which all its released weights were trained: Q is made from m instead of c.
    """

    def __init__(
        self, inputs: int, hidden: int, memory: int, gates: Gates, *, forget_bias: float = 1.0, temporal_from: TemporalFrom = "cell"
    ) -> None:
        super().__init__()
        self.hidden, self.forget_bias, self.temporal_from = hidden, forget_bias, temporal_from
        self.x, self.h = gates(inputs, 7 * hidden), gates(hidden, 4 * hidden)
        self.c = gates(memory if temporal_from == "memory" else hidden, 3 * hidden)
        self.m = gates(memory, 3 * hidden)
        self.c2m, self.m2o = gates(hidden, 4 * hidden), gates(hidden, hidden)
        self.out = gates.pointwise(2 * hidden, hidden)

    def forward(self, x: Tensor, h: Tensor, c: Tensor, m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Take input ``(B, inputs, ...)``, states ``(B, hidden, ...)`` and memory ``(B, memory, ...)``; return the new h, c and m."""
        n = self.hidden
        x_to_c, xi, xf, xg, xo = torch.split(self.x(x), [3 * n, n, n, n, n], dim=1)
        h_to_c, ho = torch.split(self.h(h), [3 * n, n], dim=1)
        c_to_c = self.c(m if self.temporal_from == "memory" else c)
        c = remember(torch.chunk(x_to_c + h_to_c + c_to_c, 3, dim=1), c, self.forget_bias, " of c").memory
        mi, mf, transformed = torch.chunk(self.m(m), 3, dim=1)
        ci, cg, cf, co = torch.chunk(self.c2m(c), 4, dim=1)
        m = remember((xi + mi + ci, xf + mf + cf, xg + cg), torch.tanh(transformed), self.forget_bias, " of m").memory
        h = expose(xo + ho + co + self.m2o(m), convolve_parts(self.out, c, m), torch.tanh)
        return h, c, m


class GradientHighwayUnit(nn.Module):
    """A highway through time for gradients::

    [p u] = N(x * Wx) + N(z * Wz)        z' = s(u) . tanh(p) + (1 - s(u)) . z
    """

    def __init__(self, hidden: int, gates: Gates) -> None:
        super().__init__()
        self.x, self.z = gates(hidden, 2 * hidden), gates(hidden, 2 * hidden)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Take input and state ``(B, hidden, ...)``; return the new state, which is the output as well."""
        p, u = torch.chunk(self.x(x) + self.z(z), 2, dim=1)
        switch = gate("switch", u)
        return switch * torch.tanh(p) + (1.0 - switch) * z
