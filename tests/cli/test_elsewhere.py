"""``stpredict export`` and the words of ``stpredict hub``; ``tests/test_hub.py`` runs the latter against a server."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stpredict.cli.main import main
from stpredict.frames import FrameSpec
from stpredict.networks import create_network
from stpredict.predictor import Predictor

SETTINGS = {"hidden": [4], "kernel_size": 3, "patch_size": 4}


@pytest.fixture
def predictor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Predictor:
    monkeypatch.chdir(tmp_path)
    network = create_network("convrnn", channels=1, frame_size=(8, 8), **SETTINGS)
    predictor = Predictor(network, FrameSpec(1, 8, 8), 2, 2, network_name="convrnn", network_settings=SETTINGS)
    predictor.save("p.safetensors")
    return predictor


@pytest.mark.parametrize("command", ["export", "hub", "hub push", "hub pull"])
def test_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main([*command.split(), "--help"])
    assert leaving.value.code == 0
    assert f"example:\n  stpredict {command}" in capsys.readouterr().out


def test_a_forecast_and_a_step(predictor: Predictor, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "p.safetensors", "--out", "forecast.pt2", "--horizon", "3", "--batch", "2"]) == 0
    assert main(["export", "p.safetensors", "--out", "step.pt2", "--what", "step"]) == 0
    assert capsys.readouterr().out == "forecast.pt2\nstep.pt2\n"
    observed = torch.rand(2, 2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    forecast = torch.export.load("forecast.pt2").module()(observed)
    torch.testing.assert_close(forecast, predictor.forecast(observed, 3), rtol=1e-5, atol=1e-5)
    frame, state = torch.export.load("step.pt2").module()(observed[:, 0], torch.zeros(2, 4, 2, 2))
    assert frame.shape == (2, 1, 8, 8) and state.shape == (2, 4, 2, 2)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("export p.safetensors --out p.pth", "A program is written as .pt2 or .onnx, not '.pth'"),
        ("export p.safetensors --out nowhere/p.pt2", "there is no folder 'nowhere'"),
        ("export p.safetensors --out p.pt2 --what steps", "invalid choice: 'steps'"),
        ("export p.safetensors --out p.pt2 --what step --horizon 2", "A step is one step"),
        ("export persistence --out p.pt2", "'persistence' is no trained predictor, and only such a one can be exported"),
        ("hub push persistence me/p", "'persistence' is no trained predictor, and only such a one can be put on the Hub"),
        ("hub pull me/p --out p.npz", "A predictor file ends in .safetensors, not '.npz'"),
        ("hub pul me/p", "has no command 'pul'; did you mean 'pull'?"),
    ],
)
def test_what_cannot_be_asked_for(words: str, sentence: str, predictor: Predictor, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 2
    assert sentence in capsys.readouterr().err
