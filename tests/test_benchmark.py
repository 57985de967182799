"""Each benchmark at a tiny size: it says what it measured, and its figures agree with one another. No time is asserted."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import stpredict
from stpredict import kernels
from stpredict.costs import measure_costs
from stpredict.errors import UserError
from stpredict.processes import Processes
from stpredict.training import load_settings
from stpredict.training.work import make_work

ROOT = Path(__file__).resolve().parents[1]
Measure = Callable[..., list[dict[str, Any]]]
SMALL_NETWORK = ["--hidden", "4", "4", "--kernel-size", "3", "--patch-size", "4", "--size", "16", "--context", "2", "--horizon", "3"]


@pytest.fixture(scope="module", autouse=True)
def tools() -> Iterator[None]:
    """Where Python finds the modules of the command, as if tools/benchmark.py had been called; processes that it starts inherit it."""
    sys.path.insert(0, str(ROOT / "tools"))
    from benchmarks import peak

    peak._LONG_ENOUGH = 0.0  # the machine's peak is not what is tested, so the first product is large enough
    yield
    sys.path.remove(str(ROOT / "tools"))


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"loaded_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def benchmark(tools: None) -> ModuleType:
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
        assert list(machine) == ["cpu", "gpu", "cores", "threads", "python", "torch", "numpy", "stpredict"]
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


FORECAST_COLUMNS = ["name", "parameters", "precision", "kernels", "batch_size", "frames", "frame"]
FIGURES = ["seconds", "clips_per_second", "tflops", "share_of_peak", "intensity", "activation_mib", "peak_mib"]
STEP_COLUMNS = [*FORECAST_COLUMNS, "recompute", *FIGURES]
SMALL_CONFIG = "base: moving_mnist/convlstm\nnetwork: {hidden: [64, 64], kernel_size: 3}\ndata: {batch_size: 2, reversed_pass: true}\n"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A config whose activations, over 20 frames, are many times as large as its weights."""
    (tmp_path / "small.yaml").write_text(SMALL_CONFIG)
    return tmp_path / "small.yaml"


def saved_mib(settings: Any) -> float:
    """Return the size of what autograd keeps of a forward pass besides the weights: each storage once."""
    work = make_work(settings, Processes())
    weights = {weight.untyped_storage().data_ptr() for weight in work.network.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage  # held, so that no other takes its place
        return tensor

    data = settings.data
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        predictions, _ = work.along(torch.rand(data.batch_size, data.context + data.horizon, 1, 64, 64), data.context, data.horizon)
    assert predictions.requires_grad
    return sum(storage.nbytes() for storage in kept.values()) / 2**20


def peak_rate(precision: Any) -> float:
    """Return the peak that the benchmark measured in this process."""
    from benchmarks.peak import product_peak

    return product_peak(torch.device("cpu"), precision).rate


def here(measure: Callable[[Any, int], dict[str, Any]], settings: Any, repeats: int) -> dict[str, Any]:
    """Measure in this process, which is quicker."""
    return measure(settings, repeats)


@pytest.mark.first
def test_step_of_a_config(measure: Measure, small: Path) -> None:
    words = ["--precision", "fp32", "bf16", "--recompute", "off", "on", "--kernels", "reference", "--device", "cpu", "--repeats", "1"]
    rows = measure("step", "--config", str(small), *words)
    assert [(row["precision"], row["recompute"]) for row in rows] == [("fp32", "off"), ("fp32", "on"), ("bf16", "off"), ("bf16", "on")]
    network = stpredict.create_network("convlstm", channels=1, hidden=[64, 64], kernel_size=3, patch_size=4, norm="none")
    multiply_adds = measure_costs(network, (1, 64, 64), 10, 10).multiply_adds
    for row in rows:
        assert list(row) == STEP_COLUMNS
        assert (row["name"], row["batch_size"], row["frames"], row["frame"]) == (str(small), 2, "10 + 10", "1 x 64 x 64")
        assert row["kernels"] == "reference"
        assert row["parameters"] == sum(weight.numel() for weight in network.parameters())
        assert row["clips_per_second"] == pytest.approx(2 / row["seconds"])
        assert row["tflops"] == pytest.approx(6 * multiply_adds * row["clips_per_second"] / 1e12)
        assert row["share_of_peak"] == pytest.approx(row["tflops"] * 1e12 / peak_rate(row["precision"]))
    if not Path("/proc/self/clear_refs").exists():
        return
    taken = {(row["precision"], row["recompute"]): row["activation_mib"] for row in rows}
    from benchmarks.noise import with_noise

    settings = load_settings(small)
    trainer = replace(settings.trainer, validate_every=0, device="cpu", kernels="reference")
    kept = saved_mib(replace(settings, data=with_noise(settings.data), trainer=trainer))
    assert kept > 20
    assert kept < taken["fp32", "off"] < 2.0 * kept
    assert taken["fp32", "on"] < 0.8 * taken["fp32", "off"]  # about half of it, give or take pages
    assert taken["bf16", "off"] < 0.9 * taken["fp32", "off"]
    assert all(row["peak_mib"] > row["activation_mib"] > 0 for row in rows)


def test_step_of_every_network(benchmark: ModuleType, measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that does not let a process forget its peak."""
    from benchmarks import figures, memory

    monkeypatch.setattr(figures, "apart", here)
    monkeypatch.setattr(memory, "_CLEAR", Path("/proc/self/no_such_file"))
    rows = measure("step", *SMALL_NETWORK, "--batch-size", "2", "--device", "cpu")
    assert [(row["name"], row["batch_size"], row["frame"]) for row in rows] == [
        (name, 2, "1 x 16 x 16") for name in stpredict.list_networks()
    ]
    for row in rows:
        assert list(row) == STEP_COLUMNS
        assert (row["parameters"], row["frames"]) == (count_weights(row["name"]), "2 + 3")
        assert row["activation_mib"] is None and row["peak_mib"] > 50
        assert row["tflops"] > 0 and row["intensity"] > 0


def test_a_step_for_which_memory_does_not_suffice_has_no_figures(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, small: Path, tmp_path: Path
) -> None:
    from benchmarks import figures

    def fail(measure: object, settings: Any, repeats: int) -> dict[str, Any]:
        if settings.trainer.precision == "fp32":
            raise torch.OutOfMemoryError("too little")
        return dict.fromkeys(("parameters", *FIGURES), 1.0)

    monkeypatch.setattr(figures, "apart", fail)
    out = tmp_path / "step.json"
    assert benchmark.main(["step", "--config", str(small), "--precision", "fp32", "bf16", "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["precision"] for row in rows] == ["fp32", "bf16"]
    assert [row["seconds"] for row in rows] == [None, 1.0]
    assert all(list(row) == STEP_COLUMNS for row in rows)


def test_the_clips_of_every_config_have_a_size_without_their_files(benchmark: ModuleType) -> None:
    from benchmarks.cases import names_of_configs
    from benchmarks.noise import with_noise

    sizes = {}
    for name in names_of_configs(["all"]):
        data = load_settings(name).data
        if data.card in ("moving_rain", "sevir"):
            with pytest.raises(UserError, match="--size"):
                with_noise(data)
        noise = with_noise(data, 64 if data.card in ("moving_rain", "sevir") else None)
        clips = stpredict.load_data(noise.card, **noise.window())
        assert clips[3].frames.shape == (clips.context + clips.horizon, *clips.spec.shape)
        sizes[name] = (clips.context, clips.horizon, clips.spec.shape)
        if data.card == "moving_digits":
            known = stpredict.load_data(data.card, **data.window())
            assert sizes[name] == (known.context, known.horizon, known.spec.shape)
    assert sizes["moving_mnist/predrnn"] == (10, 10, (1, 64, 64))
    assert sizes["knmi/predrnn"] == (6, 6, (1, 128, 128))
    assert sizes["meteoswiss/predrnn"] == (3, 6, (1, 192, 192)), "a step sees a random crop"
    assert sizes["video"] == (10, 10, (1, 64, 64))
    assert names_of_configs(["moving_mnist", "demo"]) == [*(name for name in sizes if name.startswith("moving_mnist/")), "demo"]
    assert with_noise(load_settings("video", ["--data.settings.colour=true"]).data, 32).settings == {
        "channels": 3,
        "height": 32,
        "width": 32,
    }


def test_a_step_of_a_config_is_one_update_along_the_whole_horizon(benchmark: ModuleType, small: Path) -> None:
    from benchmarks.cases import asked

    small.write_text(f"{SMALL_CONFIG}sampling: {{first_horizon: 1, grown_at: 100}}\n")
    words = ["step", "--config", str(small), "--horizon", "7", "--precision", "fp16", "--recompute", "on", "--threads", "1"]
    words += ["--kernels", "reference"]
    (settings,) = asked(benchmark._parser().parse_args(words))
    assert not settings.data.reversed_pass
    assert (settings.data.context, settings.data.horizon, settings.data.batch_size) == (10, 7, 2)
    assert not {"first_horizon", "grown_at"} & set(settings.sampling) and settings.sampling["name"] == "scheduled"
    assert (settings.trainer.precision, settings.trainer.recompute, settings.trainer.threads) == ("fp16", True, 1)
    assert settings.trainer.kernels == "reference"
    assert settings.network == {"name": "convlstm", "hidden": [64, 64], "kernel_size": 3, "patch_size": 4, "norm": "none"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--config", "demo", "--hidden", "4"], "leave --hidden out"),
        (["--config", "dmo"], "did you mean 'demo'"),
        (["--config", "unsized"], "--size N"),
        (["--device", "tpu"], "no device 'tpu'"),
    ],
)
def test_mistakes_in_a_sentence(benchmark: ModuleType, tmp_path: Path, words: list[str], sentence: str) -> None:
    (tmp_path / "unsized.yaml").write_text("base: video\ndata: {resize: null}\n")
    words = [str(tmp_path / "unsized.yaml") if word == "unsized" else word for word in words]
    with pytest.raises(SystemExit, match=sentence):
        benchmark.main(["step", *words])


def count_weights(name: str) -> int:
    stack: dict[str, Any] = {"hidden": [4, 4], "kernel_size": 3, "patch_size": 4}
    of_their_own: dict[str, dict[str, Any]] = {
        "simvp": {"hidden": [4, 32], "layers": [4, 8], "context": 2, "kernel_size": 3},
        "residual": {"of": {"name": "predrnn", **stack}},
    }
    network = stpredict.create_network(name, channels=1, **of_their_own.get(name, stack))
    return sum(weight.numel() for weight in network.parameters())


def test_inference(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import figures

    monkeypatch.setattr(figures, "apart", here)
    sizes = ["--batch-size", "3", "--network", "predrnn", "--device", "cpu"]
    rows = measure("inference", *SMALL_NETWORK, *sizes, "--precision", "bf16", "--kernels", "reference", "auto")
    names = {}
    for name in ("reference", "auto"):
        with kernels.using(name):
            names[name] = kernels.in_use()
    assert [(row["precision"], row["kernels"], row["batch_size"]) for row in rows] == [
        ("bf16", names[name], clips) for name in ("reference", "auto") for clips in (1, 3)
    ]
    network = stpredict.create_network("predrnn", channels=1, hidden=[4, 4], kernel_size=3, patch_size=4)
    operations = 2 * measure_costs(network.eval(), (1, 16, 16), 2, 3).multiply_adds
    for row in rows:
        assert list(row) == [*FORECAST_COLUMNS, *FIGURES]
        assert (row["name"], row["parameters"], row["frames"], row["frame"]) == (
            "predrnn",
            count_weights("predrnn"),
            "2 + 3",
            "1 x 16 x 16",
        )
        assert row["clips_per_second"] == pytest.approx(row["batch_size"] / row["seconds"])
        assert row["tflops"] * 1e12 == pytest.approx(operations * row["clips_per_second"])
        assert row["share_of_peak"] == pytest.approx(row["tflops"] * 1e12 / peak_rate(row["precision"]))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Only Linux tells by how much memory grew")
def test_a_forecast_keeps_nothing_for_gradients(measure: Measure, small: Path) -> None:
    from benchmarks.noise import with_noise

    (row,) = measure("inference", "--config", str(small), "--batch-size", "1", "--device", "cpu", "--repeats", "1")
    settings = load_settings(small, ["--data.batch_size=1"])
    kept = saved_mib(replace(settings, data=with_noise(settings.data), trainer=replace(settings.trainer, validate_every=0, device="cpu")))
    assert row["name"] == str(small) and row["batch_size"] == 1
    assert 10 * 64 * 64 * 4 / 2**20 < row["activation_mib"] < 0.5 * kept


def test_evaluation(measure: Measure) -> None:
    rows = measure("evaluation", "--size", "16", "--horizon", "3", "--batch-size", "2", "--radar-size", "24")
    assert rows[0]["name"] == "default"
    assert {row["size"] for row in rows} == {16, 24}
    assert {"mse", "protocol openstl", "fss"} <= {row["name"] for row in rows}
    for row in rows:
        assert row["frames"] == 6
        assert row["frames_per_second"] == pytest.approx(6 / row["seconds"])


def test_rendering(measure: Measure) -> None:
    rows = measure("rendering", "--size", "16", "--frames", "3", "--panels", "2")
    assert [row["name"] for row in rows] == ["mp4", "webm", "gif", "webp", "png", "bare"] * 2
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

    from benchmarks import timing

    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    assert timing.median_seconds(work, 3) == 2.0


def test_commands_in_the_text_on_performance_are_right(benchmark: ModuleType) -> None:
    lines = [line.split() for line in (ROOT / "PERFORMANCE.md").read_text().splitlines() if line.startswith("python tools/benchmark.py")]
    assert len(lines) >= 5
    for _, _, *words in lines:
        assert benchmark._parser().parse_args(words).benchmark == words[0]
