"""``stpredict inside`` from end to end, on untrained predictors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from stpredict import create_network, load_data, load_predictor
from stpredict.cli.main import main
from stpredict.inside import inside_of_predictor
from stpredict.predictor import Predictor

DATA: dict[str, Any] = {"digits": 1, "size": 32, "test_clips": 4}


@pytest.fixture
def predictors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with untrained predictors of moving digits."""
    monkeypatch.chdir(tmp_path)
    clips = load_data("moving_digits", None, "test", context=3, horizon=2, settings=DATA)
    small = {"hidden": [4, 4], "kernel_size": 3, "patch_size": 4}
    made: dict[str, dict[str, Any]] = {
        "convlstm": small, "convrnn": small, "predrnnpp": small, "e3d_lstm": small, "encoder_forecaster": small,
        "simvp": {"hidden": [4, 8], "layers": [2, 2]},
    }  # fmt: skip
    for name, settings in made.items():
        torch.manual_seed(0)
        extra: dict[str, Any] = {"context": 3} if name == "simvp" else {"frame_size": (32, 32)}
        network = create_network(name, channels=1, **settings, **extra)
        provenance = {"data": {"card": "moving_digits", "settings": DATA}}
        Predictor(network, clips.spec, 3, 2, network_name=name, network_settings=settings, provenance=provenance).save(
            f"{name}.safetensors"
        )
    return tmp_path


def ask(words: str) -> int:
    return main(["inside", *words.split(), "--data", "moving_digits", "--device", "cpu"])


def numbers(values: Any) -> Any:
    return np.array([[np.nan if value is None else value for value in row] for row in values])


def test_recall_as_a_table_a_film_curves_and_numbers(predictors: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask("e3d_lstm.safetensors --clip 2 --show recall --out r.png --json r.json --curves c.png") == 0
    assert capsys.readouterr().out.strip() == "r.png"
    told = json.loads(Path("r.json").read_text())
    assert told["data"] == {"card": "moving_digits", "split": "test", "clip": 2, "context": 3, "horizon": 2}
    clips = load_data("moving_digits", None, "test", context=3, horizon=2, settings=DATA)
    inside = inside_of_predictor(load_predictor("e3d_lstm.safetensors"), clips, 2)
    assert set(told["shares"]) == {"cells.0", "cells.1"}
    for layer, table in inside.recall.items():
        np.testing.assert_array_equal(numbers(told["shares"][layer]), table)
        np.testing.assert_allclose(np.nansum(table, axis=1), 1.0, rtol=1e-6)
        assert told["means"][layer]["steps back"] == inside.ages[layer].mean(axis=(1, 2)).tolist()
    for name in ("r.png", "c.png"):
        with Image.open(name) as image:
            assert image.format == "PNG"
    assert ask("e3d_lstm.safetensors --show recall --layer 1 --out r.gif --scale 2") == 0
    with Image.open("r.gif") as image:
        assert getattr(image, "n_frames", 1) <= 4
        one = image.width * image.height
    assert ask("e3d_lstm.safetensors --show recall --out both.gif --scale 2") == 0
    with Image.open("both.gif") as image:
        assert image.width * image.height > 1.5 * one


def test_what_recall_looks_at_is_a_mean_of_what_was_fed(predictors: Path) -> None:
    clips = load_data("moving_digits", None, "test", context=3, horizon=2, settings=DATA)
    inside = inside_of_predictor(load_predictor("e3d_lstm.safetensors"), clips, 0)
    fed = [inside.true[0], inside.true[1], inside.true[2], inside.predicted[2]]
    seen = inside.looked_at("cells.1", -5.0)
    for step, shares in enumerate(inside.recall["cells.1"]):
        expected = -5.0 * shares[0] + sum((shares[k] * fed[k - 1] for k in range(1, step + 1)), np.zeros_like(fed[0]))
        np.testing.assert_allclose(seen[step], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "show"), [("convlstm", "gates"), ("predrnnpp", "states"), ("encoder_forecaster", "gates")])
def test_maps_as_a_film_and_a_strip(predictors: Path, name: str, show: str) -> None:
    assert ask(f"{name}.safetensors --show {show} --out film.mp4 --json n.json") == 0
    with av.open("film.mp4") as container:
        assert sum(1 for _ in container.decode(video=0)) == (5 if name == "encoder_forecaster" else 4)
    clips = load_data("moving_digits", None, "test", context=3, horizon=2, settings=DATA)
    inside = inside_of_predictor(load_predictor(f"{name}.safetensors"), clips, 0)
    told = json.loads(Path("n.json").read_text())
    assert "shares" not in told and told["show"] == show
    for layer, named in inside.maps(told["show"]).items():
        for key, maps in named.items():
            np.testing.assert_array_equal(numbers([told["means"][layer][key]])[0], maps.mean(axis=(1, 2)))
    assert ask(f"{name}.safetensors --show {show} --layer 0 --out strip.png --theme dark") == 0
    with Image.open("strip.png") as image:
        assert image.format == "PNG"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("persistence --show states", "'persistence' is no trained predictor: it has no network to look into"),
        ("simvp.safetensors --show states", "it takes no steps in time"),
        ("convrnn.safetensors --show gates", "The predictor 'convrnn.safetensors' has no gates"),
        ("convlstm.safetensors --show recall", "recalls nothing: only the cells of e3d_lstm"),
        ("convlstm.safetensors --show gates --layer 7", "has no layer '7' with gates; known: cells.0, cells.1"),
        ("e3d_lstm.safetensors --show recall --theme light --out x.png", "--theme belong(s) to maps, and the .png of recall is a table"),
        ("nobody.safetensors --show gates --out x.avi", "'x.avi' names no known format"),
        ("convlstm.safetensors --show gates --clip 9", "has clips 0 to 3, not 9"),
        ("convlstm.safetensors --show gates --curves c.jpg", "not to 'c.jpg'"),
        ("convlstm.safetensors --show weights", "invalid choice: 'weights'"),
    ],
)
def test_what_is_refused(predictors: Path, words: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(f"--context 3 --out o.gif {words}") == 2
    told = capsys.readouterr().err
    assert sentence in told and len(told.splitlines()) == 1
    assert not list(predictors.glob("o.*"))
