"""Gradients through time beside closed forms and gradients worked out by hand; norms by layer; the picture and the command."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from stpredict import load_data, load_predictor, rollout
from stpredict.cli.main import main
from stpredict.errors import UserError
from stpredict.gradients import gradient_of_predictor, gradient_through_time, layer_norms
from stpredict.networks import RecurrentNetwork, Step, create_network
from stpredict.networks.contract import Network
from stpredict.predictor import Predictor
from stpredict.render import save_gradients

SMALL: dict[str, Any] = {"channels": 1, "frame_size": (8, 8), "kernel_size": 3, "patch_size": 2}


class Leak(nn.Module):
    """h' = w h + x."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight), requires_grad=False)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return self.weight * h + x


class Leaky(RecurrentNetwork):
    """Predicts the sum of what leaked through its one layer."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.cells = nn.ModuleList([Leak(weight)])

    def initial_state(self, batch: int, height: int, width: int) -> Tensor:
        return torch.zeros(batch, 1, height, width)

    def step(self, frame: Tensor | None, state: Tensor, constants: None, known: Tensor | None = None) -> Step:
        h = self.cells[0](frame, state)
        return Step(h, h)


@pytest.mark.parametrize("weight", [0.5, -0.8, 1.0])
@pytest.mark.parametrize("teacher_forced", [True, False])
def test_a_linear_network_forgets_geometrically(weight: float, teacher_forced: bool) -> None:
    frames = torch.rand(3, 7, 1, 4, 6, generator=torch.Generator().manual_seed(0))
    context = 4
    made = gradient_through_time(Leaky(weight), frames, context, teacher_forced=teacher_forced)
    h, last = torch.zeros(3, 1, 4, 6), None
    for step in range(6):
        h = weight * h + (frames[:, step] if teacher_forced or step < context else h)
        last = h
    assert last is not None
    error = (2 / 24 * (last - frames[:, -1]).flatten(1).norm(dim=1)).mean().item()
    # In the forecast a step is fed the h before it as its frame, so that h' = (w + 1) h.
    factors = [1.0]
    for lag in range(1, 6):
        factors.append(factors[-1] * abs(weight if teacher_forced or lag > 2 else weight + 1))
    assert made.hidden == pytest.approx([error * factor for factor in factors], rel=1e-5)
    assert made.layers == {"cells.0": pytest.approx(made.hidden)}
    assert (made.horizon, made.clips) == (3, 3)


def test_what_is_missing_in_the_last_frame_counts_in_no_error() -> None:
    frames = torch.rand(2, 4, 1, 4, 4)
    valid = torch.ones_like(frames, dtype=torch.bool)
    valid[:, -1, :, :, 2:] = False
    frames[~valid] = math.nan
    made = gradient_through_time(Leaky(0.5), frames, 3, teacher_forced=True, valid=valid)
    last = (frames[:, 0] / 4 + frames[:, 1] / 2 + frames[:, 2] - frames[:, 3])[..., :2]
    error = (2 / 8 * last.flatten(1).norm(dim=1)).mean().item()
    assert made.hidden == pytest.approx([error, error / 2, error / 4], rel=1e-5)


def by_hand(network: Any, frames: Tensor, context: int, teacher_forced: bool) -> list[list[float]]:
    """The norms for each layer and lag of one clip, by a loop over time of its own that adds a zero to each h."""
    steps, layers = frames.shape[1] - 1, len(network.cells)
    zeros: list[list[Tensor]] = []
    _, state = network.initial_state(1, *frames.shape[-2:])
    prediction = frames[:, 0]
    for step in range(steps):
        frame = frames[:, step] if teacher_forced or step < context else prediction
        below, new, nudges = frame, [], []
        for cell, (h, c) in zip(network.cells, state, strict=True):
            h, c = cell(below, h, c)
            nudges.append(torch.zeros_like(h, requires_grad=True))
            below = h + nudges[-1]
            new.append((below, c))
        state = tuple(new)
        zeros.append(nudges)
        prediction = network.readout(below)
    loss = (prediction - frames[:, -1]).square().mean()
    gradients = torch.autograd.grad(loss, [nudge for nudges in zeros for nudge in nudges])
    norms = [gradient.norm().item() for gradient in gradients]
    return [[norms[step * layers + layer] for step in reversed(range(steps))] for layer in range(layers)]


@pytest.mark.parametrize("teacher_forced", [True, False])
def test_a_convlstm_as_worked_out_by_hand(teacher_forced: bool) -> None:
    torch.manual_seed(0)
    network = create_network("convlstm", hidden=[3, 4], **{**SMALL, "patch_size": 1}).double().eval()
    frames = torch.rand(3, 6, 1, 8, 8, dtype=torch.float64)
    made = gradient_through_time(network, frames, 3, teacher_forced=teacher_forced)
    clips = np.array([by_hand(network, frame[None], 3, teacher_forced) for frame in frames])  # (clip, layer, lag)
    np.testing.assert_allclose([made.layers["cells.0"], made.layers["cells.1"]], clips.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(made.hidden, np.sqrt((clips**2).sum(axis=1)).mean(axis=0), rtol=1e-12)
    assert all(weight.grad is None for weight in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())


NETWORKS: list[tuple[str, dict[str, Any], set[str]]] = [
    ("convgru", {}, {"cells.0", "cells.1"}),
    ("convrnn", {"window": 2}, {"cells.0", "cells.1"}),
    ("predrnn", {}, {"cells.0", "cells.1"}),
    ("predrnn_v2", {}, {"cells.0", "cells.1"}),
    ("predrnnpp", {}, {"cells.0", "ghu", "cells.1"}),
    ("predrnnpp", {"highway": None}, {"cells.0", "cells.1"}),
    ("e3d_lstm", {}, {"cells.0", "cells.1"}),
]


@pytest.mark.parametrize(("name", "settings", "layers"), NETWORKS)
def test_every_network_has_a_gradient_at_every_step(name: str, settings: dict[str, Any], layers: set[str]) -> None:
    torch.manual_seed(0)
    network = create_network(name, hidden=[4, 4], **{**SMALL, **settings}).eval()
    made = gradient_through_time(network, torch.rand(1, 5, 1, 8, 8), 3)
    assert set(made.layers) == layers
    assert all(len(norms) == 4 and min(norms) > 0 for norms in made.layers.values())
    cells = np.array([norms for layer, norms in made.layers.items() if layer != "ghu"])
    np.testing.assert_allclose(made.hidden, np.sqrt((cells**2).sum(axis=0)), rtol=1e-5)


def test_the_encoder_stands_before_the_forecaster() -> None:
    network = create_network("encoder_forecaster", hidden=[4, 4], **SMALL).eval()
    made = gradient_through_time(network, torch.rand(2, 7, 1, 8, 8), 4)
    present = {layer: [not math.isnan(norm) for norm in norms] for layer, norms in made.layers.items()}
    encoder, forecaster = [False] * 3 + [True] * 4, [True] * 3 + [False] * 4
    assert present == {f"encoder.cells.{i}": encoder for i in (0, 1)} | {f"forecaster.walk.cells.{i}": forecaster for i in (0, 1)}
    assert len(made.hidden) == 7 and min(made.hidden) > 0


@pytest.mark.parametrize("name", ["predrnn", "predrnnpp", "encoder_forecaster"])
def test_gradients_are_those_of_zeros_that_are_added_to_h(name: str) -> None:
    torch.manual_seed(0)
    network = create_network(name, hidden=[4, 4], **SMALL).double().eval()
    frames = torch.rand(1, 7, 1, 8, 8, dtype=torch.float64)
    made = gradient_through_time(network, frames, 4)
    added: dict[str, list[Tensor]] = {layer: [] for layer in made.layers}

    def adding(layer: str) -> Any:
        def add(module: nn.Module, inputs: Any, output: Any) -> Any:
            h = output if isinstance(output, Tensor) else output[0]
            added[layer].append(torch.zeros_like(h, requires_grad=True))
            return h + added[layer][-1] if isinstance(output, Tensor) else (h + added[layer][-1], *output[1:])

        return add

    for layer in made.layers:
        network.get_submodule(layer).register_forward_hook(adding(layer))
    loss = (rollout(network, frames, 4)[:, -1] - frames[:, -1]).square().mean()
    for layer, norms in made.layers.items():
        expected = [gradient.norm().item() for gradient in torch.autograd.grad(loss, added[layer], retain_graph=True)]
        np.testing.assert_allclose([norm for norm in norms if not math.isnan(norm)], expected[::-1], rtol=1e-12)


class Bare(Leaky):
    """Has no list of cells."""

    def __init__(self) -> None:
        super().__init__(0.5)
        self.cells = nn.ModuleList()


def simvp() -> Network:
    return create_network("simvp", channels=1, context=3, hidden=[4, 8], layers=[2, 2])


@pytest.mark.parametrize(
    ("network", "context", "words"),
    [
        (simvp(), 3, "direct network forecasts all frames at once"),
        (Bare(), 3, "an nn.ModuleList called 'cells'"),
        (Leaky(0.5), 5, "A clip of 5 frames has a context of 1 to 4 frames, not 5"),
    ],
)
def test_what_cannot_be_looked_at(network: Network, context: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        gradient_through_time(network, torch.zeros(1, 5, 1, 8, 8), context)


@pytest.mark.parametrize(
    ("name", "settings", "layers"),
    [
        ("predrnnpp", {}, {"cells.0", "cells.1", "ghu", "readout"}),
        (
            "encoder_forecaster",
            {},
            {f"{walk}.{part}.{i}" for walk in ("encoder", "forecaster.walk") for part in ("resamplings", "cells") for i in (0, 1)}
            | {"forecaster.last", "forecaster.readout"},
        ),
    ],
)
def test_norms_by_layer(name: str, settings: dict[str, Any], layers: set[str]) -> None:
    torch.manual_seed(0)
    network = create_network(name, hidden=[4, 4], **SMALL, **settings).double().train()
    assert layer_norms(network) == {}
    for weight in network.parameters():
        weight.grad = torch.randn_like(weight)
    norms = layer_norms(network)
    assert {layer for layer in layers if list(network.get_submodule(layer).parameters())} == set(norms)
    for layer, norm in norms.items():
        flat = torch.cat([weight.grad.flatten() for weight in network.get_submodule(layer).parameters() if weight.grad is not None])
        assert norm == pytest.approx(flat.norm().item(), rel=1e-12)
    assert math.hypot(*norms.values()) == pytest.approx(clip_grad_norm_(network.parameters(), 1e9).item(), rel=1e-9)
    network.get_submodule(next(iter(norms))).zero_grad()
    assert set(layer_norms(network)) == set(norms) - {next(iter(norms))}


def test_a_weight_of_no_layer_stands_for_itself() -> None:
    network = nn.Sequential(nn.ModuleList([nn.Linear(1, 1)]))
    network.gain = nn.Parameter(torch.zeros(2))
    network.gain.grad = torch.tensor([3.0, 4.0])
    assert layer_norms(network) == {"gain": 5.0}


def test_curves_have_a_logarithmic_axis_and_a_gap_for_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    write = Figure.savefig

    def keep(self: Figure, *arguments: Any, **options: Any) -> None:
        figures.append(self)
        write(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    curves = {("a_1", "cells.0"): [1.0, 0.1, 0.0], ("a_1", "ghu"): [math.nan, 4.0, 1.0], ("b", "cells.0"): [0.5, 0.25, 0.125]}
    path = save_gradients(curves, tmp_path / "g.png", "a title", 1, relative=True)
    with Image.open(path) as image:
        assert (image.format, image.size) == ("PNG", (1080, 576))
    (axis,) = figures[0].axes
    assert axis.get_yscale() == "log" and axis.get_title(loc="left") == "a title"
    assert axis.get_xlabel().startswith("lag") and "share" in axis.get_ylabel()
    first, highway, other = axis.lines
    assert [line.get_label() for line in axis.lines] == ["a_1 cells.0", "a_1 ghu", "b cells.0"]
    np.testing.assert_array_equal(first.get_ydata(), [1.0, 0.1, math.nan])
    np.testing.assert_array_equal(highway.get_ydata(), [math.nan, 1.0, 0.25])
    assert first.get_color() == highway.get_color() != other.get_color()
    assert first.get_linestyle() == other.get_linestyle() != highway.get_linestyle()
    with pytest.raises(UserError, match="no gradient to draw"):
        save_gradients({("a", ""): [0.0, math.nan]}, path, "")


@pytest.fixture
def predictors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with untrained predictors of moving digits."""
    monkeypatch.chdir(tmp_path)
    clips = load_data("moving_digits", None, "test", context=3, horizon=2, settings={"digits": 1, "size": 32, "test_clips": 5})
    data = {"card": "moving_digits", "settings": {"digits": 1, "size": 32, "test_clips": 5}}
    made: list[tuple[str, str, dict[str, Any]]] = [
        ("with", "predrnnpp", {"hidden": [4, 4]}),
        ("without", "predrnnpp", {"hidden": [4, 4], "highway": None}),
        ("direct", "simvp", {"hidden": [4, 8], "layers": [2, 2]}),
    ]
    for file, name, settings in made:
        torch.manual_seed(0)
        own = settings if name == "simvp" else {**settings, "kernel_size": 3, "patch_size": 4}
        extra: dict[str, Any] = {"context": 3} if name == "simvp" else {"frame_size": (32, 32)}
        network = create_network(name, channels=1, **own, **extra)
        Predictor(network, clips.spec, 3, 2, network_name=name, network_settings=own, provenance={"data": data}).save(f"{file}.safetensors")
    return tmp_path


def test_the_command(predictors: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "gradients with.safetensors without.safetensors --data moving_digits --clips 5 --device cpu --batch-size 2"
    assert main([*words.split(), "--out", "g.png", "--json", "g.json"]) == 0
    assert capsys.readouterr().out.strip() == "g.png"
    with Image.open("g.png") as image:
        assert image.size == (1080, 576)
    told = json.loads(Path("g.json").read_text())
    assert told["data"] == {"card": "moving_digits", "split": "test", "clips": 5, "context": 3, "horizon": 2}
    assert set(told["gradients"]) == {"with.safetensors", "without.safetensors"}

    # All clips at once, worked out here.
    settings = {"digits": 1, "size": 32, "test_clips": 5}
    clips = load_data("moving_digits", None, "test", context=3, horizon=2, settings=settings)
    frames = torch.stack([torch.as_tensor(clips[index].frames) for index in range(5)])
    predictor = load_predictor("with.safetensors")
    scaled, valid = predictor.spec.scale(clips.packing.unpack(frames))
    once = gradient_through_time(predictor.network, scaled, 3, valid=valid, fill=predictor.spec.scaled_fill)
    measured = told["gradients"]["with.safetensors"]
    assert measured["hidden"] == pytest.approx(once.hidden, rel=1e-4)
    assert measured["layers"] == {layer: pytest.approx(norms, rel=1e-4) for layer, norms in once.layers.items()}

    assert main([*words.split(), "--out", "forced.png", "--layers", "--relative", "--teacher-forced", "--json", "forced.json"]) == 0
    forced = json.loads(Path("forced.json").read_text())
    assert forced["teacher_forced"] and forced["gradients"]["with.safetensors"]["hidden"][-1] != measured["hidden"][-1]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("persistence --out g.png", "'persistence' is no trained predictor"),
        ("direct.safetensors --out g.png", "direct network"),
        ("with.safetensors --out g.jpg", "not to 'g.jpg'"),
    ],
)
def test_what_the_command_refuses(predictors: Path, words: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gradients", *words.split(), "--data", "moving_digits", "--clips", "2", "--device", "cpu", "--context", "3"]) == 2
    assert sentence in capsys.readouterr().err
    assert not list(predictors.glob("g.*"))


def test_frames_of_other_units_are_refused(predictors: Path) -> None:
    predictor = load_predictor("with.safetensors")
    predictor.spec = replace(predictor.spec, units="K")
    with pytest.raises(UserError, match=r"does not fit the data 'moving_digits': it has .*units K instead of 1"):
        gradient_of_predictor(predictor, load_data("moving_digits", None, "test", context=3, horizon=2), 1)
