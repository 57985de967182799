"""Convolutions by Winograd's algorithm: the compiled functions, with gradients.

The weights are transformed when a rollout first needs them, and their gradient is summed over the steps of the rollout as it lies in the
transformed domain: :func:`forget` marks where a rollout begins.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, MutableMapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.weak import WeakTensorKeyDictionary

from stpredict.kernels.compiled import FORMS, Library, Shape

_TYPES = (torch.float32, torch.bfloat16)
_MOST_TILES = 256
"""Tiles that are worked on at a time."""
_SCRATCH = 1 << 22
"""Numbers that are held at a time, if that leaves enough tiles: what a shared cache holds."""
_FEWEST_TILES = 64

_LEAST_CHANNELS = 16
_LEAST_WORK = 1 << 20
"""Multiply-adds of the direct form below which it is left to torch."""
_FEW_PIXELS, _MANY_WEIGHTS = 1 << 12, 1 << 14
"""A kernel of 3 x 3 wins less than a third where a batch has more pixels than the first and fewer pairs of channels than the second."""


class Transformed:
    """The weights of one convolution in the transformed domain, through one rollout.

    Attributes:
        shape: of the weight, ``(K, ..., r, r)``.
        inputs: C.
        outputs: K.
        size: r.
        transformed: transformed weights.
        gradient: what the steps of the rollout have added to the gradient of the weight so far, as C packs it.
        anchor: an empty tensor that hangs on the weight in the graph; its gradient is what :attr:`gradient` holds.
    """

    def __init__(self, library: Library, weight: Tensor) -> None:
        self.library, self.shape = library, weight.shape
        self.outputs, self.inputs, self.size = weight.shape[0], weight.shape[1:-2].numel(), weight.shape[-1]
        self.version, self.address = weight._version, weight.data_ptr()
        self.transformed = torch.empty(self.packed(FORMS[self.size].tile ** 2))
        self._call("transform_weights", weight.detach().contiguous(), self.transformed)
        self.gradient: Tensor | None = None
        self.anchor: Tensor = _Anchor.apply(weight, self)  # type: ignore[no-untyped-call]

    def restored(self) -> Tensor | None:
        """Return the gradient of the weight, and begin a new sum."""
        gradient, self.gradient = self.gradient, None
        if gradient is None:
            return None
        restored = torch.empty(self.shape)
        self._call("unpack_gradient", gradient, restored)
        return restored

    def packed(self, places: int) -> int:
        """Return how many numbers there are in ``(places, panels, inputs, panel)``."""
        panel = self.library.panel
        return places * self.inputs * -(-self.outputs // panel) * panel

    def _call(self, name: str, source: Tensor, made: Tensor) -> None:
        function = getattr(self.library.functions, f"{name}_{self.size}")
        function(_at(source), _at(made), ctypes.c_long(self.inputs), ctypes.c_long(self.outputs), torch.get_num_threads())


_transformed: MutableMapping[Tensor, Transformed] = WeakTensorKeyDictionary()


def forget(parameters: Iterable[Tensor]) -> None:
    """Forget the transformed weights of earlier rollouts."""
    for parameter in parameters:
        _transformed.pop(parameter, None)


def serves(inputs: Tensor, weight: Tensor) -> bool:
    """Whether this form can compute a convolution, and is the faster one."""
    if type(inputs) is not Tensor or not isinstance(weight, torch.nn.Parameter) or weight.device.type != "cpu":
        return False
    rows, columns = weight.shape[-2:]
    if rows != columns or rows not in FORMS or weight.dtype != torch.float32 or inputs.dtype not in _TYPES or inputs.ndim != 4:
        return False
    channels, outputs, pixels = weight.shape[1:-2].numel(), weight.shape[0], inputs.shape[0] * inputs.shape[2] * inputs.shape[3]
    if min(channels, outputs) < _LEAST_CHANNELS or pixels * weight.numel() < _LEAST_WORK or inputs.shape[1] != channels:
        return False
    return rows > 3 or pixels <= _FEW_PIXELS or channels * outputs >= _MANY_WEIGHTS


def convolve(library: Library, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the convolution of ``inputs (B, C, H, W)``, channels-last; in autocast its numbers are of autocast's type."""
    kind = inputs.dtype
    if torch.is_autocast_enabled("cpu"):
        kind = torch.get_autocast_dtype("cpu")
    if kind not in _TYPES:
        kind = torch.float32
    held = _transformed.get(weight)
    graph = torch.is_grad_enabled() and weight.requires_grad
    if held is None or (held.version, held.address) != (weight._version, weight.data_ptr()) or (graph and not held.anchor.requires_grad):
        held = _transformed[weight] = Transformed(library, weight)
    made: Tensor = _Convolution.apply(inputs, held.anchor, bias, held, kind)  # type: ignore[no-untyped-call]
    return made


class _Anchor(torch.autograd.Function):
    """Where the gradients of all uses of one weight meet."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, held: Transformed) -> Tensor:
        ctx.held = held
        ctx.set_materialize_grads(False)
        return weight.new_empty(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, None]:
        return ctx.held.restored(), None


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, anchor: Tensor, bias: Tensor | None, held: Transformed, kind: torch.dtype) -> Tensor:
        if not _is_channels_last(inputs):
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(inputs)
        ctx.held = held
        return _convolve(held, inputs, None if bias is None else bias.detach().float(), kind)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        (inputs,), held = ctx.saved_tensors, ctx.held
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        wants_inputs, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        to_inputs = _go_back(held, inputs, gradient, wants_inputs, wants_weight)
        to_bias = gradient.sum(dim=(0, 2, 3), dtype=torch.float32) if wants_bias else None
        return to_inputs, None, to_bias, None, None


def _is_channels_last(frames: Tensor) -> bool:
    """Whether frames ``(B, C, H, W)`` lie a pixel after the other, each with its channels, or some of its channels, together."""
    _, channels, height, width = frames.shape
    pixel = frames.stride(3)
    return frames.stride() == (height * width * pixel, 1, width * pixel, pixel) and pixel >= channels


def _convolve(held: Transformed, inputs: Tensor, bias: Tensor | None, kind: torch.dtype) -> Tensor:
    batch, _, height, width = inputs.shape
    made = torch.empty((batch, held.outputs, height, width), dtype=kind, memory_format=torch.channels_last)
    shape, scratch = _shape(held, inputs, made, backward=False)
    function = getattr(held.library.functions, f"convolve_{held.size}")
    function(_at(inputs), _at(held.transformed), _at(bias), _at(made), _at(scratch), ctypes.byref(shape))
    return made


def _go_back(held: Transformed, inputs: Tensor, gradient: Tensor, wants_inputs: bool, wants_weight: bool) -> Tensor | None:
    """Add to the gradient of the transformed weights, and return that of the inputs, each if it is wanted."""
    made = torch.zeros(inputs.shape).contiguous(memory_format=torch.channels_last) if wants_inputs else None
    if wants_weight and held.gradient is None:
        held.gradient = torch.zeros(held.packed(held.size**2))
    shape, scratch = _shape(held, inputs, gradient, backward=True)
    function = getattr(held.library.functions, f"go_back_{held.size}")
    summed = held.gradient if wants_weight else None
    function(_at(inputs), _at(gradient), _at(held.transformed), _at(made), _at(summed), _at(scratch), ctypes.byref(shape))
    return None if made is None else made.to(inputs.dtype)


def _shape(held: Transformed, inputs: Tensor, outputs: Tensor, backward: bool) -> tuple[Shape, Tensor]:
    """Return the shape of a convolution as C wants it, and memory to work in."""
    library, form, (batch, _, height, width) = held.library, FORMS[held.size], inputs.shape
    input_panels = -(-held.inputs // library.panel)
    panels = library.together + input_panels if backward else 2
    channels = held.inputs + panels * library.panel  # of every tile
    tiles = batch * -(-height // form.outputs) * -(-width // form.outputs)
    most = max(_FEWEST_TILES, min(_MOST_TILES, _SCRATCH // (form.tile**2 * channels)))
    block = -(-tiles // -(-tiles // most))  # blocks of about equal size
    half = [int(tensor.dtype == torch.bfloat16) for tensor in (inputs, outputs)]
    shape = Shape(batch, height, width, held.inputs, held.outputs, inputs.stride(3), block, torch.get_num_threads(), *half)
    products = library.together * (held.inputs * library.panel + library.lanes) if backward else 0
    return shape, torch.empty(form.tile**2 * (block * channels + (1 + panels) * library.lanes + products))


def _at(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
