"""Encoder-forecaster: its equations written out, the reconstruction's penalty by hand, shared weights, known inputs, masks and dropout."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from stpredict.draws import Draws
from stpredict.errors import UserError
from stpredict.frames import FrameSpec
from stpredict.networks import create_network
from stpredict.networks.encoder_forecaster import EncoderForecaster
from stpredict.predictor import Predictor
from stpredict.unroll import Unroll, rollout

GRU = {"cell": "convgru", "activation": "leaky_relu"}
LSTM = {"cell": "convlstm", "forget_bias": 0.7}
PEEPHOLE = {"cell": "convlstm", "peephole": True, "norm": "layer"}


def make(channels: int = 1, size: tuple[int, int] = (8, 12), **changes: Any) -> EncoderForecaster:
    """A network whose weights all matter, in float64."""
    torch.manual_seed(0)
    settings = {"hidden": [3, 4], "kernel_size": 3, **changes}
    network = create_network("encoder_forecaster", channels=channels, frame_size=size, **settings).double()
    assert isinstance(network, EncoderForecaster)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return network.eval()


def film(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def kinds(*kinds: dict[str, Any]) -> Any:
    return pytest.mark.parametrize("kind", kinds or (GRU, LSTM), ids=lambda kind: "-".join(map(str, kind.values())))


class Oracle:
    """Two levels, the second half as fine, written out from the papers: the parameters of a network by name, no module of it."""

    def __init__(self, network: EncoderForecaster, activation: str = "tanh", forget_bias: float = 0.0, cell: str = "", **_: Any) -> None:
        self.w = {name: value.detach() for name, value in network.state_dict().items()}
        self.lstm, self.forget_bias, self.widths = cell == "convlstm", forget_bias, network.hidden
        self.masks: Any = (((None, 1.0), (1.0, 1.0)),) * 3
        self.candidate = torch.tanh if activation == "tanh" else lambda x: torch.where(x > 0, x, 0.2 * x)

    def gate(self, name: str, x: Tensor) -> Tensor:
        """One gate convolution, and its layer norm if it has one."""
        kernel = self.w[f"{name}.0.weight"]
        x = functional.conv2d(x, kernel, self.w.get(f"{name}.0.bias"), padding=kernel.shape[-1] // 2)
        if f"{name}.1.weight" in self.w:
            x = (x - x.mean((1, 2, 3), keepdim=True)) / (x.var((1, 2, 3), keepdim=True, correction=0) + 1e-5).sqrt()
            x = x * self.w[f"{name}.1.weight"] + self.w[f"{name}.1.bias"]
        return x

    def cell(self, name: str, x: Tensor | None, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """One cell; x None where it is fed nothing."""
        below, before = 0.0 if x is None else self.gate(f"{name}.x", x), self.gate(f"{name}.h", h)
        n, zero = h.shape[1], torch.zeros_like(before)
        if self.lstm:
            wi, wf, wo = (self.w.get(f"{name}.peep_{gate}", torch.zeros(())) for gate in "ifo")
            i, f, g, o = (below + before).split(n, dim=1)
            new = torch.sigmoid(f + wf * c + self.forget_bias) * c + torch.sigmoid(i + wi * c) * torch.tanh(g)
            return torch.sigmoid(o + wo * new) * torch.tanh(new), new
        xz, xr, xg = (zero + below).split(n, dim=1)
        hz, hr, hg = before.split(n, dim=1)
        z, r = torch.sigmoid(xz + hz), torch.sigmoid(xr + hr)
        return (1 - z) * self.candidate(xg + r * hg) + z * h, c

    def resample(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight, bias = self.w[f"{name}.0.weight"], self.w[f"{name}.0.bias"]
        if "encoder" in name:
            x = functional.conv2d(x, weight, bias, stride=stride, padding=1)
        else:
            x = functional.conv_transpose2d(x, weight, bias, stride=stride, padding=1)
        return torch.where(x > 0, x, 0.2 * x)

    def encode(self, frames: Tensor) -> list[tuple[Tensor, Tensor]]:
        batch, _, _, height, width = frames.shape
        (_, recurrent), (below, deep) = self.masks[0]
        (h, c), (k, d) = (
            (film(batch, n, *grid) * 0.0,) * 2 for n, grid in zip(self.widths, ((height, width), (height // 2, width // 2)), strict=True)
        )
        for x in frames.unbind(1):
            h, c = self.cell("encoder.cells.0", self.resample("encoder.resamplings.0", x), h * recurrent, c)
            k, d = self.cell("encoder.cells.1", self.resample("encoder.resamplings.1", h * below, 2), k * deep, d)
        return [(h, c), (k, d)]

    def decode(self, head: str, states: list[tuple[Tensor, Tensor]], steps: int) -> Tensor:
        (_, deep), (above, recurrent) = self.masks[1 if head == "forecaster" else 2]
        (h, c), (k, d) = states
        made = []
        for _ in range(steps):
            k, d = self.cell(f"{head}.walk.cells.0", None, k * deep, d)
            h, c = self.cell(f"{head}.walk.cells.1", self.resample(f"{head}.walk.resamplings.1", k * above, 2), h * recurrent, c)
            kernel, bias = self.w[f"{head}.readout.weight"], self.w[f"{head}.readout.bias"]
            made.append(functional.conv2d(self.resample(f"{head}.last", h), kernel, bias))
        return torch.stack(made, dim=1)


@kinds(GRU, {"cell": "convgru"}, LSTM, PEEPHOLE, {"cell": "convgru", "norm": "layer", "bias": False})
@torch.no_grad()
def test_equations(kind: dict[str, Any]) -> None:
    network, frames = make(channels=2, down_widths=[2, 5], up_widths=[4, 6], **kind), film(2, 7, 2, 8, 12)
    oracle = Oracle(network, **kind)
    made = rollout(network, frames, context=3)
    assert torch.allclose(made, oracle.decode("forecaster", oracle.encode(frames[:, :3]), 4), atol=1e-12)
    assert float(made.std()) > 0.05


@kinds()
@torch.no_grad()
def test_equations_with_dropout(kind: dict[str, Any]) -> None:
    network, frames, draws = make(dropout=0.5, reconstruct=1.0, **kind).train(), film(2, 7, 1, 8, 12), Draws(0, 1, (0, 1))
    oracle = Oracle(network, **kind)
    oracle.masks = network.prepare(2, draws)
    states = oracle.encode(frames[:, :3])
    made, penalty = Unroll(network)(frames, 3, 4, draws=draws)
    assert torch.allclose(made, oracle.decode("forecaster", states, 4), atol=1e-12)
    said = oracle.decode("reconstructor", states, 3).flip(1)
    assert penalty is not None and torch.allclose(penalty * 7, (said - frames[:, :3]).square().mean((2, 3, 4)).sum(1), atol=1e-12)


@kinds()
def test_the_penalty_is_the_error_of_the_observed_frames_in_reverse(kind: dict[str, Any]) -> None:
    """One frame a step, as many as there are steps; over valid pixels of each frame; padding and holes do not count."""
    network, frames = make(reconstruct=0.3, **kind).train(), film(2, 9, 1, 7, 12)
    valid = torch.rand(frames.shape, generator=torch.Generator().manual_seed(2)) > 0.4
    holes = torch.where(valid, frames, math.nan)
    oracle = Oracle(network, **kind)
    filled = functional.pad(torch.where(valid, frames, 0.5), (0, 0, 0, 1), value=0.5)
    said = oracle.decode("reconstructor", oracle.encode(filled[:, :4]), 4).flip(1)[..., :7, :]
    wrong = torch.where(valid[:, :4], said - frames[:, :4], 0.0).square().sum((2, 3, 4)) / valid[:, :4].sum((2, 3, 4))
    for horizon in (1, 2, 5):
        _, penalty = Unroll(network, fill=0.5)(holes, 4, horizon, valid=valid)
        assert penalty is not None and torch.allclose(penalty * (4 + horizon), 0.3 * wrong.flip(1)[:, :horizon].sum(1), atol=1e-12)
    assert penalty is not None
    penalty.sum().backward()
    assert all(weight.grad is None or bool(torch.isfinite(weight.grad).all()) for weight in network.parameters())
    _, penalty = Unroll(network)(holes, 4, 5, valid=torch.zeros_like(valid))
    assert penalty is not None and penalty.tolist() == [0.0, 0.0]


@torch.no_grad()
def test_a_reconstruction_changes_no_forecast() -> None:
    plain, composite = make(), make(reconstruct=2.0)
    composite.load_state_dict({**composite.state_dict(), **plain.state_dict()})
    frames = film(2, 6, 1, 8, 12)
    expected = rollout(plain, frames, 3)
    assert torch.equal(rollout(composite, frames, 3), expected)
    assert torch.equal(rollout(composite.train(), frames, 3), expected)
    assert Unroll(composite)(frames, 3, 3)[1] is not None
    assert Unroll(composite.eval())(frames, 3, 3)[1] is None
    assert composite.begin_forecast(composite.initial_state(1, 8, 12))[1:] == ((), ())


FORMS: dict[str, dict[str, Any]] = {
    "2017": {**GRU, "norm": "layer"},
    "2015": {**PEEPHOLE, "patch_size": 2},
    "dropout": {"dropout": 0.4, "strides": [2, 1], "down_widths": [2, 5], "up_widths": [4, 2], "norm": "channel"},
    "shared": {**GRU, "share_weights": True, "known_channels": 2},
    "three levels": {"hidden": [2, 3, 4], "strides": [1, 3, 1], "bias": False},
}


@pytest.mark.parametrize("reconstruct", [0.0, 0.5])
@pytest.mark.parametrize("form", FORMS)
def test_every_parameter_gets_a_gradient_and_it_is_right(form: str, reconstruct: float) -> None:
    network = make(size=(4, 6), **{**FORMS[form], "reconstruct": reconstruct}).train()
    weights, frames = dict(network.named_parameters()), film(2, 3, 1, 4, 6)
    known = film(2, 6, 2, 4, 6) if network.known_channels else None

    def outcome(seen: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        along = {"frames": seen, "context": 3, "horizon": 3, "known": known, "draws": Draws(0, 3, (0, 1))}
        given = {f"network.{name}": value for name, value in zip(weights, values, strict=True)}
        made, penalty = torch.func.functional_call(Unroll(network), given, (), along)
        return (made,) if penalty is None else (made, penalty)

    inputs = [value.detach().requires_grad_() for value in (frames, *weights.values())]
    assert torch.autograd.gradcheck(outcome, inputs, fast_mode=True)
    total = sum((part.square().sum() for part in outcome(*inputs)), torch.zeros(()))
    for name, gradient in zip(["frames", *weights], torch.autograd.grad(total, inputs), strict=True):
        assert float(gradient.abs().max()) > 0, name


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_any_horizon_any_batch_any_size_and_colour(form: str) -> None:
    network = make(channels=3, size=(7, 10), **FORMS[form])
    frames, known = film(3, 9, 3, 7, 10), film(3, 9, 2, 7, 10)
    far = rollout(network, frames, 3, known=known)
    assert far.shape == (3, 6, 3, 7, 10) and float(far.std()) > 0.01
    assert torch.allclose(far[:, :3], rollout(network, frames[:, :6], 3, known=known[:, :6]), atol=1e-12)
    alone = torch.cat([rollout(network, frames[i : i + 1], 3, known=known[i : i + 1]) for i in range(3)])
    assert torch.allclose(far, alone, atol=1e-12)
    frames[:, 3:] = math.nan
    assert torch.equal(rollout(network, frames, 3, known=known), far)


@kinds()
def test_a_blank_clip_is_finite(kind: dict[str, Any]) -> None:
    network = make(norm="layer", reconstruct=1.0, **{**kind}).float().train()
    made, penalty = Unroll(network)(torch.zeros(2, 6, 1, 8, 12), 3, 3)
    assert penalty is not None
    (made.square().mean() + penalty.mean()).backward()
    assert torch.isfinite(made).all()
    assert all(weight.grad is not None and torch.isfinite(weight.grad).all() for weight in network.parameters())


@pytest.mark.parametrize("reconstruct", [0.0, 1.0])
@torch.no_grad()
def test_the_mask_is_fed_where_it_is_asked_for(reconstruct: float) -> None:
    frames = film(1, 6, 1, 8, 12)
    valid = torch.ones_like(frames, dtype=torch.bool)
    frames[0, 1, 0, 2:4, 3:5] = 0.0
    valid[0, 1, 0, 2:4, 3:5] = False
    for asked in (False, True):
        network = make(valid_channel=asked, reconstruct=reconstruct)
        full, holes = rollout(network, frames, 3), rollout(network, frames, 3, valid=valid)
        assert torch.equal(full, holes) is not asked
    assert float((full - holes).abs().max()) > 1e-6


@pytest.mark.parametrize("share_weights", [False, True])
@torch.no_grad()
def test_known_inputs_of_the_future_reach_the_forecaster_averaged(share_weights: bool) -> None:
    network = make(known_channels=2, patch_size=2, share_weights=share_weights)
    frames, known = film(1, 6, 1, 8, 12), film(1, 6, 2, 8, 12)
    base = rollout(network, frames, 3, known=known)
    known[:, 4, 1, 0, 0] += 1.0
    changed = rollout(network, frames, 3, known=known)
    assert torch.equal(changed[:, 0], base[:, 0]) and float((changed[:, 1] - base[:, 1]).abs().max()) > 1e-4
    known[:, 4, 1, 0, 0] -= 1.0
    known[:, 4, 1, 3, 3] += 1.0  # of the same cell of the deepest grid
    assert torch.allclose(rollout(network, frames, 3, known=known), changed, atol=1e-12)
    with pytest.raises(UserError, match="2 known channels and was given 0"):
        rollout(network, frames, 3)


@kinds()
def test_shared_weights_are_the_encoders(kind: dict[str, Any]) -> None:
    def cells(network: EncoderForecaster) -> int:
        return sum(weight.numel() for name, weight in network.named_parameters() if ".cells." in name)

    apart, shared = make(hidden=[4, 4], **kind), make(hidden=[4, 4], share_weights=True, **kind)
    gates = 3 if kind["cell"] == "convgru" else 4
    unused = 4 * gates * 4 * 9 + 4 * gates  # the deepest cell of a forecaster of its own has no convolution of an input
    assert 2 * cells(shared) == cells(apart) + unused
    # A forecaster of its own with the encoder's weights says the same, if the biases of what it is not fed were none.
    weights = shared.state_dict()
    weights["encoder.cells.1.x.0.bias"].zero_()
    for deepest_first, level in enumerate((1, 0)):
        for name in [name for name in weights if name.startswith(f"encoder.cells.{level}.")]:
            weights[name.replace(f"encoder.cells.{level}", f"forecaster.walk.cells.{deepest_first}")] = weights[name]
    apart.load_state_dict({name: weights[name] for name in apart.state_dict()})
    frames = film(2, 6, 1, 8, 12)
    assert torch.allclose(rollout(apart, frames, 3), rollout(shared, frames, 3), atol=1e-12)


def test_dropout_is_a_function_of_the_draws_and_off_in_forecasts() -> None:
    network, plain, frames = make(dropout=0.5, reconstruct=1.0), make(reconstruct=1.0), film(2, 6, 1, 8, 12)
    assert torch.equal(rollout(network, frames, 3), rollout(plain, frames, 3))
    assert Unroll(network)(frames, 3, 3, draws=Draws(0, 1, (0, 1)))[0].equal(rollout(plain, frames, 3))
    network.train()
    made, penalty = Unroll(network)(frames, 3, 3, draws=Draws(0, 1, (0, 1)))
    again, cost = Unroll(network)(frames.flip(0), 3, 3, draws=Draws(0, 1, (1, 0)))
    assert penalty is not None and cost is not None
    assert torch.allclose(made, again.flip(0), atol=1e-12) and torch.allclose(penalty, cost.flip(0), atol=1e-12)
    other, _ = Unroll(network)(frames, 3, 3, draws=Draws(0, 2, (0, 1)))
    assert float((made - other).detach().abs().max()) > 1e-3
    encoder, forecaster, reconstructor = network.prepare(2, Draws(0, 1, (0, 1)))
    assert [mask.hidden.shape[1] for walk in (encoder, forecaster, reconstructor) for mask in walk] == [3, 4, 4, 3, 4, 3]
    assert [mask.below is None for mask in forecaster] == [True, False] and forecaster[1].below.shape == (2, 4, 1, 1)
    assert set(torch.cat([mask.hidden.flatten() for mask in forecaster]).tolist()) == {0.0, 2.0}
    assert not torch.equal(forecaster[0].hidden, reconstructor[0].hidden)


def test_a_stream_forecasts_from_all_frames_seen_and_goes_on() -> None:
    predictor = Predictor(make(reconstruct=1.0).float(), FrameSpec(1, 8, 12), 3, 3, network_name="encoder_forecaster", network_settings={})
    frames = film(1, 7, 1, 8, 12).float()
    stream = predictor.start(frames[:, :3])
    for seen in range(4, 8):
        stream.observe(frames[:, seen - 1])
        for horizon in (2, 4):
            assert torch.allclose(stream.forecast(horizon), predictor.forecast(frames[:, :seen], horizon), atol=1e-6)


@torch.no_grad()
def test_the_kernels_are_those_of_hko_7() -> None:
    """480 x 480 pixels, strides 5, 3 and 2: kernels 7, 5 and 3 down, 7, 5 and 4 up, to grids of 96, 32 and 16."""
    with torch.device("meta"):
        network = EncoderForecaster(
            channels=1, hidden=[64, 192, 192], kernel_size=3, strides=[5, 3, 2], down_widths=[8, 192, 192], **{**GRU}
        )
    assert network.patch_size == 30 and network._grids_of(480, 480) == [(96, 96), (32, 32), (16, 16)]
    shapes = {name: tuple(weight.shape) for name, weight in network.named_parameters()}
    assert [shapes[f"encoder.resamplings.{i}.0.weight"] for i in range(3)] == [(8, 1, 7, 7), (192, 64, 5, 5), (192, 192, 3, 3)]
    ups = [shapes[f"forecaster.{name}.0.weight"] for name in ("walk.resamplings.1", "walk.resamplings.2", "last")]
    assert ups == [(192, 192, 4, 4), (192, 192, 5, 5), (64, 8, 7, 7)]


def test_the_size_is_that_of_the_published_code() -> None:
    """ConvLSTM-PyTorch has 9,032,225 weights: for its decoder's deepest input as well, but x and h share their norms and biases."""
    with torch.device("meta"):
        widths = {"hidden": [64, 96, 96], "down_widths": [16, 64, 96], "norm": "group"}
        network = create_network("encoder_forecaster", channels=1, kernel_size=5, **widths)
    unfed, apart = 96 * 4 * 96 * 5 * 5, 3 * 4 * (64 + 96 + 96 + 96 + 64)
    assert sum(weight.numel() for weight in network.parameters()) == 9_032_225 - unfed + apart == 8_115_617


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"hidden": []}, "'hidden' lists .* at least one"),
        ({"strides": [1, 2, 2]}, "'strides' lists .* 2, as many as 'hidden'"),
        ({"down_widths": [0, 3]}, "each at least 1"),
        ({"kernel_size": 2}, "must be odd"),
        ({"patch_size": 0}, "at least 1"),
        ({"patch_size": 5}, "times all 'strides' is 10, too much for frames of 8 x 12"),
        ({"dropout": 1.0}, "not, 1"),
        ({"reconstruct": -1.0}, "at least 0"),
        ({"cell": "convgru", "peephole": True}, "belong to the cell 'convlstm'"),
        ({"activation": "leaky_relu"}, "belongs to the cell 'convgru'"),
        ({"cell": "convgur"}, "did you mean 'convgru'"),
        ({"share_weights": True, "up_widths": [4, 4]}, r"leave out 'up_widths', or give \[4, 3\]"),
        ({"peephole": True, "frame_size": None}, "frame_size"),
    ],
)
def test_impossible_networks_are_refused(change: dict[str, Any], sentence: str) -> None:
    settings = {"channels": 1, "hidden": [3, 4], "kernel_size": 3, "frame_size": (8, 12), **change}
    with pytest.raises(UserError, match=sentence):
        create_network("encoder_forecaster", **settings)


@pytest.mark.parametrize("change", [{"norm": "layer"}, {"peephole": True}])
def test_parameters_of_single_pixels_are_bound_to_the_frame(change: dict[str, Any]) -> None:
    network = make(size=(7, 12), **change)
    assert rollout(network, film(1, 3, 1, 7, 12), 1).shape == (1, 2, 1, 7, 12)
    with pytest.raises(UserError, match=r"8 x 12 \(padded\), and it was given 12 x 12"):
        rollout(network, film(1, 3, 1, 12, 12), 1)
