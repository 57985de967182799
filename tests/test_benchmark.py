"""Each benchmark at a tiny size: it says what it measured, and its figures agree with one another. No time is asserted."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import platform
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import stpredict
from stpredict.metrics import SCORES

ROOT = Path(__file__).resolve().parents[1]
Measure = Callable[..., list[dict[str, Any]]]
SMALL_NETWORK = ["--hidden", "4", "4", "--kernel-size", "3", "--patch-size", "4", "--size", "16", "--context", "2", "--horizon", "3"]


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"loaded_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load(ROOT / "tools" / "benchmark.py")


@pytest.fixture
def measure(benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Measure:
    """Run a benchmark as from the shell; return the rows of its JSON."""

    def run(name: str, *words: str) -> list[dict[str, Any]]:
        out = tmp_path / f"{name}.json"
        assert benchmark.main([name, "--repeats", "2", "--threads", "1", "--out", str(out), *words]) == 0
        result = json.loads(out.read_text())
        assert list(result) == ["benchmark", "machine", "rows"] and result["benchmark"] == name
        machine = result["machine"]
        assert list(machine) == ["cpu", "cores", "threads", "python", "torch", "numpy", "stpredict"]
        facts = (1, os.cpu_count(), platform.python_version(), torch.__version__, stpredict.__version__)
        assert tuple(machine[key] for key in ("threads", "cores", "python", "torch", "stpredict")) == facts
        assert machine["cpu"]
        rows: list[dict[str, Any]] = result["rows"]
        assert rows, "nothing was measured"
        for row in rows:
            assert math.isfinite(row["seconds"]) and row["seconds"] > 0
        told = " ".join(capsys.readouterr().out.split())
        assert name in told and f"torch {torch.__version__}" in told
        return rows

    return run


def test_data(measure: Measure, tmp_path: Path) -> None:
    load(ROOT / "datasets" / "generators" / "knmi.py").write_sample(tmp_path / "radar", frames=92)
    rows = measure("data", "--clips", "20", "--knmi", str(tmp_path / "radar"))
    assert [(row["name"], row["frame"], row["clips"], row["epoch_clips"]) for row in rows] == [
        ("moving_digits", "1 x 64 x 64", 2, 20),
        ("knmi", "1 x 32 x 28", 2, 20),
    ]
    for row, frames in zip(rows, (20, 12), strict=True):
        assert row["clips_per_second"] == pytest.approx(row["clips"] / row["seconds"])
        assert row["frames_per_second"] == pytest.approx(frames * row["clips_per_second"])
        if Path("/proc/self/statm").is_file():
            assert abs(row["memory_growth_mib"]) < 500


def test_loader(measure: Measure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = tmp_path / "small.yaml"
    small.write_text("base: demo\nnetwork: {hidden: [4]}\ndata: {batch_size: 2, workers: 1}\n")
    monkeypatch.chdir(tmp_path)
    (row,) = measure("loader", "--config", str(small), "moving_mnist/predrnn", "--steps", "6")
    assert (row["name"], row["batch_size"], row["workers"]) == (str(small), 2, 1)
    assert 0 <= row["waiting_seconds"] <= row["seconds"]
    assert row["waiting_share"] == pytest.approx(row["waiting_seconds"] / row["seconds"])
    assert not (tmp_path / "runs").exists(), "it leaves no run behind"


def test_step(measure: Measure) -> None:
    rows = measure("step", *SMALL_NETWORK, "--batch-size", "2")
    check_network_rows(rows)
    assert [(row["name"], row["batch_size"]) for row in rows] == [(name, 2) for name in stpredict.list_networks()]


def test_inference(measure: Measure) -> None:
    rows = measure("inference", *SMALL_NETWORK, "--batch-size", "3", "--network", "predrnn")
    check_network_rows(rows)
    assert [(row["name"], row["batch_size"]) for row in rows] == [("predrnn", 1), ("predrnn", 3)]


def check_network_rows(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        settings = {"hidden": [4, 32], "layers": [4, 8], "context": 2} if row["name"] == "simvp" else {"hidden": [4, 4], "patch_size": 4}
        network = stpredict.create_network(row["name"], channels=1, kernel_size=3, **settings)
        assert row["parameters"] == sum(weight.numel() for weight in network.parameters())
        assert (row["hidden"], row["size"], row["frames"]) == ("4 4", 16, "2 + 3")
        assert row["clips_per_second"] == pytest.approx(row["batch_size"] / row["seconds"])


def test_evaluation(measure: Measure) -> None:
    rows = measure("evaluation", "--size", "16", "--horizon", "3", "--batch-size", "2")
    assert [row["name"] for row in rows] == [*SCORES, "all"]
    for row in rows:
        assert row["frames"] == 6
        assert row["frames_per_second"] == pytest.approx(6 / row["seconds"])


def test_rendering(measure: Measure) -> None:
    rows = measure("rendering", "--size", "16", "--horizon", "3", "--panels", "2")
    assert [row["name"] for row in rows] == ["mp4", "gif", "png"]
    for row in rows:
        assert (row["panels"], row["frames"]) == (2, 3) and row["bytes"] > 100
        assert row["panel_frames_per_second"] == pytest.approx(6 / row["seconds"])


def test_startup(measure: Measure) -> None:
    (row,) = measure("startup")
    assert row["runs"] == 2
    assert 0 < row["best_seconds"] <= row["seconds"]


def test_the_median_is_of_warm_runs(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock of our own: the first run, which does not count, takes 100 s; then 3, 1 and 2 s."""
    clock, lasting = [0.0], iter([100.0, 3.0, 1.0, 2.0])

    def work() -> None:
        clock[0] += next(lasting)

    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: clock[0])
    assert benchmark.median_seconds(work, 3) == 2.0
