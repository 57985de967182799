"""The stacked networks against their equations, written out in float64 numpy."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from stpredict.draws import Draws
from stpredict.errors import UserError
from stpredict.networks import create_network
from stpredict.patches import patchify, unpatchify
from stpredict.unroll import Unroll, rollout

Array = NDArray[np.float64]


def convolve(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """ "Same" cross-correlation of (B, in, ...) with (out, in, ...), offset by offset; an even kernel is padded after."""
    kernel, grid = weight.shape[2:], x.shape[2:]
    padded = np.pad(x, [(0, 0), (0, 0), *(((size - 1) // 2, size // 2) for size in kernel)])
    result = np.zeros((len(x), len(weight), *grid))
    for offset in product(*(range(size) for size in kernel)):
        window = padded[(slice(None), slice(None), *(slice(o, o + n) for o, n in zip(offset, grid, strict=True)))]
        result += np.einsum("bi...,oi->bo...", window, weight[(slice(None), slice(None), *offset)])
    return result if bias is None else result + per_channel(bias, result)


def per_channel(values: Array, like: Array) -> Array:
    return values.reshape(1, -1, *(1,) * (like.ndim - 2))


def normalise(x: Array, weight: Array, bias: Array) -> Array:
    axes = tuple(range(1, x.ndim))
    mean, variance = (getattr(x, name)(axis=axes, keepdims=True) for name in ("mean", "var"))
    if weight.ndim == 1:
        weight, bias = per_channel(weight, x), per_channel(bias, x)
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


class Layers:
    """What the layers of a network remember: zeros at first."""

    def __init__(self, frames: Array, hidden: list[int], window: int = 1) -> None:
        depth = () if window == 1 else (window,)
        self.frames, self.hidden, self.grid = frames, hidden, (*depth, *frames.shape[-2:])
        self.h, self.c = [self.zeros(n) for n in hidden], [self.zeros(n) for n in hidden]

    def zeros(self, channels: int) -> Array:
        return np.zeros((len(self.frames), channels, *self.grid))

    def __iter__(self) -> Any:
        return iter(range(len(self.hidden)))

    def inputs(self, t: int) -> Array:
        if len(self.grid) == 2:
            return self.frames[:, t]
        past = [self.frames[:, t - ago] if t >= ago else np.zeros_like(self.frames[:, 0]) for ago in range(self.grid[0] - 1, -1, -1)]
        return np.stack(past, axis=2)


def convrnn(w: Weights, frames: Array, hidden: list[int], window: int = 1) -> list[Array]:
    layers, tops = Layers(frames, hidden, window), []
    for t in range(frames.shape[1]):
        x = layers.inputs(t)
        for n in layers:
            x = layers.h[n] = np.tanh(w.gate(f"cells.{n}.x", x) + w.gate(f"cells.{n}.h", layers.h[n]))
        tops.append(x)
    return tops


def convgru(w: Weights, frames: Array, hidden: list[int], activation: str = "tanh", window: int = 1) -> list[Array]:
    layers, tops = Layers(frames, hidden, window), []
    for t in range(frames.shape[1]):
        x = layers.inputs(t)
        for n in layers:
            xz, xr, xg = np.split(w.gate(f"cells.{n}.x", x), 3, axis=1)
            hz, hr, hg = np.split(w.gate(f"cells.{n}.h", layers.h[n]), 3, axis=1)
            z, r = sigmoid(xz + hz), sigmoid(xr + hr)
            g = xg + r * hg
            g = np.tanh(g) if activation == "tanh" else np.where(g > 0, g, 0.2 * g)
            x = layers.h[n] = (1 - z) * g + z * layers.h[n]
        tops.append(x)
    return tops


def convlstm(
    w: Weights,
    frames: Array,
    hidden: list[int],
    forget_bias: float = 0.0,
    hidden_from: str = "cell",
    peephole: bool = False,
    window: int = 1,
) -> list[Array]:
    layers, tops = Layers(frames, hidden, window), []
    for t in range(frames.shape[1]):
        x = layers.inputs(t)
        for n in layers:
            i, f, g, o = np.split(w.gate(f"cells.{n}.x", x) + w.gate(f"cells.{n}.h", layers.h[n]), 4, axis=1)
            peep = {gate: w.values[f"cells.{n}.peep_{gate}"] if peephole else 0.0 for gate in "ifo"}
            old = layers.c[n]
            layers.c[n] = sigmoid(f + peep["f"] * old + forget_bias) * old + sigmoid(i + peep["i"] * old) * np.tanh(g)
            shown = np.tanh(layers.c[n]) if hidden_from == "cell" else np.tanh(g)
            x = layers.h[n] = sigmoid(o + peep["o"] * layers.c[n]) * shown
        tops.append(x)
    return tops


def predrnn(w: Weights, frames: Array, hidden: list[int], forget_bias: float = 1.0) -> list[Array]:
    layers, tops = Layers(frames, hidden), []
    m = layers.zeros(hidden[0])
    for t in range(frames.shape[1]):
        x = layers.inputs(t)
        for n in layers:
            xi, xf, xg, yi, yf, yg, xo = np.split(w.gate(f"cells.{n}.x", x), 7, axis=1)
            hi, hf, hg, ho = np.split(w.gate(f"cells.{n}.h", layers.h[n]), 4, axis=1)
            mi, mf, mg = np.split(w.gate(f"cells.{n}.m", m), 3, axis=1)
            c = layers.c[n] = sigmoid(xf + hf + forget_bias) * layers.c[n] + sigmoid(xi + hi) * np.tanh(xg + hg)
            m = sigmoid(yf + mf + forget_bias) * m + sigmoid(yi + mi) * np.tanh(yg + mg)
            both = np.concatenate([c, m], axis=1)
            x = layers.h[n] = sigmoid(xo + ho + w.gate(f"cells.{n}.o", both)) * np.tanh(w.plain(f"cells.{n}.out", both))
        tops.append(x)
    return tops


def predrnnpp(
    w: Weights, frames: Array, hidden: list[int], forget_bias: float = 1.0, highway: int | None = 1, temporal_from: str = "cell"
) -> list[Array]:
    layers, tops = Layers(frames, hidden), []
    m, z = layers.zeros(hidden[-1]), None if highway is None else layers.zeros(hidden[highway - 1])
    for t in range(frames.shape[1]):
        x = layers.inputs(t)
        for n in layers:
            xi, xf, xg, yi, yf, yg, xo = np.split(w.gate(f"cells.{n}.x", x), 7, axis=1)
            hi, hf, hg, ho = np.split(w.gate(f"cells.{n}.h", layers.h[n]), 4, axis=1)
            ci, cf, cg = np.split(w.gate(f"cells.{n}.c", layers.c[n] if temporal_from == "cell" else m), 3, axis=1)
            c = sigmoid(xf + hf + cf + forget_bias) * layers.c[n] + sigmoid(xi + hi + ci) * np.tanh(xg + hg + cg)
            mi, mf, mm = np.split(w.gate(f"cells.{n}.m", m), 3, axis=1)
            ri, rg, rf, ro = np.split(w.gate(f"cells.{n}.c2m", c), 4, axis=1)
            m = sigmoid(yf + mf + rf + forget_bias) * np.tanh(mm) + sigmoid(yi + mi + ri) * np.tanh(yg + rg)
            layers.c[n] = c
            out = np.tanh(w.plain(f"cells.{n}.out", np.concatenate([c, m], axis=1)))
            x = layers.h[n] = np.tanh(xo + ho + ro + w.gate(f"cells.{n}.m2o", m)) * out
            if highway == n + 1:
                assert z is not None
                p, u = np.split(w.gate("ghu.x", x) + w.gate("ghu.z", z), 2, axis=1)
                x = z = sigmoid(u) * np.tanh(p) + (1 - sigmoid(u)) * z
        tops.append(x)
    return tops


def e3d_lstm(w: Weights, frames: Array, hidden: list[int], memory: str = "updated", recall: int | None = None) -> list[Array]:
    layers, tops = Layers(frames, hidden, window=2), []
    m, pools = layers.zeros(hidden[-1]), [[c] for c in layers.c]

    def tokens(part: Array) -> Array:
        return part.reshape(*part.shape[:2], -1).transpose(0, 2, 1)

    for t in range(frames.shape[1]):
        x = layers.inputs(t)
        for n in layers:
            hi, hg, hr, ho = np.split(w.gate(f"cells.{n}.h", layers.h[n]), 4, axis=1)
            xi, xg, xr, xo, yi, yg, yf = np.split(w.gate(f"cells.{n}.x", x), 7, axis=1)
            keys = np.concatenate([tokens(c) for c in pools[n][-(recall or 99) :]], axis=1)
            scores = tokens(sigmoid(xr + hr)) @ keys.transpose(0, 2, 1)
            attention = np.exp(scores - scores.max(axis=2, keepdims=True))
            recalled = (attention / attention.sum(axis=2, keepdims=True) @ keys).transpose(0, 2, 1).reshape(xr.shape)
            norm = [w.values[f"cells.{n}.recall_norm.{kind}"] for kind in ("weight", "bias")]
            c = normalise(layers.c[n] + recalled, *norm) + sigmoid(xi + hi) * np.tanh(xg + hg)
            if memory == "updated":
                from_m = w.gate(f"cells.{n}.m", m)
            else:
                from_m = np.zeros((len(x), 4 * hidden[n], *x.shape[2:])) + per_channel(w.values[f"cells.{n}.m.0.bias"], x)
                from_m = normalise(from_m, *(w.values[f"cells.{n}.m.1.{kind}"] for kind in ("weight", "bias")))
            mi, mf, mg, mm = np.split(from_m, 4, axis=1)
            new = sigmoid(yf + mf + 1.0) * np.tanh(mm) + sigmoid(yi + mi) * np.tanh(yg + mg)
            o = sigmoid(np.tanh(xo + ho + w.plain(f"cells.{n}.c2o.0", c) + w.plain(f"cells.{n}.m2o.0", new)))
            x = layers.h[n] = o * np.tanh(w.plain(f"cells.{n}.out", np.concatenate([c, new], axis=1)))
            m = new if memory == "updated" else m
            layers.c[n] = c
            pools[n].append(c)
        tops.append(x)
    return tops


CASES: list[tuple[str, Callable[..., list[Array]], list[int], dict[str, Any], dict[str, Any]]] = [
    # network, oracle, hidden, settings that the oracle is told, settings that it reads off the weights
    *[(name, oracle, [4, 3], {}, extra) for name, oracle in (("convrnn", convrnn), ("convgru", convgru)) for extra in ({}, {"bias": True})],
    *[("convlstm", convlstm, [4, 3], {}, extra) for extra in ({}, {"bias": True}, {"norm": "layer"}, {"norm": "channel", "bias": True})],
    ("convgru", convgru, [4, 3], {"activation": "leaky_relu"}, {"norm": "channel", "readout_bias": True}),
    ("convgru", convgru, [4, 3], {"window": 2}, {"norm": "layer"}),
    ("convrnn", convrnn, [3], {"window": 3}, {"bias": True}),
    ("convlstm", convlstm, [4, 3], {"forget_bias": 0.7}, {}),
    ("convlstm", convlstm, [4, 3], {"hidden_from": "candidate"}, {"norm": "layer"}),
    ("convlstm", convlstm, [4, 3], {"peephole": True}, {"bias": True}),
    ("convlstm", convlstm, [4, 3], {"peephole": True, "window": 3}, {"norm": "layer"}),
    *[("predrnn", predrnn, [3, 3], {}, extra) for extra in ({}, {"bias": True}, {"norm": "layer"}, {"norm": "layer", "bias": True})],
    ("predrnn", predrnn, [3, 3], {"forget_bias": 0.7}, {"norm": "channel"}),
    ("predrnn_v2", predrnn, [3, 3], {}, {"decouple": 0.1}),
    *[("predrnnpp", predrnnpp, [4, 3, 2], {"highway": highway}, {}) for highway in (None, 1, 2, 3)],
    *[("predrnnpp", predrnnpp, [3, 3], {}, {"norm": norm, "bias": True}) for norm in ("none", "layer", "channel")],
    ("predrnnpp", predrnnpp, [4, 3], {"temporal_from": "memory", "forget_bias": 0.5}, {}),
    *[("e3d_lstm", e3d_lstm, [4, 3], {"memory": "updated", "recall": tau}, {}) for tau in (None, 1, 2)],
    ("e3d_lstm", e3d_lstm, [4, 3], {"memory": "frozen"}, {"norm": "channel", "bias": True, "readout_bias": True}),
    ("e3d_lstm", e3d_lstm, [3, 4], {"memory": "updated"}, {"norm": "layer", "bias": True}),
]


@pytest.mark.parametrize(("name", "oracle", "hidden", "told", "read"), CASES)
@torch.no_grad()
def test_equations(name: str, oracle: Callable[..., list[Array]], hidden: list[int], told: dict[str, Any], read: dict[str, Any]) -> None:
    torch.manual_seed(1)
    settings = {"kernel_size": 3, "patch_size": 2, "frame_size": (6, 8), **told, **read}
    network = create_network(name, channels=3, hidden=hidden, **settings).double()
    for weight in network.parameters():
        weight.add_(0.3 * torch.randn_like(weight))
    frames = torch.rand(2, 5, 3, 6, 8, dtype=torch.float64)
    taught = rollout(network, frames, context=4)
    weights = Weights(network)
    if name == "predrnn_v2":
        network.eval()
    tops = oracle(weights, patchify(frames, 2).numpy()[:, :4], hidden, **told)
    kernel, bias = weights.values["readout.weight"], weights.values.get("readout.bias")
    patches = [np.einsum("bid...,oid->bo..." if kernel.ndim == 5 else "bi...,oi->bo...", top, kernel[..., 0, 0]) for top in tops]
    if bias is not None:
        patches = [part + per_channel(bias, part) for part in patches]
    pixels = unpatchify(torch.from_numpy(np.stack(patches, axis=1)), 2)
    np.testing.assert_allclose(taught, pixels, atol=1e-12)
    assert float(taught.std()) > 0.02


def test_the_decoupling_loss() -> None:
    """Mean over steps, layers and channels of |cos| between the adapted increments of c and m, which the cells themselves are asked for."""
    torch.manual_seed(0)
    network = create_network("predrnn_v2", channels=1, hidden=[3, 3], kernel_size=3, patch_size=1, decouple=0.25).double()
    increments: list[tuple[torch.Tensor, torch.Tensor]] = []
    for cell in network.cells:
        cell.register_forward_hook(lambda module, given, made: increments.append((made[1].increment, made[2].increment)))
    frames = torch.rand(2, 4, 1, 4, 5, dtype=torch.float64)
    _, penalty = Unroll(network)(frames, 2, 2)
    cosines = []
    for dc, dm in increments:
        a, b = (np.einsum("bihw,oi->bohw", d.detach().numpy(), network.adapter.weight[:, :, 0, 0].detach().numpy()) for d in (dc, dm))
        a, b = a.reshape(2, 3, -1), b.reshape(2, 3, -1)
        cosines.append(np.abs((a * b).sum(axis=2)) / np.linalg.norm(a, axis=2) / np.linalg.norm(b, axis=2))
    assert len(cosines) == 3 * 2, "three steps of two layers"
    np.testing.assert_allclose(penalty.detach(), 0.25 * np.mean(cosines, axis=(0, 2)), rtol=1e-12)
    assert Unroll(network.eval())(frames, 2, 2)[1] is None, "a forecast does not evaluate the adapter"


def test_the_decoupling_loss_of_a_blank_clip_is_zero() -> None:
    network = create_network("predrnn_v2", channels=1, hidden=[3, 3], kernel_size=3, patch_size=1)
    _, penalty = Unroll(network)(torch.zeros(1, 4, 1, 4, 4), 2, 2)
    penalty.sum().backward()
    assert penalty.tolist() == [0.0]
    assert all(torch.isfinite(weight.grad).all() for weight in network.parameters() if weight.grad is not None)


@torch.no_grad()
def test_weight_norm_changes_nothing_at_first_and_halves_with_its_length() -> None:
    networks = []
    for weight_norm in (False, True):
        torch.manual_seed(3)
        settings = {"channels": 1, "hidden": [4], "kernel_size": 3, "patch_size": 2}
        networks.append(create_network("convrnn", weight_norm=weight_norm, **settings))
    frames = torch.rand(1, 3, 1, 8, 8)
    plain, normed = (rollout(network, frames, 2) for network in networks)
    assert torch.allclose(plain, normed, atol=1e-6)
    for gate in "xh":
        networks[0].cells[0].get_submodule(gate)[0].weight.mul_(0.5)
        networks[1].cells[0].get_submodule(gate)[0].parametrizations.weight.original0.mul_(0.5)
    halved = rollout(networks[1], frames, 2)
    assert torch.allclose(rollout(networks[0], frames, 2), halved, atol=1e-6) and not torch.allclose(halved, normed, atol=1e-3)


def test_variational_dropout() -> None:
    """One mask for all steps, a function of seed, step and sample; none in a forecast; its mean is the network's own h."""
    network = create_network("convlstm", channels=1, hidden=[64, 64], kernel_size=3, patch_size=2, dropout=0.25)
    draws = Draws(seed=1, step=2, indices=(7, 8))
    masks = network.prepare(2, draws)
    assert masks[0].below is None and [part.shape for part in (masks[0].hidden, *masks[1])] == [(2, 64, 1, 1)] * 3
    both = torch.cat([masks[0].hidden, *masks[1]], dim=1)
    assert both.unique().tolist() == pytest.approx([0.0, 4 / 3]) and float(both.mean()) == pytest.approx(1.0, abs=0.15)
    alone = network.prepare(1, Draws(seed=1, step=2, indices=(8,)))
    assert torch.equal(alone[1].below, masks[1].below[1:])
    frames = torch.rand(2, 4, 1, 8, 8)
    once, again = (Unroll(network)(frames, 2, 2, draws=draws)[0] for _ in range(2))
    assert torch.equal(once, again) and not torch.equal(once, Unroll(network)(frames, 2, 2, draws=Draws(1, 3, (7, 8)))[0])
    network.eval()
    assert network.prepare(2, draws) is None


@torch.no_grad()
def test_dropout_masks_act_where_they_say() -> None:
    torch.manual_seed(0)
    network = create_network("predrnnpp", channels=1, hidden=[4, 4], kernel_size=3, patch_size=1, dropout=0.5)
    frames = torch.rand(1, 3, 1, 4, 4)
    draws = Draws(seed=0, step=0, indices=(0,))
    masks = network.prepare(1, draws)
    for layer, cell in enumerate(network.cells):
        for name, mask in (("x", masks[layer].below), ("h", masks[layer].hidden)):
            if mask is not None:
                convolution = cell.get_submodule(name)[0]
                convolution.weight.mul_(mask.reshape(1, -1, 1, 1))
    masked_weights = rollout(network.eval(), frames, 2)
    for layer, cell in enumerate(network.cells):
        for name, mask in (("x", masks[layer].below), ("h", masks[layer].hidden)):
            if mask is not None:
                cell.get_submodule(name)[0].weight.div_(torch.where(mask > 0, mask, 1.0).reshape(1, -1, 1, 1))
    masked_states, _ = Unroll(network.train())(frames, 2, 1, draws=draws)
    assert torch.allclose(masked_states, masked_weights, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("convlstm", 11_675_648),  # 15,083,520 less what OpenSTL's cells hold and never use
        ("predrnn", 23_838_720),
        ("predrnn_v2", 23_855_104),
        ("predrnnpp", 35_307_520),  # 38,584,320 less what OpenSTL's cells hold and never use
        ("e3d_lstm", 38_240_256),  # 51,347,456 less the kernels on the frozen memory
    ],
)
def test_published_sizes(name: str, published: int) -> None:
    form = {"form": "stretched", "memory": "frozen", "frame_size": (64, 64)} if name == "e3d_lstm" else {}
    with torch.device("meta"):
        network = create_network(name, channels=1, hidden=[128] * 4, kernel_size=5, patch_size=4, **form)
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
        ("convlstm", {"peephole": True, "frame_size": None}, "frame_size"),
        ("convlstm", {"window": 0}, "at least 1"),
        ("convlstm", {"dropout": 1.0}, "share"),
        ("convlstm", {"norm": "group", "hidden": [25, 25]}, "no multiple"),
        ("predrnn_v2", {"decouple": -1.0}, "not negative"),
        ("predrnnpp", {"highway": 3}, "1 to 2"),
        ("e3d_lstm", {"recall": 0}, "at least 1"),
        ("e3d_lstm", {"stride": 2}, "form 'stretched'"),
        ("e3d_lstm", {"form": "stretched", "frame_size": None}, "frame_size"),
        ("e3d_lstm", {"form": "stretched", "norm": "channel"}, "not 'channel'"),
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
    with pytest.raises(UserError, match="frames of 12 x 16"):
        rollout(network, torch.rand(1, 3, 1, 16, 16), 1)
