"""ConvLSTM, ConvGRU and ConvRNN: stacks of cells that know their own layer only.

Source: Shi et al. 2015 (arXiv 1506.04214) and 2017 (arXiv 1706.03458), in the stacked next-frame form of OpenSTL, without that code's
unused weights.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Unpack

from torch import Tensor, nn

from stpredict.cells.convgru import Activation, ConvGRUCell
from stpredict.cells.convlstm import ConvLSTMCell, HiddenFrom
from stpredict.cells.convrnn import ConvRNNCell
from stpredict.cells.gates import Gates, zeros
from stpredict.networks.contract import Constants
from stpredict.networks.stacked import StackedNetwork, StackSettings, dropped, masks_of

LayerStates = tuple[tuple[Tensor, ...], ...]


class _LayeredNetwork(StackedNetwork):
    """Layers that each keep their own states, of which the first is h."""

    cells: nn.ModuleList
    states = 1
    """How many states a layer has."""

    def stack(self, make_cell: Callable[[int, int, Gates], nn.Module]) -> nn.ModuleList:
        """Return the cells, each made from its inputs, its width and the gates."""
        return nn.ModuleList(make_cell(inputs, width, self.gates) for inputs, width in zip(self.layer_inputs, self.hidden, strict=True))

    def initial_cells(self, batch: int, grid: tuple[int, ...]) -> LayerStates:
        """Return zeros: the states of each layer."""
        return tuple(tuple(zeros(self, batch, width, *grid) for _ in range(self.states)) for width in self.hidden)

    def climb(self, inputs: Tensor, state: LayerStates, constants: Constants) -> tuple[Tensor, LayerStates, None]:
        """Walk up the layers once."""
        hidden, states = inputs, []
        for layer, (cell, (h, *rest)) in enumerate(zip(self.cells, state, strict=True)):
            below, recurrent = masks_of(constants, layer)
            new: tuple[Tensor, ...] = cell(dropped(hidden, below), dropped(h, recurrent), *rest)
            hidden = new[0]
            states.append(new)
        return hidden, tuple(states), None


class ConvLSTM(_LayeredNetwork):
    """Layers of ConvLSTM cells that predict the next frame from each frame.

    Args:
        forget_bias: added to the forget gate before the sigmoid.
        peephole: let the gates see the cell state, with a weight for every channel and pixel; needs ``frame_size``.
        hidden_from: ``cell``, as published; ``candidate``: as OpenSTL before December 2023, whose released weights need it.
        window: D; above 1 each step sees the last D frames, and states and kernels (D x k x k) have a time axis.
        **settings: of every stacked network (:class:`stpredict.networks.stacked.StackedNetwork`); widths may differ.
    """

    states = 2

    def __init__(
        self,
        *,
        forget_bias: float = 0.0,
        peephole: bool = False,
        hidden_from: HiddenFrom = "cell",
        window: int = 1,
        **settings: Unpack[StackSettings],
    ) -> None:
        super().__init__(window=window, bound=peephole, **settings)
        self.cells = self.stack(partial(ConvLSTMCell, forget_bias=forget_bias, peephole=peephole, hidden_from=hidden_from))


class ConvGRU(_LayeredNetwork):
    """Layers of ConvGRU cells that predict the next frame from each frame.

    Args:
        activation: of the candidate: ``tanh``, or ``leaky_relu`` of slope 0.2 as in the paper.
        window: D; above 1 each step sees the last D frames, and states and kernels (D x k x k) have a time axis.
        **settings: of every stacked network (:class:`stpredict.networks.stacked.StackedNetwork`); widths may differ.
    """

    def __init__(self, *, activation: Activation = "tanh", window: int = 1, **settings: Unpack[StackSettings]) -> None:
        super().__init__(window=window, **settings)
        self.cells = self.stack(partial(ConvGRUCell, activation=activation))


class ConvRNN(_LayeredNetwork):
    """Layers of plain convolutional recurrent cells, without gates, that predict the next frame from each frame.

    Args:
        window: D; above 1 each step sees the last D frames, and states and kernels (D x k x k) have a time axis.
        **settings: of every stacked network (:class:`stpredict.networks.stacked.StackedNetwork`); widths may differ.
    """

    def __init__(self, *, window: int = 1, **settings: Unpack[StackSettings]) -> None:
        super().__init__(window=window, **settings)
        self.cells = self.stack(ConvRNNCell)
