"""Encoder-forecaster: one stack of cells reads the observed frames, another one, started from its states, writes the future.

Source: Shi et al. 2015 (ConvLSTM, arXiv 1506.04214) and 2017 (ConvGRU with a leaky ReLU, arXiv 1706.03458; their code is HKO-7), with
the sizes of convolutions of HKO-7 and ConvLSTM-PyTorch. The second head that reconstructs what was observed, in reverse order, is that
of the composite model of Srivastava et al. 2015 (arXiv 1502.04681).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from stpredict.cells.convgru import Activation, ConvGRUCell
from stpredict.cells.convlstm import ConvLSTMCell
from stpredict.cells.gates import Gates, Norm, zeros
from stpredict.draws import Draws
from stpredict.errors import UserError
from stpredict.networks.contract import Constants, RecurrentNetwork, Step
from stpredict.networks.stacked import draw_masks, dropped, masks_of
from stpredict.patches import patchify, unpatchify

LevelStates = tuple[tuple[Tensor, ...], ...]
ForecasterState = tuple[LevelStates, LevelStates, tuple[Tensor, ...]]
"""The states of the levels, in the order of the next walk; those of the reconstruction; the observed frames still to be reconstructed."""


class Unfed(nn.Module):
    """What a cell that is fed nothing gets from below: zeros, in place of a convolution that could learn nothing from them."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, x: Tensor) -> Tensor:
        """Take ``(B, 0, H, W)`` and return ``(B, outputs, H, W)``."""
        return x.new_zeros(x.shape[0], self.outputs, *x.shape[2:])


class ForecasterGates(Gates):
    """Gates of which those without inputs have no parameters."""

    def __call__(self, inputs: int, outputs: int) -> nn.Sequential:
        """Return a convolution with its norm, or zeros."""
        return super().__call__(inputs, outputs) if inputs else nn.Sequential(Unfed(outputs))


class Walk(nn.Module):
    """Levels in the order in which a step goes through them: each resamples what the one before it gives, and feeds it to its cell."""

    def __init__(self, resamplings: Iterable[nn.Module], cells: Iterable[nn.Module] | None) -> None:
        super().__init__()
        self.resamplings = nn.ModuleList(resamplings)
        self.cells = None if cells is None else nn.ModuleList(cells)

    def forward(
        self, x: Tensor, states: LevelStates, masks: Constants, cells: Iterable[nn.Module] | None = None
    ) -> tuple[Tensor, LevelStates]:
        """Take what the first level is fed and the states of all; return the last level's h and the new states.

        ``cells`` stand in where there are none of its own.
        """
        new = []
        for level, (resample, cell, (h, *rest)) in enumerate(zip(self.resamplings, self.cells or cells or (), states, strict=True)):
            below, recurrent = masks_of(masks, level)
            state: tuple[Tensor, ...] = cell(resample(dropped(x, below)), dropped(h, recurrent), *rest)
            x = state[0]
            new.append(state)
        return x, tuple(new)


class Head(nn.Module):
    """A walk from the deepest level to the finest, then the last upsampling and a readout of kernel size 1 without activation."""

    def __init__(self, walk: Walk, last: nn.Module, readout: nn.Conv2d) -> None:
        super().__init__()
        self.walk, self.last, self.readout = walk, last, readout

    def forward(self, fed: Tensor, states: LevelStates, masks: Constants, cells: Iterable[nn.Module] | None) -> tuple[Tensor, LevelStates]:
        """Take what the deepest cell is fed; return patches ``(B, P*P*C, H/P, W/P)`` and the new states."""
        hidden, states = self.walk(fed, states, masks, cells)
        return self.readout(self.last(hidden)), states


class EncoderForecaster(RecurrentNetwork):
    """Reads the observed frames into the states of its levels; the forecaster starts from these states and is fed no frame.

    A level of the encoder is a convolution of stride s_l with a leaky ReLU of slope 0.2, then a cell. The forecaster goes back from the
    deepest level, each cell followed by a transposed convolution of stride s_l with the same leaky ReLU. Kernels are those of HKO-7:
    down, the least odd number above s_l and at least 3; up, s_l + 2. The readout has no activation (in ConvLSTM-PyTorch it is leaky as
    well; in HKO-7 one more leaky convolution, of kernel size 3, stands before it).

    The deepest cell of the forecaster is fed nothing, so its gates see h alone and it has no weights for an input. Where there are
    known inputs, it is fed those of the frame that is to be predicted, averaged over each cell of its grid.

    With ``reconstruct``, another head like the forecaster starts from the same states and, in training only, says the observed frames
    from the last to the first, one at each step of the forecast. The mean squared error of that frame's valid pixels, times
    ``reconstruct``, is the step's penalty. Forecasts never go through this head.

    Args:
        channels: C of a frame.
        hidden: width of the cells of each level, the finest first.
        kernel_size: of every gate convolution, odd.
        strides: s_l, by how much the grid of each level is coarser than the one before; None: 1, then 2 for each further level.
        patch_size: P; frames become a grid of H/P x W/P patches before the first level.
        frame_size: (H, W); required, and checked, where parameters depend on it (``norm="layer"``, peepholes).
        cell: ``convlstm``, as in 2015, or ``convgru``, as in 2017.
        down_widths: channels of the convolution before each level; None: as ``hidden``.
        up_widths: channels of the transposed convolution after each level, the finest first; None: after the finest as
            ``down_widths``, after each other as ``hidden``.
        norm: of the gate convolutions: ``none``, ``layer``, ``channel`` or ``group`` (:class:`stpredict.cells.gates.Gates`).
        norm_epsilon: added to a norm's variance.
        bias: give the gate convolutions a bias; those between levels and the readout always have one.
        weight_norm: weight-normalise the gate convolutions.
        forget_bias: of ``convlstm``: added to the forget gate before the sigmoid.
        peephole: of ``convlstm``: let the gates see the cell state, with a weight for every channel and pixel.
        activation: of ``convgru``: of the candidate, ``tanh``, or ``leaky_relu`` of slope 0.2 as in the paper.
        dropout: share of hidden channels that are dropped in training, from h and on the way to the next level, the same through all
            steps of a clip (variational dropout: Gal and Ghahramani 2016, arXiv 1512.05287).
        share_weights: the cells of the forecaster (and of the reconstruction) are those of the encoder; so ``up_widths`` are, by
            default, the ``down_widths`` of the levels that they lead to, and the deepest cell is fed zeros, or the known inputs after a
            convolution of kernel size 1.
        reconstruct: weight of the reconstruction in the loss; 0: there is none.
        valid_channel: feed the mask of missing pixels as well.
        known_channels: K of the known inputs.
    """

    predicts_context = False
    training_settings = ("dropout", "reconstruct")

    def __init__(
        self,
        *,
        channels: int,
        hidden: Sequence[int],
        kernel_size: int,
        strides: Sequence[int] | None = None,
        patch_size: int = 1,
        frame_size: tuple[int, int] | None = None,
        cell: Literal["convlstm", "convgru"] = "convlstm",
        down_widths: Sequence[int] | None = None,
        up_widths: Sequence[int] | None = None,
        norm: Norm = "none",
        norm_epsilon: float = 1e-5,
        bias: bool = True,
        weight_norm: bool = False,
        forget_bias: float = 0.0,
        peephole: bool = False,
        activation: Activation = "tanh",
        dropout: float = 0.0,
        share_weights: bool = False,
        reconstruct: float = 0.0,
        valid_channel: bool = False,
        known_channels: int = 0,
    ) -> None:
        super().__init__()
        self.hidden = _per_level("hidden", hidden, hidden)
        self.strides = _per_level("strides", [1] + [2] * (len(self.hidden) - 1) if strides is None else strides, hidden)
        down = _per_level("down_widths", self.hidden if down_widths is None else down_widths, hidden)
        wanted = (down[0], *(down[:-1] if share_weights else self.hidden[1:]))
        up = _per_level("up_widths", wanted if up_widths is None else up_widths, hidden)
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise UserError(f"'kernel_size' must be odd, so that a convolution keeps the size of the grid, not {kernel_size}")
        if patch_size < 1:
            raise UserError(f"'patch_size' must be at least 1, not {patch_size}")
        if not 0.0 <= dropout < 1.0:
            raise UserError(f"'dropout' is a share from 0 up to, but not, 1; not {dropout}")
        if reconstruct < 0.0:
            raise UserError(f"'reconstruct' is a weight in the loss, at least 0, not {reconstruct}")
        _check_cell(cell, forget_bias, peephole, activation)
        if share_weights and up[1:] != down[:-1]:
            raise UserError(
                "With 'share_weights' a cell takes as many channels in the forecaster as in the encoder: leave out 'up_widths', or give "
                f"[{', '.join(map(str, (up[0], *down[:-1])))}]"
            )
        self.patch, self.patch_size = patch_size, patch_size * math.prod(self.strides)
        if frame_size is not None and self.patch_size > min(frame_size):
            raise UserError(
                f"'patch_size' times all 'strides' is {self.patch_size}, too much for frames of {frame_size[0]} x {frame_size[1]} pixels"
            )
        self.channels, self.valid_channel, self.known_channels = channels, valid_channel, known_channels
        self.dropout, self.share_weights, self.reconstruct = dropout, share_weights, reconstruct
        # The mask says which pixels a reconstruction is scored on.
        self.takes_valid = valid_channel or reconstruct > 0.0
        self.states = 2 if cell == "convlstm" else 1
        self.frame_size: tuple[int, int] | None = None
        grids: list[tuple[int, int]] | list[None] = [None] * len(self.hidden)
        if frame_size is not None and (peephole or norm == "layer"):
            rows, columns = (-(-side // self.patch_size) * self.patch_size for side in frame_size)
            self.frame_size = rows, columns
            grids = self._grids_of(rows, columns)

        def make_cell(level: int, inputs: int) -> nn.Module:
            gates = ForecasterGates((kernel_size, kernel_size), bias, norm, norm_epsilon, grids[level], weight_norm)
            if cell == "convlstm":
                return ConvLSTMCell(inputs, self.hidden[level], gates, forget_bias=forget_bias, peephole=peephole)
            return ConvGRUCell(inputs, self.hidden[level], gates, activation)

        def make_head(known: int) -> Head:
            levels = range(len(self.hidden))[::-1]
            widths = zip(levels, (known, *up[:0:-1]), strict=True)
            entrance = nn.Conv2d(known, down[-1], 1) if known and share_weights else nn.Identity()
            ups = [_upsampling(self.hidden[level], up[level], self.strides[level]) for level in levels]
            walk = Walk([entrance, *ups[:-1]], None if share_weights else [make_cell(level, width) for level, width in widths])
            return Head(walk, ups[-1], nn.Conv2d(up[0], patch_size * patch_size * channels, 1))

        inputs = patch_size * patch_size * (channels * (2 if valid_channel else 1) + known_channels)
        below = (inputs, *self.hidden[:-1])
        self.encoder = Walk(
            [_downsampling(n, width, stride) for n, width, stride in zip(below, down, self.strides, strict=True)],
            [make_cell(level, width) for level, width in enumerate(down)],
        )
        self.unfed_channels = down[-1] if share_weights else 0
        self.forecaster = make_head(known_channels)
        self.reconstructor = make_head(0) if reconstruct else None

    def initial_state(self, batch: int, height: int, width: int) -> ForecasterState:
        """Return zeros: the states of each level of the encoder.

        Raises:
            UserError: the parameters are bound to frames of another size.
        """
        if self.frame_size is not None and self.frame_size != (height, width):
            raise UserError(
                f"Some weights of this network belong to single pixels of frames of {self.frame_size[0]} x {self.frame_size[1]} (padded), "
                f"and it was given {height} x {width}"
            )
        levels = zip(self.hidden, self._grids_of(height, width), strict=True)
        return tuple(tuple(zeros(self, batch, n, *grid) for _ in range(self.states)) for n, grid in levels), (), ()

    def prepare(self, batch: int, draws: Draws | None = None) -> Constants:
        """Return, in training with dropout, the masks of each level of the encoder, the forecaster and the reconstruction."""
        if not self.dropout or not self.training or draws is None:
            return None
        back = self.hidden[::-1]
        walks = [self.hidden, back, back if self.reconstruct else ()]
        return tuple(draw_masks(draws, walks, self.dropout, self.forecaster.readout.weight))

    def begin_forecast(self, state: ForecasterState) -> ForecasterState:
        """Return the encoder's states, the deepest level first: in the order in which the forecaster goes through them."""
        levels, _, seen = state
        return levels[::-1], levels[::-1] if seen else (), seen

    def step(self, frame: Tensor | None, state: ForecasterState, constants: Constants, known: Tensor | None = None) -> Step:
        """Take an observed frame into the states, or predict the next from them."""
        levels, backwards, seen = state
        encoding, forecasting, reconstructing = constants or (None, None, None)
        known = self._known(known)
        if frame is not None:
            _, levels = self.encoder(self._patches(frame, known), levels, encoding)
            return Step(None, (levels, (), (*seen, frame) if self.reconstructor is not None and self.training else ()))

        penalty = None
        if seen:
            assert self.reconstructor is not None, "frames are kept for a reconstruction alone"
            patches, backwards = self.reconstructor(self._unfed(levels), backwards, reconstructing, self._shared())
            penalty = self.reconstruct * self._error(unpatchify(patches, self.patch), seen[-1])
        fed = self._unfed(levels) if known is None else functional.avg_pool2d(known.to(levels[0][0].dtype), self.patch_size)
        patches, levels = self.forecaster(fed, levels, forecasting, self._shared())
        return Step(unpatchify(patches, self.patch), (levels, backwards, seen[:-1]), penalty)

    def _error(self, reconstructed: Tensor, frame: Tensor) -> Tensor:
        """Return the mean squared error ``(B,)`` over the valid pixels of a frame, ``(B, 2 C, H, W)`` with its mask."""
        target, valid = frame[:, : self.channels], frame[:, self.channels :] > 0.0
        squared = torch.where(valid, reconstructed - target, 0.0).square()
        return squared.sum(dim=(1, 2, 3)) / valid.sum(dim=(1, 2, 3)).clamp(min=1)

    def _patches(self, frame: Tensor, known: Tensor | None) -> Tensor:
        """Return the patches of a frame, of its mask where that is fed, and of what is known of the next."""
        if self.takes_valid and not self.valid_channel:
            frame = frame[:, : self.channels]
        return patchify(frame if known is None else torch.cat([frame, known.to(frame.dtype)], dim=1), self.patch)

    def _known(self, known: Tensor | None) -> Tensor | None:
        """Return the known inputs, or None if the network takes none."""
        if not self.known_channels:
            return None
        if known is None or known.shape[1] != self.known_channels:
            given = 0 if known is None else known.shape[1]
            raise UserError(f"The network takes {self.known_channels} known channels and was given {given}")
        return known

    def _unfed(self, levels: LevelStates) -> Tensor:
        """Return zeros for the deepest cell, or no channels at all where it has no weights for an input."""
        h = levels[0][0]
        return h.new_zeros(h.shape[0], self.unfed_channels, *h.shape[2:])

    def _shared(self) -> Iterable[nn.Module] | None:
        """Return the encoder's cells, the deepest first, if they are the heads' as well."""
        assert self.encoder.cells is not None, "the encoder always has cells of its own"
        return list(self.encoder.cells)[::-1] if self.share_weights else None

    def _grids_of(self, height: int, width: int) -> list[tuple[int, int]]:
        """Return rows and columns of each level; height and width in pixels, of padded frames."""
        grids, rows, columns = [], height // self.patch, width // self.patch
        for stride in self.strides:
            rows, columns = rows // stride, columns // stride
            grids.append((rows, columns))
        return grids


def _downsampling(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Return ``(B, inputs, H, W)`` to ``(B, outputs, H/s, W/s)``."""
    kernel = stride + 1 + stride % 2
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, padding=1), nn.LeakyReLU(0.2))


def _upsampling(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Return ``(B, inputs, H, W)`` to ``(B, outputs, H*s, W*s)``."""
    return nn.Sequential(nn.ConvTranspose2d(inputs, outputs, stride + 2, stride, padding=1), nn.LeakyReLU(0.2))


def _per_level(name: str, values: Sequence[int], hidden: Sequence[int]) -> tuple[int, ...]:
    if not values or len(values) != len(hidden) or min(values) < 1:
        levels = f"{len(hidden)}, as many as 'hidden'" if hidden else "at least one"
        raise UserError(f"'{name}' lists a whole number for each level, {levels}, and each at least 1; not {list(values)}")
    return tuple(values)


def _check_cell(cell: str, forget_bias: float, peephole: bool, activation: Activation) -> None:
    if cell == "convgru" and (forget_bias or peephole):
        raise UserError("'forget_bias' and 'peephole' belong to the cell 'convlstm'; 'convgru' has no use for them: leave them out")
    if cell == "convlstm" and activation != "tanh":
        raise UserError("'activation' belongs to the cell 'convgru'; 'convlstm' has no use for it: leave it out")
