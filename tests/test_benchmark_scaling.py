"""Figures that benchmarks are compared with, how costs grow with sizes, and plots: beside closed forms. No time is asserted."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import stpredict
from stpredict.devices import autocast
from stpredict.kernels import using
from stpredict.unroll import Unroll

ROOT = Path(__file__).resolve().parents[1]
SIZES = [1.0, 2.0, 4.0, 8.0]


@pytest.fixture(scope="module", autouse=True)
def tools() -> Iterator[None]:
    """Where Python finds the modules of the command, as if tools/benchmark.py had been called."""
    sys.path.insert(0, str(ROOT / "tools"))
    from benchmarks import peak

    peak._LONG_ENOUGH, peak._COPIED = 0.0, 2**20  # what the machine can do is not what is tested
    yield
    sys.path.remove(str(ROOT / "tools"))


@pytest.fixture(scope="module")
def benchmark(tools: None) -> ModuleType:
    spec = importlib.util.spec_from_file_location("loaded_benchmark", ROOT / "tools" / "benchmark.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(benchmark: ModuleType, tmp_path: Path, *words: str) -> list[dict[str, Any]]:
    out = tmp_path / "figures.json"
    assert benchmark.main([*words, "--repeats", "1", "--threads", "1", "--out", str(out)]) == 0
    rows: list[dict[str, Any]] = json.loads(out.read_text())["rows"]
    return rows


def costly(settings: Any, exponent: float) -> dict[str, Any]:
    """Return the figures of a machine whose time is a power of all sizes, and whose memory is 5 MiB and then some for each pixel."""
    data = settings.data
    pixels = data.batch_size * (data.context + data.horizon) * data.settings["height"] * data.settings["width"]
    rates = {"clips_per_second": 1.0, "tflops": 1e-3, "share_of_peak": None, "intensity": 10.0}
    return {"parameters": 7, "seconds": 1e-6 * pixels**exponent, **rates, "activation_mib": 5.0 + 1e-3 * pixels, "peak_mib": 9.0}


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_law(exponent: float) -> None:
    from benchmarks.scaling import fit_growth

    growth = fit_growth(SIZES, [3.0 * size**exponent for size in SIZES])
    assert growth.exponent == pytest.approx(exponent)
    assert growth.is_linear == (exponent <= 1.0)


def test_a_line_with_a_fixed_part() -> None:
    from benchmarks.scaling import fit_growth

    costs = [2.0 + 5.0 * size for size in SIZES]
    growth = fit_growth(SIZES, costs)
    assert growth.line == pytest.approx(costs)
    assert 0.5 < growth.exponent < 1.0 and growth.is_linear


def test_the_line_nearest_to_what_is_none() -> None:
    """Squares have no fixed part; along ``b x`` the relative errors ``1 - b / x`` of 1, 2, 4 and 8 are least where b = S1 / S2."""
    from benchmarks.scaling import fit_growth

    inverse = np.reciprocal(SIZES)
    slope = inverse.sum() / (inverse**2).sum()
    growth = fit_growth(SIZES, [size**2 for size in SIZES])
    assert growth.line == pytest.approx([slope * size for size in SIZES])
    assert not growth.is_linear


def test_scaling(benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With made-up costs: each size is doubled alone, and the fits are those of the costs."""
    from benchmarks import figures, scaling

    def made_up(measure: object, settings: Any, repeats: int) -> dict[str, Any]:
        return costly(settings, 2.0 if measure is scaling.measure_step else 1.0)

    monkeypatch.setattr(figures, "apart", made_up)
    plot = tmp_path / "scaling.png"
    words = ["--network", "convlstm", "--context", "2", "--horizon", "3", "--size", "16", "--batch-size", "2", "--device", "cpu"]
    rows = run(benchmark, tmp_path, "scaling", *words, "--points", "3", "--plot", str(plot))
    expected = [
        ("frames", [5, 10, 20], ["2 + 3", "4 + 6", "8 + 12"], ["1 x 16 x 16"] * 3, [2, 2, 2]),
        ("pixels", [256, 512, 1024], ["2 + 3"] * 3, ["1 x 16 x 16", "1 x 16 x 32", "1 x 32 x 32"], [2, 2, 2]),
        ("clips", [2, 4, 8], ["2 + 3"] * 3, ["1 x 16 x 16"] * 3, [2, 4, 8]),
    ]
    points = [
        (work, along, *point) for work in ("step", "forecast") for along, *columns in expected for point in zip(*columns, strict=True)
    ]
    keys = ("work", "along", "size", "frames", "frame", "batch_size")
    assert [tuple(row[key] for key in keys) for row in rows] == points
    for row in rows:
        assert row["seconds_exponent"] == pytest.approx(2.0 if row["work"] == "step" else 1.0)
        assert row["seconds_linear"] == (row["work"] == "forecast")
        assert row["activation_mib_line"] == pytest.approx(row["activation_mib"]) and row["activation_mib_linear"]
        if row["work"] == "forecast":
            assert row["seconds_line"] == pytest.approx(row["seconds"])
    assert is_drawn(plot)


@pytest.mark.parametrize(("largest", "exponent"), [(2, None), (4, 1.0)])
def test_a_fit_of_the_points_for_which_memory_sufficed(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, largest: int, exponent: float | None
) -> None:
    """Two points are too few for one, three are not."""
    from benchmarks import figures

    def fail(measure: object, settings: Any, repeats: int) -> dict[str, Any]:
        if settings.data.batch_size > largest:
            raise torch.OutOfMemoryError("too little")
        return costly(settings, 1.0)

    monkeypatch.setattr(figures, "apart", fail)
    words = ["--config", "demo", "--batch-size", "1", "--work", "step", "--along", "clips", "--device", "cpu"]
    plot = tmp_path / "plot.png"
    rows = run(benchmark, tmp_path, "scaling", *words, "--plot", str(plot))
    assert [row["seconds"] is None for row in rows] == [size > largest for size in (1, 2, 4, 8)]
    assert [row["seconds_exponent"] for row in rows] == [exponent if exponent is None else pytest.approx(exponent)] * 4
    assert [row["seconds_line"] is None for row in rows] == [exponent is None or size > largest for size in (1, 2, 4, 8)]
    assert is_drawn(plot)


def test_mistakes_in_a_sentence(benchmark: ModuleType) -> None:
    for words, sentence in [
        (["scaling", "--points", "2"], "at least --points 3"),
        (["scaling", "--plot", "scaling.pdf"], r"to a \.png file"),
        (["inference", "--config", "demo", "--hidden", "4"], "leave --hidden out"),
    ]:
        with pytest.raises(SystemExit, match=sentence):
            benchmark.main(words)


def test_scaling_of_a_network(benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import figures

    monkeypatch.setattr(figures, "apart", lambda measure, settings, repeats: measure(settings, repeats))
    words = ["--network", "convlstm", "--hidden", "4", "--context", "1", "--horizon", "1", "--size", "8", "--batch-size", "1"]
    rows = run(benchmark, tmp_path, "scaling", *words, "--points", "3", "--along", "frames", "--work", "forecast", "--device", "cpu")
    assert [row["size"] for row in rows] == [2, 4, 8]
    assert all(row["seconds"] > 0 and np.isfinite(row["seconds_exponent"]) for row in rows)


def test_peak(benchmark: ModuleType, tmp_path: Path) -> None:
    products, copies = run(benchmark, tmp_path, "peak", "--precision", "fp32", "--device", "cpu")
    assert products["name"] == "fp32 products" and copies["name"] == "copies"
    assert products["gflops"] > 0 and products["gigabytes_per_second"] is None
    assert copies["gigabytes_per_second"] == pytest.approx(2 * 2**20 / copies["seconds"] / 1e9) and copies["gflops"] is None


def test_the_best_of_ever_larger_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """With made-up seconds: 1, 1.5 and 8 for 1, 2 and 4 operations; what takes longer than 5 is large enough."""
    from benchmarks import peak

    seconds = {1.0: 1.0, 2.0: 1.5, 4.0: 8.0}
    monkeypatch.setattr(peak, "_LONG_ENOUGH", 5.0)
    monkeypatch.setattr(peak, "_least_seconds", lambda work, device, tries: seconds[work()])

    def make(times: int, device: torch.device, dtype: torch.dtype) -> Any:
        return f"{times} operations", lambda: float(times), float(times)

    best = peak._grown(make, torch.device("cpu"), torch.float32, 1)
    assert best == peak.Peak("2 operations", 1.5, 2.0 / 1.5)


def test_the_operations_of_products() -> None:
    from benchmarks import peak
    from torch.utils.flop_counter import FlopCounterMode

    for make in (peak._matrices, lambda *sizes: peak._convolution(3, *sizes)):
        _, compute, operations = make(1, torch.device("cpu"), torch.float32)
        with FlopCounterMode(display=False) as counter:
            compute()
        assert counter.get_total_flops() == operations


def test_the_bytes_of_a_convolution_and_a_sum() -> None:
    from benchmarks.traffic import Traffic

    layer, frames = nn.Conv2d(2, 3, 3, padding=1), torch.rand(4, 2, 8, 8)
    with torch.no_grad(), Traffic() as traffic:
        made: Tensor = layer(frames).reshape(4, -1)
        made = made + 1.0
        assert made.device == frames.device
    weights, result = 3 * 2 * 9 + 3, 4 * 3 * 8 * 8
    assert traffic.moved == 4 * (frames.numel() + weights + result + 2 * result), "a view moves nothing"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_bytes_of_a_forecast_are_those_of_a_real_one(precision: Literal["fp32", "bf16"]) -> None:
    from benchmarks.traffic import Traffic, count_bytes

    network = stpredict.create_network("convlstm", channels=1, hidden=[4], kernel_size=3, patch_size=4).eval()
    with using("reference"), torch.no_grad():
        counted = count_bytes(network, (2, 2, 1, 16, 16), 3, precision)
        frames = torch.zeros(2, 2, 1, 16, 16)
        with Traffic() as traffic, autocast(torch.device("cpu"), precision):
            Unroll(network)(frames, 2, 3)
    assert counted == traffic.moved
    assert counted > sum(weight.nbytes for weight in network.parameters())


def test_roofline(benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import figures

    monkeypatch.setattr(figures, "apart", lambda measure, settings, repeats: costly(settings, 1.0))
    plot = tmp_path / "roofline.png"
    words = ["--network", "convlstm", "predrnn", "--precision", "fp32", "--device", "cpu", "--plot", str(plot)]
    rows = run(benchmark, tmp_path, "inference", *words)
    assert len(rows) == 4 and is_drawn(plot)


def test_a_plot_of_no_figures_is_empty(tmp_path: Path) -> None:
    from benchmarks.plotting import save_roofline

    row = {"name": "convlstm", "batch_size": 1, "precision": "fp32", "tflops": None, "intensity": None}
    assert is_drawn(save_roofline([row], {"fp32": 1e12}, 1e10, tmp_path / "roofline.png", "none"))


def is_drawn(path: Path) -> bool:
    """Whether a picture has more than one colour."""
    with Image.open(path) as picture:
        return picture.format == "PNG" and len(np.unique(np.asarray(picture.convert("L")))) > 10
