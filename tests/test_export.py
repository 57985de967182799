"""Exported programs: the same numbers as the predictor, from files that torch and onnxruntime run without stpredict."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from stpredict import export
from stpredict.errors import UserError
from stpredict.export import export_predictor
from stpredict.frames import FrameSpec, Transform
from stpredict.networks import RecurrentNetwork, Step, create_network, list_networks
from stpredict.predictor import Predictor

SPEC = FrameSpec(1, 6, 7, "mm/h", Transform("sqrt", 0.0, 16.0), 0.0, 0.0, 300.0)
RECURRENT = {"hidden": [4], "kernel_size": 3, "patch_size": 2}
SETTINGS: dict[str, dict[str, Any]] = {
    "simvp": {"hidden": [4, 8], "layers": [2, 2]},
    "encoder_forecaster": {"hidden": [4, 4], "kernel_size": 3},
    "residual": {"of": {"name": "convlstm", **RECURRENT}, "base": "persistence"},
}


def trained(name: str, context: int = 1, **extra: Any) -> Predictor:
    torch.manual_seed(3)
    settings = {**SETTINGS.get(name, RECURRENT), **extra}
    network = create_network(name, channels=1, frame_size=(6, 7), context=context, **settings)
    for weight in network.parameters() if name == "predrnnpp" else ():
        weight.data.mul_(3.0)  # which else forecasts almost nothing
    if name == "residual":
        torch.nn.init.normal_(network.get_parameter("of.readout.weight"))  # zeros otherwise
    return Predictor(network, SPEC, context, 2, network_name=name, network_settings=settings, provenance={"step": 7})


def rain(batch: int, frames: int) -> Tensor:
    values = torch.rand(batch, frames, 1, 6, 7, generator=torch.Generator().manual_seed(1)) * 16
    values[0, 0, 0, 2, 2] = torch.nan
    return values


def run_torch(path: Path) -> Callable[..., list[Tensor]]:
    module = torch.export.load(path).module()

    def run(*inputs: Tensor) -> list[Tensor]:
        made = module(*inputs)
        return [made] if isinstance(made, Tensor) else list(made)

    return run


def run_onnx(path: Path) -> Callable[..., list[Tensor]]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(*inputs: Tensor) -> list[Tensor]:
        named = {wanted.name: part.numpy() for wanted, part in zip(session.get_inputs(), inputs, strict=True)}
        return [torch.from_numpy(part) for part in session.run(None, named)]

    return run


RUNS = {".pt2": run_torch, ".onnx": run_onnx}


def quick(name: str, suffix: str) -> bool:
    """Whether a network has operations that no other has, or the format is quickly written."""
    return suffix == ".pt2" or name not in ("convgru", "convrnn", "predrnn", "predrnn_v2", "predrnnpp")


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        pytest.param(name, suffix, marks=() if quick(name, suffix) else pytest.mark.slow)
        for name in list_networks()
        for suffix in RUNS
        if ":" not in name
    ],
)
def test_the_forecast_of_every_network(name: str, suffix: str, tmp_path: Path) -> None:
    predictor = trained(name)
    path = export_predictor(predictor, tmp_path / f"program{suffix}")
    run = RUNS[suffix](path)
    for batch in (1, 2, 3):
        expected = predictor.forecast(rain(batch, 1), 2)
        torch.testing.assert_close(run(rain(batch, 1)), [expected], rtol=1e-5, atol=1e-5)
    assert float(expected.std()) > 1e-4, "a forecast that is not all alike"
    assert [file.name for file in tmp_path.iterdir()] == [path.name], "one file, and nothing left beside it"


def test_the_forecast_of_openstls_e3d_lstm(tmp_path: Path) -> None:
    predictor = trained("e3d_lstm", form="stretched", memory="frozen")
    run = run_onnx(export_predictor(predictor, tmp_path / "program.onnx"))
    torch.testing.assert_close(run(rain(2, 1)), [predictor.forecast(rain(2, 1), 2)], rtol=1e-5, atol=1e-5)


def test_masks_known_inputs_norms_and_another_horizon(tmp_path: Path) -> None:
    predictor = trained("convlstm", 2, valid_channel=True, known_channels=1, norm="layer", window=2)
    known = torch.rand(3, 5, 1, 6, 7, generator=torch.Generator().manual_seed(2))
    run = run_onnx(export_predictor(predictor, tmp_path / "program.onnx", horizon=3))
    torch.testing.assert_close(run(rain(3, 2), known), [predictor.forecast(rain(3, 2), 3, known=known)], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "extra", "suffix"),
    [("predrnn", {}, ".onnx"), ("predrnnpp", {}, ".pt2"), ("convgru", {"weight_norm": True, "known_channels": 1}, ".onnx")],
)
def test_steps_from_zeros_are_a_forecast(name: str, extra: dict[str, Any], suffix: str, tmp_path: Path) -> None:
    predictor = trained(name, **extra)
    run = RUNS[suffix](export_predictor(predictor, tmp_path / f"step{suffix}", what="step"))
    layout = json.loads(read_about(tmp_path / f"step{suffix}"))["state"]
    state = [torch.zeros(2, *shape) for shape in layout]
    known = torch.rand(2, 3, 1, 6, 7, generator=torch.Generator().manual_seed(2)) if extra else None
    frame = nn.functional.pad(torch.sqrt(torch.nan_to_num(rain(2, 1)[:, 0]) / 16), (0, 1))
    made = []
    for step in range(2):
        given = [] if known is None else [nn.functional.pad(known[:, step + 1], (0, 1))]
        frame, *state = run(frame, *given, *state)
        made.append(frame[..., :7].clamp(min=0) ** 2 * 16)
    torch.testing.assert_close(torch.stack(made, dim=1), predictor.forecast(rain(2, 1), 2, known=known), rtol=1e-5, atol=1e-5)


def read_about(path: Path) -> str:
    if path.suffix == ".onnx":
        return str(onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map["stpredict"])
    extra = {"stpredict.json": ""}
    torch.export.load(path, extra_files=extra)
    return extra["stpredict.json"]


@pytest.mark.parametrize("suffix", RUNS)
def test_a_program_says_what_it_is(suffix: str, tmp_path: Path) -> None:
    predictor = trained("convrnn")
    about = json.loads(read_about(export_predictor(predictor, tmp_path / f"program{suffix}", horizon=1, batch=1)))
    assert FrameSpec.from_dict(about["spec"]) == SPEC
    assert about["network"] == {"name": "convrnn", "settings": RECURRENT} and about["provenance"] == {"step": 7}
    assert (about["program"], about["context"], about["horizon"]) == ("forecast", 1, 1)


@pytest.mark.parametrize(
    ("name", "extra", "sentence"),
    [
        ("e3d_lstm", {}, "The state of 'e3d_lstm' grows from step to step: .* export the forecast"),
        ("simvp", {}, "'simvp' forecasts its whole horizon at once: .* export the forecast"),
    ],
)
def test_networks_without_a_step(name: str, extra: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        export_predictor(trained(name, **extra), tmp_path / "step.pt2", what="step")
    assert list(tmp_path.iterdir()) == []


def test_one_remembered_memory_makes_a_step(tmp_path: Path) -> None:
    path = export_predictor(trained("e3d_lstm", recall=1), tmp_path / "step.pt2", what="step")
    assert [4, 2, 3, 4] in json.loads(read_about(path))["state"]


class Strange(RecurrentNetwork):
    """Adds 1 to bright frames, or starts from ones, or takes its batch for a number."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.gain = how, nn.Parameter(torch.ones(()))

    def initial_state(self, batch: int, height: int, width: int) -> Tensor:
        return torch.full((batch, 1), 1.0 if self.how == "ones" else 0.0)

    def step(self, frame: Tensor | None, state: Tensor, constants: None, known: Tensor | None = None) -> Step:
        assert frame is not None
        if self.how == "bright" and frame.sum() > 1:
            frame = frame + 1
        return Step(frame.reshape(len(frame), *frame.shape[1:]) * self.gain, state)


@pytest.mark.parametrize(
    ("how", "what", "sentence"),
    [
        ("bright", "forecast", "'strange' cannot be exported, since what it computes depends on the frames"),
        ("ones", "step", "The state of 'strange' is not zeros before the first step"),
        ("len", "forecast", "'strange' cannot be exported for any number of clips at a time; say how many with 'batch'"),
    ],
)
def test_networks_of_ones_own_that_cannot_be_exported(how: str, what: export.Program, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        export_predictor(Predictor(Strange(how), SPEC, 1, 2, network_name="strange", network_settings={}), tmp_path / "p.pt2", what=what)


def test_a_program_that_gives_other_numbers_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor, (old, path) = trained("convrnn"), (b"what was there", tmp_path / "program.pt2")
    path.write_bytes(old)
    honest = predictor.forecast
    monkeypatch.setattr(predictor, "forecast", lambda *given, **more: honest(*given, **more) + 0.01)
    with pytest.raises(UserError, match=r"was not kept: its 'forecast' differs by .* by more than 1e-05"):
        export_predictor(predictor, path, horizon=1, batch=1)
    assert path.read_bytes() == old and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("p.pth", {}, r"A program is written as \.pt2 or \.onnx, not '\.pth'"),
        ("p.pt2", {"horizon": 0}, "'horizon' must be at least 1, not 0"),
        ("p.pt2", {"batch": 0}, "'batch' must be at least 1, not 0"),
        ("p.pt2", {"what": "step", "horizon": 3}, "A step is one step"),
    ],
)
def test_what_cannot_be_asked_for(name: str, settings: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        export_predictor(trained("convrnn"), tmp_path / name, **settings)


def test_more_than_an_onnx_file_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "_ONNX_LIMIT", 100)
    with pytest.raises(UserError, match=r"One ONNX file holds 2 GiB.*: export to \.pt2"):
        export_predictor(trained("convrnn"), tmp_path / "p.onnx", horizon=1, batch=1)


def test_onnx_without_its_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"pip install 'stpredict\[onnx\]'"):
        export_predictor(trained("convrnn"), tmp_path / "p.onnx", horizon=1, batch=1)
    assert np.array_equal(list(tmp_path.iterdir()), [])
