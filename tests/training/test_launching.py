"""Real processes: started by us and by torchrun, killed, stopped by signals, on one machine and as two machines on loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
import yaml

from stpredict.checkpoint import Checkpoint, checkpoints
from stpredict.cli.main import main
from stpredict.processes import _agree

CONFIG: dict[str, Any] = {
    "data": {
        "card": "moving_digits",
        "context": 3,
        "horizon": 2,
        "batch_size": 3,
        "workers": 0,
        "settings": {"digits": 1, "size": 32, "validation_clips": 5},
    },
    "network": {"name": "predrnn", "hidden": [4, 4], "kernel_size": 3, "patch_size": 4},
    "optimizer": {"learning_rate": 1e-2, "clip_norm": 1.0},
    "trainer": {"max_steps": 60, "validate_every": 50, "checkpoint_every": 5, "log_every": 1, "device": "cpu", "threads": 1},
}
OURS = [sys.executable, "-m", "stpredict"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("configs") / "tiny.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return path


@pytest.fixture(scope="module")
def undisturbed(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes that nobody disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    process = start([*OURS, "train", str(config), "--trainer.devices", "2", "--run.folder", str(folder)])
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out == f"{folder}\n"
    assert "2 process(es)" in err
    return folder


def start(command: list[str], **environment: str) -> subprocess.Popen[str]:
    given = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=given)


def state(folder: Path) -> dict[str, bytes]:
    tensors = Checkpoint.load(checkpoints(folder / "checkpoints")[-1]).tensors()
    return {name: value.numpy().tobytes() for name, value in tensors.items()}


def wait_for_rows(folder: Path, rows: int, process: subprocess.Popen[str]) -> None:
    log, deadline = folder / "log.csv", time.monotonic() + 60
    while not (log.is_file() and log.read_text().count("\n") > rows):
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read() if process.stderr else ""
        time.sleep(0.002)
    assert not (folder / "done").exists(), "the run is still at work"


def worker(launcher: subprocess.Popen[str], rank: int) -> int:
    """Return the process of that rank."""
    for number in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split():
        if f"RANK={rank}".encode() in Path(f"/proc/{number}/environ").read_bytes().split(b"\0"):
            return int(number)
    raise AssertionError(f"no process of rank {rank}")


SLOW = pytest.mark.slow


@pytest.mark.parametrize(("rank", "rows"), [(1, 8), pytest.param(0, 8, marks=SLOW), pytest.param(0, 1, marks=SLOW)])
def test_a_killed_process_is_started_again(tmp_path: Path, config: Path, undisturbed: Path, rank: int, rows: int) -> None:
    """Under plain torchrun, which has no say in where the run is: before the first checkpoint and after it."""
    folder = tmp_path / "killed"
    words = ["-m", "stpredict", "train", str(config), "--run.folder", str(folder)]
    launcher = start([*TORCHRUN, "--standalone", "--nproc-per-node=2", "--max-restarts=2", *words])
    wait_for_rows(folder, rows, launcher)
    os.kill(worker(launcher, rank), signal.SIGKILL)
    out, err = launcher.communicate(timeout=120)
    assert launcher.returncode == 0, err
    assert err.count("going on with" if rows > 5 else "training in") >= 1
    assert out == f"{folder}\n"
    assert state(folder) == state(undisturbed)


@pytest.mark.parametrize("number", [signal.SIGUSR1, pytest.param(signal.SIGTERM, marks=SLOW), pytest.param(signal.SIGINT, marks=SLOW)])
def test_a_signal_to_the_launcher_saves_and_the_run_goes_on(
    tmp_path: Path, config: Path, undisturbed: Path, number: signal.Signals
) -> None:
    folder = tmp_path / "stopped"
    launcher = start([*OURS, "train", str(config), "--trainer.devices=2", "--max-restarts=1", "--run.folder", str(folder)])
    wait_for_rows(folder, 3, launcher)
    launcher.send_signal(number)
    out, err = launcher.communicate(timeout=60)
    assert launcher.returncode == 75, err
    assert out == f"{folder}\n"
    assert f"stpredict resume {folder}" in err and "Traceback" not in err
    assert 3 <= int(checkpoints(folder / "checkpoints")[-1].stem.removeprefix("step-")) < 60
    again = start([*OURS, "resume", str(folder)])  # as many processes as the run began with
    _, err = again.communicate(timeout=120)
    assert again.returncode == 0 and "2 process(es)" in err, err
    assert state(folder) == state(undisturbed)


@pytest.mark.slow
def test_a_run_of_one_process_is_started_again_too(tmp_path: Path, config: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(["train", str(config), "--run.folder", str(whole)]) == 0
    launcher = start([*OURS, "train", str(config), "--max-restarts=1", "--run.folder", str(killed)])
    wait_for_rows(killed, 8, launcher)
    os.kill(worker(launcher, 0), signal.SIGKILL)
    _, err = launcher.communicate(timeout=120)
    assert launcher.returncode == 0, err
    assert state(killed) == state(whole)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_them_all(tmp_path: Path, config: Path) -> None:
    """Whoever asks a process to stop does not want it started again."""
    folder = tmp_path / "stopped"
    launcher = start([*OURS, "train", str(config), "--trainer.devices=2", "--max-restarts=2", "--run.folder", str(folder)])
    wait_for_rows(folder, 3, launcher)
    os.kill(worker(launcher, 1), signal.SIGTERM)
    _, err = launcher.communicate(timeout=60)
    assert launcher.returncode == 75, err
    assert err.count("training in") == 1 and "going on" not in err.replace("; go on", "")


@pytest.mark.slow
def test_a_process_that_dies_is_told_of(tmp_path: Path, config: Path) -> None:
    folder = tmp_path / "killed"
    launcher = start([*OURS, "train", str(config), "--trainer.devices=2", "--run.folder", str(folder)])
    wait_for_rows(folder, 3, launcher)
    os.kill(worker(launcher, 1), signal.SIGKILL)
    _, err = launcher.communicate(timeout=60)
    assert launcher.returncode == 128 + signal.SIGKILL
    assert "Another process of this run has ended before its time" in err and "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_two_machines_equal_one(tmp_path: Path, config: Path, undisturbed: Path, killed: bool) -> None:
    """Each launcher counts its own restarts, so the two need not agree on how often the group was started."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path / "run"
    machines = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--max-restarts=2"]
    command = [*TORCHRUN, *machines, "--local-addr=127.0.0.1", "-m", "stpredict", "train", str(config), "--run.folder", str(folder)]
    launchers = [start(command), start(command)]
    if killed:
        wait_for_rows(folder, 8, launchers[0])
        for launcher in launchers:
            try:
                os.kill(worker(launcher, 1), signal.SIGKILL)
            except AssertionError:
                continue
    for launcher in launchers:
        _, err = launcher.communicate(timeout=180)
        assert launcher.returncode == 0, err
    assert (folder / "done").exists()
    assert state(folder) == state(undisturbed)


@pytest.mark.parametrize("late", [0, 1, 2])
def test_a_start_meets_under_a_name_of_its_own(late: int) -> None:
    """An earlier start left its words in the store; now one process comes later than the others."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)

    def meet(delay: Callable[[int], float]) -> set[str]:
        names: list[str] = []

        def come(rank: int) -> None:
            time.sleep(delay(rank))
            client = torch.distributed.TCPStore("127.0.0.1", store.port, is_master=False)
            names.append(_agree(client, rank, 3))

        threads = [threading.Thread(target=come, args=(rank,)) for rank in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert len(names) == 3
        return set(names)

    first = meet(lambda rank: 0.0)
    second = meet(lambda rank: 0.1 * (rank == late))
    assert len(first) == len(second) == 1 and first != second


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--trainer.devices 4", "trainer.devices is 4, but data.batch_size 3 leaves some of them no clip"),
        ("--trainer.devices 0", "trainer.devices must be at least 1"),
        ("--max-restarts -1", "from 0 up"),
    ],
)
def test_what_cannot_be_launched(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, sentence: str) -> None:
    assert main(["train", str(config), "--run.folder", str(tmp_path / "run"), *words.split()]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_under_torchrun_restarts_are_its_own(config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train", str(config), "--max-restarts", "3"]) == 2
    assert "torchrun that needs --max-restarts" in capsys.readouterr().err
