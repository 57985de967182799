"""The ConvGRU cell.

Source: Shi et al., Deep Learning for Precipitation Nowcasting (NeurIPS 2017, arXiv 1706.03458), equation 1: the reset gate is applied
after the recurrent convolution. (Ballas et al. 2015, arXiv 1511.06432, apply it before.)
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from stpredict.cells.gates import Gates, gate

Activation = Literal["tanh", "leaky_relu"]


class ConvGRUCell(nn.Module):
    """One ConvGRU unit; gates in the order z (update), r (reset), g (candidate), with X = N(x * Wx) and A = N(h * Wh)::

        z = s(Xz + Az)   r = s(Xr + Ar)   g = f(Xg + r . Ag)        h' = (1 - z) . g + z . h

    f is tanh, or a leaky ReLU of slope 0.2 as in the paper.
    """

    def __init__(self, inputs: int, hidden: int, gates: Gates, activation: Activation = "tanh") -> None:
        super().__init__()
        self.activation = activation
        self.x, self.h = gates(inputs, 3 * hidden), gates(hidden, 3 * hidden)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        """Take input ``(B, inputs, ...)`` and state ``(B, hidden, ...)``; return the new h."""
        (xz, xr, xg), (hz, hr, hg) = torch.chunk(self.x(x), 3, dim=1), torch.chunk(self.h(h), 3, dim=1)
        z = gate("update", xz + hz)
        g = xg + gate("reset", xr + hr) * hg
        g = torch.tanh(g) if self.activation == "tanh" else functional.leaky_relu(g, 0.2)
        return ((1.0 - z) * g + z * h,)
