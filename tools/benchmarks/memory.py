"""How much memory this process, or a GPU, holds and has held."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import resource
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import torch

_MMAP_THRESHOLD = -3
"""The option of glibc's mallopt that says from how many bytes on a piece of memory is a mapping of its own."""

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident_mib() -> float | None:
    """Return the memory that this process holds now, where the system tells it as Linux does."""
    told = Path("/proc/self/statm")
    return int(told.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20 if told.is_file() else None


class PeakMemory:
    """Watches the memory that the body of a ``with`` takes.

    On a GPU it is torch's own count of what its tensors take there. On the CPU it is what Linux counts as resident in this process;
    other systems tell the peak of the process alone. Where the allocator is glibc's, it is set to give freed memory back at once, which
    takes time.

    Attributes:
        extra_mib: by how much the peak within the body exceeds what was held when the body began; None where that is not told.
        peak_mib: the most that was held: on a GPU within the body, on the CPU since the process began, the program itself included.
    """

    extra_mib: float | None = None
    peak_mib: float

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __enter__(self) -> PeakMemory:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before: float | None = torch.cuda.memory_allocated(self.device) / 2**20
            return self
        _give_back()
        self._earlier = _told_mib("VmHWM")
        self._before = _told_mib("VmRSS") if _forget_peak() else None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            within: float | None = torch.cuda.max_memory_allocated(self.device) / 2**20
            earlier = None
        else:
            within, earlier = _told_mib("VmHWM"), self._earlier
        if within is not None and self._before is not None:
            self.extra_mib = within - self._before
        # The system's count for a process that another one started begins at what that one held, so it is the last choice.
        self.peak_mib = _maximum_mib() if within is None else max(within, earlier or 0.0)


def peak_of(take: Callable[[], object], device: torch.device) -> PeakMemory:
    """Watch the second of two times: memory that was taken before the first, and freed in it, would hide as much that is taken anew."""
    for _ in range(2):
        with PeakMemory(device) as memory:
            take()
    return memory


def _told_mib(key: str) -> float | None:
    lines = _STATUS.read_text().splitlines() if _STATUS.is_file() else []
    return next((int(line.split()[1]) / 2**10 for line in lines if line.startswith(f"{key}:")), None)


def _forget_peak() -> bool:
    """Let Linux count the peak of this process from now on; False where that cannot be."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def _give_back() -> None:
    """Return freed memory to the system, from now on at once, so that what is resident is what is held, without gaps between."""
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, 2**16)
        library.malloc_trim(0)


def _maximum_mib() -> float:
    unit = 2**20 if platform.system() == "Darwin" else 2**10  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
