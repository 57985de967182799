"""What every gated cell is made of: a convolution with all gates fused in its output channels, optionally normalised; and the gates.

A cell takes a :class:`Gates`, which makes all its convolutions alike; so the same cell runs on planes ``(B, C, H, W)`` and on windows of
consecutive frames ``(B, C, D, H, W)``, with or without a bias or a norm. What opens and shuts goes through :func:`gate`, so that it can
be watched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from stpredict.errors import UserError
from stpredict.kernels import convolve

Norm = Literal["none", "layer", "channel", "group"]

_GROUP_WIDTH = 32

_watchers: list[Callable[[str, Tensor], None]] = []


@dataclass(frozen=True)
class Gates:
    """Makes the gate convolutions of a network, which differ in their widths alone.

    Attributes:
        kernel_size: of each axis, (rows, columns) or (frames, rows, columns).
        bias: give every convolution a bias.
        norm: normalise the whole fused output of a convolution at once: ``none``; ``layer``, over channels and grid with an affine of
            that full shape (predrnn-pytorch, OpenSTL), which binds the parameters to the grid; ``channel``, over the same with a scale
            and shift for each channel (predrnn-pp, e3d_lstm); ``group``, over groups of 32 channels (ConvLSTM-PyTorch).
        norm_epsilon: added to the variance.
        grid: size of each axis of the grid; needed by ``layer``.
        weight_norm: a length and a direction for each output channel's kernel (Salimans and Kingma 2016, arXiv 1602.07868).
    """

    kernel_size: tuple[int, ...]
    bias: bool = False
    norm: Norm = "none"
    norm_epsilon: float = 1e-5
    grid: tuple[int, ...] | None = None
    weight_norm: bool = False

    def __call__(self, inputs: int, outputs: int) -> nn.Sequential:
        """Return a "same" convolution, ``(B, inputs, ...)`` to ``(B, outputs, ...)``, at position 0 and its norm at position 1."""
        return nn.Sequential(self.convolution(inputs, outputs), *self.normalisation(outputs))

    def pointwise(self, inputs: int, outputs: int) -> nn.Module:
        """Return a convolution of kernel size 1, which is never normalised."""
        return replace(self, kernel_size=(1,) * len(self.kernel_size)).convolution(inputs, outputs)

    def convolution(self, inputs: int, outputs: int) -> nn.Module:
        """Return the convolution alone."""
        convolution = self.plain_convolution(inputs, outputs)
        return weight_norm(convolution) if self.weight_norm else convolution

    def plain_convolution(self, inputs: int, outputs: int) -> nn.Module:
        """Return the convolution before weight norm. A kernel of even depth is padded after, as TensorFlow does."""
        kind: Any = PlaneConvolution if len(self.kernel_size) == 2 else WindowConvolution
        padding = tuple((size - 1) // 2 for size in self.kernel_size)
        convolution: nn.Module = kind(inputs, outputs, self.kernel_size, padding=padding, bias=self.bias)
        return convolution

    def normalisation(self, channels: int) -> list[nn.Module]:
        """Return the norm of an output of so many channels, or nothing."""
        if self.norm == "none":
            return []
        if self.norm == "channel":
            return [nn.GroupNorm(1, channels, eps=self.norm_epsilon)]
        if self.norm == "group":
            if channels % max(1, channels // _GROUP_WIDTH):
                raise UserError(f"Group norm makes groups of {_GROUP_WIDTH} channels, and {channels} gate channels are no multiple of that")
            return [nn.GroupNorm(max(1, channels // _GROUP_WIDTH), channels, eps=self.norm_epsilon)]
        if self.grid is None:
            raise UserError("Layer norm has a parameter for every pixel: the network needs 'frame_size' (height, width)")
        return [nn.LayerNorm([channels, *self.grid], eps=self.norm_epsilon)]


class PlaneConvolution(nn.Conv2d):
    """A convolution that keeps the size of its grid, by the kernels that are chosen."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Take ``(B, inputs, H, W)`` and return ``(B, outputs, H, W)``."""
        return convolve(inputs, self.weight, self.bias)


class WindowConvolution(nn.Conv3d):
    """A convolution that keeps the depth of its window; where the kernel's is even, one slot of zeros comes after the window."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Take ``(B, inputs, D, H, W)`` and return ``(B, outputs, D, H, W)``."""
        if max(self.kernel_size) == 1:
            return super().forward(inputs)
        # What a slot sees is channels of a plane: a plane convolution does the same, and faster.
        depth = self.kernel_size[0]
        padded = functional.pad(inputs, (0, 0, 0, 0, (depth - 1) // 2, depth // 2))
        seen = padded.unfold(2, depth, 1).permute(0, 2, 1, 5, 3, 4)
        planes = convolve(seen.flatten(2, 3).flatten(0, 1), self.weight, self.bias)
        return planes.reshape(*seen.shape[:2], *planes.shape[1:]).transpose(1, 2)


def convolve_parts(pointwise: nn.Module, *parts: Tensor) -> Tensor:
    """Return what a convolution of kernel size 1 makes of tensors side by side, none of which is copied to lie so."""
    convolve_part: Any = functional.conv2d if parts[0].ndim == 4 else functional.conv3d
    weights = torch.split(cast(Tensor, pointwise.weight), [part.shape[1] for part in parts], dim=1)
    first, *others = (convolve_part(part, weight) for part, weight in zip(parts, weights, strict=True))
    made: Tensor = sum(others, first)
    bias = cast(Tensor | None, pointwise.bias)
    return made if bias is None else made + bias.reshape(-1, *(1,) * (made.ndim - 2))


def zeros(like: nn.Module, batch: int, channels: int, *grid: int) -> Tensor:
    """Return a state ``(B, channels, *grid)`` of zeros, of the type and on the device of a module's parameters."""
    return next(like.parameters()).new_zeros(batch, channels, *grid)


def gate(name: str, inputs: Tensor, activation: Callable[[Tensor], Tensor] = torch.sigmoid) -> Tensor:
    """Return a gate of a cell, activated; whoever is :func:`watching_gates` is given it under its name."""
    opened = activation(inputs)
    for watcher in _watchers:
        watcher(name, opened)
    return opened


def is_watched() -> bool:
    """Whether somebody is watching the gates."""
    return bool(_watchers)


@contextmanager
def watching_gates(watcher: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Give every gate of every cell in this process to ``watcher``, with its name, while the context lasts."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)
