"""What this machine has and can do: libraries, processes together, precisions and their speed, and films, each tried for real."""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray
from torch import Tensor
from torch.multiprocessing.spawn import ProcessException, spawn
from torch.nn import functional

from stpredict import kernels
from stpredict.devices import Precision, allow_tf32, autocast
from stpredict.files import write_text
from stpredict.kernels import compiled
from stpredict.libraries import EXTRAS, REQUIRED, Library, first_line, look_at_library
from stpredict.render import save_film

FILMS = (".mp4", ".webm", ".gif", ".webp")

_TOLERANCE = {"fp32": 1e-4, "tf32": 1e-2, "bf16": 5e-2, "fp16": 1e-2}
"""Errors of a gradient of a convolution, over its norm, that rounding explains: some ten times what is usual."""

_WAIT = 60.0
_MEASURE = 0.2
"""Seconds that two processes may take, and that a speed is measured for."""


@dataclass(frozen=True)
class Machine:
    """What there is. Memory and disk are in bytes.

    Attributes:
        processor: its name.
        cores: that this process may use, of ``all_cores``.
        threads: of torch.
        memory: of the machine, of which ``memory_free`` can be had.
        disk_free: in the current folder.
        gpus: a section each: ``name``, ``memory``, ``memory_free``, ``capability``.
        versions: of Python, the operating system, and the libraries of CUDA and of films.
        nccl: whether torch has it.
        gloo: whether torch has it.
    """

    processor: str
    cores: int
    all_cores: int
    threads: int
    memory: int
    memory_free: int
    disk_free: int
    gpus: tuple[dict[str, Any], ...]
    versions: dict[str, str]
    nccl: bool
    gloo: bool


@dataclass(frozen=True)
class Trial:
    """Something that was tried.

    Attributes:
        name: what.
        works: whether it did what it should.
        reason: why not, or empty.
        figures: what was measured, by name with unit.
    """

    name: str
    works: bool
    reason: str = ""
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        machine: what there is.
        device: where the precisions were tried.
        required: libraries that stpredict needs.
        extras: libraries by extra.
        processes: two processes that add up numbers.
        copy: of memory, on the device.
        kernels: what computes convolutions on the CPU.
        no_faster: why nothing faster than torch does, or empty.
        precisions: each tried.
        films: each format tried.
    """

    machine: Machine
    device: str
    required: tuple[Library, ...]
    extras: dict[str, tuple[Library, ...]]
    processes: Trial
    copy: Trial
    kernels: str
    no_faster: str
    precisions: tuple[Trial, ...]
    films: tuple[Trial, ...]

    @property
    def failures(self) -> list[str]:
        """Return what stpredict needs and what does not work: a library, two processes, memory, fp32, or a format of films."""
        missing = [f"{library.module} ({library.reason})" for library in self.required if library.version is None]
        needed = (self.processes, self.copy, *(trial for trial in self.precisions if trial.name == "fp32"), *self.films)
        return missing + [f"{trial.name} ({trial.reason})" for trial in needed if not trial.works]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {**asdict(self), "failures": self.failures}

    def write(self, path: str | Path) -> None:
        """Write the JSON of :meth:`to_dict`, whole or not at all."""
        write_text(path, json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n")


def examine(device: torch.device) -> Report:
    """Find out what there is and try all of it; it takes some ten seconds.

    Two processes are started anew, so a script that calls this does so under ``if __name__ == "__main__":``.
    """
    return Report(
        machine=look_at_machine(),
        device=str(device),
        required=tuple(look_at_library(name) for name in REQUIRED),
        extras={extra: tuple(look_at_library(name, extra) for name in names) for extra, names in EXTRAS.items()},
        processes=try_processes(),
        copy=try_copy(device),
        kernels=kernels.in_use(),
        no_faster=compiled.why_not() or "",
        precisions=tuple(try_precision(name, device) for name in get_args(Precision)),
        films=tuple(try_film(suffix) for suffix in FILMS),
    )


def look_at_machine() -> Machine:
    """Return what there is, without trying it."""
    cores = os.cpu_count() or 1
    memory, free = _memory()
    versions = {"python": platform.python_version(), "system": platform.platform()}
    if torch.version.cuda:
        versions["cuda"] = torch.version.cuda
        versions["cudnn"] = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
    return Machine(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores,
        all_cores=cores,
        threads=torch.get_num_threads(),
        memory=memory,
        memory_free=free,
        disk_free=shutil.disk_usage(".").free,
        gpus=tuple(_gpu(number) for number in range(torch.cuda.device_count())),
        versions={**versions, **_film_versions()},
        nccl=torch.distributed.is_available() and torch.distributed.is_nccl_available(),
        gloo=torch.distributed.is_available() and torch.distributed.is_gloo_available(),
    )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _memory() -> tuple[int, int]:
    """Return the bytes of memory and those that can be had, which a control group (a container) may limit."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free, meminfo, group = whole, Path("/proc/meminfo"), Path("/sys/fs/cgroup")
    if meminfo.is_file():
        fields = dict(line.split(":", 1) for line in meminfo.read_text(encoding="ascii").splitlines() if ":" in line)
        free = int(fields["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in fields else whole
    limit, used = (
        path.read_text(encoding="ascii").strip() if path.is_file() else "" for path in (group / "memory.max", group / "memory.current")
    )
    if limit.isdecimal() and used.isdecimal():
        whole, free = min(whole, int(limit)), min(free, max(0, int(limit) - int(used)))
    return whole, free


def _gpu(number: int) -> dict[str, Any]:
    free, whole = torch.cuda.mem_get_info(number)
    major, minor = torch.cuda.get_device_capability(number)
    return {"name": torch.cuda.get_device_name(number), "memory": whole, "memory_free": free, "capability": f"{major}.{minor}"}


def _film_versions() -> dict[str, str]:
    if look_at_library("av").version is None:
        return {}
    import av

    return {name: ".".join(map(str, av.library_versions[name])) for name in ("libavcodec", "libavformat", "libavutil")}


def try_processes() -> Trial:
    """Let two processes add up known numbers over gloo, the second time 16 MB, which tells the speed."""
    name = "all-reduce of two processes"
    with tempfile.TemporaryDirectory() as folder:
        pair = spawn(_member, (folder,), nprocs=2, join=False)  # type: ignore[no-untyped-call]
        assert pair is not None
        started = time.monotonic()
        try:
            while not pair.join(timeout=1.0):
                if time.monotonic() - started > _WAIT:
                    return Trial(name, False, f"no answer within {_WAIT:g} seconds")
        except ProcessException as error:
            return Trial(name, False, str(error).strip().splitlines()[-1])
        finally:
            for process in pair.processes:
                process.kill()
        seconds = float((Path(folder) / "seconds").read_text(encoding="ascii"))
    return Trial(name, True, figures={"MB/s": round(16.0 / seconds, 1)})


def _member(rank: int, folder: str) -> None:
    """Be one of two processes."""
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(str(Path(folder) / "store"), 2)  # type: ignore[attr-defined]
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=_WAIT / 2))
    try:
        known = torch.arange(1000, dtype=torch.float32)
        _add_up(known * (rank + 1), known * 3)
        large = torch.full((4_000_000,), rank + 1.0)
        torch.distributed.barrier()
        started = time.perf_counter()
        _add_up(large, torch.full_like(large, 3.0))
        seconds = time.perf_counter() - started
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()
    if rank == 0:
        (Path(folder) / "seconds").write_text(repr(seconds), encoding="ascii")


def _add_up(own: Tensor, expected: Tensor) -> None:
    torch.distributed.all_reduce(own)
    if not torch.equal(own, expected):
        raise RuntimeError(f"the sum over the processes is wrong by up to {float((own - expected).abs().max()):g}")


def try_precision(name: Precision, device: torch.device) -> Trial:
    """Take the gradient of a convolution as training does, compare it with float64, and measure billions of operations a second."""
    if name == "tf32" and (device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0)):
        return Trial(name, False, "only GPUs of compute capability 8.0 or more have it")
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        allow_tf32(name)
        error = _gradient_error(name, device)
        if not error < _TOLERANCE[name]:
            return Trial(name, False, f"a gradient is wrong by {error:.2g} of its norm")
        matrices, convolution = _operations(name, device)
        return Trial(name, True, figures={"error": error, "matmul GFLOP/s": matrices, "conv GFLOP/s": convolution})
    except RuntimeError as error:
        return Trial(name, False, first_line(error))
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def _gradient_error(name: Precision, device: torch.device) -> float:
    generator = torch.Generator().manual_seed(0)
    frames, weight = torch.randn(2, 8, 16, 16, generator=generator), torch.randn(8, 8, 3, 3, generator=generator)
    wide = weight.double().requires_grad_()
    (exact,) = torch.autograd.grad(functional.conv2d(frames.double(), wide, padding=1).square().mean(), wide)
    narrow = weight.to(device).requires_grad_()
    with autocast(device, name):
        loss = functional.conv2d(frames.to(device), narrow, padding=1).float().square().mean()
    (found,) = torch.autograd.grad(loss, narrow)
    return float((found.double().cpu() - exact).norm() / exact.norm())


def _operations(name: Precision, device: torch.device) -> tuple[float, float]:
    """Return the billions of operations a second of a product of matrices and of a convolution: a multiply-add is two."""
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(name, torch.float32)
    size, batch, channels, side = (8192, 64, 64, 64) if device.type == "cuda" else (768, 4, 64, 48)
    matrix = torch.ones(size, size, dtype=kind, device=device)
    frames = torch.ones(batch, channels, side, side, dtype=kind, device=device)
    weight = torch.ones(channels, channels, 3, 3, dtype=kind, device=device)
    with torch.no_grad():
        product = _calls_a_second(lambda: matrix @ matrix, device)
        convolution = _calls_a_second(lambda: functional.conv2d(frames, weight, padding=1), device)
    work = 2 * batch * side * side * channels * channels * 9
    return round(product * 2 * size**3 / 1e9, 1), round(convolution * work / 1e9, 1)


def try_copy(device: torch.device) -> Trial:
    """Copy much memory and measure gigabytes a second, read and written."""
    name = f"copy on {device}"
    try:
        source = torch.ones((128 if device.type == "cuda" else 16) * 2**20, device=device)
        target = torch.empty_like(source)
        calls = _calls_a_second(lambda: target.copy_(source), device)
    except RuntimeError as error:
        return Trial(name, False, first_line(error))
    if not torch.equal(source, target):
        return Trial(name, False, "the copy differs")
    return Trial(name, True, figures={"GB/s": round(calls * 2 * source.nbytes / 1e9, 1)})


def _calls_a_second(call: Callable[[], Tensor], device: torch.device) -> float:
    """Measure for a fifth of a second, after one call to warm up, and one more at least."""
    call()
    _wait_for(device)
    started, calls = time.perf_counter(), 0
    while True:
        call()
        _wait_for(device)
        calls += 1
        spent = time.perf_counter() - started
        if spent > _MEASURE:
            return calls / spent


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def try_film(suffix: str) -> Trial:
    """Write a film of a dark frame and a light one, and read it back."""
    name = f"film {suffix}"
    panel = np.stack([np.full((1, 64, 64), value, dtype=np.float32) for value in (0.1, 0.9)])
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = save_film({"": panel}, Path(folder) / f"film{suffix}")
            shades = [float(frame[frame.shape[0] // 2, frame.shape[1] // 2].mean()) / 255 for frame in _frames(path)]
    except _film_errors() as error:
        return Trial(name, False, first_line(error))
    if len(shades) != 2 or max(abs(shade - value) for shade, value in zip(shades, (0.1, 0.9), strict=True)) > 0.05:
        return Trial(name, False, f"frames of the shades 0.1 and 0.9 are read back as {[round(shade, 2) for shade in shades]}")
    return Trial(name, True)


def _frames(path: Path) -> list[NDArray[np.uint8]]:
    """Return the frames ``(H, W, 3)`` of a film."""
    if path.suffix in (".gif", ".webp"):
        from PIL import Image, ImageSequence

        with Image.open(path) as film:
            return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(film)]
    import av

    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24").astype(np.uint8) for frame in container.decode(video=0)]


def _film_errors() -> tuple[type[Exception], ...]:
    """Return what a writer that lacks its codec or its library raises."""
    plain = (OSError, ValueError, LookupError, RuntimeError, ImportError)
    if look_at_library("av").version is None:
        return plain
    from av.error import FFmpegError

    return (*plain, FFmpegError)
