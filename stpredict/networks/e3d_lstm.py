"""E3D-LSTM: eidetic 3-D LSTM cells on windows of two frames, with a memory that zigzags.

Source: Wang et al., Eidetic 3D LSTM (ICLR 2019, OpenReview B1lKS2AqtX), in the forms of e3d_lstm (TensorFlow) and of OpenSTL.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Literal, Unpack

from torch import Tensor, nn

from stpredict.cells.eidetic import EideticLSTMCell, Memory, StretchedGates, Tokens, to_tokens
from stpredict.cells.gates import zeros
from stpredict.errors import UserError
from stpredict.networks.contract import Constants
from stpredict.networks.stacked import StackedNetwork, StackSettings, dropped, masks_of

WINDOW = 2

EideticLayer = tuple[Tensor, Tensor, tuple[Tensor, ...]]
EideticState = tuple[tuple[EideticLayer, ...], Tensor]


class E3DLSTM(StackedNetwork):
    """Layers of eidetic 3-D LSTM cells; each step sees the last two frames, and kernels are 2 x k x k.

    Args:
        form: ``padded``: convolutions keep the window's two slots, padded after, recall is over positions, and the recall is normalised
            with a scale for each channel (e3d_lstm). ``stretched``: convolutions merge the slots and copy the result to both, recall
            is over rows of the memory as it lies, and the recall norm has an affine for each pixel, which binds the network to its
            frame size (OpenSTL).
        memory: ``updated``: m is passed on as it was updated (paper); ``frozen``: m stays zero (both codes, all released weights).
        recall: tau, how many of the newest memories are recalled from; None: all.
        stride: of the stretched convolutions (2 in OpenSTL's recipe for KTH).
        forget_bias: added to the forget gate of m before the sigmoid.
        **settings: of every stacked network (:class:`stpredict.networks.stacked.StackedNetwork`); widths may differ.
    """

    def __init__(
        self,
        *,
        form: Literal["padded", "stretched"] = "padded",
        memory: Memory = "updated",
        recall: int | None = None,
        stride: int = 1,
        forget_bias: float = 1.0,
        **settings: Unpack[StackSettings],
    ) -> None:
        stretched = form == "stretched"
        super().__init__(window=WINDOW, bound=stretched, **settings)
        if recall is not None and recall < 1:
            raise UserError(f"'recall' is how many memories are recalled from, at least 1, or null for all; not {recall}")
        if stride < 1 or (stride > 1 and not stretched):
            raise UserError(f"'stride' is at least 1, and above it only in the form 'stretched'; not {stride} in the form '{form}'")
        if stretched and self.grid is None:
            raise UserError("The form 'stretched' has recall norms with a weight for every pixel: the network needs 'frame_size'")
        self.recall = recall
        self.tokens: Tokens = "rows" if stretched else "positions"
        self.memory = memory
        if stretched:
            self.gates = StretchedGates(**asdict(self.gates), stride=stride)
        epsilon = self.gates.norm_epsilon
        self.cells = nn.ModuleList(
            EideticLSTMCell(
                inputs,
                width,
                below,
                self.gates,
                nn.LayerNorm([width, *(self.gates.grid or ())], eps=epsilon) if stretched else nn.GroupNorm(1, width, eps=epsilon),
                memory=memory,
                tokens=self.tokens,
                output_norm=stretched,
                forget_bias=forget_bias,
            )
            for inputs, width, below in zip(self.layer_inputs, self.hidden, (self.hidden[-1], *self.hidden[:-1]), strict=True)
        )

    def initial_cells(self, batch: int, grid: tuple[int, ...]) -> EideticState:
        """Return zeros: h, c and the pool with the first c, of each layer; and the memory m."""
        layers = []
        for width in self.hidden:
            c = zeros(self, batch, width, *grid)
            layers.append((zeros(self, batch, width, *grid), c, (to_tokens(c, self.tokens),)))
        return tuple(layers), zeros(self, batch, self.hidden[-1], *grid)

    def climb(self, inputs: Tensor, state: EideticState, constants: Constants) -> tuple[Tensor, EideticState, None]:
        """Walk up the layers once."""
        layers, memory = state
        hidden, states = inputs, []
        for layer, (cell, (h, c, pool)) in enumerate(zip(self.cells, layers, strict=True)):
            below, recurrent = masks_of(constants, layer)
            hidden, c, updated = cell(dropped(hidden, below), dropped(h, recurrent), c, memory, pool)
            if self.memory == "updated":
                memory = updated
            pool = (*pool, to_tokens(c, self.tokens))
            states.append((hidden, c, pool if self.recall is None else pool[-self.recall :]))
        return hidden, (tuple(states), memory), None
