"""What the stacked recurrent networks share: frames to patches and inputs before, readout and frames after."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stpredict.cells.gates import Norm
from stpredict.errors import UserError
from stpredict.networks.contract import RecurrentNetwork
from stpredict.patches import patchify, unpatchify


class StackedNetwork(RecurrentNetwork):
    """Patches in, a stack of cells, a 1x1 readout, patches out. A subclass makes the cells and walks up the stack."""

    def __init__(
        self,
        *,
        channels: int,
        hidden: Sequence[int],
        kernel_size: int,
        patch_size: int,
        frame_size: tuple[int, int] | None,
        norm: Norm,
        valid_channel: bool,
        known_channels: int,
    ) -> None:
        super().__init__()
        if not hidden or min(hidden) < 1:
            raise UserError(f"'hidden' lists the channels of each layer, at least one and each at least 1, not {list(hidden)}")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise UserError(f"'kernel_size' must be odd, so that a convolution keeps the size of the grid, not {kernel_size}")
        if patch_size < 1:
            raise UserError(f"'patch_size' must be at least 1, not {patch_size}")
        if frame_size is not None and patch_size > min(frame_size):
            raise UserError(f"'patch_size' {patch_size} is larger than the frame of {frame_size[0]} x {frame_size[1]} pixels")
        self.patch_size, self.takes_valid, self.known_channels = patch_size, valid_channel, known_channels
        area = patch_size * patch_size
        self.patch_channels = area * channels
        self.input_channels = area * (channels * (2 if valid_channel else 1) + known_channels)
        self.grid: tuple[int, int] | None = None
        if frame_size is not None and norm != "none":
            self.grid = (-(-frame_size[0] // patch_size), -(-frame_size[1] // patch_size))
        self.hidden = tuple(hidden)
        self.readout = nn.Conv2d(hidden[-1], self.patch_channels, 1, bias=False)

    def to_input(self, frame: Tensor | None, known: Tensor | None) -> Tensor:
        """Return the patches ``(B, input_channels, H/P, W/P)`` that the first cell sees."""
        assert frame is not None, "a network that predicts its context is always fed a frame"
        if self.known_channels:
            if known is None or known.shape[1] != self.known_channels:
                raise UserError(
                    f"The network takes {self.known_channels} known channels and was given {0 if known is None else known.shape[1]}"
                )
            frame = torch.cat([frame, known.to(frame.dtype)], dim=1)
        return patchify(frame, self.patch_size)

    def to_frame(self, hidden: Tensor) -> Tensor:
        """Return the predicted frame ``(B, C, H, W)`` from the top layer's hidden state."""
        return unpatchify(self.readout(hidden), self.patch_size)

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of the grid of patches; height and width in pixels.

        Raises:
            UserError: the parameters are bound to frames of another size.
        """
        rows, columns = height // self.patch_size, width // self.patch_size
        if self.grid is not None and self.grid != (rows, columns):
            wanted = " x ".join(str(side * self.patch_size) for side in self.grid)
            raise UserError(f"With layer norm this network is bound to frames of {wanted} pixels (padded) and was given {height} x {width}")
        return rows, columns
