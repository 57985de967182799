"""All runs below a folder: what their rows and groups say is what was trained, and a broken one is a row."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from stpredict.cli.main import main
from stpredict.errors import UserError
from stpredict.predictor import load_predictor
from stpredict.training import make_settings, train
from stpredict.training.overview import Overview, RunRow, survey_runs

TINY: dict[str, Any] = {
    "data": {
        "card": "moving_digits",
        "context": 3,
        "horizon": 2,
        "batch_size": 2,
        "workers": 0,
        "settings": {"digits": 1, "size": 32, "validation_clips": 2},
    },
    "network": {"name": "convlstm", "hidden": [4], "kernel_size": 3, "patch_size": 4},
    "trainer": {"max_steps": 2, "validate_every": 1, "checkpoint_every": 1, "log_every": 1, "device": "cpu", "threads": 1},
}

HOLDER = """
import sys
from pathlib import Path
from stpredict.training import Run
with Run(Path(sys.argv[1])).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


def tiny(folder: Path, **changes: Any) -> dict[str, Any]:
    network = {**TINY["network"], **changes.pop("network", {})}
    return {**TINY, "network": network, **changes, "run": {"folder": str(folder)}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds of one experiment, one of them among folders, and one run of another experiment."""
    folder = tmp_path_factory.mktemp("all") / "runs"
    (folder / "more").mkdir(parents=True)
    for name, changes in {
        "a-2": {"seed": 0},
        "a-10": {"seed": 1},
        "more/a-3": {"seed": 2},
        "wide": {"network": {"hidden": [6]}},
    }.items():
        assert train(make_settings(tiny(folder / name, **changes)), progress=False).exit_code == 0
    return folder


@pytest.fixture
def copied(runs: Path, tmp_path: Path) -> Path:
    """One run, to be changed."""
    shutil.copytree(runs / "a-2", tmp_path / "runs" / "a-2")
    return tmp_path / "runs" / "a-2"


def log_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open() as file:
        return list(csv.DictReader(file))


def names(overview: Overview) -> list[str]:
    return [run.name for run in overview.runs]


def only(folder: Path) -> RunRow:
    (run,) = survey_runs(folder).runs
    return run


def test_a_row_says_what_the_run_wrote(runs: Path) -> None:
    overview = survey_runs(runs)
    assert names(overview) == ["a-2", "a-10", "more/a-3", "wide"]
    for run in overview.runs:
        rows, best = log_of(runs / run.name), load_predictor(runs / run.name)
        assert (run.network, run.data, run.state, run.step, run.max_steps) == ("convlstm", "moving_digits", "done", 2, 2)
        assert run.best == best.provenance["validation_mse"] == min(float(row["validation_mse"]) for row in rows)
        assert run.best_step == best.provenance["step"]
        assert (run.loss, run.seconds) == (float(rows[-1]["loss"]), float(rows[-1]["seconds"]))
        assert run.problem == ""
    assert [run.config["seed"] for run in overview.runs] == [0, 1, 2, 0]
    assert overview.differing == ("network.hidden", "seed")


def test_runs_that_differ_by_their_seed_are_grouped(runs: Path) -> None:
    overview = survey_runs(runs)
    (group,) = overview.groups
    assert (group.runs, group.seeds) == (("a-2", "a-10", "more/a-3"), (0, 1, 2))
    scores = [min(float(row["validation_mse"]) for row in log_of(runs / name)) for name in group.runs]
    mean = (scores[0] + scores[1] + scores[2]) / 3
    assert len(set(scores)) == 3
    assert group.mean == pytest.approx(mean, rel=1e-12)
    assert group.deviation == pytest.approx(math.sqrt(sum((score - mean) ** 2 for score in scores) / 2), rel=1e-9)


def test_a_seed_that_was_run_twice_counts_once_and_where_it_ran_is_no_difference(copied: Path) -> None:
    config = (copied / "config.yaml").read_text()
    for name, old, new in [("twin", "keep: 2", "keep: 3"), ("other", "seed: 0", "seed: 5")]:
        shutil.copytree(copied, copied.parent / name)
        assert old in config
        (copied.parent / name / "config.yaml").write_text(config.replace(old, new))
    long_ago = time.time() - 3600
    for path in copied.iterdir():
        os.utime(path, (long_ago, long_ago))
    overview = survey_runs(copied.parent)
    assert {run.name: run.age is not None and run.age > 3599 for run in overview.runs} == {"a-2": True, "other": False, "twin": False}
    (group,) = overview.groups
    assert (set(group.runs), set(group.seeds), group.deviation) == ({"twin", "other"}, {0, 5}, 0.0)
    (copied.parent / "other" / "done").unlink()
    assert survey_runs(copied.parent).groups == ()


def test_the_state_is_read_from_what_is_there(copied: Path) -> None:
    assert only(copied).state == "done"
    (copied / "done").unlink()
    assert only(copied).state == "interrupted"
    with (copied / "log.csv").open("a") as file:
        file.write(",".join("3" if name == "step" else "0.5" for name in log_of(copied)[0]) + "\n3,0.")
    failed = only(copied)
    assert (failed.state, failed.step, failed.loss) == ("failed", 3, 0.5)
    shutil.rmtree(copied / "checkpoints")
    for name in ("last.safetensors", "best.safetensors"):
        (copied / name).unlink()
    assert (only(copied).state, only(copied).problem) == ("failed", "")
    (copied / "log.csv").unlink()
    assert (only(copied).state, only(copied).step, only(copied).best) == ("new", 0, None)


def test_a_run_that_a_process_holds_is_running_and_stays_held(copied: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(copied)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        assert [only(copied).state for _ in range(3)] == ["running"] * 3
        holder.communicate("")
    assert holder.returncode == 0
    assert only(copied).state == "done"


@pytest.mark.parametrize(
    ("name", "content", "state", "problem"),
    [
        ("config.yaml", None, "broken", "No such file"),
        ("config.yaml", b"seed: [", "broken", "config.yaml, line 1, is no YAML"),
        ("config.yaml", b"\xff\x00", "broken", "is no YAML"),
        ("config.yaml", b"network: 3\nold: true\n", "done", "network wants a section of keys"),
        ("log.csv", b"step,loss\nx,y\n", "done", "log.csv is no log of a run: ValueError"),
        ("log.csv", b"step,loss\n1,2,3\n", "done", "log.csv is no log of a run"),
        ("log.csv", b"\xff\xfe\n", "done", "log.csv is no log of a run"),
        ("best.safetensors", b"cut", "done", "best.safetensors is no whole predictor file"),
        ("last.safetensors", b"", "done", "last.safetensors is no whole predictor file"),
    ],
)
def test_a_broken_run_is_a_row_that_says_why(copied: Path, name: str, content: bytes | None, state: str, problem: str) -> None:
    (copied / name).unlink()
    if content is not None:
        (copied / name).write_bytes(content)
    run = only(copied)
    assert run.state == state
    assert problem in run.problem
    assert main(["runs", str(copied)]) == 0


def test_a_best_file_that_is_broken_leaves_the_score_of_the_log(copied: Path) -> None:
    before = only(copied)
    (copied / "best.safetensors").write_bytes(b"cut")
    assert (only(copied).best, only(copied).best_step) == (before.best, before.best_step)


def test_sorting_takes_columns_and_keys(runs: Path) -> None:
    overview = survey_runs(runs)
    scores = {run.name: run.best for run in overview.runs}
    assert names(overview.sorted_by("best")) == sorted(scores, key=lambda name: scores[name] or 0.0)
    assert names(overview.sorted_by("seed")) == ["a-2", "wide", "a-10", "more/a-3"]
    with pytest.raises(UserError, match=r"There is no 'network.hiden' to sort runs by; did you mean 'network.hidden'"):
        overview.sorted_by("network.hiden")


def test_the_command_tells_it_to_people_and_to_programs(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(runs, tmp_path / "runs")
    log = tmp_path / "runs" / "wide" / "log.csv"
    rows = log_of(log.parent)
    log.write_text(log.read_text().replace(rows[-1]["loss"], "nan"))
    assert main(["runs", str(tmp_path / "runs"), "--sort", "seed", "--json", str(tmp_path / "all.json")]) == 0
    shown = capsys.readouterr().out
    told = json.loads((tmp_path / "all.json").read_text())
    assert [run["name"] for run in told["runs"]] == ["a-2", "wide", "a-10", "more/a-3"]
    assert told["runs"][1]["loss"] == "nan"
    (group,) = told["groups"]
    assert f"{group['mean']:.6g}" in shown and f"{group['deviation']:.2g}" in shown
    for run in told["runs"]:
        line = next(line for line in shown.splitlines() if f" {run['name']} " in line)
        assert f"{run['best']:.6g}" in line and "2 of 2" in line and str(run["config"]["network.hidden"]) in line


def test_more_keys_than_fit_are_named_below(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(copied, copied.parent / "b")
    config = (copied / "config.yaml").read_text()
    changes = {"keep: 2": "keep: 3", "log_every: 1": "log_every: 7", "workers: 0": "workers: 1", "batch_size: 2": "batch_size: 3"}
    changes |= {"seed: 0": "seed: 4", "context: 3": "context: 4", "horizon: 2": "horizon: 1", "momentum: 0.0": "momentum: 0.5"}
    for old, new in changes.items():
        assert old in config
        config = config.replace(old, new)
    (copied.parent / "b" / "config.yaml").write_text(config)
    assert len(survey_runs(copied.parent).differing) == 8
    assert main(["runs", str(copied.parent)]) == 0
    assert "2 more differ: optimizer.momentum, seed" in capsys.readouterr().out


def test_no_folder_is_a_mistake_and_an_empty_one_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(tmp_path / "nothing")]) == 2
    assert "There is no folder" in capsys.readouterr().err
    assert main(["runs", str(tmp_path)]) == 0
    assert "There are no runs below" in capsys.readouterr().out


def test_links_are_followed_once(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "here").symlink_to(runs / "wide")
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "up").symlink_to(tmp_path)
    assert names(survey_runs(tmp_path)) == ["here"]
