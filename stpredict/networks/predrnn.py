"""PredRNN: ST-LSTM cells with a memory that zigzags through layers and time.

Source: Wang et al., PredRNN (NeurIPS 2017), in the form of predrnn-pytorch (2021) and OpenSTL.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from stpredict.cells.gates import Norm, zeros
from stpredict.cells.stlstm import SpatioTemporalLSTMCell
from stpredict.errors import UserError
from stpredict.networks.contract import Constants, Step
from stpredict.networks.stacked import StackedNetwork

ZigzagState = tuple[tuple[tuple[Tensor, Tensor], ...], Tensor]


class PredRNN(StackedNetwork):
    """Layers of ST-LSTM cells; the memory m goes up through the layers and on from the top to the bottom of the next step.

    Args:
        channels: C of a frame.
        hidden: channels of each layer, all equal, since m passes through every layer.
        kernel_size: of every gate convolution, odd.
        patch_size: P; frames become a grid of H/P x W/P patches.
        frame_size: (H, W); required with layer norm.
        norm: ``none`` or ``layer``.
        bias: give the input convolutions and the 1x1 output convolutions a bias.
        forget_bias: added to both forget gates before the sigmoid.
        valid_channel: feed the mask of missing pixels as well.
        known_channels: K of the known inputs.
    """

    def __init__(
        self,
        *,
        channels: int,
        hidden: Sequence[int],
        kernel_size: int,
        patch_size: int,
        frame_size: tuple[int, int] | None = None,
        norm: Norm = "none",
        bias: bool = False,
        forget_bias: float = 1.0,
        valid_channel: bool = False,
        known_channels: int = 0,
    ) -> None:
        super().__init__(
            channels=channels,
            hidden=hidden,
            kernel_size=kernel_size,
            patch_size=patch_size,
            frame_size=frame_size,
            norm=norm,
            valid_channel=valid_channel,
            known_channels=known_channels,
        )
        if len(set(hidden)) > 1:
            raise UserError(f"PredRNN's memory passes through every layer, so all layers must be equally wide, not {list(hidden)}")
        self.cells = nn.ModuleList(
            SpatioTemporalLSTMCell(inputs, width, kernel_size, bias=bias, norm=norm, forget_bias=forget_bias, grid=self.grid)
            for inputs, width in zip([self.input_channels, *hidden[:-1]], hidden, strict=True)
        )

    def initial_state(self, batch: int, height: int, width: int) -> ZigzagState:
        """Return zeros: (h, c) of each layer, and the memory m."""
        grid = self.grid_of(height, width)
        layers = tuple((zeros(self, batch, width, *grid), zeros(self, batch, width, *grid)) for width in self.hidden)
        return layers, zeros(self, batch, self.hidden[0], *grid)

    def step(self, frame: Tensor | None, state: ZigzagState, constants: Constants, known: Tensor | None = None) -> Step:
        """Take a frame and predict the next."""
        layers, memory = state
        hidden = self.to_input(frame, known)
        states = []
        for cell, (h, c) in zip(self.cells, layers, strict=True):
            hidden, c, memory = cell(hidden, h, c, memory)
            states.append((hidden, c))
        return Step(self.to_frame(hidden), (tuple(states), memory))
