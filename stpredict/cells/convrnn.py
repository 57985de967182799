"""The plain convolutional recurrent cell: no gates.

Source: Elman 1990 with convolutions; the simplest member of the family of Shi et al. 2015 (arXiv 1506.04214).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stpredict.cells.gates import Gates


class ConvRNNCell(nn.Module):
    """One ConvRNN unit: ``h' = tanh(N(x * Wx) + N(h * Wh))``."""

    def __init__(self, inputs: int, hidden: int, gates: Gates) -> None:
        super().__init__()
        self.x, self.h = gates(inputs, hidden), gates(hidden, hidden)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        """Take input ``(B, inputs, ...)`` and state ``(B, hidden, ...)``; return the new h."""
        return (torch.tanh(self.x(x) + self.h(h)),)
