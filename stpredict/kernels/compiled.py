"""The compiled kernels: a library of C, made at first use by the C compiler of the machine, for its processor, and kept.

It is called through ctypes, and its threads are those of torch: both use the one OpenMP library that the process has.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stpredict.files import cache_folder
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
    compiler = shlex.split(os.environ.get("CC", "")) or [found for found in map(shutil.which, ("gcc", "cc")) if found][:1]
    if not compiler:
        return "there is no C compiler (gcc)"
    try:
        version = _run([*compiler, "--version"])
        if "clang" in version:
            return f"{compiler[0]} is clang, whose threads are not those of torch: install gcc, or name it in CC"
        sources = {name: Path(__file__).with_name(name).read_text() for name in _SOURCES}
        sources["transforms.h"] = "".join(constants(form) for form in FORMS.values())
        digest = hashlib.blake2b("\0".join([*sources.values(), flags, version, *_FLAGS]).encode(), digest_size=4).hexdigest()
        with _folder() as folder:
            path = folder / f"winograd-{digest}.so"
            found = _load(path)
            if found is None:
                _compile(compiler, sources, path)
                found = _load(path)
            return found or f"{compiler[0]} made no library that can be loaded"
    except (OSError, subprocess.SubprocessError) as error:
        return f"{compiler[0]} could not compile them: {_in_one_line(str(error))}"


def _in_one_line(text: str) -> str:
    return " ".join(text.split())[:300].rstrip(".")


def _run(command: list[str]) -> str:
    """Return what a command prints.

    Raises:
        OSError: it cannot be run, or fails.
        subprocess.SubprocessError: it takes too long.
    """
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False)
    if done.returncode:
        raise OSError(f"{Path(command[0]).name} ended with {done.returncode}: {done.stderr or done.stdout}")
    return done.stdout


def _is_ours(path: Path) -> bool:
    """Whether nobody else can have written a file or folder."""
    about = path.stat()
    return about.st_uid == os.getuid() and not about.st_mode & _FOREIGN_WRITERS


def _load(path: Path) -> Library | None:
    """Return a library that nobody else can have written, or None if there is none, or a damaged one."""
    try:
        if not _is_ours(path):
            return None
        functions = ctypes.CDLL(str(path))
        return Library(path.stem, functions, functions.panel_width(), functions.lanes(), functions.together())
    except (OSError, AttributeError):
        return None


def _processor_flags() -> str:
    """Return what the processor can do, in the words of Linux; nothing elsewhere."""
    about = Path("/proc/cpuinfo")
    if platform.machine() != "x86_64" or not about.is_file():
        return ""
    return next((line.partition(":")[2].strip() for line in about.read_text().splitlines() if line.startswith("flags")), "")


@contextmanager
def _folder() -> Iterator[Path]:
    """Where libraries are kept: ``$STPREDICT_KERNELS``, else ``stpredict/kernels`` in the user's cache; a passing one if it cannot be."""
    try:
        folder = cache_folder("kernels", "STPREDICT_KERNELS")
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=folder):  # or it cannot be written
            usable = _is_ours(folder)
    except (OSError, RuntimeError):  # the second: there is no home
        usable = False
    if usable:
        yield folder
    else:
        with tempfile.TemporaryDirectory() as passing:
            yield Path(passing)


def _compile(compiler: list[str], sources: dict[str, str], path: Path) -> None:
    """Compile a library, whole or not at all.

    Raises:
        OSError: the compiler fails, or there is no room.
        subprocess.SubprocessError: it takes too long.
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        made = Path(scratch) / path.name
        for name, text in sources.items():
            (Path(scratch) / name).write_text(text)
        _run([*compiler, *_FLAGS, str(Path(scratch) / _SOURCES[0]), "-o", str(made)])
        made.chmod(0o700)
        made.replace(path)
