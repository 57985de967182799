"""A study from beginning to end, stopped and started again, and what becomes of its folder."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stpredict.data import load_data
from stpredict.errors import UserError
from stpredict.evaluation import evaluate
from stpredict.study import Scoring, Study, is_study, load_study, read_summary, run_study
from stpredict.study.summary import SUMMARY
from stpredict.study.tables import markdown, sheets
from stpredict.training import loop

SETTINGS: dict[str, Any] = {
    "data": {
        "card": "moving_digits",
        "context": 2,
        "horizon": 2,
        "batch_size": 2,
        "workers": 0,
        "settings": {"digits": 1, "size": 32, "validation_clips": 4, "test_clips": 12},
    },
    "network": {"name": "convlstm", "hidden": [4], "kernel_size": 3, "patch_size": 8},
    "optimizer": {"learning_rate": 5e-3},
    "trainer": {"max_steps": 6, "validate_every": 6, "checkpoint_every": 2, "device": "cpu"},
}
STUDY = Study(
    settings=SETTINGS,
    variants={"narrow": {}, "wide": {"network": {"hidden": [6]}}},
    question="Is a wide one better?",
    seeds=(0, 1),
    score=Scoring(clips=8, scores=("mse", "ssim"), baselines=("persistence",)),
)


def tables_of(folder: Path) -> dict[str, Any]:
    """Return what a study found, without what a clock said."""
    plain = json.loads((folder / SUMMARY).read_text())
    assert plain.pop("measured").keys() == plain["runs"].keys()
    return {"json": plain, "csv": (folder / "study.csv").read_text()}


def no_pictures(*arguments: Any) -> None:
    """Draw nothing, which takes longer than all else here."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_show_pictures", no_pictures)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that nothing has disturbed, in the folder ``study``."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(loop, "_show_pictures", no_pictures)
        outcome = run_study(STUDY, "study", progress=False)
    assert outcome.exit_code == 0 and not outcome.summary.missing
    return folder / "study"


def test_the_numbers_are_those_of_evaluate(whole: Path) -> None:
    summary = read_summary(whole)
    data = load_data("moving_digits", None, "test", context=2, horizon=2, settings=SETTINGS["data"]["settings"])
    found: dict[str, dict[int, float]] = {"narrow": {}, "wide": {}}
    alone: dict[str, list[Any]] = {"narrow": [], "wide": []}
    for name, (variant, seed) in STUDY.runs.items():
        scores = evaluate([whole / name], data, scores=["mse"], limit=8, baselines=True)
        found[variant][seed] = scores.scores[name]["mse"]["mean"]
        alone[variant].append(scores.per_clip[name]["mse"])
        assert summary.baselines == {
            "persistence": {"mse": scores.scores["persistence"]["mse"]["mean"], "ssim": pytest.approx(0.8, abs=0.2)}
        }
    for variant, by_seed in found.items():
        assert summary.variants[variant]["scores"]["mse"]["seeds"] == {str(seed): value for seed, value in by_seed.items()}
        assert summary.variants[variant]["scores"]["mse"]["mean"] == pytest.approx(sum(by_seed.values()) / 2)
    (pair,) = summary.comparisons
    difference = pair["scores"]["mse"]
    assert (pair["variant"], pair["against"]) == ("wide", "narrow")
    assert difference["seeds"] == {str(seed): found["wide"][seed] - found["narrow"][seed] for seed in (0, 1)}
    assert difference["mean"] == pytest.approx(float(np.mean(alone["wide"]) - np.mean(alone["narrow"])), rel=1e-5)
    assert difference["clips_low"] < difference["mean"] < difference["clips_high"]


def test_what_it_cost_is_told(whole: Path) -> None:
    summary = read_summary(whole)
    narrow, wide = (summary.variants[name] for name in ("narrow", "wide"))
    # Gates of x, of 64 values a patch, and of h, each 3 x 3, and the readout; once for each of 3 steps on 4 x 4 places.
    gates, readout = (64 + 4) * 4 * 4 * 9, 4 * 64
    assert narrow["weights"] == gates + readout and narrow["multiply_adds"] == 3 * 16 * (gates + readout)
    assert wide["weights"] > narrow["weights"] and (wide["steps"], wide["batch_size"]) == (6, 2)
    assert all(took["processor"] > 0 and took["clock"] > 0 for took in summary.measured.values())
    assert wide["settings"] == {"network.hidden": [6]}


def test_runs_of_one_seed_see_the_same_clips(whole: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: dict[str, list[bytes]] = {}
    take: Callable[..., Any] = loop.take_step

    def watch(work: Any, state: Any, batch: Any, *further: Any) -> Any:
        seen.setdefault(work.settings.run.folder, []).append(batch.frames.numpy().tobytes())
        return take(work, state, batch, *further)

    monkeypatch.setattr(loop, "take_step", watch)
    run_study(STUDY, tmp_path / "study", progress=False)
    clips = {Path(folder).name: films for folder, films in seen.items()}
    assert clips["narrow-0"] == clips["wide-0"] != clips["narrow-1"] == clips["wide-1"]
    assert tables_of(tmp_path / "study")["json"]["variants"] == tables_of(whole)["json"]["variants"]


def test_killed_and_started_again_it_finds_the_same(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What dies as a killed process does leaves the checkpoints that there are; the second time it is asked to stop, and saves."""
    monkeypatch.chdir(tmp_path)
    take: Callable[..., Any] = loop.take_step
    taken: list[int] = []

    def take_and_stop(*arguments: Any) -> Any:
        taken.append(1)
        if len(taken) == 9:
            raise InterruptedError("killed")
        if len(taken) == 20:
            os.kill(os.getpid(), signal.SIGTERM)
        return take(*arguments)

    monkeypatch.setattr(loop, "take_step", take_and_stop)
    with pytest.raises(InterruptedError):
        run_study(STUDY, "study", progress=False)
    outcome = run_study(load_study("study"), "study", progress=False)
    assert outcome.exit_code == 75 and outcome.summary.missing == ("wide-1",)
    assert run_study(load_study("study"), "study", progress=False).exit_code == 0
    assert len(taken) < 2 * 24, "what was done is not done again"
    assert tables_of(Path("study")) == tables_of(whole)


def test_a_study_that_is_whole_is_left_alone(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(whole, tmp_path / "study")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loop, "take_step", None)
    written = {path: path.stat().st_mtime_ns for path in Path("study/scores").iterdir()}
    assert run_study(STUDY, "study", progress=False).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in Path("study/scores").iterdir()} == written
    assert tables_of(Path("study")) == tables_of(whole)


def test_other_scores_are_taken_of_the_same_runs(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(whole, tmp_path / "study")
    monkeypatch.setattr(loop, "take_step", None)
    study = load_study(tmp_path / "study", ["--score.clips=5", "--score.scores=[mae]"])
    summary = run_study(study, tmp_path / "study", progress=False).summary
    assert summary.data["clips"] == 5 and summary.score_names == ("mae",) and summary.baselines.keys() == {"persistence"}


def test_a_run_that_another_process_works_on_is_left_to_it(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "study")
    (tmp_path / "study/scores/wide-1.json").unlink()
    hold = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", hold, str(tmp_path / "study/.wide-1.lock")]
    assert fcntl.LOCK_EX  # POSIX's lock is a process's, so that another one is needed
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        said: list[str] = []
        outcome = run_study(STUDY, tmp_path / "study", progress=False, say=said.append)
        other.communicate("")
    assert outcome.exit_code == 75 and outcome.summary.missing == ("wide-1",) and "other processes work on wide-1" in said[-1]
    assert run_study(STUDY, tmp_path / "study", progress=False).exit_code == 0


def test_a_run_that_fails_does_not_end_the_others(tmp_path: Path) -> None:
    study = Study(
        settings=SETTINGS,
        variants={"wild": {"optimizer": {"name": "sgd", "learning_rate": 1e30}, "trainer": {"max_steps": 16}}, "tame": {}},
        seeds=(0,),
        score=STUDY.score,
    )
    with pytest.raises(UserError, match=r"1 of 2 runs failed, .* wild-0: 10 steps in a row"):
        run_study(study, tmp_path / "study", progress=False)
    summary = read_summary(tmp_path / "study")
    assert summary.missing == ("wild-0",) and summary.runs["wild-0"]["state"] in ("failed", "interrupted")
    assert summary.variants["tame"]["scores"]["mse"]["mean"] > 0 and any("trainer.max_steps" in words for words in summary.warnings)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"score": Scoring(split="tset")}, "no split 'tset'"),
        ({"score": Scoring(clips=13)}, "score.clips is 13, and the split 'test' of 'moving_digits' has 12 clips"),
        ({"score": Scoring(scores=("mes",))}, "mes"),
        ({"score": Scoring(baselines=("persistance",))}, "did you mean 'persistence'"),
        ({"variants": {"plain": {}, "odd": {"network": {"hiden": [2]}}}}, "Variant 'odd' of the study 'study': .*'network.hiden'"),
        ({"variants": {"two": {"trainer": {"devices": 2}}}}, "trainer.devices above 1"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(changes: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    study = Study(**{"settings": SETTINGS, "variants": STUDY.variants, **changes})
    with pytest.raises(UserError, match=sentence):
        run_study(study, tmp_path / "study", progress=False)
    assert not (tmp_path / "study").exists()


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("Dear")
    with pytest.raises(UserError, match="holds something else than a study"):
        run_study(STUDY, tmp_path, progress=False)
    assert not is_study(tmp_path)
    with pytest.raises(UserError, match="holds no study of which a run is scored"):
        read_summary(tmp_path)
    parts = {"question": "", "data": {}, "variants": {}, "baselines": {}, "comparisons": [], "runs": {"../x-0": {}}, "measured": {}}
    (tmp_path / SUMMARY).write_text(json.dumps(parts))
    with pytest.raises(UserError, match="a run lies outside its folder"):
        read_summary(tmp_path)
    (tmp_path / SUMMARY).write_text('{"name": "x"}')
    with pytest.raises(UserError, match="no whole summary of a study"):
        read_summary(tmp_path)


def test_tables_say_what_was_found(whole: Path) -> None:
    summary = read_summary(whole)
    scores, over_seeds, over_clips, costs = sheets(summary)
    assert list(scores.rows) == ["narrow", "wide", "persistence"] and scores.breaks == ["persistence"]
    assert sum(cells[0].bold for cells in scores.rows.values()) == 1
    assert list(over_seeds.rows) == list(over_clips.rows) == ["wide - narrow"]
    assert costs.rows["wide"][0].number == str(summary.variants["wide"]["weights"])
    text = markdown(summary)
    assert "Is a wide one better?" in text and "stpredict train study/wide-1/config.yaml --run.folder=again/wide-1" in text
    assert "stpredict evaluate study/narrow-0 --data moving_digits --split test --limit 8 --score mse ssim --no-baselines" in text
