"""How much memory this process, or a GPU, holds and has held."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import resource
from pathlib import Path
from types import TracebackType

import torch

_MMAP_THRESHOLD = -3
"""The option of glibc's mallopt that says from how many bytes on a piece of memory is a mapping of its own."""

_TRIM_THRESHOLD = -1
"""The option that says from how many free bytes on at the heap's end they go back."""

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
        give_back_at_once()
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


def give_back_at_once() -> None:
    """Let freed memory go back to the system at once, so that what is resident is what is held, without gaps between.

    Whoever wants exact figures calls this before memory of any size is taken: what was taken earlier is used again, gaps and all.
    """
    _tell_allocator(threshold=2**16)


def keep_for_reuse() -> None:
    """Let freed memory be kept for the next that is taken, as the allocator comes to do by itself in a process that goes on."""
    _tell_allocator(threshold=2**25)


def _tell_allocator(threshold: int) -> None:
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, threshold)
        library.mallopt(_TRIM_THRESHOLD, 2 * threshold)
        library.malloc_trim(0)


def _maximum_mib() -> float:
    unit = 2**20 if platform.system() == "Darwin" else 2**10  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
