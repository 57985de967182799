"""The loop: what it learns, writes, remembers, and that nothing is lost."""

from __future__ import annotations

import csv
import multiprocessing
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml

from stpredict.checkpoint import Checkpoint, checkpoints
from stpredict.errors import UserError
from stpredict.predictor import load_predictor
from stpredict.training import Run, load_settings, make_settings, resume, train
from stpredict.training.run import Log

TINY: dict[str, Any] = {
    "data": {
        "card": "moving_digits",
        "context": 3,
        "horizon": 2,
        "batch_size": 4,
        "workers": 0,
        "settings": {"digits": 1, "size": 32, "validation_clips": 6},
    },
    "network": {"name": "predrnn", "hidden": [4, 4], "kernel_size": 3, "patch_size": 4},
    "optimizer": {"learning_rate": 1e-2, "schedule": "one-cycle", "clip_norm": 1.0},
    "sampling": {"name": "reverse", "first": 2, "second": 6, "alpha": 2.0},
    "trainer": {"max_steps": 8, "validate_every": 4, "checkpoint_every": 3, "log_every": 1, "device": "cpu", "threads": 1},
}


def tiny(folder: Path, **changes: dict[str, Any]) -> dict[str, Any]:
    merged = {section: {**values, **changes.get(section, {})} for section, values in TINY.items()}
    return {**merged, **{key: value for key, value in changes.items() if key not in merged}, "run": {"folder": str(folder)}}


def state(folder: Path) -> tuple[dict[str, bytes], list[dict[str, str]]]:
    """Return the bytes of the newest checkpoint's tensors with its facts, and the log; both without times."""
    checkpoint = Checkpoint.load(checkpoints(folder / "checkpoints")[-1])
    tensors = {name: tensor.numpy().tobytes() for name, tensor in checkpoint.tensors().items()}
    del checkpoint.facts["state"]["seconds"]
    tensors["facts"] = repr((checkpoint.step, checkpoint.best, sorted(checkpoint.facts.items()))).encode()
    with (folder / "log.csv").open() as file:
        rows = [{name: value for name, value in row.items() if name not in Log.TIMING} for row in csv.DictReader(file)]
    return tensors, rows


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "alone"
    assert train(make_settings(tiny(folder)), progress=False).exit_code == 0
    return folder


def test_a_run_folder_holds_what_it_says(left_alone: Path) -> None:
    names = {path.name for path in left_alone.iterdir()}
    assert names == {"config.yaml", "log.csv", "checkpoints", "pictures", "best.safetensors", "last.safetensors", "done", ".lock"}
    assert [path.name for path in checkpoints(left_alone / "checkpoints")] == ["step-00000006.safetensors", "step-00000008.safetensors"]
    assert {path.name for path in (left_alone / "pictures").iterdir()} == {"curves.png", "step-00000004.png", "step-00000008.png"}
    _, rows = state(left_alone)
    assert [row["step"] for row in rows] == [str(step) for step in range(1, 9)]
    assert [row["step"] for row in rows if row["validation_mse"]] == ["4", "8"]
    assert rows[1]["truth_in_context"] == "0.5" and rows[7]["truth_after"] == "0.0"


def test_best_is_the_predictor_of_the_best_validation(left_alone: Path) -> None:
    _, rows = state(left_alone)
    scores = {int(row["step"]): float(row["validation_mse"]) for row in rows if row["validation_mse"]}
    best = load_predictor(left_alone)
    assert best.provenance["validation_mse"] == min(scores.values()) == scores[best.provenance["step"]]
    assert load_predictor(left_alone / "last.safetensors").provenance["step"] == 8


def test_the_loss_is_the_mean_squared_error_of_the_first_batch(left_alone: Path) -> None:
    from stpredict.data import load_data
    from stpredict.data.loader import collate, global_batch
    from stpredict.draws import Draws
    from stpredict.networks import create_network
    from stpredict.sampling import ReverseScheduledSampling, draw_truth
    from stpredict.unroll import rollout

    torch.manual_seed(0)
    network = create_network("predrnn", channels=1, hidden=[4, 4], kernel_size=3, patch_size=4, frame_size=(32, 32))
    clips = load_data("moving_digits", context=3, horizon=2, settings=TINY["data"]["settings"], seed=0)
    batch = collate([(index, clips[index]) for index in global_batch(None, 0, 0, 4)])
    frames = batch.physical(clips.packing, "cpu")
    use_truth = draw_truth(ReverseScheduledSampling(2, 6, 2.0), 1, Draws(0, 0, (0, 1, 2, 3)), 3, 2)
    with torch.no_grad():
        loss = (rollout(network, frames, 3, use_truth=use_truth) - frames[:, 1:]).square().mean()
    _, rows = state(left_alone)
    assert float(rows[0]["loss"]) == pytest.approx(float(loss), rel=1e-6)


def test_it_learns(tmp_path: Path) -> None:
    changes = {
        "trainer": {"max_steps": 120, "validate_every": 0, "log_every": 10},
        "network": {"name": "convlstm", "hidden": [16]},
        "sampling": {"first": 40, "second": 80},
    }
    train(make_settings(tiny(tmp_path / "r", **changes)), progress=False)
    _, rows = state(tmp_path / "r")
    assert float(rows[-1]["loss"]) < 0.7 * float(rows[0]["loss"])
    assert not (tmp_path / "r" / "best.safetensors").exists()
    assert load_predictor(tmp_path / "r").provenance["step"] == 120


def start(folder: Path, config: Path) -> subprocess.Popen[str]:
    config.write_text(yaml.safe_dump(tiny(folder)))
    return subprocess.Popen(
        [sys.executable, "-m", "stpredict", "train", str(config)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(condition: Any, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)


@pytest.mark.parametrize("rows", [1, 2, 5, 7])
def test_killed_in_the_middle_and_resumed_it_ends_with_the_same_bits(tmp_path: Path, left_alone: Path, rows: int) -> None:
    """SIGKILL as soon as the log has that many rows: before the first checkpoint, after one, after a validation."""
    for attempt in range(5):  # on a busy machine a run may end before it is killed
        folder = tmp_path / f"killed-{attempt}"
        process = start(folder, tmp_path / "c.yaml")
        log = folder / "log.csv"
        wait_for(lambda log=log: log.is_file() and log.read_text().count("\n") > rows, process)
        process.kill()
        process.communicate()
        if not (folder / "done").exists():
            break
    assert not (folder / "done").exists(), "it was killed in time"
    assert resume(folder, progress=False).exit_code == 0
    assert state(folder) == state(left_alone)
    for name in ("best.safetensors", "last.safetensors"):
        first, second = (safetensors.torch.load_file(run / name) for run in (folder, left_alone))
        assert all(torch.equal(first[key], second[key]) for key in second)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path: Path, left_alone: Path, number: signal.Signals) -> None:
    folder = tmp_path / "stopped"
    process = start(folder, tmp_path / "c.yaml")
    wait_for(lambda: (folder / "log.csv").is_file() and (folder / "log.csv").read_text().count("\n") > 2, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert f"stpredict resume {folder}" in err and "Traceback" not in err
    assert int(checkpoints(folder / "checkpoints")[-1].stem.removeprefix("step-")) < 8
    assert resume(folder, progress=False).exit_code == 0
    assert state(folder) == state(left_alone)


def test_a_run_that_has_ended_is_left_alone_or_made_longer(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    train(make_settings(tiny(folder, optimizer={"schedule": "constant"}, trainer={"max_steps": 4})), progress=False)
    before = state(folder)
    assert resume(folder, progress=False).exit_code == 0 and state(folder) == before
    resume(folder, ["--trainer.max_steps=6"], progress=False)
    assert [row["step"] for row in state(folder)[1]] == ["1", "2", "3", "4", "5", "6"]
    long = tmp_path / "long"
    train(make_settings(tiny(long, optimizer={"schedule": "constant"}, trainer={"max_steps": 6})), progress=False)
    assert state(folder)[0] == state(long)[0]


@pytest.mark.parametrize("override", ["--data.batch_size=2", "--network.hidden=[8, 8]", "--seed=1", "--loss.name=l1"])
def test_a_continuation_may_not_become_another_run(left_alone: Path, override: str) -> None:
    with pytest.raises(UserError, match=override.split("=")[0].removeprefix("--")):
        resume(left_alone, [override], progress=False)


def test_a_run_is_never_overwritten(left_alone: Path) -> None:
    before = state(left_alone)
    with pytest.raises(UserError, match="never overwritten"):
        train(make_settings(tiny(left_alone)), progress=False)
    assert state(left_alone) == before
    assert [path.name for path in left_alone.parent.iterdir()] == ["alone"]


def test_runs_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = make_settings({**tiny(tmp_path), "run": {}, "name": "try"})
    folders = [Run.create(settings).folder for _ in range(3)]
    assert [str(folder) for folder in folders] == ["runs/try-1", "runs/try-2", "runs/try-3"]
    assert make_settings(Run.open(folders[0])[1].to_dict()) == settings


def test_two_programs_on_one_run(left_alone: Path) -> None:
    code = f"from stpredict.training import resume; resume({str(left_alone)!r}, ['--trainer.max_steps=9'], progress=False)"
    with Run(left_alone).lock():
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and "Another process is working on the run" in done.stderr


def test_workers_end_with_the_run_and_do_not_hold_its_lock(tmp_path: Path) -> None:
    before = set(multiprocessing.active_children())
    run = train(make_settings(tiny(tmp_path / "r", data={"workers": 1}, trainer={"max_steps": 1, "validate_every": 0})), progress=False)
    assert set(multiprocessing.active_children()) == before
    ready, go = multiprocessing.Pipe()
    with run.lock():
        child = multiprocessing.get_context("fork").Process(target=go.recv)
        child.start()
    try:
        code = f"from stpredict.training import Run; import pathlib\nwith Run(pathlib.Path({str(run.folder)!r})).lock(): pass"
        assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
    finally:
        ready.send("end")
        child.join()


@pytest.mark.parametrize("damage", ["cut off", "a bit flipped"])
def test_a_damaged_checkpoint_is_passed_over_and_named(
    damage: str, tmp_path: Path, left_alone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "r"
    train(make_settings(tiny(folder, trainer={"checkpoint_every": 2, "keep": 9})), progress=False)
    newest = checkpoints(folder / "checkpoints")[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 0b100
    newest.write_bytes(newest.read_bytes()[:-5] if damage == "cut off" else content)
    (folder / "done").unlink()
    assert resume(folder, progress=True).exit_code == 0
    assert f"{newest.name} is no whole checkpoint" in capsys.readouterr().err
    assert state(folder) == state(left_alone), "the steps since the one before were taken again"


def test_starting_from_another_predictor(tmp_path: Path, left_alone: Path) -> None:
    weights = {
        "network": {"weights": str(left_alone)},
        "trainer": {"max_steps": 1, "validate_every": 0},
        "optimizer": {"learning_rate": 1e-12},
    }
    train(make_settings(tiny(tmp_path / "same", **weights)), progress=False)
    first, second = (
        safetensors.torch.load_file(path) for path in (left_alone / "best.safetensors", tmp_path / "same" / "last.safetensors")
    )
    assert all(torch.allclose(first[key], second[key], atol=1e-9) for key in first)
    weights["network"]["hidden"] = [4, 4, 4]
    with pytest.raises(UserError, match=r"'cells\.2\.x\.0\.weight' is missing"):
        train(make_settings(tiny(tmp_path / "deeper", **weights)), progress=False)
    weights["network"]["mismatch"] = "fresh"
    train(make_settings(tiny(tmp_path / "deeper", **weights)), progress=False)
    deeper = safetensors.torch.load_file(tmp_path / "deeper" / "last.safetensors")
    assert torch.allclose(deeper["cells.0.h.0.weight"], first["cells.0.h.0.weight"], atol=1e-9)


def test_bf16_learns_about_the_same(tmp_path: Path, left_alone: Path) -> None:
    train(make_settings(tiny(tmp_path / "r", trainer={"precision": "bf16"})), progress=False)
    low, full = (float(state(folder)[1][-1]["loss"]) for folder in (tmp_path / "r", left_alone))
    assert low == pytest.approx(full, rel=0.05) and low != full


def test_a_checkpoint_brings_back_the_same_state(tmp_path: Path) -> None:
    checkpoint = Checkpoint(3, {"w": torch.ones(2)}, {"0.step": torch.tensor(3.0)}, 0.5, {"threads": 1})
    again = Checkpoint.load(checkpoint.save(tmp_path, keep=1))
    assert (again.step, again.best, again.facts) == (3, 0.5, {"threads": 1}) and torch.equal(again.weights["w"], torch.ones(2))


def test_a_loss_over_the_future_alone(tmp_path: Path, left_alone: Path) -> None:
    train(make_settings(tiny(tmp_path / "r", loss={"over": "future"}, trainer={"max_steps": 1, "validate_every": 1})), progress=False)
    _, (row,) = state(tmp_path / "r")
    _, rows = state(left_alone)
    assert float(row["loss"]) != float(rows[0]["loss"])
    assert row["validation_loss"] == row["validation_mse"]  # the training loss is the squared error of the future


def test_a_config_by_name_and_by_path(tmp_path: Path) -> None:
    assert load_settings("demo").network["name"] == load_settings("demo", ["--trainer.max_steps=5"]).network["name"]
    assert load_settings("demo", ["--trainer.max_steps=5"]).trainer.max_steps == 5


CURRICULUM: dict[str, Any] = {
    "network": {"name": "predrnn_v2", "hidden": [4, 4], "kernel_size": 3, "patch_size": 4, "dropout": 0.3, "decouple": 0.1},
    "sampling": {"first_horizon": 1, "grown_at": 5},
}


def test_a_curriculum_with_dropout_goes_on_exactly(tmp_path: Path) -> None:
    """Masks and horizon are functions of the step, so a run that was stopped in the middle of both ends as one left alone."""
    assert train(make_settings(tiny(tmp_path / "alone", **CURRICULUM)), progress=False).exit_code == 0
    short = tiny(tmp_path / "stopped", **{**CURRICULUM, "optimizer": {"schedule": "constant"}})
    whole = tiny(tmp_path / "whole", **{**CURRICULUM, "optimizer": {"schedule": "constant"}})
    short["trainer"] = {**short["trainer"], "max_steps": 3}
    train(make_settings(short), progress=False)
    resume(tmp_path / "stopped", ["--trainer.max_steps=8"], progress=False)
    train(make_settings(whole), progress=False)
    assert state(tmp_path / "stopped")[0] == state(tmp_path / "whole")[0]


def test_a_horizon_that_grows_trains_on_fewer_frames_at_first(tmp_path: Path) -> None:
    """The first step's loss is that of a run whose horizon is one frame."""
    growing = tiny(tmp_path / "growing", sampling={"first_horizon": 1, "grown_at": 5}, trainer={"max_steps": 1, "validate_every": 0})
    one = tiny(tmp_path / "one", data={"horizon": 1}, trainer={"max_steps": 1, "validate_every": 0})
    losses = []
    for settings in (growing, one):
        run = train(make_settings(settings), progress=False)
        losses.append(float(state(run.folder)[1][0]["loss"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_recomputing_trains_the_same(tmp_path: Path, left_alone: Path) -> None:
    run = train(make_settings(tiny(tmp_path / "again", trainer={"recompute": True})), progress=False)
    assert state(run.folder) == state(left_alone)


def test_weights_of_another_maths_are_refused(tmp_path: Path) -> None:
    """Weights of the same shapes, trained with another formula, would be wrong without a word."""
    legacy = tiny(tmp_path / "legacy", network={"name": "convlstm", "hidden_from": "candidate", "dropout": 0.2}, trainer={"max_steps": 1})
    train(make_settings(legacy), progress=False)
    fixed = tiny(tmp_path / "fixed", network={"name": "convlstm", "weights": str(tmp_path / "legacy")}, trainer={"max_steps": 1})
    with pytest.raises(UserError, match=r"set network\.hidden_from to candidate, not cell"):
        train(make_settings(fixed), progress=False)
    fixed["network"]["hidden_from"] = "candidate"
    assert train(make_settings(fixed), progress=False).exit_code == 0
