"""ConvLSTM: a stack of ConvLSTM cells.

Source: Shi et al. 2015 (arXiv 1506.04214), in the stacked next-frame form of OpenSTL 1.x, without that code's unused weights.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from stpredict.cells.convlstm import ConvLSTMCell
from stpredict.cells.gates import Norm, zeros
from stpredict.networks.contract import Constants, Step
from stpredict.networks.stacked import StackedNetwork

LayerStates = tuple[tuple[Tensor, Tensor], ...]


class ConvLSTM(StackedNetwork):
    """Layers of ConvLSTM cells that predict the next frame from each frame.

    Args:
        channels: C of a frame.
        hidden: channels of each layer; they may differ.
        kernel_size: of every gate convolution, odd.
        patch_size: P; frames become a grid of H/P x W/P patches.
        frame_size: (H, W); required with layer norm.
        norm: ``none`` or ``layer``.
        bias: give the input convolutions a bias.
        forget_bias: added to the forget gate before the sigmoid.
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
        forget_bias: float = 0.0,
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
        self.cells = nn.ModuleList(
            ConvLSTMCell(inputs, width, kernel_size, bias=bias, norm=norm, forget_bias=forget_bias, grid=self.grid)
            for inputs, width in zip([self.input_channels, *hidden[:-1]], hidden, strict=True)
        )

    def initial_state(self, batch: int, height: int, width: int) -> LayerStates:
        """Return zeros: (h, c) of each layer."""
        grid = self.grid_of(height, width)
        return tuple((zeros(self, batch, width, *grid), zeros(self, batch, width, *grid)) for width in self.hidden)

    def step(self, frame: Tensor | None, state: LayerStates, constants: Constants, known: Tensor | None = None) -> Step:
        """Take a frame and predict the next."""
        hidden = self.to_input(frame, known)
        states = []
        for cell, (h, c) in zip(self.cells, state, strict=True):
            hidden, c = cell(hidden, h, c)
            states.append((hidden, c))
        return Step(self.to_frame(hidden), tuple(states))
