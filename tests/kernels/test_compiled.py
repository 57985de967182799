"""The compiled kernels are there wherever they can be; where they cannot, one sentence says why, and nothing fails."""

from __future__ import annotations

import multiprocessing
import os
import platform
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from stpredict import kernels
from stpredict.kernels import compiled
from stpredict.kernels.compiled import Library, library, why_not

ROOT = Path(__file__).resolve().parents[2]

_about = Path("/proc/cpuinfo")
_words = set(_about.read_text().split()) if _about.is_file() and platform.machine() == "x86_64" else set()
capable = pytest.mark.skipif(
    not {"avx2", "fma"} <= _words or shutil.which("gcc") is None or os.environ.get("STPREDICT_KERNELS") == "off",
    reason="there is no gcc, or the processor has no AVX2",
)

Compiler = Callable[..., Path]


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[], Library | None]]:
    """Look for the kernels as a new process does, which keeps them in a folder of the test and has no ``CC``."""
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("STPREDICT_KERNELS", str(tmp_path / "kernels"))

    def look() -> Library | None:
        compiled._library.cache_clear()
        return library()

    yield look
    monkeypatch.undo()
    compiled._library.cache_clear()


@pytest.fixture
def compiler(fresh: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Compiler:
    """Make a compiler of a few lines of sh, and name it in ``CC``: it gives what was compiled before, and a line to a log for each time."""
    monkeypatch.delenv("STPREDICT_KERNELS")
    made = _usual()
    monkeypatch.setenv("STPREDICT_KERNELS", str(tmp_path / "kernels"))

    def make(compile: str = f'cp "{made}" "$2"', version: str = "echo gcc 1.2.3", name: str = "compiler") -> Path:
        script = tmp_path / name
        find = 'while [ "$1" != -o ]; do shift; done'
        script.write_text(
            f'#!/bin/sh\nif [ "$1" = --version ]; then {version}; exit; fi\n{find}\necho once >> "{tmp_path}/log"\n{compile}\n'
        )
        script.chmod(0o700)
        monkeypatch.setenv("CC", str(script))
        return script

    return make


def _usual() -> str:
    """Return the path of the library that the other tests run with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STPREDICT_KERNELS", os.environ.get("STPREDICT_KERNELS", str(ROOT / ".pytest_cache" / "kernels")))
        compiled._library.cache_clear()
        found = library()
    if found is None:
        pytest.skip("there are no compiled kernels here")
    return str(found.functions._name)


def times(folder: Path) -> int:
    log = folder / "log"
    return log.read_text().count("once") if log.exists() else 0


def computes() -> bool:
    """Whether a convolution is right."""
    weight, inputs = torch.nn.Parameter(torch.randn(32, 32, 5, 5) / 30), torch.randn(2, 32, 16, 16)
    right = torch.nn.functional.conv2d(inputs, weight, padding=2)
    return torch.allclose(kernels.convolve(inputs, weight), right, rtol=0, atol=1e-4)


def assert_told(*words: str) -> None:
    """There are no kernels, one sentence says why, and convolutions are torch's own."""
    reason = why_not()
    assert library() is None and kernels.in_use() == "reference" and computes()
    assert reason and "\n" not in reason and not reason.endswith(".") and len(reason) < 500
    assert all(word in reason for word in words), reason


@capable
def test_here_there_are_kernels(fresh: Callable[[], Library | None], tmp_path: Path) -> None:
    """Where there are gcc and AVX2, sources that do not compile are a fault, and no reason to skip."""
    found = fresh()
    assert found is not None, why_not()
    assert why_not() is None and kernels.in_use() == found.name and computes()
    assert found.panel % found.lanes == 0 and found.lanes in (8, 16)
    assert [path.name for path in (tmp_path / "kernels").iterdir()] == [f"{found.name}.so"]
    assert (tmp_path / "kernels").stat().st_mode & 0o077 == 0
    with kernels.using("reference"):
        assert kernels.in_use() == "reference"


@capable
def test_there_is_one_library_of_threads(fresh: Callable[[], Library | None], compiler: Compiler) -> None:
    compiler()
    assert fresh() is not None, why_not()
    torch.randn(64, 64) @ torch.randn(64, 64)
    paths = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "gomp" in line or "iomp" in line}
    assert len(paths) == 1, paths


def test_off(fresh: Callable[[], Library | None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STPREDICT_KERNELS", "off")
    assert fresh() is None
    assert_told("STPREDICT_KERNELS", "off")


def test_another_processor(fresh: Callable[[], Library | None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_processor_flags", lambda: "fpu sse sse2")
    assert fresh() is None
    assert_told("AVX2")


@capable
def test_no_compiler(fresh: Callable[[], Library | None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert fresh() is None
    assert_told("compiler", "gcc")
    monkeypatch.setenv("CC", str(tmp_path / "missing"))
    assert fresh() is None
    assert_told("missing")


@capable
@pytest.mark.parametrize(
    ("compile", "version", "words"),
    [
        ("echo line one >&2; echo line two >&2; exit 1", "echo gcc 1.2.3", ("compiler", "line one line two")),
        ("exit 0", "exit 3", ("compiler",)),
        ("exit 0", "echo Debian clang version 14.0.6", ("clang", "gcc")),
        ("exec sleep 20", "echo gcc 1.2.3", ("compiler",)),
        ("exit 0", "exec sleep 20", ("compiler",)),
        ('echo no library > "$2"', "echo gcc 1.2.3", ()),
        ("exit 0", "echo gcc 1.2.3", ()),
    ],
    ids=["fails", "has no version", "is clang", "hangs", "hangs when asked", "writes nonsense", "writes nothing"],
)
def test_a_compiler_that(
    compile: str,
    version: str,
    words: tuple[str, ...],
    fresh: Callable[[], Library | None],
    compiler: Compiler,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(compiled, "_SECONDS", 0.3 if "sleep" in compile + version else 60.0)
    compiler(compile, version)
    assert fresh() is None
    assert_told(*words)
    assert not [path for path in tmp_path.glob("kernels/*") if path.is_dir()], "what was begun is cleared away"


@capable
def test_a_library_is_made_once(fresh: Callable[[], Library | None], compiler: Compiler, tmp_path: Path) -> None:
    compiler()
    names = [found.name for found in (fresh(), fresh()) if found is not None]
    assert len(set(names)) == 1 and len(names) == 2 and times(tmp_path) == 1


@capable
def test_its_name_changes_with_compiler_and_processor(
    fresh: Callable[[], Library | None], compiler: Compiler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = []
    for version, flags in (("1.2.3", "fpu avx2 fma"), ("1.2.4", "fpu avx2 fma"), ("1.2.3", "fpu avx2 fma avx512f")):
        monkeypatch.setattr(compiled, "_processor_flags", lambda flags=flags: flags)
        compiler(version=f"echo gcc {version}")
        names.append(kernels.in_use() if fresh() else "")
    assert len(set(names)) == 3 and all(names) and times(tmp_path) == 3


@capable
def test_a_compiler_with_arguments(
    fresh: Callable[[], Library | None], compiler: Compiler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CC", f"/usr/bin/env {compiler()}")
    assert fresh() is not None and computes(), why_not()


@capable
@pytest.mark.parametrize("way", ["group", "others"])
def test_a_library_that_others_may_write_is_made_anew(
    way: str, fresh: Callable[[], Library | None], compiler: Compiler, tmp_path: Path
) -> None:
    compiler()
    found = fresh()
    assert found is not None
    path = tmp_path / "kernels" / f"{found.name}.so"
    path.unlink()
    path.write_text("what somebody else wrote")
    path.chmod(0o760 if way == "group" else 0o702)
    with path.open() as before:
        assert fresh() is not None and computes() and times(tmp_path) == 2
        assert before.read() == "what somebody else wrote", "who has loaded the library before keeps it"
    assert path.stat().st_mode & 0o022 == 0 and path.stat().st_size > 1000


@capable
def test_a_damaged_library_is_no_error(
    fresh: Callable[[], Library | None], compiler: Compiler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compiler()
    found = fresh()
    assert found is not None
    path = tmp_path / "elsewhere" / f"{found.name}.so"  # what a path gave before, a process is given again
    path.parent.mkdir()
    path.write_bytes(Path(found.functions._name).read_bytes()[:100])
    path.chmod(0o700)
    monkeypatch.setenv("STPREDICT_KERNELS", str(path.parent))
    assert fresh() is not None or why_not()
    assert computes()


@capable
def test_no_room_for_it(fresh: Callable[[], Library | None], compiler: Compiler) -> None:
    compiler()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        found = fresh()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert found is None
    assert_told()


@capable
@pytest.mark.parametrize("where", ["under a file", "/proc/kernels", "read-only", "no home"])
def test_no_folder_to_keep_it_in(
    where: str, fresh: Callable[[], Library | None], compiler: Compiler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compiler()
    folder = Path(where) if where.startswith("/") else tmp_path / where
    if where == "under a file":
        folder.write_text("")
        folder = folder / "kernels"
    elif where == "read-only":
        if os.getuid() == 0:
            pytest.skip("root writes anywhere")
        folder.mkdir(mode=0o500)
    monkeypatch.setenv("STPREDICT_KERNELS", str(folder))
    if where == "no home":
        monkeypatch.delenv("STPREDICT_KERNELS")
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.delenv("HOME", raising=False)
        monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    assert fresh() is not None and computes(), why_not()


@capable
def test_the_users_cache(fresh: Callable[[], Library | None], compiler: Compiler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler()
    monkeypatch.delenv("STPREDICT_KERNELS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = fresh()
    assert found is not None and (tmp_path / "cache" / "stpredict" / "kernels" / f"{found.name}.so").is_file()


def _name_into(told: Any) -> None:
    compiled._library.cache_clear()
    told.put((kernels.in_use(), why_not()))


@capable
def test_two_processes_at_once(compiler: Compiler, tmp_path: Path) -> None:
    """Neither waits for the other, and neither sees half a library."""
    script = compiler()
    script.write_text(script.read_text().replace("cp ", 'echo half > "$2"; sleep 0.7; cp '))
    forked = multiprocessing.get_context("fork")
    told = forked.SimpleQueue()
    both = [forked.Process(target=_name_into, args=(told,)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    (name, reason), other = told.get(), told.get()
    assert (name, reason) == other and reason is None and name.startswith("winograd-")
    assert [path.name for path in (tmp_path / "kernels").iterdir()] == [f"{name}.so"] and times(tmp_path) == 2
