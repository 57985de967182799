"""Compiled cells compute what the cells do, and leave no trace in what is saved."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from stpredict.checkpoint import Checkpoint, checkpoints
from stpredict.errors import UserError
from stpredict.networks import create_network
from stpredict.predictor import load_predictor
from stpredict.processes import Processes
from stpredict.training import make_settings, resume, train
from stpredict.training.compiling import compile_cells
from stpredict.training.work import make_work
from stpredict.unroll import Unroll

TINY: dict[str, Any] = {
    "data": {
        "card": "moving_digits",
        "context": 2,
        "horizon": 2,
        "batch_size": 3,
        "workers": 0,
        "settings": {"digits": 1, "size": 32, "validation_clips": 4},
    },
    "network": {"name": "predrnn", "hidden": [4, 4], "kernel_size": 3, "patch_size": 4},
    "optimizer": {"learning_rate": 0.01, "clip_norm": 1.0, "ema": 0.5},
    "sampling": {"name": "reverse", "first": 2, "second": 3},
    "trainer": {"max_steps": 4, "validate_every": 2, "checkpoint_every": 2, "keep": 9, "log_every": 1, "device": "cpu", "threads": 1},
}


def tiny(folder: Path, **changes: Any) -> dict[str, Any]:
    merged = {section: {**values, **changes.pop(section, {})} for section, values in TINY.items()}
    return {**merged, **changes, "run": {"folder": str(folder)}}


def end_of(folder: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    with (folder / "log.csv").open() as file:
        rows = [
            {name: float(row[name]) for name in ("loss", "gradient_norm", "validation_mse") if row[name]} for row in csv.DictReader(file)
        ]
    return Checkpoint.load(checkpoints(folder / "checkpoints")[-1]).tensors(), rows


@pytest.fixture(autouse=True)
def _kept_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what was compiled where the next test run finds it, and out of the user's way."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(Path(__file__).resolve().parents[2] / ".pytest_cache" / "inductor"))


@pytest.fixture
def as_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let cells be traced as for the compiler, and then run as they were traced: bit for bit what they compute, and no code is made."""
    compiling = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda module, **settings: compiling(module, backend="eager", **settings))


@pytest.mark.reference
@pytest.mark.parametrize("network", [{}, {"name": "predrnnpp", "norm": "channel", "bias": True}, {"name": "convlstm", "dropout": 0.3}])
def test_a_compiled_run_is_saved_and_goes_on_as_any(network: dict[str, Any], tmp_path: Path, as_traced: None) -> None:
    from torch._dynamo.utils import counters

    train(make_settings(tiny(tmp_path / "plain", network=network, trainer={"kernels": "reference"})), progress=False)
    torch.compiler.reset()
    counters.clear()
    train(make_settings(tiny(tmp_path / "compiled", network=network, trainer={"kernels": "reference", "compile": True})), progress=False)
    forms = counters["stats"]["unique_graphs"]
    assert 3 <= forms <= 12 and not counters["graph_break"], "a form of each layer for each step would be 24 and more"
    (tensors, rows), (expected, expected_rows) = end_of(tmp_path / "compiled"), end_of(tmp_path / "plain")
    assert tensors.keys() == expected.keys() and all(torch.equal(tensors[name], expected[name]) for name in expected)
    assert rows == expected_rows
    saved = [safetensors.torch.load_file(tmp_path / name / "last.safetensors") for name in ("compiled", "plain")]
    assert saved[0].keys() == saved[1].keys() and load_predictor(tmp_path / "compiled").network.training is False
    train(
        make_settings(tiny(tmp_path / "parts", network=network, trainer={"kernels": "reference", "max_steps": 2, "compile": True})),
        progress=False,
    )
    resume(tmp_path / "parts", ["--trainer.max_steps=4"], progress=False)
    again, _ = end_of(tmp_path / "parts")
    assert all(torch.equal(again[name], expected[name]) for name in expected)


def test_it_is_said_that_a_compiled_continuation_is_not_exact(tmp_path: Path, as_traced: None, capsys: pytest.CaptureFixture[str]) -> None:
    train(make_settings(tiny(tmp_path / "run", trainer={"max_steps": 2, "validate_every": 0})), progress=False)
    resume(tmp_path / "run", ["--trainer.max_steps=3", "--trainer.compile=true"], progress=True)
    said = capsys.readouterr().err
    assert "trainer.compile is now True" in said and "compiled True instead of False: the same within rounding" in " ".join(said.split())


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        ({"name": "simvp", "hidden": [4, 8], "layers": [2, 2]}, "simvp has none"),
        ({"name": "e3d_lstm", "hidden": [4], "kernel_size": 3, "patch_size": 4}, "e3d_lstm recalls from more memories at every step"),
    ],
)
def test_networks_that_cannot_be_compiled_are_refused(network: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"trainer\.compile.*{reason}.*leave it out"):
        make_work(make_settings({**tiny(tmp_path, trainer={"compile": True}), "network": network}), Processes())


def test_a_machine_without_a_compiler_is_told_so() -> None:
    import torch._inductor.config

    torch.compiler.reset()
    network = create_network("convrnn", channels=1, hidden=[3], kernel_size=3, patch_size=1)
    no_compiler = torch._inductor.config.patch({"cpp.cxx": (None, "/nowhere/g++"), "force_disable_caches": True})
    with no_compiler, pytest.raises(UserError, match=r"^trainer\.compile needs a C\+\+ .*No working C\+\+ compiler found.* leave it out$"):
        compile_cells(network, "convrnn", torch.device("cpu"))


@pytest.mark.slow
@pytest.mark.reference
@pytest.mark.parametrize("name", ["convlstm", "predrnn_v2", "predrnnpp"])
def test_compiled_cells_compute_what_the_cells_do(name: str) -> None:
    """Losses and gradients, with own predictions fed: to the rounding of float32."""
    torch.manual_seed(0)
    network = create_network(name, channels=1, hidden=[4, 4], kernel_size=3, patch_size=4)
    along, clips = Unroll(network), torch.rand(2, 5, 1, 32, 32)

    def measure() -> tuple[float, dict[str, torch.Tensor]]:
        network.zero_grad()
        predictions, penalty = along(clips, 3, 2)
        loss = (predictions - clips[:, 1:]).square().mean() + (0.0 if penalty is None else penalty.mean())
        loss.backward()
        return loss.item(), {name: weight.grad.clone() for name, weight in network.named_parameters()}

    loss, gradients = measure()
    compile_cells(network, name, torch.device("cpu"))
    compiled_loss, compiled = measure()
    assert compiled_loss == pytest.approx(loss, rel=1e-5)
    for key, gradient in gradients.items():
        assert float((compiled[key] - gradient).norm()) <= 1e-5 * float(gradient.norm()), key


@pytest.mark.slow
def test_a_compiled_run_goes_on_exactly(tmp_path: Path) -> None:
    network, trainer = {"name": "convlstm", "hidden": [4]}, {"compile": True}
    train(make_settings(tiny(tmp_path / "alone", network=network, trainer=trainer)), progress=False)
    train(make_settings(tiny(tmp_path / "parts", network=network, trainer=trainer | {"max_steps": 2})), progress=False)
    torch.compiler.reset()
    resume(tmp_path / "parts", ["--trainer.max_steps=4"], progress=False)
    (tensors, rows), (expected, expected_rows) = end_of(tmp_path / "parts"), end_of(tmp_path / "alone")
    assert rows == expected_rows and all(torch.equal(tensors[name], expected[name]) for name in expected)
