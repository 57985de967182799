"""A golden that cannot fail proves nothing: each wrong reading of a checkpoint gives the difference that it is known to give."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from stpredict.cells.eidetic import StretchedConvolution
from stpredict.cells.gates import WindowConvolution
from stpredict.networks import make_network
from stpredict.predictor import Predictor
from stpredict.unroll import rollout
from stpredict.weights import import_predictor, predrnn_pp

GOLDENS = Path(__file__).resolve().parents[2] / ".." / "shared" / "goldens"
pytestmark = [
    pytest.mark.reference,
    pytest.mark.skipif(not GOLDENS.is_dir(), reason="the golden checkpoints of other implementations are not here"),
]

Patch = pytest.MonkeyPatch


def load(case: str, **facts: Any) -> Predictor:
    meta = json.loads((GOLDENS / case / "meta.json").read_text())
    bare = "openstl1" not in case
    needed = {"patch_size": meta["patch_size"], "channels": meta["image_channels"], "context": 4} if bare else {}
    return import_predictor(GOLDENS / case / meta["checkpoint"], **needed, **facts)


def with_fact(**facts: str) -> Callable[[str, Patch], Any]:
    return lambda case, patch: load(case, **facts).network


def with_settings(**settings: Any) -> Callable[[str, Patch], Any]:
    """The same weights in a network of other settings; weights that it has no place for are left out."""

    def read(case: str, patch: Patch) -> Any:
        predictor = load(case)
        spec, known = predictor.spec, {**predictor.network_settings, **settings}
        network = make_network(predictor.network_name, known, channels=spec.channels, frame_size=(spec.height, spec.width))
        own = network.state_dict()
        network.load_state_dict({name: value for name, value in predictor.network.state_dict().items() if name in own})
        return network.eval()

    return read


def with_forget_bias(value: float) -> Callable[[str, Patch], Any]:
    def read(case: str, patch: Patch) -> Any:
        network = load(case).network
        for cell in network.cells:
            cell.forget_bias = value
        return network

    return read


def with_blocks_swapped(case: str, patch: Patch) -> Any:
    """Gates in the order i f o g."""
    network = load(case).network
    for cell in network.cells:
        for weight in (*cell.x.parameters(), *cell.h.parameters()):
            i, f, g, o = weight.data.chunk(4)
            weight.data = torch.cat([i, f, o, g])
    return network


def with_unordered_gates(case: str, patch: Patch) -> Any:
    patch.setattr(predrnn_pp, "_ORDERS", {})
    return load(case).network


def without_norms(case: str, patch: Patch) -> Any:
    network = load(case).network
    for part in list(network.modules()):
        if isinstance(part, nn.Sequential) and len(part) == 2 and isinstance(part[1], nn.GroupNorm | nn.LayerNorm):
            part[1] = nn.Identity()
    return network


class OwnMemory(nn.Module):
    """A cell that keeps a spatiotemporal memory of its own."""

    def __init__(self, cell: Any) -> None:
        super().__init__()
        self.cell = cell
        self.own: Tensor | None = None

    def forward(self, x: Tensor, h: Tensor, c: Tensor, m: Tensor) -> Any:
        made = self.cell(x, h, c, torch.zeros_like(m) if self.own is None else self.own)
        self.own = made[2] if isinstance(made[2], Tensor) else made[2].memory
        return made


def with_a_memory_for_each_layer(case: str, patch: Patch) -> Any:
    network = load(case).network
    network.cells = nn.ModuleList(OwnMemory(cell) for cell in network.cells)
    return network


def with_channels_slowest(case: str, patch: Patch) -> Any:
    """Patches in the order of a pixel unshuffle."""
    predictor = load(case)
    network, channels, area = predictor.network, predictor.spec.channels, predictor.network.patch_size**2
    order = torch.arange(area * channels).reshape(area, channels).T.flatten()
    inverse = torch.argsort(order)
    network.cells[0].x[0].weight.data = network.cells[0].x[0].weight.data[:, inverse]
    network.readout.weight.data = network.readout.weight.data[inverse]
    return network


def with_the_newer_frame_first(case: str, patch: Patch) -> Any:
    network = load(case).network
    climb = network.climb
    patch.setattr(network, "climb", lambda inputs, state, constants: climb(inputs.flip(2), state, constants))
    return network


def with_other_tokens(case: str, patch: Patch) -> Any:
    network = load(case).network
    for part in (network, *network.cells):
        part.tokens = "rows" if part.tokens == "positions" else "positions"
    return network


def with_the_other_temporal_convolution(case: str, patch: Patch) -> Any:
    network = load(case).network
    stretched, padded = StretchedConvolution.forward, WindowConvolution.forward

    def pad(self: StretchedConvolution, inputs: Tensor) -> Tensor:
        inputs = functional.pad(inputs, (0, 0, 0, 0, 0, 1))
        return functional.conv3d(inputs, self.weight, self.bias, 1, self.padding)

    def stretch(self: WindowConvolution, inputs: Tensor) -> Tensor:
        if self.kernel_size == (1, 1, 1):
            return padded(self, inputs)
        return functional.conv3d(inputs, self.weight, self.bias, 1, self.padding).expand(-1, -1, inputs.shape[2], -1, -1)

    patch.setattr(StretchedConvolution, "forward", pad)
    patch.setattr(WindowConvolution, "forward", stretch)
    assert stretched is not padded
    return network


READINGS: dict[str, Callable[[str, Patch], Any]] = {
    "fixed formula instead of legacy": with_fact(maths="fixed"),
    "legacy formula instead of fixed": with_fact(maths="legacy"),
    "OpenSTL-0.x formula (temporal memory convolution fed with m)": with_settings(temporal_from="memory"),
    "updated memory instead of frozen": with_fact(memory="updated"),
    "moving-average weights instead of the raw ones": with_fact(weights="ema"),
    "stride 2 instead of 1": with_settings(stride=2),
    "norm epsilon 1e-5 instead of 1e-12": with_settings(norm_epsilon=1e-5),
    "gradient highway skipped": with_settings(highway=None),
    "forget bias 0 instead of 1": with_forget_bias(0.0),
    "forget bias 1 instead of 0": with_forget_bias(1.0),
    "gate order i f o g": with_blocks_swapped,
    "gate blocks not reordered (i g f o read as i f g o)": with_unordered_gates,
    "norms ignored": without_norms,
    "one memory per layer instead of the zigzag": with_a_memory_for_each_layer,
    "patch channels with the image channel slowest (pixel-unshuffle order)": with_channels_slowest,
    "window order newer, older": with_the_newer_frame_first,
    "recall tokens = positions (as e3d-tf)": with_other_tokens,
    "recall tokens = raw rows (as OpenSTL)": with_other_tokens,
    "temporal convolution same-padded after (as e3d-tf)": with_the_other_temporal_convolution,
    "temporal convolution valid + nearest (as OpenSTL)": with_the_other_temporal_convolution,
}


def known_readings() -> list[tuple[str, str]]:
    if not GOLDENS.is_dir():
        return []
    cases = [folder.name for folder in sorted(GOLDENS.iterdir()) if folder.is_dir() and "simvp" not in folder.name]
    metas = {case: json.loads((GOLDENS / case / "meta.json").read_text()) for case in cases}
    return [
        (case, reading) for case, meta in metas.items() for reading in meta.get("wrong_variants", {}) if case != "ndrplz_convlstm_stack"
    ]


@pytest.mark.parametrize(("case", "reading"), known_readings())
def test_a_wrong_reading_differs(case: str, reading: str, monkeypatch: pytest.MonkeyPatch) -> None:
    meta, arrays = json.loads((GOLDENS / case / "meta.json").read_text()), np.load(GOLDENS / case / "golden.npz")
    frames, context = torch.from_numpy(arrays["frames"]).movedim(-1, 2), int(arrays["context"])
    everything = torch.ones(frames.shape[0], frames.shape[1] - 1, dtype=torch.bool)
    known = meta["wrong_variants"][reading]
    for mode, truth in {"teacher_forced": everything, "closed_loop": None}.items():
        network = READINGS[reading](case, monkeypatch)
        with torch.no_grad():
            made = rollout(network, frames, context, use_truth=truth).movedim(2, -1).numpy()
        monkeypatch.undo()
        assert float(np.abs(made - arrays[mode]).max()) == pytest.approx(known[mode], rel=1e-3, abs=1e-5)
