"""What the machine can do at most, as measured: operations a second in large products, and bytes a second in copies."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import get_args

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from benchmarks.timing import Row, seconds_of
from stpredict.devices import Precision, allow_tf32, choose_device

_TRIES = 3
_LONG_ENOUGH = 0.1
"""Seconds of a product that is large enough to show what the machine can do."""

_LARGEST = 64
"""How often a product may be doubled, in times the first."""

_COPIED = 2**28
"""Bytes of a tensor that is copied: many times what caches hold."""


@dataclass(frozen=True)
class Peak:
    """The most that was reached.

    Attributes:
        work: at what.
        seconds: of the best try.
        rate: operations, or bytes, a second.
    """

    work: str
    seconds: float
    rate: float


def peak(options: argparse.Namespace) -> list[Row]:
    """The most that this machine does: products of each precision, and copies.

    ``gflops`` are 10**9 operations a second, two for each multiply-add; ``gigabytes_per_second`` count what a copy reads and writes.
    """
    device = choose_device(options.device)
    products = {f"{precision} products": product_peak(device, precision, options.repeats) for precision in options.precision}
    copies = copy_peak(device, options.repeats)
    rows = [_row(name, best, best.rate / 1e9, None) for name, best in products.items()]
    return [*rows, _row("copies", copies, None, copies.rate / 1e9)]


def _row(name: str, best: Peak, gflops: float | None, gigabytes: float | None) -> Row:
    return {"name": name, "work": best.work, "seconds": best.seconds, "gflops": gflops, "gigabytes_per_second": gigabytes}


def product_peak(device: torch.device, precision: Precision, tries: int = _TRIES) -> Peak:
    """Return the highest rate of a large matrix product or convolution (channels last) in a precision, measured once in a process.

    On a GPU convolutions do not count: its library may compute them in fewer operations than the direct form has.
    """
    best = _product_peak(device, precision, tries, torch.get_num_threads())
    _leave(device)
    return best


@cache
def _product_peak(device: torch.device, precision: Precision, tries: int, threads: int) -> Peak:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    allow_tf32(precision)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    kernel_sizes = () if device.type == "cuda" else (1, 3, 5)  # on a CPU torch's matrix product is not always the fastest
    try:
        with torch.inference_mode():
            found = [_grown(_matrices, device, dtype, tries)]
            found += [_grown(partial(_convolution, size), device, dtype, tries) for size in kernel_sizes]
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    return max(found, key=lambda one: one.rate)


Product = tuple[str, Callable[[], Tensor], float]
"""What it is, how it is computed, and its operations."""


def _grown(make: Callable[[int, torch.device, torch.dtype], Product], device: torch.device, dtype: torch.dtype, tries: int) -> Peak:
    """Return the best of ever larger products, up to one that takes long enough."""
    best: Peak | None = None
    times = 1
    while True:
        name, compute, operations = make(times, device, dtype)
        seconds = _least_seconds(compute, device, tries)
        if best is None or operations / seconds > best.rate:
            best = Peak(name, seconds, operations / seconds)
        if seconds >= _LONG_ENOUGH or times >= _LARGEST:
            return best
        times *= 2


def _matrices(times: int, device: torch.device, dtype: torch.dtype) -> Product:
    side = 512 * times
    left, right = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
    return f"matrices of {side} x {side}", lambda: left @ right, 2.0 * side**3


def _convolution(kernel_size: int, times: int, device: torch.device, dtype: torch.dtype) -> Product:
    inputs, outputs, side = 128, 512, 32
    frames = torch.rand(times, inputs, side, side, device=device).to(dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.rand(outputs, inputs, kernel_size, kernel_size, device=device).to(dtype).contiguous(memory_format=torch.channels_last)
    name = f"convolution {kernel_size} x {kernel_size}, {inputs} to {outputs} channels, {times} x {side} x {side}"
    return name, lambda: conv2d(frames, weight, padding="same"), 2.0 * times * side**2 * inputs * outputs * kernel_size**2


def copy_peak(device: torch.device, tries: int = _TRIES) -> Peak:
    """Return the highest rate of a large copy, in bytes read and written a second, measured once in a process."""
    best = _copy_peak(device, tries, torch.get_num_threads())
    _leave(device)
    return best


@cache
def _copy_peak(device: torch.device, tries: int, threads: int) -> Peak:
    source = torch.ones(_COPIED, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    times = 64 if device.type == "cuda" else 1  # a copy alone would take a GPU no longer than it takes to ask for it

    def copy() -> None:
        for _ in range(times):
            target.copy_(source)

    seconds = _least_seconds(copy, device, tries)
    return Peak(f"copy of {_COPIED // 2**20} MiB", seconds, 2.0 * times * _COPIED / seconds)


def _least_seconds(work: Callable[[], object], device: torch.device, tries: int) -> float:
    """Return the seconds of the fastest try, after one that does not count."""

    def finish() -> None:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    finish()
    return min(seconds_of(finish) for _ in range(tries))


def _leave(device: torch.device) -> None:
    """Give a GPU's memory back, which the processes that measure will need."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what only ``peak`` takes."""
    parser.add_argument("--precision", nargs="+", choices=get_args(Precision), default=["fp32", "bf16"], help="default: both")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu or cuda (default: auto)")
