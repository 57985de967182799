"""The convolution that every gated cell is made of: all gates fused in its output channels, optionally normalised."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from stpredict.errors import UserError

Norm = Literal["none", "layer"]


class GateConvolution(nn.Sequential):
    """A "same" convolution whose output holds several gates side by side: ``(B, in, H, W)`` to ``(B, out, H, W)``.

    With ``norm="layer"`` the whole fused output is normalised at once over (channels, rows, columns) with an affine of that full
    shape, eps 1e-5, as predrnn-pytorch and OpenSTL do; the parameters then depend on the grid.
    """

    def __init__(self, inputs: int, outputs: int, kernel_size: int, *, bias: bool, norm: Norm, grid: tuple[int, int] | None) -> None:
        convolution = nn.Conv2d(inputs, outputs, kernel_size, padding=kernel_size // 2, bias=bias)
        if norm == "none":
            super().__init__(convolution)
            return
        if grid is None:
            raise UserError("Layer norm has a parameter for every pixel: the network needs 'frame_size' (height, width)")
        super().__init__(convolution, nn.LayerNorm([outputs, *grid]))


def zeros(like: nn.Module, batch: int, channels: int, height: int, width: int) -> Tensor:
    """Return a float32 state ``(B, channels, height, width)`` of zeros on the device of a module."""
    return next(like.parameters()).new_zeros(batch, channels, height, width)
