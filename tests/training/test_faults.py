"""Faults that are brought about for real: whatever happens to a run, it ends with one sentence and goes on to the same weights."""

from __future__ import annotations

import csv
import ctypes
import os
import resource
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml

from stpredict.checkpoint import Checkpoint, checkpoints, newest_whole
from stpredict.cli.main import main
from stpredict.predictor import load_predictor
from stpredict.training import Run, make_settings, resume, train
from stpredict.training.overview import survey_runs
from stpredict.training.run import Log

DIGITS: dict[str, Any] = {"card": "moving_digits", "settings": {"digits": 1, "size": 32, "validation_clips": 2}}
TINY: dict[str, Any] = {
    "data": {"context": 3, "horizon": 2, "batch_size": 2, "workers": 0},
    "network": {"name": "convlstm", "hidden": [4], "kernel_size": 3, "patch_size": 4},
    "trainer": {"max_steps": 60, "validate_every": 30, "checkpoint_every": 4, "log_every": 1, "device": "cpu", "threads": 1},
}
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def tiny(folder: Path, data: dict[str, Any], **trainer: Any) -> dict[str, Any]:
    both = {"data": {**TINY["data"], **data}, "trainer": {**TINY["trainer"], **trainer}}
    return {**TINY, **both, "run": {"folder": str(folder)}}


def assert_ends_as(folder: Path, alone: Path) -> None:
    """Compare two runs: every bit of the newest checkpoint's tensors, and the log without its times."""
    (tensors, rows), (expected, expected_rows) = end_of(folder), end_of(alone)
    assert rows == expected_rows
    assert tensors.keys() == expected.keys()
    assert [name for name in expected if tensors[name] != expected[name]] == []


def end_of(folder: Path) -> tuple[dict[str, bytes], list[dict[str, str]]]:
    """Return the bytes of the newest checkpoint's tensors, and the log without its times."""
    tensors = Checkpoint.load(checkpoints(folder / "checkpoints")[-1]).tensors()
    with (folder / "log.csv").open() as file:
        rows = [{name: value for name, value in row.items() if name not in Log.TIMING} for row in csv.DictReader(file)]
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}, rows


class Command:
    """A command of stpredict in a process of its own, the first of a group; forked, so that nothing is imported again."""

    def __init__(self, said: Path, *words: object, prepare: Callable[[], object] = lambda: None) -> None:
        cv2.setNumThreads(1)  # a forked child waits for ever for the threads that OpenCV had in its parent
        self.said = said
        self.process = get_context("fork").Process(target=self._run, args=([str(word) for word in words], prepare))
        self.process.start()
        assert self.process.pid is not None
        self.pid = self.process.pid

    def _run(self, words: list[str], prepare: Callable[[], object]) -> None:
        os.setsid()
        descriptor = os.open(self.said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
        prepare()
        sys.exit(main(words))

    def pause_at(self, rows: int) -> None:
        """Stop the command for a while, when the run has logged so many rows and before it has ended."""
        log, deadline = self.folder / "log.csv", time.monotonic() + 60
        while not (log.is_file() and log.read_text().count("\n") > rows):
            assert self.process.is_alive() and time.monotonic() < deadline, self.said.read_text()
            time.sleep(0.002)
        os.kill(self.pid, signal.SIGSTOP)
        while list(self.folder.rglob(".*.part*")):  # a file is being written, and the test may take away the right to remove it
            self.go_on()
            time.sleep(0.002)
            os.kill(self.pid, signal.SIGSTOP)
        assert not (self.folder / "done").exists(), "it was met in the middle"

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def children(self) -> list[int]:
        return [int(word) for word in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def end(self, seconds: float = 60.0) -> tuple[int, str]:
        """Return the exit code and the last line that was said, having looked that it is no traceback."""
        self.process.join(seconds)
        code, said = self.process.exitcode, self.said.read_text()
        assert code is not None, f"it hangs: {said}"
        assert "Traceback" not in said and "Exception" not in said, said
        return code, said.strip().splitlines()[-1]

    folder: Path

    def close(self) -> None:
        """Leave no process behind."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.join()


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """Starts ``train`` of settings, or ``resume`` of a folder."""
    started: list[Command] = []

    def start(what: dict[str, Any] | Path, prepare: Callable[[], object] = lambda: None) -> Command:
        config = tmp_path / "config.yaml"
        if isinstance(what, dict):
            config.write_text(yaml.safe_dump(what))
        words = ["train", config] if isinstance(what, dict) else ["resume", what]
        started.append(Command(tmp_path / f"said-{len(started)}", *words, prepare=prepare))
        started[-1].folder = Path(what["run"]["folder"]) if isinstance(what, dict) else what
        return started[-1]

    yield start
    for process in started:
        process.close()


def assert_whole(folder: Path) -> int:
    """Look that nothing in a run is half written; return the step of its newest checkpoint."""
    assert not [path for path in folder.rglob(".*") if path.name != ".lock"]
    newest, passed_over = newest_whole(folder / "checkpoints")
    assert not passed_over
    for name in ("best.safetensors", "last.safetensors"):
        if (folder / name).exists():
            load_predictor(folder / name)
    return 0 if newest is None else newest.step


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "alone"
    assert train(make_settings(tiny(folder, DIGITS)), progress=False).exit_code == 0
    return folder


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_is_killed(workers: int, tmp_path: Path, left_alone: Path, command: Callable[..., Command]) -> None:
    folder = tmp_path / "run"
    run = command(tiny(folder, {**DIGITS, "workers": workers}))
    run.pause_at(rows=10)
    assert len(run.children()) == workers
    os.kill(run.children()[-1], signal.SIGKILL)
    run.go_on()
    code, said = run.end(seconds=20)
    assert code == 1 and "SIGKILL" in said and "data.workers" in said and "stpredict resume" in said
    assert assert_whole(folder) >= 8
    assert resume(folder, progress=False).exit_code == 0
    assert_ends_as(folder, left_alone)


@pytest.mark.parametrize("number", STOPS)
def test_a_signal_to_all_processes_of_a_run(
    number: signal.Signals, tmp_path: Path, left_alone: Path, command: Callable[..., Command]
) -> None:
    """A terminal sends SIGINT to the whole group, SLURM every signal to all processes of a step: to the workers too."""
    folder = tmp_path / "run"
    run = command(tiny(folder, {**DIGITS, "workers": 2}))
    run.pause_at(rows=10)
    os.killpg(run.pid, number)
    run.go_on()
    assert run.end()[0] == 75 and f"stpredict resume {folder}" in run.said.read_text()
    assert 10 <= assert_whole(folder) < 60
    assert resume(folder, progress=False).exit_code == 0
    assert_ends_as(folder, left_alone)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_second_signal_ends_a_run_at_once(workers: int, tmp_path: Path, left_alone: Path, command: Callable[..., Command]) -> None:
    folder = tmp_path / "run"
    run = command(tiny(folder, {**DIGITS, "workers": workers}, checkpoint_every=7))
    run.pause_at(rows=10)
    for number in STOPS[:2]:  # two of a kind would be one while the process is paused
        os.killpg(run.pid, number)
    run.go_on()
    assert run.end(seconds=10) == (1, "stpredict: interrupted")
    assert assert_whole(folder) % 7 == 0, "the state was not saved"
    assert resume(folder, ["--trainer.checkpoint_every=4"], progress=False).exit_code == 0
    assert_ends_as(folder, left_alone)


def frames_in_folders(root: Path, films: ModuleType, knmi_files: ModuleType) -> dict[str, Any]:
    films.write_folder(root / "film", films.wandering_square(80))
    return {"card": "frames_folder", "root": str(root)}


def radar_files(root: Path, films: ModuleType, knmi_files: ModuleType) -> dict[str, Any]:
    knmi_files.write_sample(root, frames=50)
    return {"card": "knmi", "root": str(root)}


@pytest.mark.parametrize(("write", "workers"), [(frames_in_folders, 0), (radar_files, 1)])
def test_a_data_file_disappears(
    write: Callable[..., dict[str, Any]],
    workers: int,
    tmp_path: Path,
    films: ModuleType,
    knmi_files: ModuleType,
    command: Callable[..., Command],
) -> None:
    data = write(tmp_path / "data", films, knmi_files)
    train(make_settings(tiny(tmp_path / "alone", data, validate_every=0)), progress=False)
    folder = tmp_path / "run"
    run = command(tiny(folder, {**data, "workers": workers}, validate_every=0))
    run.pause_at(rows=10)
    gone = sorted((tmp_path / "data").rglob("*.*"), key=lambda path: (len(path.name), path.name))[4]
    away = gone.rename(tmp_path / "away")
    run.go_on()
    code, said = run.end()
    assert code == 1 and str(gone) in said and "No such file or directory" in said
    assert assert_whole(folder) >= 8
    away.rename(gone)
    assert resume(folder, progress=False).exit_code == 0
    assert_ends_as(folder, tmp_path / "alone")


def test_a_worker_hangs_in_a_read(tmp_path: Path, films: ModuleType, command: Callable[..., Command]) -> None:
    """A pipe that nobody writes to is a file server that does not answer; two signals end the run and its worker."""
    data = frames_in_folders(tmp_path / "data", films, films)
    run = command(tiny(tmp_path / "run", {**data, "workers": 1}, validate_every=0))
    run.pause_at(rows=10)
    (worker,) = run.children()
    frame = tmp_path / "data" / "film" / "frame20.png"
    frame.unlink()
    os.mkfifo(frame)
    run.go_on()
    log, rows = run.folder / "log.csv", ""
    while rows != log.read_text():  # what was prepared ahead is used up, and then nothing moves
        rows = log.read_text()
        time.sleep(1.0)
    assert rows.count("\n") < 61 and run.process.is_alive()
    for number in STOPS[:2]:
        time.sleep(0.2)
        os.killpg(run.pid, number)
    assert run.end(seconds=20) == (1, "stpredict: interrupted")
    assert not Path(f"/proc/{worker}").exists()
    assert assert_whole(tmp_path / "run") >= 8


def obey_permissions() -> None:
    """Give up root's capabilities, by which it writes where nobody may."""
    if os.geteuid() == 0 and ctypes.CDLL(None, use_errno=True).capset(struct.pack("Ii", 0x20080522, 0), bytes(24)) != 0:
        pytest.skip(f"root could not give up its capabilities: {os.strerror(ctypes.get_errno())}")


def all_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_cannot_be_made_where_nobody_may_write(tmp_path: Path, command: Callable[..., Command]) -> None:
    closed, a_file = tmp_path / "closed", tmp_path / "a_file"
    closed.mkdir(mode=0o555)
    a_file.touch()
    denied, in_the_way = "Permission denied", "a file is in the way"
    places = {closed / "run": denied, closed / "deep" / "run": denied, a_file / "run": in_the_way, a_file / "deep" / "run": in_the_way}
    for folder, why in places.items():
        sentence = f"stpredict: No run can be made in {folder.parent} ({why}): name another place by run.folder"
        assert command(tiny(folder, DIGITS), prepare=obey_permissions).end() == (2, sentence)
    assert list(closed.iterdir()) == [] and a_file.read_bytes() == b""


def test_what_a_killed_start_of_the_same_number_left_is_no_obstacle(tmp_path: Path) -> None:
    """In a container processes are counted anew, so the next start may have the number of one that was killed."""
    (tmp_path / f".run.{os.getpid()}.part" / "checkpoints").mkdir(parents=True)
    Run.create(make_settings(tiny(tmp_path / "run", DIGITS)))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("place", ["checkpoints", ".", "a file for checkpoints"])
def test_a_run_can_no_longer_write(place: str, tmp_path: Path, left_alone: Path, command: Callable[..., Command]) -> None:
    folder = tmp_path / "run"
    run = command(tiny(folder, DIGITS), prepare=obey_permissions)
    run.pause_at(rows=10)
    if place == "a file for checkpoints":
        away = (folder / "checkpoints").rename(tmp_path / "away")
        (folder / "checkpoints").touch()
    else:
        (folder / place).chmod(0o555)
    run.go_on()
    code, said = run.end()
    assert code == 1 and str(folder) in said and ("Permission denied" in said or "Not a directory" in said) and ".part" not in said
    kept = folder / "checkpoints" if place == "checkpoints" else folder
    before = all_of(kept)
    code, said = command(folder, prepare=obey_permissions).end()
    assert code == 1 and str(folder) in said and all_of(kept) == before

    if place == "a file for checkpoints":
        (folder / "checkpoints").unlink()
        away.rename(folder / "checkpoints")
    else:
        (folder / place).chmod(0o755)
    assert assert_whole(folder) >= 8
    assert resume(folder, progress=False).exit_code == 0
    assert_ends_as(folder, left_alone)


def test_the_clock_is_set_back(
    tmp_path: Path, left_alone: Path, command: Callable[..., Command], capsys: pytest.CaptureFixture[str]
) -> None:
    """Files have times of a day to come, the older checkpoint the later one, and the clock tells of a day before."""
    folder, now = tmp_path / "runs" / "run", time.time()
    folder.parent.mkdir()

    def set_back() -> None:
        time.time = lambda: now - 86400.0

    run = command(tiny(folder, DIGITS, keep=3))
    run.pause_at(rows=14)
    os.kill(run.pid, signal.SIGKILL)
    older, *_, newest = checkpoints(folder / "checkpoints")
    for path, days in [(older, 3), (newest, -3), (folder / "log.csv", 2), (folder / "config.yaml", 2)]:
        os.utime(path, (now + 86400 * days, now + 86400 * days))
    run.close()
    step = int(newest.stem.removeprefix("step-"))
    kept = (folder / "log.csv").read_text().splitlines()[: 1 + step]
    assert command(folder, prepare=set_back).end()[0] == 0
    assert_ends_as(folder, left_alone)
    assert [path.name for path in checkpoints(folder / "checkpoints")] == [f"step-{number:08d}.safetensors" for number in (52, 56, 60)]
    again = (folder / "log.csv").read_text().splitlines()
    assert again[: 1 + step] == kept and len(again) == 61, "it went on from the newest by step"
    assert min(float(row["seconds"]) for row in csv.DictReader(again)) >= 0

    os.utime(folder / "done", (now + 86400, now + 86400))
    (row,) = survey_runs(folder.parent).runs
    assert row.age == 0.0 and row.seconds is not None and 0 < row.seconds < 600 and row.state == "done"
    assert main(["runs", str(folder.parent)]) == 0 and "-86400" not in capsys.readouterr().out


def films_with(tmp_path: Path, films: ModuleType, spoil: Callable[[np.ndarray], None]) -> dict[str, Any]:
    values = np.stack([films.wandering_square(12, 16, 16, seed=seed) for seed in range(10)]).astype(np.float32) / 255
    spoil(values)
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "data" / "films.npy", values)
    return {"card": "array", "root": str(tmp_path / "data")}


@pytest.mark.parametrize(("value", "workers"), [(np.nan, 1), (np.inf, 0)])
def test_a_film_holds_what_is_no_number(
    value: float, workers: int, tmp_path: Path, films: ModuleType, command: Callable[..., Command]
) -> None:
    def spoil(values: np.ndarray) -> None:
        values[3, 7, 2, 2] = value

    data = films_with(tmp_path, films, spoil)
    code, said = command(tiny(tmp_path / "run", {**data, "workers": workers})).end()
    assert code == 2 and "films.npy#3' holds " + ("NaN" if np.isnan(value) else "infinity") in said
    assert_whole(tmp_path / "run")


def test_a_clip_whose_loss_is_not_finite_is_left_out(tmp_path: Path, films: ModuleType, command: Callable[..., Command]) -> None:
    """Numbers of 1e30 are numbers, and their squares are none in float32."""

    def spoil(values: np.ndarray) -> None:
        values[3, :, 2, 2] = 1e30

    data = films_with(tmp_path, films, spoil)
    run = command(tiny(tmp_path / "run", data, max_steps=40))
    assert run.end()[0] == 0
    told = [line for line in run.said.read_text().splitlines() if "skipped" in line]
    _, rows = end_of(tmp_path / "run")
    losses = [float(row["loss"]) for row in rows]
    skipped = [number for number, loss in enumerate(losses, start=1) if not np.isfinite(loss)]
    assert 0 < len(skipped) < 40 and [line.split()[1] for line in told] == [str(number) for number in skipped]
    assert [int(row["skipped"]) for row in rows] == [sum(at <= step for at in skipped) for step in range(1, 41)]
    for line in told:  # films of 12 frames have 8 clips each, so the fourth's are 24 to 31
        assert any(24 <= int(word.strip(",")) < 32 for word in line.partition("clips ")[2].split())
    assert all(bool(torch.isfinite(tensor).all()) for tensor in load_predictor(tmp_path / "run").network.state_dict().values())


def test_clips_none_of_which_can_be_learnt_end_the_run(tmp_path: Path, films: ModuleType, command: Callable[..., Command]) -> None:
    def spoil(values: np.ndarray) -> None:
        values[:] = 1e30

    data = films_with(tmp_path, films, spoil)
    code, said = command(tiny(tmp_path / "run", data)).end()
    assert code == 2 and "10 steps in a row" in said and "optimizer.learning_rate" in said
    assert assert_whole(tmp_path / "run") == 8


@pytest.mark.parametrize(
    ("file", "limit", "trainer"),
    [
        ("log.csv", 1500, {"checkpoint_every": 20, "validate_every": 0}),
        ("best.safetensors", 7000, {"checkpoint_every": 20, "validate_every": 10}),
        ("checkpoints/step-00000005.safetensors", 7000, {"checkpoint_every": 5, "validate_every": 0}),
        ("pictures/step-00000010.png", 15000, {"checkpoint_every": 20, "validate_every": 10}),
        ("pictures/curves.png", 40000, {"checkpoint_every": 5, "validate_every": 10}),
    ],
)
def test_a_disk_is_full(file: str, limit: int, trainer: dict[str, int], tmp_path: Path, command: Callable[..., Command]) -> None:
    """The kernel refuses every byte of a file beyond a limit."""
    settings = tiny(tmp_path / "run", DIGITS, max_steps=20, **trainer)
    run = command(settings, prepare=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    code, said = run.end()
    assert (code, said) == (1, f"stpredict: {tmp_path}/run/{file}: File too large")
    assert_whole(tmp_path / "run")
    assert resume(tmp_path / "run", progress=False).exit_code == 0
    train(make_settings(tiny(tmp_path / "alone", DIGITS, max_steps=20, **trainer)), progress=False)
    assert_ends_as(tmp_path / "run", tmp_path / "alone")
