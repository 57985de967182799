"""What holds on a GPU alone: nobody waits for it within the loop, and what is faster there computes the same."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from stpredict.checkpoint import Checkpoint, checkpoints
from stpredict.data.loader import TrainingOrder, batches
from stpredict.devices import Arriving, carry
from stpredict.processes import Processes
from stpredict.training import make_settings, resume, train
from stpredict.training.state import State
from stpredict.training.step import take_step
from stpredict.training.work import Work, make_work

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]

TINY: dict[str, Any] = {
    "data": {
        "card": "moving_digits",
        "context": 4,
        "horizon": 3,
        "batch_size": 4,
        "workers": 1,
        "settings": {"digits": 1, "size": 32, "validation_clips": 4},
    },
    "network": {"name": "predrnn", "hidden": [16, 16], "kernel_size": 5, "patch_size": 4},
    "optimizer": {"learning_rate": 0.003, "clip_norm": 1.0, "ema": 0.9},
    "sampling": {"name": "reverse", "first": 3, "second": 6},
    "trainer": {"max_steps": 8, "validate_every": 4, "checkpoint_every": 4, "log_every": 2, "device": "cuda"},
}


def tiny(folder: Path, **changes: Any) -> dict[str, Any]:
    merged = {section: {**values, **changes.pop(section, {})} for section, values in TINY.items()}
    return {**merged, **changes, "run": {"folder": str(folder)}}


def column(folder: Path, name: str) -> list[float]:
    with (folder / "log.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return Checkpoint.load(checkpoints(folder / "checkpoints")[-1]).weights


@contextmanager
def nobody_waits() -> Iterator[None]:
    """Let every call that waits for the GPU fail."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def begun(settings: dict[str, Any]) -> tuple[Work, State]:
    work, state = make_work(make_settings(settings), Processes()), State()
    state.start_ema(work.network)
    return work, state


@pytest.mark.parametrize("name", ["convlstm", "predrnn", "predrnn_v2", "predrnnpp", "e3d_lstm"])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_the_program_does_not_wait_for_a_step(name: str, precision: str, tmp_path: Path) -> None:
    work, state = begun(tiny(tmp_path, network={"name": name}, trainer={"precision": precision}))
    order = TrainingOrder(work.clips, 0, range(5), 4)
    outcomes = []
    for batch in batches(work.clips, order, 0):
        if state.step < 2:  # memory is taken, and algorithms are tried
            outcomes.append(take_step(work, state, batch, stop=False))
        else:
            with nobody_waits():
                outcomes.append(take_step(work, state, batch, stop=False))
        state.step += 1
    for outcome in outcomes:
        outcome.note(state)
    assert state.skipped == 0 and all(outcome.late and 0.0 < outcome.loss < 1.0 for outcome in outcomes)


def test_numbers_that_are_asked_for_do_not_wait_for_what_comes_after() -> None:
    """They can be read while a kernel that was started later still spins."""
    there = Arriving(torch.arange(3.0, device="cuda"))
    torch.cuda._sleep(2_000_000_000)
    end = torch.cuda.Event()
    end.record()
    assert there.read() == [0.0, 1.0, 2.0] and not end.query()
    end.synchronize()


def test_what_is_carried_arrives_whole() -> None:
    """Many copies in a row, each read by a kernel on another stream than the one that it came by."""
    sums = []
    for number in range(200):
        torch.cuda._sleep(100_000)
        sums.append(carry(torch.full((1 << 16,), float(number)), "cuda").sum())
    assert torch.stack(sums).tolist() == [number * float(1 << 16) for number in range(200)]


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_low_precision_trains_alike(precision: str, tmp_path: Path) -> None:
    for name in ("fp32", precision):
        train(make_settings(tiny(tmp_path / name, trainer={"precision": name})), progress=False)
    assert column(tmp_path / precision, "loss") == pytest.approx(column(tmp_path / "fp32", "loss"), rel=0.02)
    assert column(tmp_path / precision, "skipped")[-1] == 0


def test_a_gpu_trains_as_a_cpu_does(tmp_path: Path) -> None:
    for device in ("cpu", "cuda"):
        train(make_settings(tiny(tmp_path / device, trainer={"device": device})), progress=False)
    assert column(tmp_path / "cuda", "loss") == pytest.approx(column(tmp_path / "cpu", "loss"), rel=1e-3)
    assert column(tmp_path / "cuda", "validation_mse") == pytest.approx(column(tmp_path / "cpu", "validation_mse"), rel=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_goes_on_within_rounding(precision: str, tmp_path: Path) -> None:
    """Kernels whose channels lie last, and the optimiser's state beside them, come back from a checkpoint."""
    train(make_settings(tiny(tmp_path / "alone", trainer={"precision": precision})), progress=False)
    train(make_settings(tiny(tmp_path / "parts", trainer={"precision": precision, "max_steps": 4})), progress=False)
    resume(tmp_path / "parts", ["--trainer.max_steps=8"], progress=False)
    tolerance = 1e-3 if precision == "fp32" else 0.02
    assert column(tmp_path / "parts", "loss") == pytest.approx(column(tmp_path / "alone", "loss"), rel=tolerance)


def test_what_is_not_finite_moves_nothing(tmp_path: Path, bad_loss: str) -> None:
    changes: dict[str, Any] = {"loss": {"name": bad_loss, "at": [2, 3]}, "trainer": {"validate_every": 0}}
    train(make_settings(tiny(tmp_path / "one", **{**changes, "trainer": {"validate_every": 0, "max_steps": 1}})), progress=False)
    train(make_settings(tiny(tmp_path / "three", **{**changes, "trainer": {"validate_every": 0, "max_steps": 3}})), progress=False)
    first, third = weights(tmp_path / "one"), weights(tmp_path / "three")
    assert all(torch.allclose(first[name], third[name], rtol=1e-4, atol=1e-6) for name in first)
    assert column(tmp_path / "three", "skipped")[-1] == 2


@pytest.mark.parametrize("name", ["convlstm", "predrnn", "predrnnpp"])
def test_compiled_cells_compute_what_the_cells_do(name: str, tmp_path: Path) -> None:
    for compiled in (False, True):
        settings = tiny(tmp_path / str(compiled), network={"name": name}, trainer={"compile": compiled, "max_steps": 4})
        train(make_settings(settings), progress=False)
    assert column(tmp_path / "True", "loss") == pytest.approx(column(tmp_path / "False", "loss"), rel=1e-4)
    assert weights(tmp_path / "True").keys() == weights(tmp_path / "False").keys()


def test_the_program_does_not_wait_for_compiled_cells(tmp_path: Path) -> None:
    work, state = begun(tiny(tmp_path, trainer={"compile": True, "precision": "bf16"}))
    for batch in batches(work.clips, TrainingOrder(work.clips, 0, range(4), 4), 0):
        if state.step < 3:
            take_step(work, state, batch, stop=False)
        else:
            with nobody_waits():
                take_step(work, state, batch, stop=False)
        state.step += 1
