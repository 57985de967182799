"""Noise inputs of any network: where the noise goes, who draws it, and what a forecast without it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

from stpredict.costs import measure_costs
from stpredict.draws import Draws
from stpredict.errors import UserError
from stpredict.export import Plan, _plan_forecast, _plan_step
from stpredict.frames import FrameSpec
from stpredict.networks import DirectNetwork, Network, RecurrentNetwork, create_network, given_channels
from stpredict.predictor import Predictor, load_predictor
from stpredict.unroll import Unroll

FORMS: dict[str, dict[str, Any]] = {
    "convlstm": {"hidden": [4], "kernel_size": 3, "patch_size": 2},
    "predrnn": {"hidden": [4, 4], "kernel_size": 3, "patch_size": 2, "valid_channel": True},
    "predrnnpp": {"hidden": [4, 4], "kernel_size": 3, "patch_size": 2},
    "e3d_lstm": {"hidden": [4], "kernel_size": 3, "patch_size": 2},
    "encoder_forecaster": {"hidden": [4, 6], "strides": [1, 2], "kernel_size": 3, "patch_size": 2},
    "simvp": {"hidden": [4, 8], "layers": [2, 2], "valid_channel": True},
    "residual": {"base": "persistence", "of": {"name": "convlstm", "hidden": [4], "kernel_size": 3, "patch_size": 2}},
}
SPEC = FrameSpec(1, 12, 12)
CONTEXT, HORIZON = 3, 4


def make(name: str, noise: int = 2, **extra: Any) -> Network:
    torch.manual_seed(1)
    network = create_network(name, channels=1, frame_size=(12, 12), context=CONTEXT, noise_channels=noise, **FORMS[name], **extra)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.05 * torch.randn(weight.shape))  # a readout may start at zero
    return network.eval()


def film(batch: int = 2, frames: int = CONTEXT) -> torch.Tensor:
    return torch.rand(batch, frames, 1, 12, 12, generator=torch.Generator().manual_seed(2))


def predictor_of(name: str, **extra: Any) -> Predictor:
    settings = {**FORMS[name], "noise_channels": 2, **extra}
    return Predictor(make(name, **extra), SPEC, CONTEXT, HORIZON, network_name=name, network_settings=settings)


@pytest.mark.parametrize("name", FORMS)
def test_the_noise_is_known_inputs_that_the_program_draws(name: str) -> None:
    """The same weights as a network of two known inputs, which is given the same normal numbers by hand, each patch its own."""
    noisy, frames = make(name), film(2, CONTEXT + HORIZON)
    plain = create_network(name, channels=1, frame_size=(12, 12), context=CONTEXT, known_channels=2, **FORMS[name]).eval()
    plain.load_state_dict(noisy.state_dict())
    assert noisy.stochastic and not plain.stochastic and given_channels(noisy) == 0 and given_channels(plain) == 2
    draws, patch = Draws(3, 5, (7, 9)), noisy.patch_size
    drawn = draws.normal("noise inputs", CONTEXT + HORIZON, 2, 12 // patch, 12 // patch)
    by_hand = torch.nn.functional.interpolate(drawn.flatten(0, 1), scale_factor=patch).unflatten(0, (2, -1))
    with torch.no_grad():
        made, _ = Unroll(noisy).forward(frames, CONTEXT, HORIZON, draws=draws)
        wanted, _ = Unroll(plain).forward(frames, CONTEXT, HORIZON, known=by_hand)
        quiet, _ = Unroll(noisy).forward(frames, CONTEXT, HORIZON)
        zero, _ = Unroll(plain).forward(frames, CONTEXT, HORIZON, known=torch.zeros_like(by_hand))
    assert torch.equal(made, wanted) and torch.equal(quiet, zero)
    assert float((made - quiet).abs().max()) > 1e-4


@pytest.mark.parametrize("name", ["predrnn", "simvp", "encoder_forecaster"])
def test_beside_known_inputs_and_by_stretches(name: str) -> None:
    noisy, frames = make(name, known_channels=1), film(2, CONTEXT + HORIZON)
    assert given_channels(noisy) == 1 and noisy.known_channels == 3
    known, draws = torch.rand(2, CONTEXT + HORIZON, 1, 12, 12), Draws(0, 0, (0, 1))
    with torch.no_grad():
        whole, _ = Unroll(noisy).forward(frames, CONTEXT, HORIZON, known=known, draws=draws)
        parts = [made for made, _ in Unroll(noisy).stretches(frames, CONTEXT, HORIZON, None, None, known, draws, 2) if made is not None]
        other, _ = Unroll(noisy).forward(frames, CONTEXT, HORIZON, known=1.0 - known, draws=draws)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-6, rtol=1e-5)
    assert not torch.equal(other, whole)


@pytest.mark.parametrize("name", FORMS)
def test_members_files_and_streams(name: str, tmp_path: Path) -> None:
    predictor, observed = predictor_of(name), film()
    members = predictor.forecast(observed, HORIZON, members=3, seed=4)
    assert not torch.equal(members[:, 0], members[:, 1])
    predictor.save(tmp_path / "noisy.safetensors")
    again = load_predictor(tmp_path / "noisy.safetensors")
    assert again.network.noise_channels == 2 and again.network.stochastic
    assert torch.equal(again.forecast(observed, HORIZON, members=3, seed=4), members)
    alone = again.forecast(observed[1:], HORIZON, members=3, seed=4, indices=[1])
    torch.testing.assert_close(alone, members[1:], atol=1e-5, rtol=1e-5)
    quiet = predictor.forecast(observed, HORIZON)
    stream = predictor.start(observed[:, :CONTEXT] if isinstance(predictor.network, DirectNetwork) else observed[:, :1])
    for step in range(1, 1 if isinstance(predictor.network, DirectNetwork) else CONTEXT):
        stream.observe(observed[:, step])
    torch.testing.assert_close(stream.forecast(HORIZON), quiet, atol=1e-5, rtol=1e-5)


def test_a_stream_with_known_inputs_beside_the_noise() -> None:
    predictor, observed = predictor_of("convlstm", known_channels=1), film()
    known = torch.rand(2, CONTEXT + HORIZON, 1, 12, 12)
    stream = predictor.start(observed[:, :2], known[:, :2])
    stream.observe(observed[:, 2], known[:, 2])
    wanted = predictor.forecast(observed, HORIZON, known=known)
    torch.testing.assert_close(stream.forecast(HORIZON, known[:, CONTEXT:]), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("known", [0, 1])
def test_a_program_that_is_exported_is_without_noise_and_has_no_input_for_it(known: int) -> None:
    predictor = predictor_of("convlstm", **({"known_channels": known} if known else {}))
    forecast, step = plan(predictor, "forecast", HORIZON), plan(predictor, "step", HORIZON)
    assert forecast.inputs == ["observed", "known"][: 1 + known] and ("known" in step.inputs) == bool(known)
    with torch.no_grad():
        inputs = forecast.sample(2)
        torch.testing.assert_close(forecast.module(*inputs), forecast.expected(*inputs)[0], atol=1e-5, rtol=1e-5, equal_nan=True)
        frame, *rest = step.sample(2)
        made, *_ = step.module(frame, *rest)
        quiet = torch.cat([*rest[:known], torch.zeros(2, 2, 12, 12)], dim=1)
        state = pytree.tree_unflatten(rest[known:], pytree.tree_structure(predictor.network.initial_state(2, 12, 12)))
        torch.testing.assert_close(made, predictor.network.step(frame, state, None, quiet).frame)


def test_costs_are_those_of_the_known_inputs_it_has() -> None:
    noisy = measure_costs(make("predrnn"), (1, 12, 12), CONTEXT, HORIZON)
    plain = measure_costs(make("predrnn", 0, known_channels=2), (1, 12, 12), CONTEXT, HORIZON)
    assert noisy == plain


def plan(predictor: Predictor, what: str, horizon: int) -> Plan:
    return _plan_step(predictor) if what == "step" else _plan_forecast(predictor, horizon)


class Deaf(RecurrentNetwork):
    """Takes no known inputs."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def initial_state(self, batch: int, height: int, width: int) -> Any:
        return None

    def step(self, frame: torch.Tensor | None, state: Any, constants: Any, known: torch.Tensor | None = None) -> Any:
        raise NotImplementedError


def test_bad_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong, sentence in ((-1, "at least 0, not -1"), ("many", r"network\.noise_channels")):
        with pytest.raises(UserError, match=sentence):
            make("convlstm", wrong)  # type: ignore[arg-type]
    monkeypatch.setattr("stpredict.extensions._load", lambda target: Deaf)
    with pytest.raises(UserError, match=r"takes no known inputs, and so no noise: leave network\.noise_channels out"):
        create_network("mine:Deaf", channels=1, noise_channels=1)
