"""The device and the precision that computation runs in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor, nn

from stpredict.errors import UserError

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
"""Of convolutions and matrix products: ``tf32`` rounds their inputs on GPUs that can, ``bf16`` and ``fp16`` are half as wide."""


def choose_device(name: str) -> torch.device:
    """Return the device ``auto`` (the GPU if there is one), ``cpu`` or ``cuda`` stands for.

    Raises:
        UserError: the name is unknown, or there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.partition(":")[0] not in ("cpu", "cuda"):
        raise UserError(f"There is no device '{name}'; known: auto, cpu, cuda")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("This machine has no GPU that torch can use: choose --device cpu or auto")
    return torch.device(name)


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Return the context in which convolutions run in ``precision``; weights and sums stay float32."""
    if precision in ("fp32", "tf32"):
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)


def allow_tf32(precision: Precision) -> None:
    """Let GPUs round the inputs of products to TF32 if, and only if, the precision is ``tf32``."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"


def tune(device: torch.device, precision: Precision) -> None:
    """Choose what torch computes with for a training run in ``precision``.

    On a GPU the fastest algorithm for each shape is found by trying; which one wins may differ from run to run, and the last bits with it.
    """
    allow_tf32(precision)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True


def put_channels_last(network: nn.Module) -> bool:
    """Lay the kernels of plane convolutions out with their channels last, as tensor cores take them; what they give then lies so too.

    Norms over channels and grid would copy everything back, so a network that has them is left as it is.

    Returns:
        whether anything was done.
    """
    parts = list(network.modules())
    kernels = [weight for part in parts if isinstance(part, nn.Conv2d) for weight in part.parameters(recurse=False) if weight.ndim == 4]
    if not kernels or any(isinstance(part, nn.LayerNorm | nn.GroupNorm) for part in parts):
        return False
    for kernel in kernels:
        kernel.data = kernel.data.contiguous(memory_format=torch.channels_last)
    return True


def laid_out_like(tensor: Tensor, other: Tensor) -> Tensor:
    """Return a tensor whose memory lies as that of another of its shape; itself if it does already."""
    return tensor if tensor.stride() == other.stride() else torch.empty_like(other, dtype=tensor.dtype).copy_(tensor)


def carry(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Return a tensor on a device; to a GPU it is copied beside what that is still at, and the program waits for neither."""
    device = torch.device(device)
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    beside, now = _copying(device), torch.cuda.current_stream(device)
    with torch.cuda.stream(beside):
        there = tensor.pin_memory().to(device, non_blocking=True)
    now.wait_stream(beside)
    there.record_stream(now)  # or its memory might be given to the next copy while it is still read
    return there


@lru_cache
def _copying(device: torch.device) -> torch.cuda.Stream:
    """Return the stream by which tensors go to a GPU."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class Arriving:
    """Numbers on their way from a device, asked for now and read later."""

    def __init__(self, numbers: Tensor) -> None:
        """Ask for a tensor's numbers as they are when all that the device was told to do so far is done."""
        self._numbers, self._there = numbers, None
        if numbers.is_cuda:
            self._numbers = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True).copy_(numbers, non_blocking=True)
            self._there = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            self._there.record(torch.cuda.current_stream(numbers.device))

    def read(self) -> list[float]:
        """Return the numbers, and wait for them if they are not there yet, but for nothing that came after."""
        if self._there is not None:
            self._there.synchronize()
        numbers: list[float] = self._numbers.tolist()
        return numbers
