"""What the machine has, compared with other sources; and each trial finds what it is there to find."""

from __future__ import annotations

import configparser
import json
import multiprocessing
import os
import re
import sys
import time
import types
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed

from stpredict import doctor, kernels
from stpredict.cli.main import main
from stpredict.kernels import compiled
from stpredict.libraries import EXTRAS, REQUIRED, look_at_library

CPU = torch.device("cpu")
DISTRIBUTIONS = {"cv2": "opencv-python-headless", "yaml": "PyYAML", "PIL": "Pillow"}


def stated(section: str, option: str) -> set[str]:
    parser = configparser.ConfigParser()
    parser.read(Path(__file__).resolve().parents[1] / "setup.cfg", encoding="utf-8")
    lines = [line for line in parser[section][option].splitlines() if line and not line.startswith("#")]
    return {re.split(r"[<>=~!;\[ ]", line)[0] for line in lines}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure for an instant."""
    monkeypatch.setattr(doctor, "_MEASURE", 0.0)


def test_the_libraries_are_those_of_the_package() -> None:
    assert {DISTRIBUTIONS.get(name, name) for name in REQUIRED} == stated("options", "install_requires")
    for extra, names in EXTRAS.items():
        assert set(names) == stated("options.extras_require", extra)


@pytest.mark.parametrize("module", REQUIRED)
def test_versions_are_those_of_what_is_installed(module: str) -> None:
    found = look_at_library(module)
    assert found.version is not None and found.reason == ""
    # cv2 leaves the number of its packaging away.
    assert metadata.version(DISTRIBUTIONS.get(module, module)).startswith(found.version.partition("+")[0])


def test_a_library_that_is_missing_comes_with_its_command() -> None:
    found = look_at_library("no_such_library", "radar")
    assert (found.version, found.reason) == (None, "missing: pip install 'stpredict[radar]'")
    assert look_at_library("no_such_library").reason == "missing: pip install stpredict"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("raise RuntimeError('operator torchvision::nms does not exist\\nand more')", "broken: RuntimeError: operator torchvision::nms"),
        ("raise OSError('libcudart.so.12: cannot open')", "broken: OSError: libcudart.so.12: cannot open"),
        ("from os import nothing_such", "broken: ImportError: cannot import name"),
    ],
)
@pytest.mark.parametrize("extra", [None, "vision"])
def test_a_library_that_is_broken_says_how(
    line: str, reason: str, extra: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_library.py").write_text(line)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = look_at_library("broken_library", extra)
    assert found.version is None and found.reason.startswith(reason) and "and more" not in found.reason
    assert "broken_library" not in sys.modules


def test_a_library_that_lacks_another_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needy_library.py").write_text("import no_such_library")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "No module named 'no_such_library'" in look_at_library("needy_library").reason


def test_the_machine_is_the_one_that_the_system_tells_of() -> None:
    machine = doctor.look_at_machine()
    assert 1 <= machine.cores <= machine.all_cores == os.cpu_count()
    assert 0 < machine.memory_free <= machine.memory <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert machine.threads == torch.get_num_threads()
    place = os.statvfs(".")
    assert machine.disk_free == pytest.approx(place.f_bavail * place.f_frsize, rel=0.05)
    assert len(machine.gpus) == torch.cuda.device_count()


def test_two_processes_add_up() -> None:
    trial = doctor.try_processes()
    assert trial.works, trial.reason
    assert trial.figures["MB/s"] > 1.0


def test_two_processes_that_fail_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_member", _failing_member)
    trial = doctor.try_processes()
    assert (trial.works, trial.reason) == (False, "RuntimeError: no network here")


def _failing_member(rank: int, folder: str) -> None:
    raise RuntimeError("no network here")


def test_two_processes_that_hang_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_member", _hanging_member)
    monkeypatch.setattr(doctor, "_WAIT", 0.5)
    trial = doctor.try_processes()
    assert (trial.works, trial.reason) == (False, "no answer within 0.5 seconds")
    for process in multiprocessing.active_children():
        process.join(10)
    assert multiprocessing.active_children() == []


def _hanging_member(rank: int, folder: str) -> None:
    time.sleep(1000)


def test_a_wrong_sum_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.add_(1))
    doctor._add_up(torch.zeros(3), torch.ones(3))
    with pytest.raises(RuntimeError, match="is wrong by up to 2"):
        doctor._add_up(torch.zeros(3), torch.full((3,), 3.0))


@pytest.mark.usefixtures("quick")
def test_precisions_round_as_far_as_their_digits_say() -> None:
    trials = {name: doctor.try_precision(name, CPU) for name in ("fp32", "bf16", "fp16")}
    assert all(trial.works for trial in trials.values())
    errors = {name: trial.figures["error"] for name, trial in trials.items()}
    # Rounding to 24, 11 and 8 binary digits: half a unit of the last, and no more than some tens of it.
    for name, digits in {"fp32": 24, "fp16": 11, "bf16": 8}.items():
        assert 2.0 ** -(digits + 6) < errors[name] < 2.0 ** -(digits - 5), name
    tf32 = doctor.try_precision("tf32", CPU)
    assert (tf32.works, tf32.reason) == (False, "only GPUs of compute capability 8.0 or more have it")


@pytest.mark.usefixtures("quick")
def test_a_gradient_that_is_wrong_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that computes fp32 in half the digits passes as bf16 only."""
    monkeypatch.setattr(doctor, "autocast", lambda device, name: torch.autocast("cpu", dtype=torch.bfloat16))
    assert doctor.try_precision("bf16", CPU).works
    trial = doctor.try_precision("fp32", CPU)
    assert not trial.works and "a gradient is wrong by 0.00" in trial.reason


def test_operations_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """At one call a second the figures are the operations of one call, which torch's own counter counts too."""
    from torch.utils.flop_counter import FlopCounterMode

    counted = []

    def count(call: Any, device: torch.device) -> float:
        with FlopCounterMode(display=False) as counter:
            call()
        counted.append(counter.get_total_flops() / 1e9)
        return 1.0

    monkeypatch.setattr(doctor, "_calls_a_second", count)
    assert doctor._operations("fp32", CPU) == pytest.approx(counted, abs=0.05)
    assert len(counted) == 2


def test_a_speed_is_calls_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(doctor.time, "perf_counter", lambda: now[0])

    def call() -> torch.Tensor:
        now[0] += 0.0625
        return torch.empty(0)

    assert doctor._calls_a_second(call, CPU) == 16.0


@pytest.mark.parametrize("suffix", doctor.FILMS)
def test_films_are_written_and_read_back(suffix: str) -> None:
    assert doctor.try_film(suffix) == doctor.Trial(f"film {suffix}", True)


def test_a_film_that_lost_a_frame_or_cannot_be_written_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    dark = np.full((64, 64, 3), 26, dtype=np.uint8)
    with monkeypatch.context() as patch:
        patch.setattr(doctor, "_frames", lambda path: [dark])
        assert doctor.try_film(".gif").reason == "frames of the shades 0.1 and 0.9 are read back as [0.1]"
        patch.setattr(doctor, "_frames", lambda path: [dark, dark])
        assert not doctor.try_film(".gif").works
    av = pytest.importorskip("av")

    def no_codec(*arguments: object, **named: object) -> None:
        raise av.error.EncoderNotFoundError(1, "Encoder not found")

    monkeypatch.setattr(doctor, "save_film", no_codec)
    assert "Encoder not found" in doctor.try_film(".mp4").reason


@pytest.mark.usefixtures("quick")
def test_the_command_tells_it_and_leaves_with_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "try_processes", lambda: doctor.Trial("all-reduce of two processes", True, figures={"MB/s": 123.5}))
    monkeypatch.setattr(kernels, "in_use", lambda: "winograd-1")
    monkeypatch.setattr(compiled, "why_not", lambda: None)
    assert main(["doctor", "--device", "cpu", "--json", str(tmp_path / "machine.json")]) == 0
    shown = capsys.readouterr().out.splitlines()
    told = json.loads((tmp_path / "machine.json").read_text())
    assert shown[-1] == "all that stpredict needs works" and told["failures"] == []
    assert f"library       torch {torch.__version__}" in shown
    assert "gloo          all-reduce of two processes works, MB/s 123.5" in shown
    assert [trial["name"] for trial in told["precisions"]] == ["fp32", "tf32", "bf16", "fp16"]
    assert [trial["works"] for trial in told["films"]] == [True] * 4
    assert set(told["extras"]) == {"vision", "track", "radar", "onnx", "hub"}
    assert "kernels       winograd-1" in shown and (told["kernels"], told["no_faster"]) == ("winograd-1", "")


@pytest.mark.usefixtures("quick")
def test_what_fails_is_said_in_one_line_and_is_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "try_processes", lambda: doctor.Trial("all-reduce of two processes", False, "no network here"))
    monkeypatch.setattr(doctor, "EXTRAS", {"hub": ("no_such_library",)})
    monkeypatch.setattr(compiled, "library", lambda: None)
    monkeypatch.setattr(compiled, "why_not", lambda: "there is no C compiler")
    assert main(["doctor", "--device", "cpu"]) == 1
    shown = capsys.readouterr().out.splitlines()
    assert shown[-1] == "fails: all-reduce of two processes (no network here)"
    assert "kernels       reference alone, because there is no C compiler" in shown
    assert "extra hub     no_such_library cannot be used (missing: pip install 'stpredict[hub]')" in shown


def test_without_a_library_that_it_needs_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "stpredict.doctor", types.ModuleType("unusable"))
    monkeypatch.setattr("stpredict.libraries.REQUIRED", ("numpy", "no_such_library"))
    assert main(["doctor", "--json", str(tmp_path / "machine.json")]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "fails: no_such_library (missing: pip install stpredict)"
    assert json.loads((tmp_path / "machine.json").read_text())["required"][0]["module"] == "no_such_library"
