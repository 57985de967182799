"""Predictors in words."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stpredict.baselines import Persistence
from stpredict.data.clips import ClipSet
from stpredict.errors import UserError
from stpredict.evaluation import evaluate
from stpredict.frames import FrameSpec, Grid, Transform
from stpredict.networks import create_network
from stpredict.predictor import Predictor
from stpredict.showing import describe_predictor

SETTINGS = {"hidden": [4], "kernel_size": 3, "patch_size": 4}


def test_a_predictor_in_words(tmp_path: Path) -> None:
    spec = FrameSpec(
        1, 8, 12, "mm/h", Transform("sqrt", 0.0, 100.0), 0.0, 0.0, 300.0, Grid("+proj=stere", (0.0, -3650.0, 12.0, -3642.0), "north")
    )
    network = create_network("convlstm", channels=1, frame_size=(8, 12), **SETTINGS)
    count = sum(weight.numel() for weight in network.parameters())
    assert count == 16 * 16 * 9 + 16 * 4 * 9 + 4 * 16, "input to four gates, state to four gates, readout"
    provenance = {"run": "rain-1", "step": 7, "validation_mse": None}
    Predictor(network, spec, 6, 4, network_name="convlstm", network_settings=SETTINGS, provenance=provenance).save(
        tmp_path / "p.safetensors"
    )
    assert describe_predictor(tmp_path / "p.safetensors").splitlines() == [
        "predictor   p.safetensors",
        "network     convlstm (hidden [4], kernel_size 3, patch_size 4)",
        f"weights     {count:,} parameters",
        "frames      1 x 8 x 12, units mm/h, every 5 min",
        "scaled      sqrt, 0 to 0 and 100 to 1; missing is fed as 0",
        "trained     6 observed frames, 4 to forecast",
        f"cost        {count * 6 * 9 / 1000:.1f} thousand multiply-adds for a clip of 6 + 4 frames",
        f"memory      weights {count * 4 / 1024:.1f} KiB, state 192 bytes for each clip after 6 frames",
        "grid        +proj=stere, corners (0.0, -3650.0, 12.0, -3642.0), row 0 in the north",
        "run         rain-1",
        "step        7",
    ]


def test_baselines_and_forecast_files_in_words(clips: ClipSet, tmp_path: Path) -> None:
    assert describe_predictor("context-mean").startswith("baseline context-mean: The mean over time of each pixel's valid values")
    evaluate(Persistence(), clips, baselines=False, limit=2, save_forecasts=tmp_path / "saved.npz")
    assert (
        describe_predictor(tmp_path / "saved.npz")
        == "forecast file saved.npz: 2 frames after 3, 2 clips of 'moving_digits' test, by persistence; units 1"
    )
    with pytest.raises(UserError, match="no predictor 'nothing'"):
        describe_predictor("nothing")
    torch.save({}, tmp_path / "pickle.safetensors")
    with pytest.raises(UserError, match=r"pickle\.safetensors is no whole predictor file"):
        describe_predictor(tmp_path / "pickle.safetensors")
