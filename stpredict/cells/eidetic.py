"""The eidetic 3-D LSTM cell: instead of a forget gate, it recalls from all that it has remembered.

Source: Wang et al., Eidetic 3D LSTM (ICLR 2019, OpenReview B1lKS2AqtX), as in the authors' code e3d_lstm and, a different function, in
OpenSTL.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from stpredict.cells.attention import attend
from stpredict.cells.gates import Gates, gate
from stpredict.errors import UserError
from stpredict.kernels import convolve

Memory = Literal["updated", "frozen"]
Tokens = Literal["positions", "rows"]


class StretchedConvolution(nn.Conv3d):
    """A convolution over the whole window, ``(B, C, D, H, W)`` to depth 1, which stands for every slot of the window.

    With a stride the grid shrinks too, and is stretched back by nearest neighbours, as in OpenSTL's recipe for KTH.
    """

    def __init__(self, inputs: int, outputs: int, kernel_size: tuple[int, ...], stride: int, bias: bool) -> None:
        depth, rows, columns = kernel_size
        super().__init__(inputs, outputs, (depth, rows, columns), (1, stride, stride), (0, rows // 2, columns // 2), bias=bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Take ``(B, inputs, D, H, W)`` and return ``(B, outputs, 1, H, W)``."""
        # Without padding in time the window is channels: a plane convolution does the same, and faster.
        stride = self.stride[1]
        if stride == 1:
            return convolve(inputs.flatten(1, 2), self.weight, self.bias)[:, :, None]
        plane = functional.conv2d(inputs.flatten(1, 2), self.weight.flatten(1, 2), self.bias, stride, int(self.padding[1]))
        plane = functional.interpolate(plane, size=inputs.shape[3:], mode="nearest")
        return plane[:, :, None]


class StretchedLayerNorm(nn.LayerNorm):
    """A layer norm over channels, window and grid of what stands for every slot of the window."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Take ``(B, C, 1 or D, H, W)`` and return ``(B, C, D, H, W)``."""
        return super().forward(inputs.expand(-1, *self.normalized_shape))


@dataclass(frozen=True)
class StretchedGates(Gates):
    """Gates as OpenSTL's E3D-LSTM makes them: no padding in time, the one result stretched to the window.

    Attributes:
        stride: of the convolutions, in rows and columns.
    """

    stride: int = 1

    def plain_convolution(self, inputs: int, outputs: int) -> nn.Module:
        """Return the convolution before weight norm."""
        if max(self.kernel_size) == 1:
            return super().plain_convolution(inputs, outputs)
        return StretchedConvolution(inputs, outputs, self.kernel_size, self.stride, self.bias)

    def normalisation(self, channels: int) -> list[nn.Module]:
        """Return the norm of an output of so many channels, or nothing."""
        if self.norm == "none":
            return []
        if self.norm != "layer":
            raise UserError(f"The stretched form of E3D-LSTM has the norms 'none' and 'layer', not '{self.norm}'")
        assert self.grid is not None, "the stretched form is bound to its grid"
        return [StretchedLayerNorm([channels, *self.grid], eps=self.norm_epsilon)]


class BlindGates(nn.Sequential):
    """What a normalised convolution gives of a memory that is always zero: its bias, normalised. It has no kernel."""

    def __init__(self, outputs: int, gates: Gates) -> None:
        super().__init__(_Bias(outputs, gates), *gates.normalisation(outputs))


class _Bias(nn.Module):
    def __init__(self, outputs: int, gates: Gates) -> None:
        super().__init__()
        self.outputs, self.grid = outputs, gates.grid or (1, 1, 1)
        self.bias = nn.Parameter(torch.zeros(outputs)) if gates.bias else None

    def forward(self, memory: Tensor) -> Tensor:
        bias = memory.new_zeros(self.outputs) if self.bias is None else self.bias
        return bias[None, :, None, None, None].expand(1, -1, *self.grid)


class EideticLSTMCell(nn.Module):
    """One E3D-LSTM unit on windows ``(B, C, D, H, W)``::

        A = N(h * Wh) = [i g r o]   X = N(x * Wx) = [i g r o i' g' f']   D = N(m * Wm) = [i' f' g' u]
        i = s(Xi + Ai)   r = s(Xr + Ar)   g = tanh(Xg + Ag)            c' = N(c + RECALL(r, pool)) + i . g
        m' = s(Xf' + Df' + forget_bias) . tanh(u) + s(Xi' + Di') . tanh(Xg' + Dg')
        o = s(tanh(Xo + Ao + c' * Wc + m' * Wm'))                      h' = o . tanh([c' m'] * W1x1x1)

    The recall is the softmax-weighted mean of the pool, the cell states of earlier steps, by their products with r, unscaled. Tokens are
    ``positions`` (window slot, row, column) with the channels as features (e3d_lstm), or ``rows`` of as many numbers, cut from the
    channel-first memory as it lies (OpenSTL). Its scores are never held, neither forward nor for the gradients.

    ``memory="updated"`` passes m' on, as the paper says; ``frozen`` passes on the m it was given, which stays zero, as both codes do:
    the kernel on m then has no effect, and there is none. ``output_norm`` normalises the convolutions of c' and m' too (OpenSTL's).
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        memory_inputs: int,
        gates: Gates,
        recall_norm: nn.Module,
        *,
        memory: Memory,
        tokens: Tokens,
        output_norm: bool,
        forget_bias: float = 1.0,
    ) -> None:
        super().__init__()
        self.hidden, self.memory, self.tokens, self.forget_bias = hidden, memory, tokens, forget_bias
        self.x, self.h = gates(inputs, 7 * hidden), gates(hidden, 4 * hidden)
        self.m = BlindGates(4 * hidden, gates) if memory == "frozen" else gates(memory_inputs, 4 * hidden)
        self.recall_norm = recall_norm
        make = gates if output_norm else lambda i, o: nn.Sequential(gates.convolution(i, o))
        self.c2o, self.m2o = make(hidden, hidden), make(hidden, hidden)
        self.out = gates.pointwise(2 * hidden, hidden)

    def forward(self, x: Tensor, h: Tensor, c: Tensor, m: Tensor, pool: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Take input ``(B, inputs, D, H, W)``, states ``(B, hidden, D, H, W)``, m, and the pool, oldest first; return the new h, c and m'.

        The pool holds :func:`to_tokens` of earlier cell states, the newest of them c.
        """
        xi, xg, xr, xo, yi, yg, yf = torch.chunk(self.x(x), 7, dim=1)
        hi, hg, hr, ho = torch.chunk(self.h(h), 4, dim=1)
        mi, mf, mg, transformed = torch.chunk(self.m(m), 4, dim=1)
        recalled = recall(gate("recall", xr + hr).expand_as(c), pool, self.tokens)
        c = self.recall_norm(c + recalled) + gate("input of c", xi + hi) * torch.tanh(xg + hg)
        kept = gate("forget of m", yf + mf + self.forget_bias) * torch.tanh(transformed)
        m = (kept + gate("input of m", yi + mi) * torch.tanh(yg + mg)).expand_as(c)
        output_gate = gate("output", torch.tanh(xo + ho + self.c2o(c) + self.m2o(m)))
        return output_gate * torch.tanh(self.out(torch.cat([c, m], dim=1))), c, m


def recall(opened: Tensor, pool: tuple[Tensor, ...], tokens: Tokens) -> Tensor:
    """Return what the gate r ``(B, hidden, D, H, W)`` recalls from a pool of :func:`to_tokens`, of the gate's shape."""
    return from_tokens(attend(to_tokens(opened, tokens), pool), opened.shape, tokens)


def to_tokens(memory: Tensor, tokens: Tokens) -> Tensor:
    """Return a memory ``(B, C, D, H, W)`` as tokens ``(B, D*H*W, C)``, contiguous, without which attention would hold its scores."""
    if tokens == "rows":
        return memory.reshape(memory.shape[0], -1, memory.shape[1])
    return memory.flatten(2).transpose(1, 2).contiguous()


def from_tokens(found: Tensor, shape: torch.Size, tokens: Tokens) -> Tensor:
    """Return tokens ``(B, D*H*W, C)`` as a memory of the shape (B, C, D, H, W)."""
    return found.reshape(shape) if tokens == "rows" else found.transpose(1, 2).reshape(shape)
