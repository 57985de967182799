"""ConvLSTM and PredRNN against their equations, written out in float64 numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from stpredict.errors import UserError
from stpredict.networks import create_network, list_networks
from stpredict.patches import patchify, unpatchify
from stpredict.unroll import rollout

Array = NDArray[np.float64]


def convolve(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """ "Same" cross-correlation of (B, in, H, W) with (out, in, k, k), offset by offset."""
    size, (height, width) = weight.shape[-1], x.shape[-2:]
    padded = np.pad(x, ((0, 0), (0, 0), (size // 2,) * 2, (size // 2,) * 2))
    result = sum(
        np.einsum("bihw,oi->bohw", padded[:, :, row : row + height, column : column + width], weight[:, :, row, column])
        for row in range(size)
        for column in range(size)
    )
    return result if bias is None else result + bias[:, None, None]


def normalise(x: Array, weight: Array, bias: Array) -> Array:
    mean, variance = (getattr(x, name)(axis=(1, 2, 3), keepdims=True) for name in ("mean", "var"))
    return (x - mean) / np.sqrt(variance + 1e-5) * weight + bias


def sigmoid(x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-x))


class Weights:
    """The parameters of a network, by name; applies one gate convolution with its norm."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.values = {name: value.detach().double().numpy() for name, value in network.state_dict().items()}

    def gate(self, name: str, x: Array) -> Array:
        result = convolve(x, self.values[f"{name}.0.weight"], self.values.get(f"{name}.0.bias"))
        if f"{name}.1.weight" in self.values:
            result = normalise(result, self.values[f"{name}.1.weight"], self.values[f"{name}.1.bias"])
        return result

    def plain(self, name: str, x: Array) -> Array:
        return convolve(x, self.values[f"{name}.weight"], self.values.get(f"{name}.bias"))


def convlstm(w: Weights, frames: Array, hidden: list[int], forget_bias: float) -> list[Array]:
    grid = frames.shape[-2:]
    h = [np.zeros((len(frames), n, *grid)) for n in hidden]
    c = [np.zeros((len(frames), n, *grid)) for n in hidden]
    predictions = []
    for t in range(frames.shape[1]):
        x = frames[:, t]
        for layer in range(len(hidden)):
            i, f, g, o = np.split(w.gate(f"cells.{layer}.x", x) + w.gate(f"cells.{layer}.h", h[layer]), 4, axis=1)
            c[layer] = sigmoid(f + forget_bias) * c[layer] + sigmoid(i) * np.tanh(g)
            x = h[layer] = sigmoid(o) * np.tanh(c[layer])
        predictions.append(w.plain("readout", x))
    return predictions


def predrnn(w: Weights, frames: Array, hidden: list[int], forget_bias: float) -> list[Array]:
    grid = frames.shape[-2:]
    h = [np.zeros((len(frames), n, *grid)) for n in hidden]
    c = [np.zeros((len(frames), n, *grid)) for n in hidden]
    m = np.zeros((len(frames), hidden[0], *grid))
    predictions = []
    for t in range(frames.shape[1]):
        x = frames[:, t]
        for layer in range(len(hidden)):
            xi, xf, xg, yi, yf, yg, xo = np.split(w.gate(f"cells.{layer}.x", x), 7, axis=1)
            hi, hf, hg, ho = np.split(w.gate(f"cells.{layer}.h", h[layer]), 4, axis=1)
            mi, mf, mg = np.split(w.gate(f"cells.{layer}.m", m), 3, axis=1)
            c[layer] = sigmoid(xf + hf + forget_bias) * c[layer] + sigmoid(xi + hi) * np.tanh(xg + hg)
            m = sigmoid(yf + mf + forget_bias) * m + sigmoid(yi + mi) * np.tanh(yg + mg)
            both = np.concatenate([c[layer], m], axis=1)
            x = h[layer] = sigmoid(xo + ho + w.gate(f"cells.{layer}.o", both)) * np.tanh(w.plain(f"cells.{layer}.out", both))
        predictions.append(w.plain("readout", x))
    return predictions


ORACLES = {"convlstm": (convlstm, [4, 3], 0.0), "predrnn": (predrnn, [3, 3], 1.0)}


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("extra", [{}, {"bias": True}, {"norm": "layer"}, {"forget_bias": 0.7}, {"norm": "layer", "bias": True}])
@torch.no_grad()
def test_equations(name: str, extra: dict[str, object]) -> None:
    oracle, hidden, forget_bias = ORACLES[name]
    torch.manual_seed(1)
    network = create_network(name, channels=3, hidden=hidden, kernel_size=3, patch_size=2, frame_size=(6, 8), **extra).double()
    for weight in network.parameters():
        weight.add_(0.3 * torch.randn_like(weight))
    frames = torch.rand(2, 5, 3, 6, 8, dtype=torch.float64)
    taught = rollout(network, frames, context=4)
    expected = oracle(Weights(network), patchify(frames, 2).numpy()[:, :4], hidden, float(extra.get("forget_bias", forget_bias)))
    pixels = unpatchify(torch.from_numpy(np.stack(expected, axis=1)), 2)
    np.testing.assert_allclose(taught, pixels, atol=1e-12)
    assert float(taught.std()) > 0.05


@pytest.mark.parametrize("name", list_networks())
def test_every_parameter_gets_a_gradient_and_it_is_right(name: str) -> None:
    torch.manual_seed(0)
    network = create_network(name, channels=1, hidden=[2, 2], kernel_size=3, patch_size=1, frame_size=(3, 4), norm="layer").double()
    frames = torch.rand(1, 4, 1, 3, 4, dtype=torch.float64)
    weights = list(network.parameters())

    def loss(*values: torch.Tensor) -> torch.Tensor:
        return rollout(network, frames, context=2).square().sum()

    for gradient in torch.autograd.grad(loss(), weights):
        assert float(gradient.abs().max()) > 0
    assert torch.autograd.gradcheck(loss, weights[:3], eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", list_networks())
@torch.no_grad()
def test_valid_and_known_channels_reach_the_network(name: str) -> None:
    torch.manual_seed(0)
    network = create_network(name, channels=1, hidden=[4], kernel_size=3, patch_size=2, valid_channel=True, known_channels=2)
    frames, known = torch.rand(1, 4, 1, 6, 6), torch.rand(1, 4, 2, 6, 6)
    base = rollout(network, frames, 2, known=known)
    valid = torch.ones_like(frames, dtype=torch.bool)
    assert torch.equal(rollout(network, frames, 2, valid=valid, known=known), base)
    frames[0, 0, 0, 0, 0] = 0.0
    filled = rollout(network, frames, 2, known=known)
    valid[0, 0, 0, 0, 0] = False
    assert float((rollout(network, frames, 2, valid=valid, known=known) - filled).abs().max()) > 1e-4
    known[:, 3] += 1.0
    changed = rollout(network, frames, 2, known=known)
    assert torch.equal(changed[:, :2], filled[:, :2]) and float((changed[:, 2] - filled[:, 2]).abs().max()) > 1e-4
    with pytest.raises(UserError, match="2 known channels and was given 0"):
        rollout(network, frames, 2)


@pytest.mark.parametrize(("name", "published"), [("convlstm", 11_675_648), ("predrnn", 23_838_720)])
def test_published_sizes(name: str, published: int) -> None:
    with torch.device("meta"):
        network = create_network(name, channels=1, hidden=[128] * 4, kernel_size=5, patch_size=4)
    assert sum(weight.numel() for weight in network.parameters()) == published


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("predrnn", {"hidden": [4, 5]}, "equally wide"),
        ("convlstm", {"hidden": []}, "at least one"),
        ("convlstm", {"kernel_size": 4}, "must be odd"),
        ("convlstm", {"patch_size": 0}, "at least 1"),
        ("convlstm", {"patch_size": 9}, "larger than the frame"),
        ("convlstm", {"norm": "layer", "frame_size": None}, "frame_size"),
        ("convlstm", {"norm": "laier"}, "norm"),
        ("convlstm", {"hiden": [4]}, "did you mean 'hidden'"),
        ("convlstn", {}, "did you mean 'convlstm'"),
    ],
)
def test_impossible_networks_are_refused(name: str, change: dict[str, object], sentence: str) -> None:
    settings = {"channels": 1, "hidden": [4, 4], "kernel_size": 3, "patch_size": 2, "frame_size": (8, 8), **change}
    with pytest.raises(UserError, match=sentence):
        create_network(name, **settings)


@torch.no_grad()
def test_layer_norm_is_bound_to_its_grid() -> None:
    network = create_network("convlstm", channels=1, hidden=[4], kernel_size=3, patch_size=4, frame_size=(10, 16), norm="layer")
    assert rollout(network, torch.rand(1, 3, 1, 10, 16), 1).shape == (1, 2, 1, 10, 16)
    with pytest.raises(UserError, match="bound to frames of 12 x 16"):
        rollout(network, torch.rand(1, 3, 1, 16, 16), 1)
