"""PredRNN++: causal LSTM cells with a memory that zigzags, and a gradient highway unit.

Source: Wang et al., PredRNN++ (ICML 2018, arXiv 1804.06300), in the form of predrnn-pp (norm ``channel`` and biases, widths that may
differ) and of OpenSTL (neither). OpenSTL's own code fails with a norm; this has them all.
"""

from __future__ import annotations

from typing import Unpack

from torch import Tensor, nn

from stpredict.cells.causal import CausalLSTMCell, GradientHighwayUnit, TemporalFrom
from stpredict.cells.gates import zeros
from stpredict.errors import UserError
from stpredict.networks.contract import Constants
from stpredict.networks.stacked import StackedNetwork, StackSettings, dropped, masks_of

CausalState = tuple[tuple[tuple[Tensor, Tensor], ...], Tensor, Tensor | None]


class PredRNNpp(StackedNetwork):
    """Layers of causal LSTM cells; m zigzags through them, and a gradient highway passes between two of them.

    Args:
        highway: how many layers lie below the gradient highway unit (published: 1); None: there is none.
        forget_bias: added to both forget gates before the sigmoid.
        temporal_from: ``cell``, as published; ``memory``: as OpenSTL before December 2023, whose released weights need it.
        **settings: of every stacked network (:class:`stpredict.networks.stacked.StackedNetwork`); widths may differ.
    """

    def __init__(
        self,
        *,
        highway: int | None = 1,
        forget_bias: float = 1.0,
        temporal_from: TemporalFrom = "cell",
        **settings: Unpack[StackSettings],
    ) -> None:
        super().__init__(**settings)
        if highway is not None and not 1 <= highway <= len(self.hidden):
            raise UserError(f"'highway' is the number of layers below it, 1 to {len(self.hidden)} here, or null for none; not {highway}")
        self.highway = highway
        self.cells = nn.ModuleList(
            CausalLSTMCell(inputs, width, memory, self.gates, forget_bias=forget_bias, temporal_from=temporal_from)
            for inputs, width, memory in zip(self.layer_inputs, self.hidden, (self.hidden[-1], *self.hidden[:-1]), strict=True)
        )
        self.ghu = None if highway is None else GradientHighwayUnit(self.hidden[highway - 1], self.gates)

    def initial_cells(self, batch: int, grid: tuple[int, ...]) -> CausalState:
        """Return zeros: (h, c) of each layer, the memory m, and the highway's state, if there is a highway."""
        layers = tuple((zeros(self, batch, width, *grid), zeros(self, batch, width, *grid)) for width in self.hidden)
        highway = None if self.highway is None else zeros(self, batch, self.hidden[self.highway - 1], *grid)
        return layers, zeros(self, batch, self.hidden[-1], *grid), highway

    def climb(self, inputs: Tensor, state: CausalState, constants: Constants) -> tuple[Tensor, CausalState, None]:
        """Walk up the layers once."""
        layers, memory, carried = state
        hidden, states = inputs, []
        for layer, (cell, (h, c)) in enumerate(zip(self.cells, layers, strict=True)):
            below, recurrent = masks_of(constants, layer)
            hidden, c, memory = cell(dropped(hidden, below), dropped(h, recurrent), c, memory)
            states.append((hidden, c))
            if self.ghu is not None and layer + 1 == self.highway:
                hidden = carried = self.ghu(hidden, carried)
        return hidden, (tuple(states), memory, carried), None
