"""SimVP: all observed frames at once through convolutions alone, as many frames out as in.

Source: Gao et al., SimVP (CVPR 2022, arXiv 2206.05099), translator ``incepu``; Tan et al. (arXiv 2211.12509), translator ``gsta``;
both in the form of OpenSTL.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from stpredict.cells.gated_attention import GatedAttentionBlock
from stpredict.cells.inception import InceptionUNet, inception_groups
from stpredict.cells.resampling import ResamplingConvolution
from stpredict.devices import carry
from stpredict.draws import Draws
from stpredict.errors import UserError
from stpredict.networks.contract import DirectNetwork

_MLP_RATIO, _DROP_PATH = 8.0, 0.0
_FIRST_DROP_PATH = 0.01
"""Rate of the first block, whatever ``drop_path`` is, as in OpenSTL."""


class GatedTranslator(nn.Module):
    """Gated attention blocks, the first ``channels`` wide, the others ``hidden``: takes and returns ``(B, channels, H, W)``."""

    def __init__(self, channels: int, hidden: int, layers: int, mlp_ratio: float) -> None:
        super().__init__()
        widths = [channels, *[hidden] * (layers - 1), channels]
        self.blocks = nn.ModuleList(GatedAttentionBlock(widths[i], widths[i + 1], mlp_ratio) for i in range(layers))

    def forward(self, x: Tensor, kept: Tensor | None = None) -> Tensor:
        """Translate; ``kept`` is ``(B, layers, 2)``, factors of the branches of each block."""
        for number, block in enumerate(self.blocks):
            x = block(x, None if kept is None else kept[:, number])
        return x


class SimVP(DirectNetwork):
    """Encodes each frame, translates all of them as one image of many channels, and decodes each.

    One pass turns ``context`` frames into the next ``context``. For a shorter horizon the rest is cut; for a longer one each pass is
    fed the whole of the one before, with gradients. Frame t of what is fed is added, after the encoder's first layer, to frame t of
    what comes out, before the decoder's last.

    The ``gsta`` translator has batch norms. In training with several processes each uses the statistics of its own share of the
    batch; those that are gathered for forecasts are the mean over all processes. So, other than for networks without batch norm,
    what is learnt depends a little on the number of processes. ``incepu`` has none.

    Args:
        channels: C of a frame.
        context: observed frames of a pass; the weights depend on it.
        hidden: width of the encoder and decoder, even, and of the translator.
        layers: of the encoder, an even number (as many of the decoder), and of the translator, at least 2. Every second layer of the
            encoder halves the frame.
        kernel_size: of the encoder's convolutions, odd.
        decoder_kernel_size: of the decoder's; None: the encoder's.
        translator: ``gsta``, gated attention, or ``incepu``, inceptions in the shape of a U.
        mlp_ratio: width of the MLP in a block of ``gsta``, in channels of the block.
        drop_path: how often a branch of the last block of ``gsta`` is left out of a sample in training; the rates of the blocks
            before it run evenly from 0.01 in the first, also with 0.
        valid_channel: feed the mask of missing pixels as well.
        known_channels: K of the known inputs; those of the frames that are fed are used.
    """

    training_settings = ("drop_path",)

    def __init__(
        self,
        *,
        channels: int,
        context: int,
        hidden: tuple[int, int],
        layers: tuple[int, int],
        kernel_size: int = 3,
        decoder_kernel_size: int | None = None,
        translator: Literal["gsta", "incepu"] = "gsta",
        mlp_ratio: float = _MLP_RATIO,
        drop_path: float = _DROP_PATH,
        valid_channel: bool = False,
        known_channels: int = 0,
    ) -> None:
        super().__init__()
        decoder_kernel_size = kernel_size if decoder_kernel_size is None else decoder_kernel_size
        _check_sizes(context, hidden, layers, kernel_size, decoder_kernel_size)
        spatial, middle = hidden
        depth, blocks = layers
        self.patch_size, self.takes_valid = 2 ** (depth // 2), valid_channel
        self.context, self.channels, self.known_channels = context, channels, known_channels
        inputs = channels * (2 if valid_channel else 1) + known_channels
        self.encoder = nn.ModuleList(
            ResamplingConvolution(spatial if j else inputs, spatial, kernel_size, "half" if j % 2 else "same") for j in range(depth)
        )
        self.translator: GatedTranslator | InceptionUNet
        if translator == "gsta":
            _check_gated(context * spatial, middle, mlp_ratio, drop_path)
            self.translator = GatedTranslator(context * spatial, middle, blocks, mlp_ratio)
        else:
            _check_inceptions(context * spatial, middle, mlp_ratio, drop_path)
            self.translator = InceptionUNet(context * spatial, middle, blocks)
        self.drop_rates = [_FIRST_DROP_PATH + (drop_path - _FIRST_DROP_PATH) * i / (blocks - 1) for i in range(blocks)]
        self.decoder = nn.ModuleList(
            ResamplingConvolution(spatial, spatial, decoder_kernel_size, "same" if j % 2 else "double") for j in range(depth)
        )
        self.readout = nn.Conv2d(spatial, channels, 1)

    def prepare(self, batch: int, draws: Draws | None = None) -> Draws | None:
        """Return, in training, the draws themselves, of which every pass takes its own; no branch is left out without them."""
        return draws if self.training and isinstance(self.translator, GatedTranslator) else None

    def forecast(self, observed: Tensor, horizon: int, known: Tensor | None = None, constants: Draws | None = None) -> Tensor:
        """Return ``(B, horizon, C, H, W)`` from the last ``context`` of the observed frames.

        Raises:
            UserError: too few frames were observed, or known inputs are missing.
        """
        if observed.shape[1] < self.context:
            raise UserError(f"The network takes {self.context} observed frames and was given {observed.shape[1]}")
        passes = -(-horizon // self.context)
        kept = None if constants is None else carry(self._draw_kept(constants, passes), observed.device)
        start = observed.shape[1] - self.context
        fed, future = observed[:, start:], []
        for number in range(passes):
            if self.known_channels:
                fed = torch.cat([fed, self._known_of(known, start + number * self.context).to(fed.dtype)], dim=2)
            frames = self._translate(fed, None if kept is None else kept[:, number])
            future.append(frames)
            fed = torch.cat([frames, torch.ones_like(frames)], dim=2) if self.takes_valid else frames
        return torch.cat(future, dim=1)[:, :horizon]

    def _translate(self, fed: Tensor, kept: Tensor | None) -> Tensor:
        """Take ``(B, context, inputs, H, W)`` and return the next frames ``(B, context, C, H, W)``."""
        shape = (-1, self.context)
        first = x = self.encoder[0](fed.flatten(0, 1))
        for layer in self.encoder[1:]:
            x = layer(x)
        x = x.unflatten(0, shape).flatten(1, 2)
        x = self.translator(x) if kept is None else self.translator(x, kept)
        x = x.unflatten(1, (self.context, -1)).flatten(0, 1)
        for layer in self.decoder[:-1]:
            x = layer(x)
        frames: Tensor = self.readout(self.decoder[-1](x + first))
        return frames.reshape(*shape, *frames.shape[1:])

    def _known_of(self, known: Tensor | None, start: int) -> Tensor:
        given = 0 if known is None else known.shape[2]
        if known is None or given != self.known_channels:
            raise UserError(f"The network takes {self.known_channels} known channels and was given {given}")
        return known[:, start : start + self.context]

    def _draw_kept(self, draws: Draws, passes: int) -> Tensor:
        """Return factors ``(B, passes, blocks, 2)``: 0 where a branch is left out, otherwise what keeps its mean."""
        rates = torch.tensor(self.drop_rates, dtype=torch.float64)[:, None]
        left = draws.uniform("drop path", passes, len(self.drop_rates), 2) >= rates
        return (left / (1.0 - rates)).float()


def _check_sizes(context: int, hidden: tuple[int, int], layers: tuple[int, int], kernel_size: int, decoder_kernel_size: int) -> None:
    if context < 1:
        raise UserError(f"'context' must be at least 1 frame, not {context}")
    if len(hidden) != 2 or hidden[0] < 2 or hidden[0] % 2 or hidden[1] < 2:
        raise UserError(f"'hidden' is the width of the encoder, an even number, and that of the translator, at least 2, not {list(hidden)}")
    if len(layers) != 2 or layers[0] < 2 or layers[0] % 2 or layers[1] < 2:
        raise UserError(
            "'layers' is the number of layers of the encoder, an even number (every second halves the frame), and of the translator, "
            f"at least 2, not {list(layers)}"
        )
    for name, size in {"kernel_size": kernel_size, "decoder_kernel_size": decoder_kernel_size}.items():
        if size < 1 or size % 2 == 0:
            raise UserError(f"'{name}' must be odd, so that a convolution keeps or halves the size of a frame, not {size}")


def _check_gated(channels: int, hidden: int, mlp_ratio: float, drop_path: float) -> None:
    if not 0.0 <= drop_path < 1.0:
        raise UserError(f"'drop_path' is a rate, at least 0 and below 1, not {drop_path}")
    if int(mlp_ratio * min(channels, hidden)) < 1:
        raise UserError(f"'mlp_ratio' {mlp_ratio} leaves the MLP of a block with {min(channels, hidden)} channels no width")


def _check_inceptions(channels: int, hidden: int, mlp_ratio: float, drop_path: float) -> None:
    if (mlp_ratio, drop_path) != (_MLP_RATIO, _DROP_PATH):
        raise UserError("'mlp_ratio' and 'drop_path' belong to the translator 'gsta'; 'incepu' has no use for them: leave them out")
    groups = inception_groups(hidden)
    if hidden % groups or channels % groups:
        raise UserError(
            f"With a translator {hidden} wide, 'incepu' works in {groups} groups, which must divide that width and 'context' times the "
            f"encoder's width, {channels}: choose other numbers for 'hidden'"
        )
