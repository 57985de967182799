"""The ConvLSTM cell.

Source: Shi et al., Convolutional LSTM Network (NeurIPS 2015, arXiv 1506.04214); without peepholes as in OpenSTL.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from stpredict.cells.gates import Gates, gate
from stpredict.cells.remembering import expose, remember
from stpredict.errors import UserError

HiddenFrom = Literal["cell", "candidate"]


class ConvLSTMCell(nn.Module):
    """One ConvLSTM unit; gates in the order i, f, g, o, with X = N(x * Wx) and A = N(h * Wh)::

        i = s(Xi + Ai + Wci . c)   f = s(Xf + Af + Wcf . c + forget_bias)   g = tanh(Xg + Ag)
        c' = f . c + i . g         o = s(Xo + Ao + Wco . c')                h' = o . tanh(c')

    ``peephole`` adds the terms in c, with a weight for every channel and pixel (zero at first). ``hidden_from="candidate"`` is the cell
    of OpenSTL before December 2023, with which all its released weights were trained: ``h' = o . g``, so that neither c nor the gates i
    and f ever reach a prediction (unless a norm mixes them in).
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        gates: Gates,
        *,
        forget_bias: float = 0.0,
        peephole: bool = False,
        hidden_from: HiddenFrom = "cell",
    ) -> None:
        super().__init__()
        self.forget_bias, self.peephole, self.hidden_from = forget_bias, peephole, hidden_from
        self.x, self.h = gates(inputs, 4 * hidden), gates(hidden, 4 * hidden)
        if peephole:
            if gates.grid is None:
                raise UserError("Peepholes have a weight for every pixel: the network needs 'frame_size' (height, width)")
            self.peep_i, self.peep_f, self.peep_o = (nn.Parameter(torch.zeros(hidden, *gates.grid)) for _ in range(3))

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        """Take input ``(B, inputs, ...)`` and states ``(B, hidden, ...)``; return the new h and c."""
        i, f, g, o = torch.chunk(self.x(x) + self.h(h), 4, dim=1)
        if self.peephole:
            i, f = i + self.peep_i * c, f + self.peep_f * c
        if self.hidden_from == "candidate":
            g = torch.tanh(g)
            c = gate("forget", f + self.forget_bias) * c + gate("input", i) * g
            return gate("output", o if not self.peephole else o + self.peep_o * c) * g, c
        c = remember((i, f, g), c, self.forget_bias).memory
        return expose(o if not self.peephole else o + self.peep_o * c, c, kept=True), c
