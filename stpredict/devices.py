"""The device and the precision that computation runs in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

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
