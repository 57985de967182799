"""The inside of networks beside their cells worked out by hand from weights, inputs and states; and forecasts that do not change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from stpredict import load_data, rollout
from stpredict.baselines import BASELINES
from stpredict.cells import gates
from stpredict.cells.attention import shares
from stpredict.cells.eidetic import to_tokens
from stpredict.cells.stlstm import SpatioTemporalLSTMCell
from stpredict.errors import UserError
from stpredict.frames import FrameSpec
from stpredict.inside import Inside, enlarged, inside_of_predictor, look_inside, means
from stpredict.networks import RecurrentNetwork, Step, create_network
from stpredict.predictor import Predictor

SMALL: dict[str, Any] = {"channels": 1, "frame_size": (6, 7), "kernel_size": 3, "patch_size": 1, "bias": True, "hidden": [3, 4]}

Named = dict[str, Tensor]


def sigmoid(x: Tensor) -> Tensor:
    return 1.0 / (1.0 + torch.exp(-x))


def convolved(module: Any, x: Tensor) -> Tensor:
    return functional.conv2d(x, module[0].weight, module[0].bias, padding=1)


def convlstm(cell: Any, x: Tensor, h: Tensor, c: Tensor) -> tuple[Named, Named]:
    i, f, g, o = (convolved(cell.x, x) + convolved(cell.h, h)).chunk(4, dim=1)
    forget, entry = sigmoid(f + cell.peep_f * c + cell.forget_bias), sigmoid(i + cell.peep_i * c)
    c = forget * c + entry * torch.tanh(g)
    output = sigmoid(o + cell.peep_o * c)
    return {"forget": forget, "input": entry, "output": output}, {"hidden": output * torch.tanh(c), "cell": c}


def convgru(cell: Any, x: Tensor, h: Tensor) -> tuple[Named, Named]:
    (xz, xr, xg), (hz, hr, hg) = convolved(cell.x, x).chunk(3, dim=1), convolved(cell.h, h).chunk(3, dim=1)
    z, r = sigmoid(xz + hz), sigmoid(xr + hr)
    return {"update": z, "reset": r}, {"hidden": (1 - z) * torch.tanh(xg + r * hg) + z * h}


def stlstm(cell: Any, x: Tensor, h: Tensor, c: Tensor, m: Tensor) -> tuple[Named, Named]:
    xi, xf, xg, yi, yf, yg, xo = convolved(cell.x, x).chunk(7, dim=1)
    hi, hf, hg, ho = convolved(cell.h, h).chunk(4, dim=1)
    mi, mf, mg = convolved(cell.m, m).chunk(3, dim=1)
    found = {"input of c": sigmoid(xi + hi), "forget of c": sigmoid(xf + hf + cell.forget_bias)}
    found |= {"input of m": sigmoid(yi + mi), "forget of m": sigmoid(yf + mf + cell.forget_bias)}
    c = found["forget of c"] * c + found["input of c"] * torch.tanh(xg + hg)
    m = found["forget of m"] * m + found["input of m"] * torch.tanh(yg + mg)
    both = torch.cat([c, m], dim=1)
    found["output"] = sigmoid(xo + ho + convolved(cell.o, both))
    return found, {"hidden": found["output"] * torch.tanh(functional.conv2d(both, cell.out.weight, cell.out.bias)), "cell": c, "memory": m}


def causal(cell: Any, x: Tensor, h: Tensor, c: Tensor, m: Tensor) -> tuple[Named, Named]:
    xi, xf, xg, yi, yf, yg, xo = convolved(cell.x, x).chunk(7, dim=1)
    hi, hf, hg, ho = convolved(cell.h, h).chunk(4, dim=1)
    ci, cf, cg = convolved(cell.c, c).chunk(3, dim=1)
    mi, mf, mu = convolved(cell.m, m).chunk(3, dim=1)
    found = {"input of c": sigmoid(xi + hi + ci), "forget of c": sigmoid(xf + hf + cf + cell.forget_bias)}
    c = found["forget of c"] * c + found["input of c"] * torch.tanh(xg + hg + cg)
    ri, rg, rf, ro = convolved(cell.c2m, c).chunk(4, dim=1)
    found |= {"input of m": sigmoid(yi + mi + ri), "forget of m": sigmoid(yf + mf + rf + cell.forget_bias)}
    m = found["forget of m"] * torch.tanh(mu) + found["input of m"] * torch.tanh(yg + rg)
    found["output"] = torch.tanh(xo + ho + ro + convolved(cell.m2o, m))
    mixed = functional.conv2d(torch.cat([c, m], dim=1), cell.out.weight, cell.out.bias)
    return found, {"hidden": found["output"] * torch.tanh(mixed), "cell": c, "memory": m}


def highway(unit: Any, x: Tensor, z: Tensor) -> tuple[Named, Named]:
    p, u = (convolved(unit.x, x) + convolved(unit.z, z)).chunk(2, dim=1)
    return {"switch": sigmoid(u)}, {"hidden": sigmoid(u) * torch.tanh(p) + (1 - sigmoid(u)) * z}


CELLS: dict[str, Callable[..., tuple[Named, Named]]] = {
    "convlstm": convlstm, "convgru": convgru, "predrnn": stlstm, "predrnnpp": causal,
}  # fmt: skip
FORMS: dict[str, dict[str, Any]] = {
    "convlstm": {"peephole": True, "forget_bias": 0.5},
    "convgru": {},
    "predrnn": {"hidden": [4, 4]},
    "predrnnpp": {},
}


def by_hand(name: str, network: Any, frames: Tensor, context: int, horizon: int) -> tuple[Any, Any]:
    """Gates and states of each step and layer, in a loop over time of its own."""
    one = frames.new_ones(1, 1, *frames.shape[-2:])
    layers = [f"cells.{number}" for number in range(len(network.cells))]
    kept = {layer: {key: 0.0 * one.expand(-1, width, -1, -1) for key in ("hidden", "cell")}
            for layer, width in zip(layers, network.hidden, strict=True)}  # fmt: skip
    memory = 0.0 * one.expand(-1, network.hidden[-1], -1, -1)
    carried = 0.0 * one.expand(-1, network.hidden[0], -1, -1)
    opened, states, prediction = [], [], frames[:, 0]
    for step in range(context + horizon - 1):
        below = frames[:, step] if step < context else prediction
        opened.append({})
        states.append({})
        for layer, cell in zip(layers, network.cells, strict=True):
            before = [kept[layer]["hidden"], *([] if name == "convgru" else [kept[layer]["cell"]])]
            after = [memory] if name in ("predrnn", "predrnnpp") else []
            opened[-1][layer], states[-1][layer] = CELLS[name](cell, below, *before, *after)
            kept[layer] = states[-1][layer]
            below, memory = kept[layer]["hidden"], kept[layer].get("memory", memory)
            if name == "predrnnpp" and layer == "cells.0":
                opened[-1]["ghu"], states[-1]["ghu"] = highway(network.ghu, below, carried)
                below = carried = states[-1]["ghu"]["hidden"]
        prediction = functional.conv2d(below, network.readout.weight)
    return opened, states


@pytest.mark.parametrize("name", CELLS)
def test_gates_and_states_as_worked_out_by_hand(name: str) -> None:
    torch.manual_seed(0)
    network: Any = create_network(name, **(SMALL | FORMS[name])).double().eval()
    for weight in network.parameters():
        weight.data.normal_(std=0.4)
    frames = torch.rand(1, 6, 1, 6, 7, dtype=torch.float64)
    inside = look_inside(network, frames, 3, 3)
    with torch.no_grad():
        opened, states = by_hand(name, network, frames, 3, 3)
    for found, hand, size in ((inside.gates, opened, lambda gate: gate), (inside.states, states, torch.abs)):
        assert {layer: set(named) for layer, named in found.items()} == {layer: set(named) for layer, named in hand[0].items()}
        for layer, named in found.items():
            for key, maps in named.items():
                expected = np.stack([size(step[layer][key]).mean(dim=(0, 1)).numpy() for step in hand])
                assert np.ptp(expected) > 1e-3
                np.testing.assert_allclose(maps, expected, rtol=1e-12, atol=1e-14)
    assert means(inside.gates)["cells.1"] == {
        key: pytest.approx([step["cells.1"][key].mean().item() for step in opened]) for key in opened[0]["cells.1"]
    }


class Eidetic:
    """The cells of an E3D-LSTM worked out from the network's states, its convolutions and an attention written out."""

    def __init__(self, network: Any) -> None:
        self.network, self.gates, self.shares = network, [], []  # type: ignore[var-annotated]

    def step(self, frame: Tensor, state: Any) -> Any:
        (past,), (layers, _) = state
        x, opened, shares = torch.stack([past, frame], dim=2), [], []
        prediction, after, _ = self.network.step(frame, state, None)
        for cell, (h, c, pool), (new_h, _, _) in zip(self.network.cells, layers, after[1][0], strict=True):
            n = cell.hidden
            from_x, from_h = cell.x(x), cell.h(h)
            r = sigmoid(from_x[:, 2 * n : 3 * n] + from_h[:, 2 * n : 3 * n])
            opened.append({"recall": r, "input of c": sigmoid(from_x[:, :n] + from_h[:, :n])})
            query, keys = r.expand_as(c)[0].numpy(), np.concatenate([entry[0].numpy() for entry in pool])
            tokens = query.reshape(-1, n) if cell.tokens == "rows" else query.reshape(n, -1).T
            weights = np.exp(tokens @ keys.T)
            weights /= weights.sum(axis=1, keepdims=True)
            shares.append(weights.reshape(len(tokens), len(pool), -1).sum(axis=2))
            x = new_h
        self.gates.append(opened)
        self.shares.append(shares)
        return prediction, after


@pytest.mark.parametrize(
    "form",
    [
        {"form": "padded", "norm": "channel"},
        {"form": "padded", "memory": "frozen", "recall": 2},
        {"form": "stretched", "norm": "layer"},
        {"form": "stretched"},
    ],
)
def test_the_recall_as_worked_out_by_hand(form: dict[str, Any]) -> None:
    torch.manual_seed(1)
    network: Any = create_network("e3d_lstm", **(SMALL | form)).double().eval()
    for weight in network.parameters():
        weight.data.normal_(std=0.5)
    frames = torch.rand(1, 6, 1, 6, 7, dtype=torch.float64)
    inside = look_inside(network, frames, 4, 2)
    hand, state, frame = Eidetic(network), network.initial_state(1, 6, 7), frames[:, 0]
    held = []
    with torch.no_grad():
        for step in range(5):
            frame, state = hand.step(frames[:, step] if step < 4 else frame, state)
            held.append(state[1][0])
    tau = form.get("recall", 99)
    for number, layer in enumerate(("cells.0", "cells.1")):
        table = np.full((5, 5), np.nan)
        for step in range(5):
            shares = hand.shares[step][number]
            oldest = max(0, step + 1 - tau)
            table[step, oldest : step + 1] = shares.mean(axis=0)
            back = shares @ np.arange(step + 1 - oldest, 0, -1)
            width = network.hidden[number]
            if form["form"] == "padded":
                grid = back.reshape(2, 6, 7).mean(axis=0)
            else:
                grid = np.repeat(back, width).reshape(width, 2, 6, 7).mean(axis=(0, 1))
            np.testing.assert_allclose(inside.ages[layer][step], grid, rtol=1e-10)
            for key, gate in hand.gates[step][number].items():
                np.testing.assert_allclose(inside.gates[layer][key][step], gate[0].mean(dim=(0, 1)).numpy(), rtol=1e-12)
            for key, tensor in zip(("hidden", "cell"), held[step][number], strict=False):
                np.testing.assert_allclose(inside.states[layer][key][step], tensor[0].abs().mean(dim=(0, 1)).numpy(), rtol=1e-12)
        np.testing.assert_allclose(inside.recall[layer], table, rtol=1e-10)
        np.testing.assert_allclose(np.nansum(inside.recall[layer], axis=1), 1.0, rtol=1e-12)
        assert np.nanstd(inside.recall[layer][-1]) > 1e-3


def test_shares_are_the_same_a_few_tokens_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, pool = torch.rand(2, 3, 2, 4, 5), tuple(to_tokens(torch.randn(2, 3, 2, 4, 5), "positions") for _ in range(3))
    query = to_tokens(gate, "positions")
    whole = shares(query, pool)
    monkeypatch.setattr("stpredict.cells.attention._SCORES", 500)
    torch.testing.assert_close(shares(query, pool), whole, rtol=0, atol=1e-6)
    assert whole.shape == (2, 40, 3)
    torch.testing.assert_close(whole.sum(dim=2), torch.ones(2, 40))


class Change(RecurrentNetwork):
    """A network without cells, whose state is a nest of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Conv2d(1, 2, 3, padding=1)

    def initial_state(self, batch: int, height: int, width: int) -> Any:
        return {"last": torch.zeros(batch, 1, height, width), "number": torch.zeros(batch)}

    def step(self, frame: Tensor | None, state: Any, constants: None, known: Tensor | None = None) -> Step:
        assert frame is not None
        change, switch = self.look(frame - state["last"]).chunk(2, dim=1)
        return Step(frame + gates.gate("mine", switch) * change, {"last": frame, "number": state["number"] + 1})


def test_a_network_without_cells_shows_its_state() -> None:
    frames = torch.rand(1, 5, 1, 4, 4)
    inside = look_inside(Change(), frames, 4, 1)
    ((layer, named),) = inside.states.items()
    ((_, maps),) = named.items()
    assert layer == "state"
    np.testing.assert_allclose(maps, frames[0, :4, 0].numpy(), rtol=1e-6)
    assert set(inside.gates["network"]) == {"mine"}


def test_an_encoder_has_no_turn_in_the_forecast() -> None:
    torch.manual_seed(0)
    network: Any = create_network("encoder_forecaster", channels=1, hidden=[3, 4], kernel_size=3, patch_size=1).eval()
    frames = torch.rand(1, 6, 1, 7, 6)
    inside = look_inside(network, frames, 4, 2)
    assert inside.offset == 0 and inside.padded == (8, 6)
    np.testing.assert_array_equal(np.isnan(inside.predicted).all(axis=(1, 2, 3)), [True] * 4 + [False] * 2)
    state = network.initial_state(1, 8, 6)
    padded = functional.pad(frames, (0, 0, 0, 1))
    with torch.no_grad():
        for step in range(6):
            state = network.begin_forecast(state) if step == 4 else state
            _, state, _ = network.step(padded[:, step] if step < 4 else None, state, None)
            walk = "encoder" if step < 4 else "forecaster.walk"
            for level, (h, c) in enumerate(state[0]):
                for key, tensor in (("hidden", h), ("cell", c)):
                    np.testing.assert_allclose(inside.states[f"{walk}.cells.{level}"][key][step], tensor[0].abs().mean(dim=0), rtol=1e-5)
    assert np.isnan(inside.states["encoder.cells.0"]["cell"][4:]).all()
    assert np.isnan(inside.gates["forecaster.walk.cells.0"]["input"][:4]).all()


DATA: dict[str, Any] = {"digits": 1, "size": 30, "test_clips": 3}


def predictor_of(name: str, **settings: Any) -> tuple[Predictor, Any]:
    clips = load_data("moving_digits", None, "test", context=3, horizon=3, settings=DATA)
    torch.manual_seed(0)
    own = {"hidden": [4, 4], "kernel_size": 3, "patch_size": 4, **settings}
    network = create_network(name, channels=1, frame_size=(30, 30), **own)
    return Predictor(network, clips.spec, 3, 3, network_name=name, network_settings=own), clips


NAMES = ["convlstm", "convrnn", "predrnn_v2", "predrnnpp", "e3d_lstm", "encoder_forecaster"]


@pytest.mark.parametrize("name", NAMES)
def test_forecasts_are_the_same_bit_for_bit(name: str) -> None:
    predictor, clips = predictor_of(name)
    physical = clips.packing.unpack(torch.as_tensor(clips[1].frames)[None])
    before = predictor.forecast(physical[:, :3], 3)
    inside = inside_of_predictor(predictor, clips, 1)
    assert torch.equal(before, predictor.forecast(physical[:, :3], 3))
    np.testing.assert_array_equal(inside.predicted[-3:], before[0].numpy())
    np.testing.assert_array_equal(inside.true, physical[0].numpy())
    assert not gates._watchers
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in predictor.network.modules())
    assert all(np.isfinite(film).any() for named in inside.states.values() for film in named.values())


@pytest.mark.parametrize("name", NAMES)
def test_so_they_are_in_half_precision(name: str) -> None:
    predictor, _ = predictor_of(name)
    frames = torch.rand(1, 6, 1, 30, 30)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            expected = rollout(predictor.network, frames, 3)
        inside = look_inside(predictor.network, frames, 3, 3)
    np.testing.assert_array_equal(inside.predicted[-expected.shape[1] :], expected[0].float().numpy())
    for table in inside.recall.values():
        np.testing.assert_allclose(np.nansum(table, axis=1), 1.0, rtol=1e-6)


def test_gates_do_not_stand_in_the_way_of_compilation() -> None:
    torch.manual_seed(0)
    cell = SpatioTemporalLSTMCell(2, 3, gates.Gates((3, 3)))
    inputs = torch.rand(1, 2, 4, 4), *(torch.rand(1, 3, 4, 4) for _ in range(3))
    whole = torch.compile(cell, fullgraph=True, backend="eager")
    assert torch.equal(whole(*inputs)[0], cell(*inputs)[0])


def test_a_watcher_is_gone_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), gates.watching_gates(lambda name, gate: None):
        raise ZeroDivisionError
    assert not gates._watchers


def test_maps_are_enlarged_to_what_of_the_frames_they_cover() -> None:
    maps = np.random.default_rng(0).random((2, 3, 4))
    np.testing.assert_array_equal(enlarged(maps, (12, 16), 12, 16), np.kron(maps, np.ones((4, 4))))
    np.testing.assert_array_equal(enlarged(maps, (12, 16), 10, 13), np.kron(maps, np.ones((4, 4)))[:, :10, :13])


def inside_of(name: str, **settings: Any) -> Inside:
    return inside_of_predictor(*predictor_of(name, **settings))


def test_layers_by_name_and_number() -> None:
    inside = inside_of("predrnnpp")
    assert list(inside.maps("states")) == ["cells.0", "ghu", "cells.1"]
    assert list(inside.maps("gates", ["1"])) == ["cells.1"]
    assert list(inside.maps("gates", ["ghu", "cells.0"])) == ["cells.0", "ghu"]
    with pytest.raises(UserError, match=r"The thing has no layer 'cells.2' with gates; did you mean 'cells.\d'"):
        inside.maps("gates", ["cells.2"], "the thing")
    assert list(inside_of("e3d_lstm").maps("recall", ["1"])["cells.1"]) == ["steps back"]


def test_what_cannot_be_shown() -> None:
    with pytest.raises(UserError, match="has no gates"):
        inside_of("convrnn").maps("gates")
    with pytest.raises(UserError, match="recalls nothing: only the cells of e3d_lstm"):
        inside_of("convlstm").maps("recall")
    predictor, clips = predictor_of("convlstm")
    with pytest.raises(UserError, match="has clips 0 to 2, not 3"):
        inside_of_predictor(predictor, clips, 3)
    with pytest.raises(UserError, match="'persistence' is no trained predictor"):
        inside_of_predictor(BASELINES["persistence"](), clips)
    predictor.spec = replace(predictor.spec, units="K")
    with pytest.raises(UserError, match=r"does not fit the data 'moving_digits': it has .*units K instead of 1"):
        inside_of_predictor(predictor, clips)
    direct = create_network("simvp", channels=1, context=3, hidden=[4, 8], layers=[2, 2])
    settings: dict[str, Any] = {"network_name": "simvp", "network_settings": {}}
    with pytest.raises(UserError, match="takes no steps in time"):
        inside_of_predictor(Predictor(direct, FrameSpec(1, 30, 30), 3, 3, **settings), clips)
