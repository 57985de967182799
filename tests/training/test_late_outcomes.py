"""Steps whose outcome is read late, as on a GPU: a fused optimiser leaves out what is not finite, and the program learns of it later."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from stpredict.checkpoint import Checkpoint, checkpoints
from stpredict.data.loader import collate
from stpredict.devices import put_channels_last
from stpredict.errors import UserError
from stpredict.processes import Processes
from stpredict.training import make_settings, resume, train, work
from stpredict.training.state import State
from stpredict.training.step import take_step
from stpredict.training.work import make_work
from stpredict.unroll import Unroll

TINY: dict[str, Any] = {
    "data": {
        "card": "moving_digits",
        "context": 3,
        "horizon": 2,
        "batch_size": 3,
        "workers": 0,
        "settings": {"digits": 1, "size": 32, "validation_clips": 4},
    },
    "network": {"name": "predrnn", "hidden": [4, 4], "kernel_size": 3, "patch_size": 4},
    "optimizer": {"learning_rate": 0.01, "clip_norm": 1.0, "ema": 0.5},
    "trainer": {"max_steps": 8, "validate_every": 0, "checkpoint_every": 8, "log_every": 4, "device": "cpu", "threads": 1},
}


def tiny(folder: Path, **changes: Any) -> dict[str, Any]:
    merged = {section: {**values, **changes.pop(section, {})} for section, values in TINY.items()}
    return {**merged, **changes, "run": {"folder": str(folder)}}


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every Adam a fused one, as on a GPU."""
    make = work._make_optimizer
    monkeypatch.setattr(work, "_make_optimizer", lambda settings, network, fused: make(settings, network, True))


def end_of(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any], list[dict[str, str]]]:
    newest = Checkpoint.load(checkpoints(folder / "checkpoints")[-1])
    with (folder / "log.csv").open() as file:
        rows = [{name: row[name] for name in ("step", "loss", "gradient_norm", "skipped")} for row in csv.DictReader(file)]
    return newest.tensors(), {key: value for key, value in newest.facts["state"].items() if key != "seconds"}, rows


def assert_alike(left: Path, right: Path) -> None:
    (tensors, state, rows), (expected, expected_state, expected_rows) = end_of(left), end_of(right)
    assert tensors.keys() == expected.keys() and state == expected_state
    for name, value in expected.items():
        # By another rounding a gate that is kept in 16 bits may fall on the next of its steps.
        torch.testing.assert_close(tensors[name], value, rtol=1e-3, atol=1e-5)
    for row, other in zip(rows, expected_rows, strict=True):
        assert {key: float(value) for key, value in row.items()} == pytest.approx(
            {key: float(value) for key, value in other.items()}, rel=1e-5, nan_ok=True
        )


@pytest.mark.parametrize("reversed_pass", [False, True])
def test_what_is_not_finite_is_left_out_alike(
    reversed_pass: bool, tmp_path: Path, bad_loss: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights, moments, moving average and counts are those of an optimiser that is asked only after the loss was looked at."""
    changes: dict[str, Any] = {"loss": {"name": bad_loss, "at": [1, 6, 7]}, "data": {"reversed_pass": reversed_pass}}
    train(make_settings(tiny(tmp_path / "asked", **changes)), progress=True)
    told = [line for line in capsys.readouterr().err.splitlines() if "skipped" in line]
    request.getfixturevalue("late")
    train(make_settings(tiny(tmp_path / "late", **changes)), progress=True)
    assert [line for line in capsys.readouterr().err.splitlines() if "skipped" in line] == told
    assert [line.split()[1] for line in told] == (["1", "3", "4"] if reversed_pass else ["1", "6", "7"])
    assert end_of(tmp_path / "late")[1]["skipped"] == 3
    assert_alike(tmp_path / "late", tmp_path / "asked")


def test_a_step_that_is_left_out_changes_no_bit(tmp_path: Path, bad_loss: str, late: None) -> None:
    changes: dict[str, Any] = {"loss": {"name": bad_loss, "at": [2]}, "trainer": {"max_steps": 2, "checkpoint_every": 1, "keep": 9}}
    train(make_settings(tiny(tmp_path / "run", **changes)), progress=False)
    first, second = (Checkpoint.load(path).tensors() for path in checkpoints(tmp_path / "run" / "checkpoints"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_ten_in_a_row_end_a_run_at_most_a_step_late(tmp_path: Path, bad_loss: str, late: None) -> None:
    settings = tiny(tmp_path / "run", loss={"name": bad_loss, "at": list(range(99))}, trainer={"max_steps": 99, "checkpoint_every": 99})
    settings["trainer"]["log_every"] = 99
    with pytest.raises(UserError, match=r"10 steps in a row .* the last on clips \[27, 28, 29\]"):
        train(make_settings(settings), progress=False)


@pytest.mark.parametrize("log_every", [1, 50])
def test_a_stop_comes_at_most_a_step_late_and_goes_on_exactly(log_every: int, tmp_path: Path, late: None) -> None:
    train(make_settings(tiny(tmp_path / "alone")), progress=False)
    stopped = train(make_settings(tiny(tmp_path / "run", trainer={"max_hours": 1e-9, "log_every": log_every})), progress=False)
    (newest,) = checkpoints(tmp_path / "run" / "checkpoints")
    assert stopped.exit_code == 75 and Checkpoint.load(newest).step == (1 if log_every == 1 else 2)
    assert resume(tmp_path / "run", ["--trainer.max_hours=1"], progress=False).exit_code == 0
    (tensors, state, _), (expected, expected_state, _) = end_of(tmp_path / "run"), end_of(tmp_path / "alone")
    assert state == expected_state and all(torch.equal(tensors[name], expected[name]) for name in expected)


@pytest.mark.parametrize("name", ["convlstm", "predrnn_v2", "predrnnpp", "e3d_lstm", "encoder_forecaster"])
@pytest.mark.parametrize("fused", [True, False])
def test_nothing_of_a_step_is_read_before_it_is_asked_for(name: str, fused: bool, tmp_path: Path) -> None:
    """With tensors that have no numbers whatever would have to wait for a GPU fails; without a fused optimiser the step itself does."""
    dropout = {} if name == "encoder_forecaster" else {"dropout": 0.2}
    settings = make_settings(tiny(tmp_path, network={"name": name, "hidden": [4], **dropout}, sampling={"name": "reverse"}))
    made = make_work(settings, Processes())
    batch = collate([(index, made.clips[index]) for index in range(3)])
    with FakeTensorMode(allow_non_fake_inputs=True):
        network = work._make_network(settings, made.clips)
        optimizer = work._make_optimizer(settings.optimizer, network, fused)
        without_numbers = work.replace(made, optimizer=optimizer, along=Unroll(network))
        state = State()
        state.start_ema(network)
        if not fused:
            with pytest.raises(DataDependentOutputException):
                take_step(without_numbers, state, batch, stop=False)
            return
        for state.step in range(2):
            outcome = take_step(without_numbers, state, batch, stop=False)
        with pytest.raises(DataDependentOutputException):
            outcome.note(state)


def test_kernels_with_their_channels_last_train_alike_and_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: None) -> None:
    train(make_settings(tiny(tmp_path / "first")), progress=False)
    make, seen = work._make_network, []

    def make_network(*arguments: Any) -> Any:
        network = make(*arguments)
        assert put_channels_last(network)
        seen.append(network)
        return network

    monkeypatch.setattr(work, "_make_network", make_network)
    train(make_settings(tiny(tmp_path / "last")), progress=False)
    kernel = seen[0].cells[0].h[0].weight
    assert kernel.is_contiguous(memory_format=torch.channels_last) and not kernel.is_contiguous()
    assert_alike(tmp_path / "last", tmp_path / "first")
    train(make_settings(tiny(tmp_path / "parts", trainer={"max_steps": 3})), progress=False)
    resume(tmp_path / "parts", ["--trainer.max_steps=8"], progress=False)
    (tensors, state, _), (expected, expected_state, _) = end_of(tmp_path / "parts"), end_of(tmp_path / "last")
    assert state == expected_state and all(torch.equal(tensors[name], expected[name]) for name in expected)
