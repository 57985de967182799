"""What every network must bear: odd sizes, missing pixels, blank clips, horizons beyond training; and gradients that are right."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stpredict.draws import Draws
from stpredict.frames import FrameSpec
from stpredict.networks import NETWORKS, Network, create_network
from stpredict.predictor import Predictor, read_predictor
from stpredict.unroll import Unroll, rollout

CONTEXT = 4
STACK = {"hidden": [3, 3], "kernel_size": 3, "patch_size": 2}
LEVELS = {"hidden": [3, 4], "kernel_size": 3, "patch_size": 2}

FORMS: dict[str, dict[str, Any]] = {
    "convrnn": {**STACK},
    "convgru": {**STACK},
    "convgru 3-D": {**STACK, "window": 2},
    "convlstm": {**STACK, "hidden": [3, 4]},
    "convlstm 3-D": {**STACK, "window": 3},
    "convlstm peephole": {**STACK, "peephole": True, "norm": "group", "bias": True},
    "convlstm legacy": {**STACK, "hidden_from": "candidate"},
    "predrnn": {**STACK},
    "predrnn layer norm": {**STACK, "norm": "layer"},
    "predrnn channel norm": {**STACK, "norm": "channel", "bias": True, "readout_bias": True},
    "predrnn weight norm": {**STACK, "weight_norm": True, "dropout": 0.3},
    "predrnn_v2": {**STACK},
    "predrnnpp": {**STACK, "hidden": [4, 3]},
    "predrnnpp layer norm": {**STACK, "norm": "layer"},
    "predrnnpp no highway": {**STACK, "highway": None},
    "predrnnpp legacy": {**STACK, "temporal_from": "memory"},
    "e3d_lstm": {**STACK, "hidden": [4, 3]},
    "e3d_lstm frozen": {**STACK, "memory": "frozen", "norm": "channel", "bias": True, "recall": 2},
    "e3d_lstm stretched": {**STACK, "form": "stretched", "memory": "frozen"},
    "e3d_lstm stretched updated": {**STACK, "form": "stretched", "stride": 2, "norm": "layer", "weight_norm": True},
    "encoder_forecaster": {**LEVELS},
    "encoder_forecaster gru": {**LEVELS, "cell": "convgru", "activation": "leaky_relu", "strides": [1, 3]},
    "encoder_forecaster weight norm": {**LEVELS, "weight_norm": True},
    "encoder_forecaster peephole": {**LEVELS, "peephole": True, "norm": "layer", "dropout": 0.3},
    "encoder_forecaster shared": {**LEVELS, "share_weights": True, "reconstruct": 0.5, "norm": "channel"},
    "encoder_forecaster composite": {**LEVELS, "reconstruct": 0.5, "bias": False, "down_widths": [2, 5], "up_widths": [4, 2]},
    "simvp gsta": {"hidden": [4, 8], "layers": [2, 2], "translator": "gsta", "mlp_ratio": 2.0},
    "simvp incepu": {"hidden": [4, 8], "layers": [2, 2], "translator": "incepu"},
    "residual": {"of": {"name": "predrnn", **STACK}},
    "residual persistence": {"base": "persistence", "of": {"name": "convlstm", **STACK}},
    "residual encoder_forecaster": {"of": {"name": "encoder_forecaster", **LEVELS, "reconstruct": 0.5}},
    "residual simvp": {"of": {"name": "simvp", "hidden": [4, 8], "layers": [2, 2]}},
}
"""Every network and the forms that its settings give it, tiny; the first word is the network's name."""

INERT = {
    "convlstm legacy": "neither the cell state nor the gates i and f reach a prediction",
    "e3d_lstm stretched": "the forget gate of a memory that stays zero has nothing to forget",
}
"""Forms of which some gates are inert, as in the code whose weights they run."""


def make(form: str, channels: int = 1, size: tuple[int, int] = (8, 10), **more: Any) -> Network:
    torch.manual_seed(0)
    settings = {**FORMS[form], **more}
    if form.startswith("residual") and "valid_channel" in more:
        settings["of"] = {**settings["of"], "valid_channel": settings.pop("valid_channel")}
    network = create_network(form.split()[0], channels=channels, frame_size=size, context=CONTEXT, **settings)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return network.eval()


def clips(batch: int = 2, total: int = 8, channels: int = 1, size: tuple[int, int] = (8, 10)) -> Tensor:
    return torch.rand(batch, total, channels, *size, generator=torch.Generator().manual_seed(1))


def future(network: Network, frames: Tensor, **more: Any) -> Tensor:
    with torch.no_grad():
        return rollout(network, frames, CONTEXT, **more)[:, -(frames.shape[1] - CONTEXT) :]


def test_every_network_is_here() -> None:
    assert {form.split()[0] for form in FORMS} == set(NETWORKS)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("batch", "channels", "size"), [(1, 1, (8, 8)), (2, 3, (8, 12)), (1, 1, (9, 13)), (2, 2, (7, 16))], ids=["batch 1", "RGB", "odd", "2"]
)
def test_shapes(form: str, batch: int, channels: int, size: tuple[int, int]) -> None:
    network = make(form, channels, size)
    made = future(network, clips(batch, 8, channels, size))
    assert made.shape == (batch, 8 - CONTEXT, channels, *size)
    assert float(made.std()) > 1e-3


@pytest.mark.parametrize("form", FORMS)
def test_a_clip_depends_on_no_other_clip(form: str) -> None:
    network, frames = make(form).double(), clips(3).double()
    together = future(network, frames)
    for number in range(3):
        assert torch.allclose(together[number], future(network, frames[number : number + 1])[0], atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_a_longer_horizon_begins_with_the_shorter_one(form: str) -> None:
    network, frames = make(form), clips(1, CONTEXT + 11)
    longer = future(network, frames)
    assert longer.shape[1] == 11 and torch.isfinite(longer).all()
    assert torch.allclose(longer[:, :3], future(network, frames[:, : CONTEXT + 3]), atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_the_future_is_not_looked_at(form: str) -> None:
    network, frames = make(form), clips()
    base = future(network, frames)
    frames[:, CONTEXT:] = math.nan
    assert torch.equal(future(network, frames), base)


@pytest.mark.parametrize("form", [form for form in FORMS if not form.startswith("residual")])  # a baseline knows what is missing
def test_missing_pixels_are_fed_as_the_fill(form: str) -> None:
    network, frames = make(form), clips()
    valid = torch.rand(frames.shape, generator=torch.Generator().manual_seed(2)) > 0.3
    filled = torch.where(valid, frames, 0.25)
    holes = torch.where(valid, frames, math.nan)
    assert torch.equal(future(network, holes, valid=valid, fill=0.25), future(network, filled, fill=0.25))


@pytest.mark.parametrize("form", FORMS)
def test_the_mask_and_known_inputs_are_seen(form: str) -> None:
    network = make(form, valid_channel=True, known_channels=2)
    frames, known = clips(), clips(channels=2) + 1.0
    base = future(network, frames, known=known)
    valid = torch.ones_like(frames, dtype=torch.bool)
    assert torch.equal(future(network, frames, valid=valid, known=known), base)
    frames[:, 1, :, 2, 3] = 0.0
    filled = future(network, frames, known=known)
    valid[:, 1, :, 2, 3] = False
    assert float((future(network, frames, valid=valid, known=known) - filled).abs().max()) > 1e-6
    known[:, 2] += 1.0
    assert float((future(network, frames, known=known) - filled).abs().max()) > 1e-6


@pytest.mark.parametrize("form", FORMS)
def test_bfloat16_is_near_float32(form: str) -> None:
    network, frames = make(form), clips()
    exact = future(network, frames)
    with torch.autocast("cpu", torch.bfloat16):
        near = future(network, frames).float()
    assert 0.0 < float((near - exact).abs().median()) < 0.02 * max(1.0, float(exact.abs().max()))


@pytest.mark.parametrize("form", FORMS)
def test_a_blank_clip_trains(form: str) -> None:
    network = make(form).train()
    frames = torch.zeros(2, 8, 1, 8, 10)
    made, penalty = Unroll(network)(frames, CONTEXT, 4, draws=Draws(0, 0, (0, 1)))
    loss = made.square().mean() + (0.0 if penalty is None else penalty.mean())
    loss.backward()
    gradients = [weight.grad for weight in network.parameters() if weight.grad is not None]
    assert math.isfinite(float(loss.detach())) and all(torch.isfinite(gradient).all() for gradient in gradients)


def inert_channels(form: str, name: str, count: int) -> slice:
    """Return which output channels of a parameter are without a gradient in this form."""
    if form == "convlstm legacy" and ".out." not in name and name.startswith("cells"):
        return slice(0, count // 2)
    if form == "e3d_lstm stretched" and ".x." in name:
        return slice(count // 7 * 6, count)
    return slice(0, 0)


@pytest.mark.parametrize("form", FORMS)
def test_every_parameter_gets_a_gradient_and_it_is_right(form: str) -> None:
    """Against float64 finite differences along random directions, one for each parameter."""
    network = make(form, size=(6, 8)).double().train()
    frames = clips(size=(6, 8)).double()
    names, weights = zip(*network.named_parameters(), strict=True)
    goal = torch.rand_like(frames)
    draws = Draws(0, 0, (0, 1))

    def loss() -> Tensor:
        made, penalty = Unroll(network)(frames, CONTEXT, 4, draws=draws)
        return (made * goal[:, -made.shape[1] :]).sum() + (0.0 if penalty is None else penalty.sum())

    gradients = torch.autograd.grad(loss(), weights, allow_unused=False)
    generator = torch.Generator().manual_seed(3)
    for name, weight, gradient in zip(names, weights, gradients, strict=True):
        live = torch.ones(len(gradient), dtype=torch.bool)
        live[inert_channels(form, name, len(gradient))] = False
        moved = gradient.reshape(len(gradient), -1).abs().amax(dim=1) > 0
        assert torch.equal(moved, live), f"{name} {INERT.get(form, '')}"
        direction = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight.add_(sign * 1e-7 * direction)
                values.append(float(loss()))
                weight.sub_(sign * 1e-7 * direction)
        assert float((gradient * direction).sum()) == pytest.approx((values[0] - values[1]) / 2e-7, rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize("form", FORMS)
def test_recomputing_gives_the_same_gradients(form: str) -> None:
    network = make(form).train()
    gradients = []
    for recompute in (False, True):
        made, penalty = Unroll(network, recompute=recompute)(clips(), CONTEXT, 4, draws=Draws(0, 0, (0, 1)))
        loss = made.square().sum() + (0.0 if penalty is None else penalty.sum())
        gradients.append(torch.autograd.grad(loss, list(network.parameters())))
    for kept, again in zip(*gradients, strict=True):
        assert torch.equal(kept, again)


@pytest.mark.parametrize("form", FORMS)
def test_a_predictor_is_written_and_read(form: str, tmp_path: Any) -> None:
    network, spec = make(form), FrameSpec(1, 8, 10)
    predictor = Predictor(network, spec, CONTEXT, 4, network_name=form.split()[0], network_settings=FORMS[form])
    predictor.save(tmp_path / "p.safetensors")
    read = read_predictor(tmp_path / "p.safetensors")
    frames = clips(total=CONTEXT)
    assert torch.equal(read.forecast(frames, 4), predictor.forecast(frames, 4))


@pytest.mark.parametrize("form", FORMS)
def test_a_stream_equals_a_forecast_from_all_frames_seen(form: str) -> None:
    predictor = Predictor(make(form), FrameSpec(1, 8, 10), CONTEXT, 4, network_name=form.split()[0], network_settings=FORMS[form])
    frames = clips(total=9)
    stream = predictor.start(frames[:, :CONTEXT])
    for number in range(CONTEXT, 9):
        stream.observe(frames[:, number])
        if number % 2:
            assert torch.allclose(stream.forecast(3), predictor.forecast(frames[:, : number + 1], 3), atol=1e-6)


def test_the_counts_of_the_test_can_fail() -> None:
    """A dead parameter is found."""
    network = make("convlstm")
    network.dead = nn.Parameter(torch.zeros(3))
    with pytest.raises(RuntimeError, match=r"not have been used"):
        torch.autograd.grad(Unroll(network)(clips(), CONTEXT, 4)[0].sum(), list(network.parameters()))
