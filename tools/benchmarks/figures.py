"""The figures of a case, measured in a process of its own: time, operations, memory, and the share of what the machine can do."""

from __future__ import annotations

from collections.abc import Callable

import torch
from rich.console import Console

from benchmarks.apart import NO_MEMORY, apart
from benchmarks.memory import PeakMemory, keep_for_reuse
from benchmarks.peak import product_peak
from benchmarks.timing import Row, median_seconds
from benchmarks.traffic import count_bytes
from stpredict import kernels
from stpredict.costs import measure_costs
from stpredict.devices import choose_device
from stpredict.errors import UserError
from stpredict.training.settings import Settings
from stpredict.training.work import Work

Measure = Callable[[Settings, int], Row]
"""Measures a case so many times, in this process."""

FIGURES = ("seconds", "clips_per_second", "tflops", "share_of_peak", "intensity", "activation_mib", "peak_mib")


def complete_row(row: Row, settings: Settings, measure: Measure, repeats: int) -> Row:
    """Return what ``row`` says of a case with its figures, which are None where memory did not suffice, and tell of them."""
    peak = product_peak(choose_device(settings.trainer.device), settings.trainer.precision)
    try:
        measured = apart(measure, settings, repeats)
    except NO_MEMORY:
        measured = {"parameters": None, **dict.fromkeys(FIGURES)}
    if measured["tflops"] is not None:
        measured["share_of_peak"] = measured["tflops"] * 1e12 / peak.rate
    told = [f"{name} {value:.4g}" for name, value in measured.items() if name in FIGURES and value is not None]
    about = ", ".join(f"{key} {value}" for key, value in row.items() if key != "name" and value is not None)
    text = f"{row['name']}, {about}: {', '.join(told) or 'memory did not suffice'}"
    Console(stderr=True).print(text, soft_wrap=True, highlight=False)
    return row | measured


def figures_of(work: Work, take: Callable[[], object], repeats: int, passes: int) -> Row:
    """Return the figures of what is already warm.

    Args:
        work: what is at work.
        take: does it once, on a batch; on a GPU it may return early.
        repeats: of which the median counts.
        passes: how many times the operations of a forecast are done: 3 if it goes backward too.
    """

    def finish() -> None:
        take()
        if work.device.type == "cuda":
            torch.cuda.synchronize(work.device)

    with PeakMemory(work.device) as memory:  # a time of its own, since watching takes time
        finish()
    keep_for_reuse()
    seconds = median_seconds(finish, repeats)
    rate, operations, moved = work.settings.data.batch_size / seconds, *_counted(work)
    return {
        "kernels": kernels.in_use(),
        "parameters": sum(weight.numel() for weight in work.network.parameters()),
        "seconds": seconds,
        "clips_per_second": rate,
        "tflops": None if operations is None else passes * operations * rate / 1e12,
        "share_of_peak": None,
        "intensity": None if operations is None or moved is None else work.settings.data.batch_size * operations / moved,
        "activation_mib": memory.extra_mib,
        "peak_mib": memory.peak_mib,
    }


def _counted(work: Work) -> tuple[float | None, int | None]:
    """Return the operations of the forecast of one clip, and the bytes of a batch's; None where they cannot be counted."""
    clips, network = work.clips, work.network.eval()
    with kernels.using("reference"):  # the direct form, whatever computes
        try:
            costs = measure_costs(network, clips.spec.shape, clips.context, clips.horizon)
        except UserError:
            return None, None
        frames = (work.settings.data.batch_size, clips.context, *clips.spec.shape)
        return 2.0 * costs.multiply_adds, count_bytes(network, frames, clips.horizon, work.settings.trainer.precision)
