"""Convolutions by Winograd's algorithm: the compiled functions, with gradients.

The weights are transformed when a rollout first needs them, and their gradient is summed over the steps of the rollout as it lies in the
transformed domain: :func:`forget` marks where a rollout begins.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Iterable, MutableMapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
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
    """The weights of one convolution in the transformed domain, through one rollout, or through forecasts for as long as they stay.

    Attributes:
        shape: of the weight, ``(K, ..., r, r)``.
        inputs: C.
        outputs: K.
        size: r.
        transformed: transformed weights.
        sums: what the steps of the rollout have added to the gradient of the weight so far, as C packs it, of each backward pass that is
            under way, by its number.
        source: a copy of the weight, of those that are for forecasts.
        is_trusted: False when the weight has to be compared with that copy before it is used again.
    """

    def __init__(self, library: Library, weight: Tensor) -> None:
        self.library, self.shape = library, weight.shape
        self.outputs, self.inputs, self.size = weight.shape[0], weight.shape[1:-2].numel(), weight.shape[-1]
        self.version, self.address, self._weight = _version(weight), weight.data_ptr(), weakref.ref(weight)
        self.transformed = _empty(self._packed(FORMS[self.size].tile ** 2))
        self._call("transform_weights", weight.detach().contiguous(), self.transformed)
        self.sums: dict[int, Tensor] = {}
        self.source = None if torch.is_grad_enabled() else weight.detach().clone()
        self.is_trusted = True
        self._anchor: weakref.ref[Tensor] | None = None

    def is_of(self, weight: Tensor) -> bool:
        """Whether a weight is still what it was; nobody counts changes that are made through ``.data``."""
        if (self.version, self.address) != (_version(weight), weight.data_ptr()):
            return False
        if not self.is_trusted:
            self.is_trusted = self.source is not None and torch.equal(self.source, weight)
        return self.is_trusted

    def check(self) -> None:
        """Refuse gradients of what nobody would compute now, as torch does.

        Raises:
            RuntimeError: the weight has been changed since it was used.
        """
        weight = self._weight()
        if weight is not None and not self.is_of(weight):
            raise RuntimeError("The weight of a convolution was changed in place after it was used, and before its gradient was taken")

    def anchor(self, weight: Tensor) -> Tensor:
        """Return an empty tensor that hangs on the weight in the graph, where the gradients of all its uses meet.

        It lives as long as a graph needs it: if it were kept here, it would keep the weight for ever.
        """
        anchor = self._anchor() if self._anchor is not None else None
        if anchor is None or not anchor.requires_grad:
            anchor = _Anchor.apply(weight, self)  # type: ignore[no-untyped-call]
            self._anchor = weakref.ref(anchor)
        return anchor

    def sum(self) -> Tensor:
        """Return what the backward pass that is under way adds to."""
        number = torch._C._current_graph_task_id()
        if number not in self.sums:
            self.sums[number] = torch.zeros(self._packed(self.size**2), dtype=torch.float32, device="cpu")
        return self.sums[number]

    def restored(self) -> Tensor | None:
        """Return the gradient of the weight that the backward pass under way has summed, and begin a new sum."""
        gradient = self.sums.pop(torch._C._current_graph_task_id(), None)
        if gradient is None:
            return None
        restored = torch.empty(self.shape, dtype=torch.float32, device="cpu")
        self._call("unpack_gradient", gradient, restored)
        return restored

    def _packed(self, places: int) -> int:
        """Return how many numbers there are in ``(places, panels, inputs, panel)``."""
        panel = self.library.panel
        return places * self.inputs * -(-self.outputs // panel) * panel

    def _call(self, name: str, source: Tensor, made: Tensor) -> None:
        function = getattr(self.library.functions, f"{name}_{self.size}")
        function(_at(source), _at(made), ctypes.c_long(self.inputs), ctypes.c_long(self.outputs), torch.get_num_threads())


_transformed: MutableMapping[Tensor, Transformed] = WeakTensorKeyDictionary()


def forget(parameters: Iterable[Tensor]) -> None:
    """Forget the transformed weights of earlier rollouts: for gradients always, for forecasts if the weights are not what they were."""
    for parameter in parameters:
        held = _transformed.get(parameter)
        if held is not None and held.source is not None and not torch.is_grad_enabled():
            held.is_trusted = False
        else:
            _transformed.pop(parameter, None)


def serves(inputs: Tensor, weight: Tensor) -> bool:
    """Whether this form can compute a convolution, and is the faster one."""
    if not (_is_plain(inputs) and isinstance(weight, torch.nn.Parameter) and inputs.ndim == 4 and is_watched_by_nobody()):
        return False
    rows, columns = weight.shape[-2:]
    if rows != columns or rows not in FORMS or weight.dtype != torch.float32 or weight.device.type != "cpu" or _kind(inputs) not in _TYPES:
        return False
    channels, outputs, pixels = weight.shape[1:-2].numel(), weight.shape[0], inputs.shape[0] * inputs.shape[2] * inputs.shape[3]
    if min(channels, outputs) < _LEAST_CHANNELS or pixels * weight.numel() < _LEAST_WORK or inputs.shape[1] != channels:
        return False
    if rows > 3:
        return True
    # torch is twice as fast in half precision, which 3 x 3 does not make up for.
    return _kind(inputs) == torch.float32 and (pixels <= _FEW_PIXELS or channels * outputs >= _MANY_WEIGHTS)


def _is_plain(inputs: Tensor) -> bool:
    fits = inputs.dtype == torch.float32 or (inputs.dtype in _TYPES and torch.is_autocast_enabled("cpu"))
    return type(inputs) is Tensor and inputs.device.type == "cpu" and fits


def is_watched_by_nobody() -> bool:
    """Whether operations are simply done: neither traced, nor transformed, nor counted."""
    transformed = torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    return not (transformed or torch._C._get_tracing_state() is not None or torch._C._len_torch_dispatch_stack() > 0)


def _kind(inputs: Tensor) -> torch.dtype:
    """Return the type of the numbers that a convolution of torch would give."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else inputs.dtype


def convolve(library: Library, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the convolution of ``inputs (B, C, H, W)``, channels-last; in autocast its numbers are of autocast's type."""
    held = _transformed.get(weight)
    if held is None or not held.is_of(weight):
        held = _transformed[weight] = Transformed(library, weight)
    anchor = held.anchor(weight) if torch.is_grad_enabled() and weight.requires_grad else None
    made: Tensor = _Convolution.apply(inputs, anchor, bias, held, _kind(inputs))  # type: ignore[no-untyped-call]
    return made


def _version(weight: Tensor) -> int | None:
    """Return how often a weight has been changed in place; nobody counts for those that were made in inference mode."""
    return None if weight.is_inference() else weight._version


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
    def forward(ctx: Any, inputs: Tensor, anchor: Tensor | None, bias: Tensor | None, held: Transformed, kind: torch.dtype) -> Tensor:
        if _pixel(inputs) is None:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(inputs)
        ctx.held, ctx.anchor = held, anchor
        return _convolve(held, inputs, None if bias is None else bias.detach().float().contiguous(), kind)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, Tensor | None, None, None]:
        (inputs,), held = ctx.saved_tensors, ctx.held
        held.check()
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        wants_inputs, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        wants_weight = wants_weight and torch._C._will_engine_execute_node(ctx.anchor.grad_fn)
        to_inputs = _go_back(held, inputs, gradient, wants_inputs, wants_weight)
        to_bias = gradient.sum(dim=(0, 2, 3), dtype=torch.float32) if wants_bias else None
        return to_inputs, None, to_bias, None, None


def _pixel(frames: Tensor) -> int | None:
    """Return how many numbers lie from one pixel of ``(B, C, H, W)`` to the next, if the channels of each lie together; else None."""
    batch, channels, height, width = frames.shape
    frame, _, row, column = frames.stride()
    # Of an axis of size 1 the stride says nothing.
    told = [column] * (width > 1) + [row // width] * (height > 1) + [frame // (height * width)] * (batch > 1)
    pixel = told[0] if told else channels
    wanted = zip(frames.shape, frames.stride(), (height * width * pixel, 1, width * pixel, pixel), strict=True)
    return pixel if pixel >= channels and all(stride == right for size, stride, right in wanted if size > 1) else None


def _convolve(held: Transformed, inputs: Tensor, bias: Tensor | None, kind: torch.dtype) -> Tensor:
    batch, _, height, width = inputs.shape
    made = torch.empty((batch, held.outputs, height, width), dtype=kind, device="cpu", memory_format=torch.channels_last)
    shape, scratch = _shape(held, inputs, made, backward=False)
    function = getattr(held.library.functions, f"convolve_{held.size}")
    function(_at(inputs), _at(held.transformed), _at(bias), _at(made), _at(scratch), ctypes.byref(shape))
    return made


def _go_back(held: Transformed, inputs: Tensor, gradient: Tensor, wants_inputs: bool, wants_weight: bool) -> Tensor | None:
    """Add to the gradient of the weights, and return that of the inputs, each if it is wanted."""
    made = torch.zeros_like(inputs, dtype=torch.float32).contiguous(memory_format=torch.channels_last) if wants_inputs else None
    shape, scratch = _shape(held, inputs, gradient, backward=True)
    function = getattr(held.library.functions, f"go_back_{held.size}")
    summed = held.sum() if wants_weight else None
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
    pixel = _pixel(inputs)
    assert pixel is not None, "frames lie channels-last"
    shape = Shape(batch, height, width, held.inputs, held.outputs, pixel, block, torch.get_num_threads(), *half)
    products = library.together * (held.inputs * library.panel + library.lanes) if backward else 0
    return shape, _empty(form.tile**2 * (block * channels + (1 + panels) * library.lanes + products))


def _empty(count: int) -> Tensor:
    return torch.empty(count, dtype=torch.float32, device="cpu")


def _at(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
