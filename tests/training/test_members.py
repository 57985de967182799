"""Training on the members of an ensemble: the loss by hand, and the same steps however they are worked through."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from stpredict.checkpoint import Checkpoint, checkpoints
from stpredict.data.loader import TrainingOrder, batches
from stpredict.draws import Draws
from stpredict.errors import UserError
from stpredict.metrics import create_scores
from stpredict.predictor import load_predictor
from stpredict.processes import Processes
from stpredict.training import make_settings, resume, train
from stpredict.training.state import State
from stpredict.training.step import take_step
from stpredict.training.validation import validate
from stpredict.training.work import make_work

MEMBERS = 3
TINY: dict[str, Any] = {
    "data": {
        "card": "moving_digits",
        "context": 3,
        "horizon": 2,
        "batch_size": 5,
        "workers": 0,
        "settings": {"digits": 1, "size": 32, "validation_clips": 4},
    },
    "network": {"name": "predrnn_v2", "hidden": [4, 4], "kernel_size": 3, "patch_size": 4, "noise_channels": 2, "dropout": 0.1},
    "loss": {"name": "almost-fair-crps", "members": MEMBERS},
    "sampling": {"name": "scheduled", "rate": 0.1, "stop": 100},
    "optimizer": {"name": "sgd", "learning_rate": 0.5, "momentum": 0.9},
    "trainer": {"max_steps": 4, "validate_every": 2, "checkpoint_every": 1, "keep": 10, "log_every": 1, "device": "cpu", "threads": 1},
}


def tiny(folder: Path, **changes: Any) -> dict[str, Any]:
    merged = {section: {**values, **changes.pop(section, {})} for section, values in TINY.items()}
    return {**merged, **changes, "run": {"folder": str(folder)}}


def run(folder: Path, **changes: Any) -> None:
    train(make_settings(tiny(folder, **changes)), progress=False)


def column(folder: Path, name: str) -> list[float]:
    with (folder / "log.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


def weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    return Checkpoint.load(checkpoints(folder / "checkpoints")[step - 1]).weights


def test_a_step_is_the_loss_of_the_members_of_each_clip(tmp_path: Path) -> None:
    """Clip by clip, each member by itself with the draws of its own number."""
    settings = tiny(tmp_path / "run", sampling={"name": "none", "rate": 0.0, "stop": 1})
    settings["sampling"] = {}
    settings["network"] = {**settings["network"], "name": "predrnn"}
    work = make_work(make_settings(settings), Processes())
    (batch,) = batches(work.clips, TrainingOrder(work.clips, 0, range(1), 5), 0)
    truth, valid = work.clips.spec.scale(batch.physical(work.clips.packing, "cpu"))
    total = 0.0
    with torch.no_grad():
        work.network.train()
        for clip in range(5):
            members = [
                work.along(truth[clip : clip + 1], 3, 2, None, None, None, Draws(0, 0, (clip * MEMBERS + number,)))[0]
                for number in range(MEMBERS)
            ]
            total += float(work.loss(torch.stack(members, 1), truth[clip : clip + 1, 1:], valid[clip : clip + 1, 1:])[0])
            assert not torch.equal(members[0], members[1])
    outcome = take_step(work, State(), batch, stop=False)
    assert outcome.loss == pytest.approx(total / truth[:, 1:].numel(), rel=1e-5)


@pytest.mark.parametrize("trainer", [{"accumulate": 2}, {"accumulate": 5}, {"recompute": True}])
def test_the_same_steps_in_parts_and_recomputed(trainer: dict[str, Any], tmp_path: Path) -> None:
    run(tmp_path / "whole")
    run(tmp_path / "other", trainer=trainer)
    assert column(tmp_path / "other", "loss") == pytest.approx(column(tmp_path / "whole", "loss"), rel=1e-5)
    whole, other = weights(tmp_path / "whole", 4), weights(tmp_path / "other", 4)
    for name in whole:
        torch.testing.assert_close(other[name], whole[name], atol=1e-6, rtol=1e-5)


def test_truncated_the_loss_of_a_step_is_the_same(tmp_path: Path) -> None:
    for name, trainer in {"whole": {}, "truncated": {"truncate": 2}}.items():
        run(tmp_path / name, trainer={**trainer, "max_steps": 1, "validate_every": 1})
    assert column(tmp_path / "truncated", "loss") == pytest.approx(column(tmp_path / "whole", "loss"), rel=1e-6)
    assert column(tmp_path / "truncated", "gradient_norm") != column(tmp_path / "whole", "gradient_norm")


def test_resumed_it_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    run(tmp_path / "straight")
    run(tmp_path / "halves", trainer={"max_steps": 2})
    resume(tmp_path / "halves", ["--trainer.max_steps=4"], progress=False)
    for name in ("loss", "validation_loss", "validation_mse"):
        assert column(tmp_path / "halves", name) == column(tmp_path / "straight", name)
    straight, halves = weights(tmp_path / "straight", 4), weights(tmp_path / "halves", 4)
    assert all(torch.equal(straight[name], halves[name]) for name in straight)


def test_two_processes_equal_one(tmp_path: Path) -> None:
    for processes in (1, 2):
        config = tmp_path / f"{processes}.yaml"
        config.write_text(yaml.safe_dump(tiny(tmp_path / str(processes), network={"noise_channels": 1}, trainer={"max_steps": 2})))
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
        words = [sys.executable, *launcher, "-m", "stpredict", "train", str(config)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr[-2000:]
    for name in ("loss", "gradient_norm", "validation_loss", "validation_mse"):
        assert column(tmp_path / "2", name) == pytest.approx(column(tmp_path / "1", name), abs=1e-5), name


def test_validation_scores_members_and_the_loss_chooses_the_best(tmp_path: Path) -> None:
    settings = tiny(tmp_path / "run", loss={"name": "crps"}, trainer={"max_steps": 6, "validate_every": 1})
    train(make_settings(settings), progress=False)
    losses, errors = column(tmp_path / "run", "validation_loss"), column(tmp_path / "run", "validation_mse")
    best = load_predictor(tmp_path / "run" / "best.safetensors")
    step = losses.index(min(losses))
    assert best.provenance["step"] == step + 1
    assert (best.provenance["validation_loss"], best.provenance["validation_mse"]) == (losses[step], errors[step])

    work = make_work(make_settings(settings), Processes())
    work.network.load_state_dict(best.network.state_dict())
    found = validate(work, work.clips)  # of any split
    clips = [work.clips[number].frames for number in range(256)]
    physical = work.clips.packing.unpack(torch.from_numpy(np.stack(clips)))
    members = best.forecast(physical[:, :3], 2, members=MEMBERS, seed=0)
    scale = work.clips.spec.transform.high - work.clips.spec.transform.low
    scores = {}
    for name, prediction in (("crps", members), ("mse", members.mean(1))):
        (score,) = create_scores([name])
        total, weight = score(prediction, physical[:, 3:], work.clips.spec)
        scores[name] = float(total.sum() / weight.sum())
    assert found["validation_loss"] == pytest.approx(scores["crps"] / scale, rel=1e-4)
    assert found["validation_mse"] == pytest.approx(scores["mse"] / scale**2, rel=1e-4)


def test_members_that_would_be_equal_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'almost-fair-crps' is of an ensemble, .* so that members are equal: set network\.noise_channels"):
        make_work(make_settings(tiny(tmp_path / "run", network={"noise_channels": 0})), Processes())


def test_noise_of_another_kind_is_other_maths(tmp_path: Path) -> None:
    """Weights of the same shapes whose inputs mean something else."""
    run(tmp_path / "first", trainer={"max_steps": 1, "validate_every": 0})
    changed = tiny(tmp_path / "second", network={"noise_channels": 0, "known_channels": 2, "weights": str(tmp_path / "first")}, loss={})
    changed["loss"] = {"name": "l2"}
    with pytest.raises(UserError, match=r"set network\.noise_channels to 2, not 0"):
        make_work(make_settings(changed), Processes())
