"""The loop over time, with toy networks whose numbers are known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stpredict.draws import Draws
from stpredict.errors import UserError
from stpredict.networks import DirectNetwork, RecurrentNetwork, Step, create_network
from stpredict.unroll import Unroll, rollout


class Adder(RecurrentNetwork):
    """Predicts its input plus one, plus what is known of the frame it predicts; counts its steps in its state."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def initial_state(self, batch: int, height: int, width: int) -> Tensor:
        return torch.zeros(batch)

    def step(self, frame: Tensor | None, state: Tensor, constants: Any, known: Tensor | None = None) -> Step:
        assert frame is not None
        extra = 0.0 if known is None else known[:, :1]
        return Step(frame + self.weight + extra, state + 1, penalty=state)


class Recorder(Adder):
    """Remembers what it was fed, and takes the mask as well."""

    takes_valid = True
    patch_size = 4

    def __init__(self) -> None:
        super().__init__()
        self.fed: list[Tensor] = []

    def step(self, frame: Tensor | None, state: Tensor, constants: Any, known: Tensor | None = None) -> Step:
        assert frame is not None
        self.fed.append(frame)
        return Step(frame[:, :1] + 1.0, state + 1)


class EncoderForecaster(RecurrentNetwork):
    """Adds up the context, then says the sum again and again, one more each time."""

    predicts_context = False

    def initial_state(self, batch: int, height: int, width: int) -> Tensor:
        return torch.zeros(batch, 1, height, width)

    def begin_forecast(self, state: Tensor) -> Tensor:
        return state + 100.0

    def step(self, frame: Tensor | None, state: Tensor, constants: Any, known: Tensor | None = None) -> Step:
        if frame is not None:
            return Step(None, state + frame)
        return Step(state, state + 1.0)


class Tripler(DirectNetwork):
    """Says three times the last observed frame."""

    def forecast(self, observed: Tensor, horizon: int, known: Tensor | None = None) -> Tensor:
        return 3.0 * observed[:, -1:].repeat(1, horizon, 1, 1, 1)


class Observer(Adder):
    """Takes observed frames at once."""

    def observe(self, frames: Tensor, state: Tensor, constants: Any, known: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        steps = frames.shape[1]
        return frames + self.weight, state + steps, state + sum(range(steps))


def film(values: list[float], batch: int = 1) -> Tensor:
    return torch.tensor(values).reshape(1, -1, 1, 1, 1).repeat(batch, 1, 1, 1, 1)


def test_truth_for_the_context_then_own_predictions() -> None:
    predictions = rollout(Adder(), film([0, 10, 20, 30, 40]), context=3)
    assert predictions.flatten().tolist() == [1, 11, 21, 22]


def test_use_truth_overrides() -> None:
    mask = torch.tensor([[True, False, True, True], [True, True, False, False]])
    predictions = rollout(Adder(), film([0, 10, 20, 30, 40], batch=2), context=3, use_truth=mask)
    assert predictions[0].flatten().tolist() == [1, 2, 21, 31]
    assert predictions[1].flatten().tolist() == [1, 11, 12, 13]


def test_the_first_frame_is_always_true() -> None:
    predictions = rollout(Adder(), film([5, 10, 20]), context=1, use_truth=torch.zeros(1, 2, dtype=torch.bool))
    assert predictions.flatten().tolist() == [6, 7]


def test_known_inputs_are_those_of_the_frame_that_is_predicted() -> None:
    known = torch.tensor([0.0, 100.0, 200.0, 300.0]).reshape(1, 4, 1, 1, 1)
    predictions = rollout(Adder(), film([0, 0, 0, 0]), context=2, known=known)
    assert predictions.flatten().tolist() == [101, 201, 201 + 301]


def test_penalties_add_up_over_all_steps() -> None:
    _, penalty = Unroll(Adder())(film([0] * 5), 3, 2)
    assert penalty.tolist() == [(0 + 1 + 2 + 3) / 4]


def test_an_encoder_forecaster_gives_the_future_only() -> None:
    predictions = rollout(EncoderForecaster(), film([1, 2, 3, math.nan, math.nan]), context=3)
    assert predictions.flatten().tolist() == [106, 107]


def test_a_direct_network_gives_the_future_only() -> None:
    assert rollout(Tripler(), film([1, 2, 7, 7]), context=2).flatten().tolist() == [6, 6]


def test_observe_gives_the_same_numbers_as_stepping() -> None:
    frames = film([0, 10, 20, 30, 40])
    (stepped, cost), (at_once, cost_at_once) = (Unroll(network)(frames, 3, 2) for network in (Adder(), Observer()))
    assert torch.equal(stepped, at_once) and torch.equal(cost, cost_at_once)


def test_missing_pixels_and_padding_are_filled_and_marked() -> None:
    network = Recorder()
    frames = torch.full((1, 3, 1, 5, 6), 2.0)
    frames[0, 0, 0, 1, 1] = math.nan
    predictions = rollout(network, frames, context=1, valid=~torch.isnan(frames), fill=-7.0)
    assert predictions.shape == (1, 2, 1, 5, 6)
    values, mask = network.fed[0][0]
    assert values.shape == (8, 8) and values[1, 1] == -7 and values[0, 0] == 2 and values[5, 0] == -7 and values[0, 6] == -7
    assert mask[1, 1] == 0 and mask[0, 0] == 1 and float(mask.sum()) == 5 * 6 - 1
    assert bool((network.fed[1][0, 1] == 1).all())  # its own prediction is there everywhere


def test_nan_in_an_unused_future_frame_does_not_leak() -> None:
    network = Adder()
    frames = film([0, 10, math.nan, math.nan])
    predictions, _ = Unroll(network)(frames, 2, 2, use_truth=torch.tensor([[True, True, False]]))
    assert predictions.flatten().tolist() == [1, 11, 12]
    predictions.sum().backward()
    assert float(network.weight.grad) == 1 + 1 + 2


@pytest.mark.parametrize(
    ("context", "change", "sentence"),
    [
        (0, {}, "context of 1 to 2"),
        (3, {}, "context of 1 to 2"),
        (1, {"use_truth": torch.ones(1, 3, dtype=torch.bool)}, "use_truth must be"),
        (1, {"valid": torch.ones(1, 3, 1, 1, 2, dtype=torch.bool)}, "valid must have the shape"),
        (1, {"known": torch.ones(1, 2, 1, 1, 1)}, "all 3 steps"),
    ],
)
def test_wrong_shapes_are_refused(context: int, change: dict[str, Tensor], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        rollout(Adder(), film([0, 1, 2]), context, **change)


@pytest.mark.parametrize("name", ["convlstm", "predrnn"])
@torch.no_grad()
def test_ours_any_horizon_any_batch_any_size(name: str) -> None:
    torch.manual_seed(0)
    network = create_network(name, channels=3, hidden=[5, 5], kernel_size=3, patch_size=2).double()
    for weight in network.parameters():
        weight.mul_(3.0)
    frames = torch.rand(3, 9, 3, 7, 10, dtype=torch.float64)
    far = rollout(network, frames, context=3)
    near = rollout(network, frames[:, :6], context=3)
    assert torch.allclose(far[:, :5], near, atol=1e-12)
    alone = torch.cat([rollout(network, frames[i : i + 1], context=3) for i in range(3)])
    assert torch.allclose(far, alone, atol=1e-12)
    frames[:, 3:] = math.nan
    assert torch.allclose(rollout(network, frames, context=3), far, atol=1e-12)
    assert float(far.abs().max()) > 0.05


def test_draws_reach_prepare() -> None:
    class Noisy(Adder):
        def prepare(self, batch: int, draws: Draws | None = None) -> Tensor:
            return torch.zeros(batch) if draws is None else draws.normal("noise")

        def step(self, frame: Tensor | None, state: Tensor, constants: Tensor, known: Tensor | None = None) -> Step:
            assert frame is not None
            return Step(frame + constants[:, None, None, None], state)

    frames = film([0, 0, 0], batch=2)
    noisy, _ = Unroll(Noisy())(frames, 1, 2, draws=Draws(0, 0, (4, 5)))
    noise = Draws(0, 0, (4, 5)).normal("noise")
    assert torch.allclose(noisy[:, 1].flatten(), 2 * noise)


@pytest.mark.parametrize("name", ["convlstm", "predrnnpp", "encoder_forecaster"])
@pytest.mark.parametrize("length", [1, 3, 4, 5, 8, 100])
def test_no_gradient_reaches_from_a_stretch_into_the_one_before(name: str, length: int) -> None:
    torch.manual_seed(0)
    network = create_network(name, channels=1, hidden=[3, 3], kernel_size=3, patch_size=2, frame_size=(8, 8)).double()
    frames = torch.rand(2, 9, 1, 8, 8, dtype=torch.float64)
    use_truth = torch.rand(2, 8) < 0.5
    made = []
    for predictions, _ in Unroll(network).stretches(frames, 4, 5, use_truth, length=length):
        if predictions is not None:
            made.append(predictions)
            predictions.square().sum().backward()
    got = [torch.zeros_like(weight) if weight.grad is None else weight.grad.clone() for weight in network.parameters()]
    whole, _ = Unroll(network)(frames, 4, 5, use_truth)
    torch.testing.assert_close(torch.cat(made, dim=1), whole, rtol=0, atol=0)

    network.zero_grad()
    state, previous, loss = network.initial_state(2, 8, 8), frames[:, 0], torch.zeros((), dtype=torch.float64)
    for step in range(8 if network.predicts_context else 9):
        if step > 0 and step % length == 0:
            state, previous = detached(state), previous.detach()
        if step == 4:
            state = network.begin_forecast(state)
        fed: Tensor | None = torch.where(use_truth[:, min(step, 7), None, None, None], frames[:, step], previous)
        if not network.predicts_context:
            fed = frames[:, step] if step < 4 else None
        frame, state, _ = network.step(frames[:, 0] if step == 0 else fed, state, network.prepare(2))
        if frame is not None:
            previous, loss = frame, loss + frame.square().sum()
    loss.backward()
    for weight, gradient in zip(network.parameters(), got, strict=True):
        expected = torch.zeros_like(weight) if weight.grad is None else weight.grad
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)


def detached(state: Any) -> Any:
    """Cut a nest of tensors off from what it was computed from."""
    if isinstance(state, Tensor):
        return state.detach()
    if isinstance(state, dict):
        return {key: detached(part) for key, part in state.items()}
    return type(state)(detached(part) for part in state) if isinstance(state, tuple | list) else state


def test_stretches_need_the_memory_of_one() -> None:
    network = create_network("convlstm", channels=1, hidden=[4], kernel_size=3, patch_size=1)
    frames = torch.rand(1, 24, 1, 8, 8)

    def most_kept(length: int | None) -> int:
        """Count the bytes kept for gradients of the stretch that keeps most."""
        most, kept = 0, 0

        def keep(tensor: Tensor) -> Tensor:
            nonlocal kept
            kept += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            for predictions, _ in Unroll(network).stretches(frames, 12, 12, length=length):
                assert predictions is not None
                predictions.sum().backward()  # type: ignore[no-untyped-call]
                most, kept = max(most, kept), 0
        return most

    assert most_kept(4) < most_kept(None) / 5
