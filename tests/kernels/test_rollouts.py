"""Rollouts by the compiled kernels against torch's: every network, gradients through time, weights that change, what is left behind."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from stpredict import kernels
from stpredict.cells.gates import PlaneConvolution
from stpredict.kernels import compiled, winograd
from stpredict.networks import NETWORKS, Network, create_network
from stpredict.unroll import rollout

pytestmark = pytest.mark.skipif(
    compiled.library() is None, reason="there are no compiled kernels; test_compiled.py says whether there should be"
)

CONTEXT = 2
FORMS: dict[str, dict[str, Any]] = {
    "convrnn": {"hidden": [24, 24]},
    "convgru": {"kernel_size": 3, "patch_size": 1},
    "convlstm": {"kernel_size": max(compiled.FORMS)},
    "predrnn": {"bias": True},
    "predrnn_v2": {},
    "predrnnpp": {},
    "e3d_lstm": {"form": "stretched", "memory": "frozen"},
    "encoder_forecaster": {"kernel_size": 3, "patch_size": 1},
    "simvp": {"hidden": [16, 32], "layers": [2, 2], "kernel_size": None, "patch_size": None},
    "residual": {
        "of": {"name": "convlstm", "hidden": [16, 16], "kernel_size": 5, "patch_size": 2},
        **dict.fromkeys(("hidden", "kernel_size", "patch_size")),
    },
}
"""What makes convolutions of every network large enough; those of SimVP are torch's own."""

STEPS = 5
BOUND = 3e-5
"""Of the largest number of a tensor: gates are kept in 16 bits for gradients."""


def make(name: str = "convlstm", **more: Any) -> Network:
    torch.manual_seed(0)
    settings = {"hidden": [16, 16], "kernel_size": 5, "patch_size": 2, **FORMS.get(name, {}), **more}
    settings = {name: value for name, value in settings.items() if value is not None}
    return create_network(name, channels=1, frame_size=(33, 38), context=CONTEXT, **settings)


def clips(batch: int = 2) -> Tensor:
    return torch.rand(batch, STEPS, 1, 33, 38, generator=torch.Generator().manual_seed(1))


def taken(network: Network, frames: Tensor, compute: Callable[..., Tensor] = rollout) -> dict[str, Tensor]:
    """Return the predictions, and the gradients of frames and parameters."""
    network.zero_grad()
    frames = frames.clone().requires_grad_()
    predictions = compute(network, frames, CONTEXT)
    loss_of(predictions).backward()
    gradients = {name: weight.grad.clone() for name, weight in network.named_parameters() if weight.grad is not None}
    assert frames.grad is not None
    return {"": predictions.detach(), "frames": frames.grad, **gradients}


def loss_of(predictions: Tensor) -> Tensor:
    return (predictions - 0.5).square().mean()


def reference(network: Network, frames: Tensor) -> dict[str, Tensor]:
    with kernels.using("reference"):
        return taken(network, frames)


def assert_agree(found: dict[str, Tensor], expected: dict[str, Tensor], bound: float = BOUND) -> None:
    assert found.keys() == expected.keys()
    for name, right in expected.items():
        error = (found[name] - right).abs().max() / right.abs().max().clamp_min(1e-30)
        assert error <= bound, f"{name or 'predictions'}: {error:.2e}"


def test_every_network_is_here() -> None:
    assert FORMS.keys() == NETWORKS.keys()


@pytest.mark.parametrize("name", FORMS)
def test_every_network_agrees_with_torch(name: str, calls: list[torch.Size]) -> None:
    network, frames = make(name).eval(), clips()
    found = taken(network, frames)
    assert bool(calls) == (name != "simvp")
    count = len(calls)
    assert_agree(found, reference(network, frames))
    assert len(calls) == count
    with torch.no_grad():
        assert torch.equal(rollout(network, frames, CONTEXT), found[""])
    with torch.inference_mode():
        assert torch.equal(rollout(network, frames, CONTEXT), found[""])


@pytest.mark.parametrize(("name", "norm"), [("predrnn", "layer"), ("predrnnpp", "channel"), ("e3d_lstm", "layer"), ("convlstm", "group")])
def test_norms_enlarge_the_error_as_they_do_that_of_torch(name: str, norm: str) -> None:
    network, frames = make(name, norm=norm).eval(), clips()
    found, usual = taken(network, frames), reference(network, frames)
    exact = reference(copy.deepcopy(network).double(), frames.double())
    for part, right in exact.items():
        ours, theirs = ((result[part] - right).square().mean().sqrt().item() for result in (found, usual))
        bound = 60 if part else 30  # for gradients gates, too, are kept in 16 bits
        assert ours <= bound * theirs, f"{part}: {ours:.1e} against {theirs:.1e}"


def test_backward_twice_and_accumulated() -> None:
    network, frames = make("predrnn"), clips()
    expected = reference(network, frames)
    network.zero_grad()
    own = frames.clone().requires_grad_()
    loss = loss_of(rollout(network, own, CONTEXT))
    loss.backward(retain_graph=True)
    once = {name: weight.grad.clone() for name, weight in network.named_parameters() if weight.grad is not None}
    loss.backward()
    loss_of(rollout(network, frames, CONTEXT)).backward()
    for name, weight in network.named_parameters():
        if weight.grad is not None:
            assert_agree({"": once[name]}, {"": expected[name]})
            assert_agree({"": weight.grad}, {"": 3 * expected[name]})
    assert own.grad is not None
    assert_agree({"": own.grad}, {"": 2 * expected["frames"]})


def test_a_gradient_of_frames_alone_leaves_nothing_behind() -> None:
    network, frames = make(), clips()
    own = frames.clone().requires_grad_()
    loss = loss_of(rollout(network, own, CONTEXT))
    (alone,) = torch.autograd.grad(loss, own, retain_graph=True)
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    of_weights = torch.autograd.grad(loss, weights, retain_graph=True)
    loss.backward()
    expected = reference(make(), frames)
    names = [name for name, weight in network.named_parameters() if weight.requires_grad]
    found = {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}
    assert_agree({"": alone, **found}, {"": expected["frames"], **{name: expected[name] for name in found}})
    assert_agree(dict(zip(names, of_weights, strict=True)), {name: expected[name] for name in names})


def test_a_backward_that_failed_leaves_nothing_behind() -> None:
    network, frames = make(), clips().requires_grad_()
    predictions = rollout(network, frames, CONTEXT)
    refused = True

    def refuse(gradient: Tensor) -> Tensor:
        if refused:
            raise InterruptedError
        return gradient

    frames.register_hook(refuse)
    with pytest.raises(InterruptedError):
        loss_of(predictions).backward(retain_graph=True)
    network.zero_grad()
    frames.grad, refused = None, False
    loss_of(predictions).backward()
    found = {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}
    expected = reference(make(), clips())
    assert_agree(found, {name: expected[name] for name in found})


@pytest.mark.parametrize("order", ["first then second", "second then first", "together", "between"])
def test_two_rollouts_at_once(order: str) -> None:
    network, one, two = make(), clips(), clips().flip(1)
    expected, other = reference(network, one), reference(network, two)
    network.zero_grad()
    first, second = (loss_of(rollout(network, frames, CONTEXT)) for frames in (one, two))
    if order == "together":
        (first + second).backward()
    elif order == "between":
        first.backward(retain_graph=True)
        second.backward(retain_graph=True)
        network.zero_grad()
        second.backward()
        first.backward()
    else:
        for loss in (first, second) if order == "first then second" else (second, first):
            loss.backward()
    found = {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}
    assert_agree(found, {name: expected[name] + other[name] for name in found})


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_is_computed_again_for_gradients(reentrant: bool, calls: list[torch.Size]) -> None:
    convolution, again, frames = PlaneConvolution(24, 24, 5, padding=2), PlaneConvolution(24, 24, 5, padding=2), torch.randn(2, 24, 16, 17)
    again.load_state_dict(convolution.state_dict())

    def along(step: Callable[[Tensor], Tensor], own: Tensor) -> Tensor:
        for _ in range(4):
            own = step(own)
        return own

    plain, own = frames.clone().requires_grad_(), frames.clone().requires_grad_()
    along(lambda h: torch.tanh(convolution(h)), plain).square().sum().backward()
    count = len(calls)
    assert count == 4
    made = along(lambda h: checkpoint(lambda h: torch.tanh(again(h)), h, use_reentrant=reentrant), own)
    made.square().sum().backward()
    assert len(calls) == 3 * count
    grads = [(own.grad, plain.grad), (again.weight.grad, convolution.weight.grad), (again.bias.grad, convolution.bias.grad)]  # type: ignore[union-attr]
    for found, expected in grads:
        assert found is not None and expected is not None
        assert_agree({"": found}, {"": expected}, 1e-6 if reentrant else 0.0)


def test_new_weights_are_seen_by_the_next_rollout() -> None:
    network, frames = make(), clips()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    other = {name: 0.9 * value for name, value in make().state_dict().items()}

    def edit() -> None:
        for weight in network.parameters():
            weight.data.mul_(1.1)

    def replace() -> None:
        for weight in network.parameters():
            weight.data = weight.data.flip(0).contiguous()

    for change in (optimizer.step, edit, replace, lambda: network.load_state_dict(other)):
        before = taken(network, frames)
        change()
        found = taken(network, frames)
        assert not torch.allclose(found[""], before[""], rtol=0, atol=1e-4)
        assert_agree(found, reference(network, frames))


def test_new_weights_are_seen_outside_of_rollouts(calls: list[torch.Size]) -> None:
    convolution, frames = PlaneConvolution(24, 24, 5, padding=2, bias=False), torch.randn(2, 24, 16, 17)
    with torch.no_grad():
        before = convolution(frames)
        convolution.weight.mul_(2.0)
        twice = convolution(frames)
        convolution.weight = torch.nn.Parameter(2.0 * convolution.weight)
        four_times = convolution(frames)
    assert len(calls) == 3 and torch.equal(twice, 2 * before) and torch.equal(four_times, 4 * before)


@pytest.mark.parametrize("once", [True, False])
def test_weights_changed_before_their_gradient_is_taken_are_an_error(once: bool, calls: list[torch.Size]) -> None:
    convolution, frames = PlaneConvolution(24, 24, 5, padding=2), torch.randn(2, 24, 16, 17, requires_grad=True)
    loss = convolution(frames).square().sum()
    if not once:
        loss.backward(retain_graph=True)
    with torch.no_grad():
        convolution.weight.mul_(1.1)
    with pytest.raises(RuntimeError, match=r"in.?place"):
        loss.backward()
    assert calls


def test_copies_of_a_network_that_was_used() -> None:
    network, frames = make(), clips()
    expected = taken(network, frames)
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        found = taken(twin, frames)
        assert all(torch.equal(found[name], right) for name, right in expected.items())
        with torch.no_grad():
            next(twin.parameters()).zero_()
    assert all(torch.equal(found, expected[name]) for name, found in taken(network, frames).items())


def transformed(network: Network) -> list[weakref.ref[winograd.Transformed]]:
    return [weakref.ref(winograd._transformed[weight]) for weight in network.parameters() if weight in winograd._transformed]


def test_weights_go_with_their_network() -> None:
    gc.collect()
    network = make()
    taken(network, clips())
    alive = [weakref.ref(weight) for weight in network.parameters()]
    held = transformed(network)
    assert held
    del network
    gc.collect()
    assert not any(weight() is not None for weight in alive) and not any(made() is not None for made in held)


def test_rollouts_leave_nothing_behind() -> None:
    network, frames = make(), clips()
    taken(network, frames)
    held = transformed(network)
    taken(network, frames)
    gc.collect()
    assert held and not any(made() is not None for made in held)
