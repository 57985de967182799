"""The compiled kernels: a library of C, made at first use by the C compiler of the machine, for its processor, and kept.

It is called through ctypes, and its threads are those of torch: both use the one OpenMP library that the process has.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stpredict.kernels.transforms import constants, winograd

FORMS = {3: winograd(4, 3), 5: winograd(4, 5)}
"""F(m, r) by the size r of the kernel."""

_SOURCES = ("winograd.c", "form.h")
_FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fopenmp", "-shared", "-fPIC")
_SECONDS = 300.0
"""How long a compiler may take."""

_FOREIGN_WRITERS = 0o022


class Shape(ctypes.Structure):
    """The ``Shape`` of winograd.c."""

    _fields_ = (
        *((name, ctypes.c_long) for name in ("batch", "height", "width", "inputs", "outputs", "pixel", "block")),
        *((name, ctypes.c_int) for name in ("threads", "half_inputs", "half_outputs")),
    )


@dataclass(frozen=True)
class Library:
    """Compiled kernels.

    Attributes:
        name: changes whenever the numbers may: with the source, the processor and the compiler.
        functions: the loaded library.
        panel: outputs in a panel of transformed weights.
        lanes: numbers in a register.
        together: panels that the way back goes through together.
    """

    name: str
    functions: ctypes.CDLL
    panel: int
    lanes: int
    together: int


def library() -> Library | None:
    """Return the compiled kernels, made when they are first asked for, or None where they cannot be had."""
    found = _library()
    return found if isinstance(found, Library) else None


def why_not() -> str | None:
    """Return why there are no compiled kernels, in words that follow 'because'; None where there are."""
    found = _library()
    return found if isinstance(found, str) else None


@functools.cache
def _library() -> Library | str:
    if os.environ.get("STPREDICT_KERNELS") == "off":
        return "STPREDICT_KERNELS is off"
    flags = _processor_flags()
    if "avx2" not in flags or "fma" not in flags:
        return "they are for Linux on x86-64 processors with AVX2"
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return "there is no C compiler (gcc)"
    try:
        version = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return f"{compiler} does not run: {error}"
    if "clang" in version:
        return f"{compiler} is clang, whose threads are not those of torch: install gcc, or name it in CC"
    sources = {name: Path(__file__).with_name(name).read_text() for name in _SOURCES}
    sources["transforms.h"] = "".join(constants(form) for form in FORMS.values())
    digest = hashlib.blake2b("\0".join([*sources.values(), flags, version, *_FLAGS]).encode(), digest_size=4).hexdigest()
    with _folder() as folder:
        path = folder / f"winograd-{digest}.so"
        if not _is_ours(path):
            failed = _compile(compiler, sources, path)
            if failed:
                return failed
        functions = ctypes.CDLL(str(path))
    return Library(path.stem, functions, functions.panel_width(), functions.lanes(), functions.together())


def _processor_flags() -> str:
    """Return what the processor can do, in the words of Linux; nothing elsewhere."""
    about = Path("/proc/cpuinfo")
    if platform.machine() != "x86_64" or not about.is_file():
        return ""
    return next((line.partition(":")[2].strip() for line in about.read_text().splitlines() if line.startswith("flags")), "")


@contextmanager
def _folder() -> Iterator[Path]:
    """Where libraries are kept: ``$STPREDICT_KERNELS``, else ``stpredict/kernels`` in the user's cache; a passing one if it cannot be."""
    own, shared = os.environ.get("STPREDICT_KERNELS"), os.environ.get("XDG_CACHE_HOME")
    folder = Path(own).expanduser() if own else (Path(shared) if shared else Path.home() / ".cache") / "stpredict" / "kernels"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        usable = os.access(folder, os.W_OK)
    except OSError:
        usable = False
    if usable:
        yield folder
    else:
        with tempfile.TemporaryDirectory() as passing:
            yield Path(passing)


def _is_ours(path: Path) -> bool:
    """Whether there is a library that nobody else can have written."""
    try:
        about = path.stat()
    except OSError:
        return False
    return about.st_uid == os.getuid() and not about.st_mode & _FOREIGN_WRITERS


def _compile(compiler: str, sources: dict[str, str], path: Path) -> str:
    """Compile a library, whole or not at all; return what failed, or nothing."""
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        made = Path(scratch) / path.name
        for name, text in sources.items():
            (Path(scratch) / name).write_text(text)
        command = [compiler, *_FLAGS, str(Path(scratch) / _SOURCES[0]), "-o", str(made)]
        try:
            run = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        except (OSError, subprocess.SubprocessError) as error:
            return f"{compiler} does not run: {error}"
        if run.returncode:
            return f"{compiler} failed: {' '.join(run.stderr.split())[:300]}"
        made.chmod(0o700)
        made.replace(path)
    return ""
