"""The step: parts of a batch, moving averages, weight decay, what is not finite, and when a run stops by itself."""

from __future__ import annotations

import csv
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from stpredict.checkpoint import Checkpoint, checkpoints
from stpredict.data.loader import TrainingOrder, batches
from stpredict.draws import Draws
from stpredict.errors import UserError
from stpredict.networks import create_network
from stpredict.predictor import load_predictor
from stpredict.processes import Processes
from stpredict.sampling import draw_truth
from stpredict.training import Run, make_settings, resume, train
from stpredict.training.rehearsal import rehearse
from stpredict.training.schedules import learning_rate
from stpredict.training.settings import OptimizerSettings
from stpredict.training.state import State
from stpredict.training.work import make_work

TINY: dict[str, Any] = {
    "data": {
        "card": "moving_digits",
        "context": 3,
        "horizon": 2,
        "batch_size": 5,
        "workers": 0,
        "settings": {"digits": 1, "size": 32, "validation_clips": 4},
    },
    "network": {"name": "predrnn_v2", "hidden": [4, 4], "kernel_size": 3, "patch_size": 4},
    "optimizer": {"name": "sgd", "learning_rate": 0.5, "momentum": 0.9},
    "trainer": {"max_steps": 4, "validate_every": 0, "checkpoint_every": 1, "keep": 10, "log_every": 1, "device": "cpu", "threads": 1},
}


def tiny(folder: Path, **changes: Any) -> dict[str, Any]:
    merged = {section: {**values, **changes.pop(section, {})} for section, values in TINY.items()}
    return {**merged, **changes, "run": {"folder": str(folder)}}


def run(folder: Path, **changes: Any) -> Run:
    return train(make_settings(tiny(folder, **changes)), progress=False)


def column(folder: Path, name: str) -> list[float]:
    with (folder / "log.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


def weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    return Checkpoint.load(checkpoints(folder / "checkpoints")[step - 1]).weights


@pytest.mark.parametrize("parts", [2, 3, 9])
def test_a_batch_in_parts_moves_the_weights_alike(parts: int, tmp_path: Path) -> None:
    run(tmp_path / "whole")
    run(tmp_path / "parts", trainer={"accumulate": parts})
    assert column(tmp_path / "parts", "loss") == pytest.approx(column(tmp_path / "whole", "loss"), rel=1e-5)
    whole, partly = weights(tmp_path / "whole", 4), weights(tmp_path / "parts", 4)
    for name in whole:
        torch.testing.assert_close(partly[name], whole[name], atol=1e-6, rtol=1e-5)


def test_the_moving_average(tmp_path: Path) -> None:
    """Against its formula, from the weights of every step; validation and predictors use it, and it goes on after a stop."""
    settings = tiny(tmp_path / "run", optimizer={"ema": 0.75}, trainer={"validate_every": 2})
    expected = {name: value.clone() for name, value in make_work(make_settings(settings), Processes()).network.named_parameters()}
    stopped = {**settings, "trainer": {**settings["trainer"], "max_steps": 2}}
    train(make_settings(stopped), progress=False)
    resume(tmp_path / "run", ["--trainer.max_steps=4"], progress=False)
    for step in range(1, 5):
        new = weights(tmp_path / "run", step)
        expected = {name: 0.75 * expected[name] + 0.25 * new[name] for name in expected}
    last = Checkpoint.load(checkpoints(tmp_path / "run" / "checkpoints")[-1])
    for name, value in safetensors.torch.load_file(tmp_path / "run" / "last.safetensors").items():
        torch.testing.assert_close(last.ema[name], expected[name], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(value, last.ema[name], atol=0, rtol=0)
        assert float((value - last.weights[name]).abs().max()) > 1e-5
    straight = tiny(tmp_path / "straight", optimizer={"ema": 0.75}, trainer={"validate_every": 2})
    train(make_settings(straight), progress=False)
    other = Checkpoint.load(checkpoints(tmp_path / "straight" / "checkpoints")[-1])
    assert all(torch.equal(other.ema[name], last.ema[name]) for name in last.ema)
    assert column(tmp_path / "straight", "validation_mse") == column(tmp_path / "run", "validation_mse")


def test_averaging_leaves_the_weights_as_they_were() -> None:
    network = create_network("convrnn", channels=1, hidden=[3], kernel_size=3, patch_size=1)
    before = {name: value.clone() for name, value in network.named_parameters()}
    state = State(ema={name: torch.full_like(value, 0.5) for name, value in before.items()})
    with state.averaged(network):
        assert all(bool((value == 0.5).all()) for value in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.named_parameters())


def test_norms_and_biases_do_not_decay(tmp_path: Path) -> None:
    network = {"name": "convlstm", "norm": "layer", "bias": True, "peephole": False, "hidden": [4]}
    work = make_work(make_settings(tiny(tmp_path, network=network, optimizer={"weight_decay": 0.1})), Processes())
    decays = {id(weight): group["weight_decay"] for group in work.optimizer.param_groups for weight in group["params"]}
    told = {name: decays[id(weight)] for name, weight in work.network.named_parameters()}
    assert {name for name, decay in told.items() if decay} == {"readout.weight", "cells.0.x.0.weight", "cells.0.h.0.weight"}
    assert len(told) == 9 and set(told.values()) == {0.0, 0.1}


def test_what_is_not_finite_moves_nothing(tmp_path: Path, bad_loss: str, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tiny(tmp_path / "run", network={"name": "predrnn"}, loss={"name": bad_loss, "at": [2, 3]})
    done = train(make_settings(settings), progress=True)
    assert done.exit_code == 0 and column(tmp_path / "run", "skipped") == [0, 1, 2, 2]
    first, second, third, fourth = (weights(tmp_path / "run", step) for step in (1, 2, 3, 4))
    assert all(torch.equal(second[name], first[name]) and torch.equal(third[name], first[name]) for name in first)
    assert not all(torch.equal(fourth[name], first[name]) for name in first)
    said = capsys.readouterr().err
    assert "step 2 skipped" in said and "clips 5, 6, 7, 8, 9" in said
    endless = tiny(tmp_path / "endless", network={"name": "predrnn"}, loss={"name": bad_loss, "at": list(range(99))})
    endless["trainer"]["max_steps"] = 30
    with pytest.raises(UserError, match=r"10 steps in a row .* lower optimizer\.learning_rate"):
        train(make_settings(endless), progress=False)


def test_the_loss_scale_of_fp16() -> None:
    state = State(scale=4.0)
    assert state.overflowed() and state.scale == 2.0
    assert state.overflowed() and state.scale == 1.0
    assert not state.overflowed(), "with such a scale it is no overflow, but something that is not finite"
    grown = State(scale=4.0)
    for _ in range(2000):
        grown.went_well()
    assert (grown.scale, grown.unscaled) == (8.0, 0)


@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
def test_precisions_train_alike(precision: str, tmp_path: Path) -> None:
    exact, other = run(tmp_path / "exact"), run(tmp_path / precision, trainer={"precision": precision})
    # The first steps of fp16 may only find the loss scale.
    assert column(other.folder, "loss") == pytest.approx(column(exact.folder, "loss"), rel=0.1 if precision == "fp16" else 0.02)
    assert column(other.folder, "skipped")[-1] == 0


def test_a_run_stops_when_its_hours_are_over(tmp_path: Path) -> None:
    stopped = run(tmp_path / "run", trainer={"max_hours": 1e-9})
    assert stopped.exit_code == 75 and len(column(stopped.folder, "loss")) == 1
    assert resume(stopped.folder, ["--trainer.max_hours=1"], progress=False).exit_code == 0
    run(tmp_path / "alone")
    left, right = weights(tmp_path / "run", 4), weights(tmp_path / "alone", 4)
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_run_ends_when_it_gets_no_better(tmp_path: Path) -> None:
    """With a rate that moves nothing every validation is as good as the first."""
    ended = run(tmp_path / "run", optimizer={"learning_rate": 1e-30}, trainer={"max_steps": 20, "validate_every": 1, "patience": 3})
    assert ended.exit_code == 0 and (ended.folder / "done").read_text() == "4\n"
    assert resume(ended.folder, progress=False).exit_code == 0
    assert len(column(ended.folder, "loss")) == 4, "a run that has ended is left as it is"


def test_augmented_runs_differ_and_repeat(tmp_path: Path) -> None:
    plain = run(tmp_path / "plain")
    twice = [run(tmp_path / name, data={"augment": ["flip-x", "turn", "reverse"]}) for name in ("one", "two")]
    losses = [column(done.folder, "loss") for done in (plain, *twice)]
    assert losses[1] == losses[2] != losses[0]


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("optimizer", "ema", 1.0),
        ("trainer", "max_hours", 0.0),
        ("trainer", "patience", 0),
        ("trainer", "accumulate", 0),
        ("trainer", "devices", 0),
        ("trainer", "milestone_every", -1),
        ("trainer", "truncate", 0),
        ("optimizer", "plateau_patience", 0),
        ("optimizer", "plateau_factor", 1.0),
        ("optimizer", "schedule", "plateau"),
        ("trainer", "precision", "fp8"),
        ("data", "augment", ["mirror"]),
    ],
)
def test_impossible_settings(section: str, key: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=key):
        make_settings(tiny(tmp_path / "run", **{section: {key: value}}))


def test_epochs_say_how_many_steps(tmp_path: Path) -> None:
    settings = tiny(tmp_path / "run", trainer={"max_steps": 0, "epochs": 0.5})
    work = make_work(make_settings(settings), Processes())
    assert work.settings.trainer.max_steps == -(-len(work.clips) // 10), "half an epoch of batches of 5"
    with pytest.raises(UserError, match=r"trainer\.max_steps must be at least 1, not 0, or trainer\.epochs"):
        make_settings(tiny(tmp_path / "run", trainer={"max_steps": 0}))


def test_one_batch_is_learnt_by_heart(tmp_path: Path) -> None:
    """The loss of the same five clips falls far below that of ever new ones."""
    learn = {"optimizer": {"name": "adam", "learning_rate": 1e-2, "momentum": 0.0}, "network": {"name": "convlstm", "hidden": [16, 16]}}
    heart = run(tmp_path / "heart", trainer={"max_steps": 80, "overfit": True, "checkpoint_every": 80}, **learn)
    new = run(tmp_path / "new", trainer={"max_steps": 80, "checkpoint_every": 80}, **learn)
    assert column(heart.folder, "loss")[0] == column(new.folder, "loss")[0]
    assert column(heart.folder, "loss")[-1] < 0.6 * column(new.folder, "loss")[-1]


def test_a_rehearsal_says_what_a_run_takes_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = make_settings(tiny(tmp_path / "run", trainer={"max_steps": 4000, "validate_every": 100}))
    told = rehearse(settings)
    weights = sum(weight.numel() for weight in make_work(settings, Processes()).network.parameters())
    assert f"predrnn_v2, {weights:,} parameters" in told and "4,000 steps" in told and "1 x 32 x 32" in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("over", ["all", "future"])
def test_a_truncated_step_is_the_whole_one_where_no_gradient_is_cut(over: str, tmp_path: Path) -> None:
    for name, truncate in (("whole", None), ("long", 4), ("short", 1)):
        run(tmp_path / name, loss={"over": over}, trainer={"truncate": truncate})
    whole, long, short = (weights(tmp_path / name, 4) for name in ("whole", "long", "short"))
    assert all(torch.equal(whole[name], long[name]) for name in whole)
    assert any(not torch.equal(whole[name], short[name]) for name in whole)
    losses = [column(tmp_path / name, "loss") for name in ("whole", "short")]
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-6), "a first step's loss is of the same predictions"
    assert losses[0][-1] != pytest.approx(losses[1][-1], rel=1e-6)


@pytest.mark.parametrize(("name", "value"), [("truncate", 2), ("recompute", True)])
def test_what_takes_no_steps_has_none_to_cut_or_to_take_again(name: str, value: Any, tmp_path: Path) -> None:
    settings = tiny(tmp_path / "run", trainer={name: value})
    settings["network"] = {"name": "simvp", "hidden": [4, 8], "layers": [2, 2]}
    with pytest.raises(UserError, match=rf"trainer\.{name} is for networks that take steps, and simvp forecasts at once"):
        make_work(make_settings(settings), Processes())


def test_a_reversed_pass_is_an_update_of_its_own(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"data": {"reversed_pass": True}, "trainer": {"max_steps": 1}, "optimizer": {"momentum": 0.0}}
    run(tmp_path / "run", **changes)
    work = make_work(make_settings(tiny(tmp_path / "other", **changes)), Processes())
    batch = next(batches(work.clips, TrainingOrder(work.clips, 0, range(1), 5), 0))
    truth, valid = work.clips.spec.scale(batch.physical(work.clips.packing, "cpu"))
    assert valid.all()
    use_truth = draw_truth(work.schedule, 1, Draws(0, 0, tuple(range(5))), 3, 2)
    losses = []
    for clips in (truth, truth.flip(1)):
        work.network.zero_grad()
        predictions, penalty = work.along(clips, 3, 2, use_truth)
        loss = (predictions - clips[:, 1:]).square().mean() + penalty.mean()
        loss.backward()
        losses.append(loss.item())
        with torch.no_grad():
            for weight in work.network.parameters():
                weight -= 0.5 * weight.grad
    after = weights(tmp_path / "run", 1)
    for name, weight in work.network.named_parameters():
        torch.testing.assert_close(after[name], weight.detach(), rtol=1e-5, atol=1e-7)
    assert column(tmp_path / "run", "loss") == pytest.approx([sum(losses) / 2], rel=1e-6)


@given(st.lists(st.sampled_from([1.0, 2.0, 3.0, 4.0, math.nan]), max_size=30), st.integers(1, 4))
def test_a_plateau_is_that_of_torch(scores: list[float], patience: int) -> None:
    scores = [5.0, *scores]
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=patience - 1, threshold=0.0, eps=0.0)
    state, settings = State(), OptimizerSettings(learning_rate=1.0, schedule="plateau", plateau_patience=patience, plateau_factor=0.5)
    for score in scores:
        state.is_best(score, patience)
        reference.step(score)
        assert learning_rate(settings, 0, 100, state.reductions) == optimizer.param_groups[0]["lr"]


def test_a_plateau_reduces_the_rate_also_across_a_continuation(tmp_path: Path) -> None:
    optimizer = {"learning_rate": 1e-30, "schedule": "plateau", "plateau_patience": 2, "plateau_factor": 0.5}
    trainer = {"max_steps": 8, "validate_every": 1}
    run(tmp_path / "whole", optimizer=optimizer, trainer=trainer)
    rates = column(tmp_path / "whole", "learning_rate")
    assert rates == [1e-30 * 0.5**number for number in (0, 0, 0, 1, 1, 2, 2, 3)]
    run(tmp_path / "parts", optimizer=optimizer, trainer=trainer | {"max_steps": 4})
    resume(tmp_path / "parts", ["--trainer.max_steps=8"], progress=False)
    assert column(tmp_path / "parts", "learning_rate") == rates
    seconds = column(tmp_path / "parts", "seconds")
    assert len(seconds) == 8 and all(earlier < later for earlier, later in itertools.pairwise(seconds)), "the clock goes on as well"


def test_random_crops_train_and_whole_frames_validate(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"data": {"random_crop": [16, 20]}, "trainer": {"max_steps": 2, "validate_every": 2}}
    run(tmp_path / "crop", **changes)
    run(tmp_path / "whole", trainer=changes["trainer"])
    assert column(tmp_path / "crop", "loss")[0] != column(tmp_path / "whole", "loss")[0]
    assert load_predictor(tmp_path / "crop").spec.shape == (1, 32, 32)
    bound = tiny(tmp_path / "bound", **changes)
    bound["network"] = {**bound["network"], "norm": "layer"}
    with pytest.raises(UserError, match="pixels"):
        make_work(make_settings(bound), Processes())
