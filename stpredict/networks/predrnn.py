"""PredRNN and PredRNN-v2: ST-LSTM cells with a memory that zigzags through layers and time.

Source: Wang et al., PredRNN (NeurIPS 2017) and PredRNN: A Recurrent Neural Network for Spatiotemporal Predictive Learning (TPAMI 2022,
arXiv 2103.09504), in the form of predrnn-pytorch (2021) and OpenSTL.
"""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional

from stpredict.cells.gates import zeros
from stpredict.cells.remembering import Remembered
from stpredict.cells.stlstm import SpatioTemporalLSTMCell
from stpredict.errors import UserError
from stpredict.networks.contract import Constants
from stpredict.networks.stacked import StackedNetwork, StackSettings, dropped, masks_of

ZigzagState = tuple[tuple[tuple[Tensor, Tensor], ...], Tensor]

_NORM_FLOOR, _COSINE_FLOOR = 1e-12, 1e-8


class PredRNN(StackedNetwork):
    """Layers of ST-LSTM cells; the memory m goes up through the layers and on from the top to the bottom of the next step.

    Args:
        forget_bias: added to both forget gates before the sigmoid.
        **settings: of every stacked network (:class:`stpredict.networks.stacked.StackedNetwork`); all widths are equal, since m passes
            through every layer.
    """

    def __init__(self, *, forget_bias: float = 1.0, **settings: Unpack[StackSettings]) -> None:
        super().__init__(**settings)
        if len(set(self.hidden)) > 1:
            raise UserError(f"PredRNN's memory passes through every layer, so all layers must be equally wide, not {list(self.hidden)}")
        self.cells = nn.ModuleList(
            SpatioTemporalLSTMCell(inputs, width, self.gates, forget_bias=forget_bias)
            for inputs, width in zip(self.layer_inputs, self.hidden, strict=True)
        )

    def initial_cells(self, batch: int, grid: tuple[int, ...]) -> ZigzagState:
        """Return zeros: (h, c) of each layer, and the memory m."""
        layers = tuple((zeros(self, batch, width, *grid), zeros(self, batch, width, *grid)) for width in self.hidden)
        return layers, zeros(self, batch, self.hidden[0], *grid)

    def climb(self, inputs: Tensor, state: ZigzagState, constants: Constants) -> tuple[Tensor, ZigzagState, Tensor | None]:
        """Walk up the layers once."""
        layers, memory = state
        hidden, states, penalties = inputs, [], []
        for layer, (cell, (h, c)) in enumerate(zip(self.cells, layers, strict=True)):
            below, recurrent = masks_of(constants, layer)
            hidden, temporal, spatial = cell(dropped(hidden, below), dropped(h, recurrent), c, memory)
            memory = spatial.memory
            states.append((hidden, temporal.memory))
            penalty = self.penalty(temporal, spatial)
            if penalty is not None:
                penalties.append(penalty)
        return hidden, (tuple(states), memory), torch.stack(penalties).mean(dim=0) if penalties else None

    def penalty(self, temporal: Remembered, spatial: Remembered) -> Tensor | None:
        """Return a term ``(B,)`` of the training loss from what a layer has remembered, or None."""
        return None


class PredRNNv2(PredRNN):
    """PredRNN trained to remember different things in its two memories; forecasts are PredRNN's, and the adapter takes no part in them.

    The decoupling loss is beta times the mean, over steps, layers and channels, of ``|cos(A dc, A dm)|``: the increments of c and m,
    through a shared 1x1 adapter A, as vectors over the grid. Norms have the floors of predrnn-pytorch, so that a blank clip gives 0.

    Args:
        decouple: beta, the weight of the decoupling loss (0.1 on Moving MNIST, 0.01 on KTH).
        **settings: those of :class:`PredRNN`.
    """

    training_settings = ("dropout", "decouple")

    def __init__(self, *, decouple: float = 0.1, forget_bias: float = 1.0, **settings: Unpack[StackSettings]) -> None:
        super().__init__(forget_bias=forget_bias, **settings)
        if decouple < 0.0:
            raise UserError(f"'decouple' is the weight of a loss, not negative; not {decouple}")
        self.decouple = decouple
        self.adapter = nn.Conv2d(self.hidden[0], self.hidden[0], 1, bias=False)

    def penalty(self, temporal: Remembered, spatial: Remembered) -> Tensor | None:
        """Return beta times the mean absolute cosine of a layer's increments in training, else None."""
        if not self.training:
            return None
        flat = [self.adapter(part.increment).flatten(2) for part in (temporal, spatial)]
        a, b = (functional.normalize(part, dim=2, eps=_NORM_FLOOR) for part in flat)
        return self.decouple * functional.cosine_similarity(a, b, dim=2, eps=_COSINE_FLOOR).abs().mean(dim=1)
