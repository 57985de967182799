"""Comparisons with another program, streams and imports, at tiny sizes: orders, counts and ratios. No time is asserted."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import stpredict
from stpredict.frames import FrameSpec
from stpredict.networks.contract import RecurrentNetwork, Step
from stpredict.predictor import Predictor

ROOT = Path(__file__).resolve().parents[1]
Measure = Callable[..., list[dict[str, Any]]]
SMALL = ["--hidden", "4", "4", "--kernel-size", "3", "--size", "16", "--context", "2", "--horizon", "3", "--device", "cpu"]

PEER = """
import torch

calls = []

def make(network, frame, context, horizon, settings):
    calls.append((network, frame, context, horizon, settings))
    module = torch.nn.Linear(7, 3)
    def loss(clips):
        assert module.training and 0 <= clips.min() and clips.max() <= 1
        calls.append(("loss", tuple(clips.shape)))
        return module(clips.mean().expand(7)).sum()
    def forecast(observed):
        assert not module.training and not torch.is_grad_enabled()
        calls.append(("forecast", tuple(observed.shape)))
        return observed[:, :1].expand(-1, horizon, -1, -1, -1)
    return module, loss, forecast
"""


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    """The command, and its modules where Python finds them."""
    sys.path.insert(0, str(ROOT / "tools"))
    spec = importlib.util.spec_from_file_location("loaded_benchmark_of_peers", ROOT / "tools" / "benchmark.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(ROOT / "tools"))


@pytest.fixture
def here(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure in this process, which is quicker, and looks at what happens."""
    from benchmarks import importing, peers, streaming

    for module in (importing, peers, streaming):
        monkeypatch.setattr(module, "apart", lambda measure, *arguments: measure(*arguments))


@pytest.fixture
def measure(benchmark: ModuleType, here: None, tmp_path: Path) -> Measure:
    def run(name: str, *words: str) -> list[dict[str, Any]]:
        out = tmp_path / f"{name}.json"
        assert benchmark.main([name, "--repeats", "1", "--threads", "1", "--out", str(out), *words]) == 0
        result = json.loads(out.read_text())
        assert result["benchmark"] == name and result["rows"]
        rows: list[dict[str, Any]] = result["rows"]
        assert all(list(row) == list(rows[0]) for row in rows)
        return rows

    return run


@pytest.fixture
def peer(tmp_path: Path) -> Path:
    (tmp_path / "toy.py").write_text(PEER)
    return tmp_path / "toy.py"


class Clock:
    """A clock that goes on when something says how long it takes; and who said so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from benchmarks import timing

        self.now, self.said = 0.0, ""
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def thing(self, name: str, *lasting: float) -> Callable[[], None]:
        each = iter(lasting)

        def take() -> None:
            self.said += name
            self.now += next(each)

        return take


def test_things_in_turns(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ratio is the median of the ratios, 4, 2 and 3, not the ratio of the medians, 12 / 5."""
    from benchmarks.interleaving import interleaved, median_of, median_ratio

    clock = Clock(monkeypatch)
    rounds = interleaved([clock.thing("A", 90, 8, 12, 15), clock.thing("B", 70, 2, 6, 5)], 3)
    assert clock.said == "ABABABAB"
    assert rounds == [(8, 2), (12, 6), (15, 5)]
    assert (median_of(rounds, 0), median_of(rounds, 1), median_ratio(rounds, 0, 1)) == (12, 5, 3)
    assert median_ratio(rounds, 1, 0) == pytest.approx(1 / 3)


def test_figures_of_given_times_and_sizes(benchmark: ModuleType, here: None, monkeypatch: pytest.MonkeyPatch, peer: Path) -> None:
    from benchmarks import peers
    from benchmarks.turns import Turn

    clock, cpu = Clock(monkeypatch), torch.device("cpu")
    monkeypatch.setattr(peers, "their_turn", lambda comparison: Turn(clock.thing("A", 90, 8, 12, 15), 70, cpu))
    monkeypatch.setattr(peers, "our_turn", lambda comparison: Turn(clock.thing("B", 70, 2, 6, 5), 50, cpu))
    monkeypatch.setattr(peers, "measure_memory", lambda turn_of, comparison: {peers.their_turn: 40.0, peers.our_turn: 10.0}[turn_of])
    words = ["peers", "--peer", str(peer), "--network", "predrnn", *SMALL, "--work", "step", "--repeats", "3"]
    (row,) = peers.peers(benchmark._parser().parse_args(words))
    assert clock.said == "ABABABAB"
    figures = {"peer_parameters": 70, "our_parameters": 50, "peer_seconds": 12, "our_seconds": 5, "ratio": 3}
    assert row == {**row, **figures, "peer_mib": 40.0, "our_mib": 10.0, "memory_ratio": 0.25}
    assert peers._compared(None, 10.0)["memory_ratio"] is None


def test_a_peer(measure: Measure, monkeypatch: pytest.MonkeyPatch, peer: Path) -> None:
    from benchmarks import memory

    monkeypatch.setattr(memory, "_CLEAR", Path("/proc/self/no_such_file"))
    words = ["--peer", str(peer), "--network", "predrnn", *SMALL, "--batch-size", "2"]
    rows = measure("peers", *words, "--kernels", "reference", "--figures", "time", "--set", "network.norm=channel", "loss.name=l1")
    assert [(row["name"], row["work"], row["batch_size"]) for row in rows] == [
        ("predrnn", "step", 2),
        ("predrnn", "forecast", 1),
        ("predrnn", "forecast", 2),
    ]
    network = stpredict.create_network("predrnn", channels=1, hidden=[4, 4], kernel_size=3, patch_size=4, norm="channel")
    for row in rows:
        assert (row["precision"], row["kernels"], row["recompute"]) == ("fp32", "reference", "off")
        assert (row["peer_parameters"], row["our_parameters"]) == (24, sum(weight.numel() for weight in network.parameters()))
        assert row["ratio"] == row["peer_seconds"] / row["our_seconds"] > 0
    asked, *observed = sys.modules["peer_toy"].calls
    settings = {"hidden": [4, 4], "kernel_size": 3, "patch_size": 4, "norm": "channel"}
    assert asked == ("predrnn", (1, 16, 16), 2, 3, settings)
    assert observed == [("forecast", (2, 2, 1, 16, 16))] * 2

    rows = measure("peers", *words, "--precision", "fp32", "bf16", "--recompute", "off", "on", "--work", "step")
    assert [(row["precision"], row["recompute"]) for row in rows] == [("fp32", "off"), ("fp32", "on"), ("bf16", "off"), ("bf16", "on")]
    assert [row["memory_ratio"] for row in rows] == [None] * 4, "this machine does not tell"
    assert [row for row in rows if row["ratio"] != row["peer_seconds"] / row["our_seconds"]] == []


def test_a_step_against_a_peers_step(measure: Measure, monkeypatch: pytest.MonkeyPatch, peer: Path) -> None:
    from benchmarks import turns

    def taken(*arguments: Any, **named: Any) -> Any:
        sys.modules["peer_toy"].calls.append("ours")
        return take_step(*arguments, **named)

    take_step = turns.take_step
    monkeypatch.setattr(turns, "take_step", taken)
    measure("peers", "--peer", str(peer), "--network", "convlstm", *SMALL, "--batch-size", "2", "--work", "step", "--figures", "time")
    asked, *calls = sys.modules["peer_toy"].calls
    assert asked[0] == "convlstm"
    assert calls == [("loss", (2, 5, 1, 16, 16)), "ours"] * 2


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="this system does not let a process forget its peak")
def test_memory_of_a_turn(benchmark: ModuleType, here: None, tmp_path: Path) -> None:
    """A peer whose loss holds 64 MiB, and one whose forecast does not."""
    from benchmarks import peers
    from benchmarks.turns import their_turn

    (tmp_path / "wide.py").write_text(PEER.replace("clips.mean()", "(clips.mean() + torch.zeros(2**24)).mean()"))
    words = ["peers", "--peer", str(tmp_path / "wide.py"), "--network", "predrnn", *SMALL, "--batch-size", "2"]
    step, _, forecast = peers._comparisons(benchmark._parser().parse_args(words))
    taken = peers.measure_memory(their_turn, step)
    assert taken is not None and 63 < taken < 150
    held = peers.measure_memory(their_turn, forecast)
    assert held is not None and held < 10


@pytest.mark.parametrize(
    ("text", "words", "sentence"),
    [
        ("def made(): ...", ["--network", "predrnn"], r"no function make\(network, frame, context, horizon, settings\)"),
        ("def make(*_): return 7", ["--network", "predrnn"], r"returns int, not \(module, loss, forecast\), for 'predrnn'"),
        (
            PEER.replace("horizon, -1, -1", "2, -1, -1"),
            ["--network", "predrnn"],
            r"forecasts \(1, 2, 1, 16, 16\) where \(1, 3, 1, 16, 16\)",
        ),
        (None, ["--network", "predrnn"], "There is no Python file"),
        (PEER, [], "--network NAME or --config NAME"),
        (PEER, ["--network", "predrnn", "--set", "norm=layer"], "--set takes SECTION.KEY=VALUE"),
        (PEER, ["--network", "predrnn", "--set", "trainer.kernls=auto"], "kernls"),
        (PEER, ["--network", "predrnn", "--set", "network.nrm=layer"], "nrm"),
        (PEER, ["--config", "demo"], "leave --hidden out"),
    ],
)
def test_mistakes_in_a_sentence(benchmark: ModuleType, here: None, peer: Path, text: str | None, words: list[str], sentence: str) -> None:
    peer.unlink()
    if text is not None:
        peer.write_text(text)
    with pytest.raises(SystemExit, match=sentence) as told:
        benchmark.main(["peers", "--peer", str(peer), *SMALL, "--work", "forecast", "--figures", "time", *words])
    assert "\n" not in str(told.value)


class Counting(RecurrentNetwork):
    """Predicts the frame that it sees, and counts its steps, copies of it included."""

    steps = 0

    def initial_state(self, batch: int, height: int, width: int) -> Tensor:
        return torch.zeros(batch)

    def step(self, frame: Tensor | None, state: Tensor, constants: object, known: Tensor | None = None) -> Step:
        assert frame is not None
        Counting.steps += 1
        return Step(frame, state + 1)


def test_steps_of_a_stream(benchmark: ModuleType) -> None:
    """After one new frame 12 leads take 1 + 11 steps; from a context of 10 frames they take 10 + 11."""
    from benchmarks.streaming import turns_of

    predictor = Predictor(Counting(), FrameSpec(1, 4, 4), 10, 10, network_name="counting", network_settings={})
    turns, taken = turns_of(predictor, torch.rand(2, 11, 1, 4, 4), leads=12), []
    for turn in [*turns, *turns]:
        Counting.steps = 0
        turn()
        taken.append(Counting.steps)
    stream, scratch, ideal = taken[:3]
    assert taken[3:] == taken[:3], "the film goes on, and costs no more"
    assert (scratch, ideal) == (21, 12)
    assert stream == 12


def test_stream(measure: Measure) -> None:
    rows = measure("stream", "--network", "convgru", "encoder_forecaster", "simvp", *SMALL, "--batch-size", "2", "--leads", "3")
    assert [(row["name"], row["batch_size"]) for row in rows] == [
        (name, films) for name in ("convgru", "encoder_forecaster", "simvp") for films in (1, 2)
    ]
    for row in rows:
        assert (row["context"], row["leads"]) == (2, 3)
        assert row["scratch_ratio"] == row["scratch_seconds"] / row["seconds"]
        if row["name"] == "simvp":
            assert (row["ideal_seconds"], row["ratio"]) == (None, None)
        else:
            assert row["ratio"] == row["seconds"] / row["ideal_seconds"] > 0


def test_a_network_in_the_layout_of_openstl(benchmark: ModuleType, tmp_path: Path) -> None:
    """Imported, it is the network that was written."""
    from benchmarks.importing import NETWORKS, in_openstls_layout

    for name in NETWORKS:
        network = stpredict.create_network(name, channels=1, hidden=[4, 4], kernel_size=3, patch_size=4)
        torch.save(in_openstls_layout(network), tmp_path / f"{name}.pth")
        predictor = stpredict.import_predictor(tmp_path / f"{name}.pth", patch_size=4, channels=1, context=10)
        assert predictor.network_name == name and predictor.provenance["origin"] == "openstl"
        weights = predictor.network.state_dict()
        assert weights.keys() == network.state_dict().keys()
        assert all(torch.equal(weights[key], weight) for key, weight in network.state_dict().items())


def test_import(measure: Measure, benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from benchmarks import importing

    network = stpredict.create_network("convlstm", channels=1, hidden=[16, 16], kernel_size=3, patch_size=2)
    torch.save(importing.in_openstls_layout(network), tmp_path / "own.pth")
    monkeypatch.setattr(importing, "STARTS", ("import stpredict",))
    words = ["--network", "predrnn", "--hidden", "16", "16", "--file", str(tmp_path / "own.pth"), "--facts", "patch_size=2", "channels=1"]
    *files, start = measure("import", *words, "context=4")
    assert [row["name"] for row in files] == ["predrnn.pth", "predrnn.ckpt", "own.pth"]
    alone, with_adam, own = files
    assert own["parameters"] == sum(weight.numel() for weight in network.parameters())
    assert alone["parameters"] == with_adam["parameters"]
    assert with_adam["file_mib"] == pytest.approx(3 * alone["file_mib"], rel=0.15)
    for row in files:
        assert row["file_mib"] > row["parameters"] * 4 / 2**20
        assert row["mib_per_second"] == pytest.approx(row["file_mib"] / row["seconds"])
        assert row["peak_mib"] > 50
    assert start["name"] == "import stpredict" and start["seconds"] > 0
    assert start["peak_mib"] is None or 2 < start["peak_mib"] < 100, "it imports no torch"
    with pytest.raises(SystemExit, match="--facts takes KEY=VALUE"):
        benchmark.main(["import", "--network", "--file", str(tmp_path / "own.pth"), "--facts", "channels"])


def test_a_process_of_its_own(benchmark: ModuleType) -> None:
    from benchmarks.apart import apart

    assert apart(os.getppid) == os.getpid()
