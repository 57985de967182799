"""The device and the precision that computation runs in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from stpredict.errors import UserError

Precision = Literal["fp32", "bf16"]


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
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, dtype=torch.bfloat16)
