"""SimVP with other implementations' weights gives the outputs that those implementations gave, and would not if it were wrong."""

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
from torch.utils.flop_counter import FlopCounterMode

from stpredict.cells.gated_attention import ConvolutionalMLP, GatedAttention
from stpredict.cells.inception import InceptionBranch
from stpredict.networks import create_network
from stpredict.unroll import rollout
from stpredict.weights import import_predictor

GOLDENS = Path(__file__).resolve().parents[2] / ".." / "shared" / "goldens"
needs_goldens = pytest.mark.skipif(not GOLDENS.is_dir(), reason="the golden checkpoints of other implementations are not here")
pytestmark = pytest.mark.reference
INCEPU, GSTA = "openstl0_simvp_incepu", "openstl1_simvp_gsta"


def load_case(case: str) -> tuple[Any, dict[str, Any], Tensor, Tensor]:
    """Return the network, meta.json, the frames ``(B, T, C, H, W)`` and the forecast ``(B, horizon, C, H, W)``."""
    meta = json.loads((GOLDENS / case / "meta.json").read_text())
    facts = {"horizon": meta["horizon"]} if case == INCEPU else {}
    network = import_predictor(GOLDENS / case / meta["checkpoint"], **facts).network
    arrays = np.load(GOLDENS / case / "golden.npz")
    return network, meta, *(torch.from_numpy(arrays[name]).movedim(-1, 2) for name in ("frames", "forecast"))


@needs_goldens
@pytest.mark.parametrize("case", [INCEPU, GSTA])
@torch.no_grad()
def test_golden(case: str) -> None:
    network, meta, frames, expected = load_case(case)
    future = rollout(network, frames, meta["context"])
    np.testing.assert_allclose(future, expected, atol=1e-5, rtol=0)
    assert sum(weight.numel() for weight in network.parameters()) == meta["parameters"]
    loss = float((future - frames[:, meta["context"] :]).square().mean())
    assert loss == pytest.approx(meta["loss"]["forecast"], rel=1e-6)


def fold_features_slowest(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right, frames = network.translator.forward, network.context

    def wrong(x: Tensor) -> Tensor:
        swapped = x.unflatten(1, (frames, -1)).transpose(1, 2).flatten(1, 2)
        return right(swapped).unflatten(1, (-1, frames)).transpose(1, 2).flatten(1, 2)

    monkeypatch.setattr(network.translator, "forward", wrong)


def omit_skip(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    network.encoder[0].register_forward_hook(lambda module, inputs, output: seen.append(output))
    network.decoder[-1].register_forward_pre_hook(lambda module, inputs: (inputs[0] - seen[-1],))


def shuffle_pixels_slowest(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(x: Tensor, factor: int) -> Tensor:
        return right(x.unflatten(1, (4, -1)).transpose(1, 2).flatten(1, 2), factor)

    right = functional.pixel_shuffle
    monkeypatch.setattr(functional, "pixel_shuffle", wrong)


def norm_over_one_group(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for layer in [*network.encoder, *network.decoder]:
        layer.norm.num_groups = 1


def norm_branches_over_one_group(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for branch in network.modules():
        if isinstance(branch, InceptionBranch):
            branch.norm.num_groups = 1


def leave_out_largest(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for inception in [*network.translator.encoder, *network.translator.decoder]:
        inception.branches = inception.branches[:3]


def put_skip_first(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = torch.cat
    monkeypatch.setattr(torch, "cat", lambda tensors, dim: right(tensors[::-1] if tensors[0].ndim == 4 else tensors, dim))


def skip_shallowest_first(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Tensor] = []
    for inception in network.translator.encoder:
        inception.register_forward_hook(lambda module, inputs, output: made.append(output))
    last = len(network.translator.encoder)
    for number, inception in enumerate(network.translator.decoder):

        def replace(module: nn.Module, inputs: tuple[Tensor], number: int = number) -> tuple[Tensor]:
            return (torch.cat([inputs[0].chunk(2, dim=1)[0], made[-last:][number - 1]], dim=1),)

        if number:
            inception.register_forward_pre_hook(replace)


def leak_less(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = functional.leaky_relu
    monkeypatch.setattr(functional, "leaky_relu", lambda x, slope: right(x, 0.01))


def slide(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = network.forecast

    def wrong(observed: Tensor, horizon: int, known: None) -> Tensor:
        for _ in range(horizon):
            observed = torch.cat([observed, right(observed, 1)], dim=1)
        return observed[:, -horizon:]

    monkeypatch.setattr(network, "forecast", wrong)


def use_batch_statistics(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.train()


def swap_gate(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in network.modules():
        if isinstance(part, GatedAttention):
            part.gate.register_forward_hook(lambda module, inputs, output: torch.cat(output.chunk(2, dim=1)[::-1], dim=1))


def gate_the_input_too(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    for part in network.modules():
        if isinstance(part, GatedAttention):
            part.near.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
            part.project_out.register_forward_pre_hook(lambda module, inputs: (inputs[0] * seen[-1],))


def omit_inner_shortcut(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in network.modules():
        if isinstance(part, GatedAttention):
            part.register_forward_hook(lambda module, inputs, output: output - module.norm(inputs[0]))


def ignore_scale(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for block in network.translator.blocks:
        block.attention_scale.fill_(1.0), block.mlp_scale.fill_(1.0)


def activate_before_mixing(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: ConvolutionalMLP, x: Tensor) -> Tensor:
        return self.contract(self.mix(functional.gelu(self.expand(self.norm(x)))))

    monkeypatch.setattr(ConvolutionalMLP, "forward", wrong)


def approximate_gelu(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = functional.gelu
    monkeypatch.setattr(functional, "gelu", lambda x: right(x, approximate="tanh"))


def do_not_dilate(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in network.modules():
        if isinstance(part, GatedAttention):
            part.far.dilation, part.far.padding = (1, 1), (3, 3)


MISTAKES: list[tuple[str, str, Callable[[Any, pytest.MonkeyPatch], None]]] = [
    *[(case, "channels folded feature-slowest (c*T+t)", fold_features_slowest) for case in (INCEPU, GSTA)],
    *[(case, "encoder skip omitted", omit_skip) for case in (INCEPU, GSTA)],
    *[(case, "pixel shuffle with the sub-pixel index slowest", shuffle_pixels_slowest) for case in (INCEPU, GSTA)],
    *[(case, "GroupNorm over 1 group instead of 2", norm_over_one_group) for case in (INCEPU, GSTA)],
    (INCEPU, "concatenation order skip, decoder", put_skip_first),
    (INCEPU, "leaky slope 0.01", leak_less),
    (INCEPU, "translator skips shallowest first", skip_shallowest_first),
    (INCEPU, "translator norms over 1 group", norm_branches_over_one_group),
    (INCEPU, "11x11 branch left out", leave_out_largest),
    (INCEPU, "sliding window, one frame per pass", slide),
    (GSTA, "batch statistics instead of the stored ones", use_batch_statistics),
    (GSTA, "gate halves swapped", swap_gate),
    (GSTA, "gate also multiplied with its input (VAN, TAU)", gate_the_input_too),
    (GSTA, "inner shortcut of the attention omitted", omit_inner_shortcut),
    (GSTA, "layer scale ignored", ignore_scale),
    (GSTA, "MLP: GELU before the depthwise convolution", activate_before_mixing),
    (GSTA, "GELU by the tanh formula", approximate_gelu),
    (GSTA, "dilation 1 instead of 3", do_not_dilate),
]


@needs_goldens
@pytest.mark.parametrize(("case", "mistake", "make"), MISTAKES)
@torch.no_grad()
def test_the_goldens_notice_mistakes(case: str, mistake: str, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    network, meta, frames, expected = load_case(case)
    make(network, monkeypatch)
    difference = float((rollout(network, frames, meta["context"]) - expected).abs().max())
    assert difference == pytest.approx(meta["wrong_variants"][mistake]["forecast"], rel=2e-3)


@pytest.mark.parametrize(
    ("sizes", "weights", "tensors", "billions"),
    [
        ({"hidden": [64, 512], "layers": [4, 8]}, 46_769_665, 262, 16.5),
        ({"hidden": [64, 512], "layers": [4, 8], "translator": "incepu"}, 57_946_113, 322, 19.4),
        ({"hidden": [64, 256], "layers": [2, 6], "drop_path": 0.2}, 15_632_961, None, None),
        ({"hidden": [64, 256], "layers": [2, 6], "translator": "incepu"}, 12_152_385, None, None),
    ],
)
def test_as_large_as_published(sizes: dict[str, Any], weights: int, tensors: int | None, billions: float | None) -> None:
    """The published "FLOPs" are multiplications with addition, of 10 -> 10 frames of 64 x 64 pixels; torch counts two for each."""
    with torch.device("meta"):
        network = create_network("simvp", channels=1, context=10, **sizes).eval()
        assert sum(weight.numel() for weight in network.parameters()) == weights
        assert tensors is None or len(network.state_dict()) == tensors
        if billions is not None:
            with FlopCounterMode(display=False) as counter:
                network.forecast(torch.empty(1, 10, 1, 64, 64), 10)
            assert counter.get_total_flops() / 2e9 == pytest.approx(billions, abs=0.1)
