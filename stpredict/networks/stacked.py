"""What the stacked recurrent networks share: frames to patches and windows before the cells, readout and frames after them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor, nn

from stpredict.cells.gates import Gates, Norm, zeros
from stpredict.devices import carry
from stpredict.draws import Draws
from stpredict.errors import UserError
from stpredict.networks.contract import Constants, RecurrentNetwork, State, Step
from stpredict.patches import patchify, unpatchify


class _NeededSettings(TypedDict):
    channels: int
    hidden: Sequence[int]
    kernel_size: int
    patch_size: int


class StackSettings(_NeededSettings, total=False):
    """The settings of every stacked network; :class:`StackedNetwork` explains them and holds their defaults."""

    frame_size: tuple[int, int] | None
    norm: Norm
    norm_epsilon: float
    bias: bool
    readout_bias: bool
    weight_norm: bool
    dropout: float
    valid_channel: bool
    known_channels: int


class Masks(NamedTuple):
    """The dropout masks of one layer through a whole rollout, ``(B, channels, 1, ...)``: of what comes from below, and of its h."""

    below: Tensor | None
    hidden: Tensor


class StackedNetwork(RecurrentNetwork):
    """Patches in, a stack of cells, a readout of kernel size 1, patches out. A subclass makes the cells and walks up the stack.

    Args:
        channels: C of a frame.
        hidden: channels of each layer.
        kernel_size: of every gate convolution, odd.
        patch_size: P; frames become a grid of H/P x W/P patches.
        frame_size: (H, W); required, and checked, where parameters depend on it (``norm="layer"``, peepholes).
        norm: of the gate convolutions: ``none``, ``layer``, ``channel`` or ``group`` (:class:`stpredict.cells.gates.Gates`).
        norm_epsilon: added to a norm's variance.
        bias: give every convolution of the cells a bias.
        readout_bias: give the readout a bias.
        weight_norm: weight-normalise the convolutions of the cells.
        dropout: share of hidden channels that are dropped in training, from h and on the way up, the same through all steps of a
            clip (variational dropout: Gal and Ghahramani 2016, arXiv 1512.05287).
        valid_channel: feed the mask of missing pixels as well.
        known_channels: K of the known inputs.
        window: D; each step sees the last D inputs, [oldest .. newest], zeros before the first; the cells then are 3-D.
        bound: parameters depend on the grid even without a layer norm.
    """

    training_settings: tuple[str, ...] = ("dropout",)

    def __init__(
        self,
        *,
        channels: int,
        hidden: Sequence[int],
        kernel_size: int,
        patch_size: int,
        frame_size: tuple[int, int] | None = None,
        norm: Norm = "none",
        norm_epsilon: float = 1e-5,
        bias: bool = False,
        readout_bias: bool = False,
        weight_norm: bool = False,
        dropout: float = 0.0,
        valid_channel: bool = False,
        known_channels: int = 0,
        window: int = 1,
        bound: bool = False,
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
        if not 0.0 <= dropout < 1.0:
            raise UserError(f"'dropout' is a share from 0 up to, but not, 1; not {dropout}")
        if window < 1:
            raise UserError(f"'window' is how many inputs a step sees, at least 1, not {window}")
        self.patch_size, self.takes_valid, self.known_channels = patch_size, valid_channel, known_channels
        area = patch_size * patch_size
        self.patch_channels = area * channels
        self.input_channels = area * (channels * (2 if valid_channel else 1) + known_channels)
        self.hidden, self.dropout, self.window = tuple(hidden), dropout, window
        self.grid: tuple[int, int] | None = None
        if frame_size is not None and (bound or norm == "layer"):
            self.grid = (-(-frame_size[0] // patch_size), -(-frame_size[1] // patch_size))
        depth = () if window == 1 else (window,)
        self.gates = Gates(
            kernel_size=(*depth, kernel_size, kernel_size),
            bias=bias,
            norm=norm,
            norm_epsilon=norm_epsilon,
            grid=None if self.grid is None else (*depth, *self.grid),
            weight_norm=weight_norm,
        )
        size = (*depth, 1, 1)
        readout = nn.Conv2d if window == 1 else nn.Conv3d
        self.readout = readout(hidden[-1], self.patch_channels, size, stride=size, bias=readout_bias)

    @property
    def layer_inputs(self) -> tuple[int, ...]:
        """Return how many channels each layer is given from below."""
        return (self.input_channels, *self.hidden[:-1])

    def initial_state(self, batch: int, height: int, width: int) -> State:
        """Return zeros: the inputs that came before the first, as the window wants them, and the state of the cells."""
        grid = self._grid_of(height, width)
        past = tuple(zeros(self, batch, self.input_channels, *grid) for _ in range(self.window - 1))
        return past, self.initial_cells(batch, grid if self.window == 1 else (self.window, *grid))

    @abstractmethod
    def initial_cells(self, batch: int, grid: tuple[int, ...]) -> State:
        """Return the state of the cells before the first step, on a grid of (rows, columns) or (window, rows, columns)."""

    @abstractmethod
    def climb(self, inputs: Tensor, state: State, constants: Constants) -> tuple[Tensor, State, Tensor | None]:
        """Walk up the layers once, from inputs ``(B, input_channels, *grid)``.

        Returns:
            the top layer's h ``(B, hidden[-1], *grid)``, the new state of the cells, and a penalty ``(B,)`` or None.
        """

    def prepare(self, batch: int, draws: Draws | None = None) -> Constants:
        """Return the dropout masks of each layer in training; otherwise None."""
        if not self.dropout or not self.training or draws is None:
            return None
        return draw_masks(draws, [self.hidden], self.dropout, self.readout.weight)[0]

    def step(self, frame: Tensor | None, state: State, constants: Constants, known: Tensor | None = None) -> Step:
        """Take a frame and predict the next."""
        past, cells = state
        window = (*past, self._patches(frame, known))
        inputs = window[0] if self.window == 1 else torch.stack(window, dim=2)
        hidden, cells, penalty = self.climb(inputs, cells, constants)
        patches = self.readout(hidden)
        return Step(unpatchify(patches if self.window == 1 else patches[:, :, 0], self.patch_size), (window[1:], cells), penalty)

    def _patches(self, frame: Tensor | None, known: Tensor | None) -> Tensor:
        """Return the patches ``(B, input_channels, H/P, W/P)`` of a frame and what is known of the next."""
        assert frame is not None, "a network that predicts its context is always fed a frame"
        if self.known_channels:
            if known is None or known.shape[1] != self.known_channels:
                raise UserError(
                    f"The network takes {self.known_channels} known channels and was given {0 if known is None else known.shape[1]}"
                )
            frame = torch.cat([frame, known.to(frame.dtype)], dim=1)
        return patchify(frame, self.patch_size)

    def _grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of the grid of patches; height and width in pixels.

        Raises:
            UserError: the parameters are bound to frames of another size.
        """
        rows, columns = height // self.patch_size, width // self.patch_size
        if self.grid is not None and self.grid != (rows, columns):
            wanted = " x ".join(str(side * self.patch_size) for side in self.grid)
            raise UserError(
                f"Some weights of this network belong to single pixels of frames of {wanted} (padded), and it was given {height} x {width}"
            )
        return rows, columns


def draw_masks(draws: Draws, stacks: Sequence[Sequence[int]], dropout: float, like: Tensor) -> list[tuple[Masks, ...]]:
    """Draw the masks of each layer of some stacks of cells, whose widths are given from where a step begins.

    What is kept is scaled so that its mean stays; masks have the axes, the type and the device of a convolution's weight ``like``.
    """
    widths = [width for stack in stacks for layer, own in enumerate(stack) for width in ((stack[layer - 1], own) if layer else (own,))]
    kept = draws.uniform("dropout", sum(widths)) >= dropout
    scaled = carry((kept / (1.0 - dropout)).to(like.dtype), like.device)
    masks = iter(torch.split(scaled.reshape(len(kept), -1, *(1,) * (like.ndim - 2)), widths, dim=1))
    return [tuple(Masks(next(masks) if layer else None, next(masks)) for layer in range(len(stack))) for stack in stacks]


def dropped(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """Return hidden channels with some dropped, if there is a mask."""
    return hidden if mask is None else hidden * mask


def masks_of(constants: Constants, layer: int) -> tuple[Any, Any]:
    """Return the dropout masks of a layer, of what comes from below and of its h; (None, None) without dropout."""
    return (None, None) if constants is None else constants[layer]
