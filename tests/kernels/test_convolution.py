"""The convolution that cells call: where it is the compiled one, and that it is torch's own wherever that one would be wrong."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from stpredict import kernels
from stpredict.cells.eidetic import StretchedConvolution
from stpredict.cells.gates import PlaneConvolution
from stpredict.kernels import compiled, winograd
from stpredict.networks import create_network
from stpredict.unroll import rollout

pytestmark = pytest.mark.skipif(
    compiled.library() is None, reason="there are no compiled kernels; test_compiled.py says whether there should be"
)


def make(inputs: int = 24, outputs: int = 40, size: int = 5) -> PlaneConvolution:
    torch.manual_seed(0)
    return PlaneConvolution(inputs, outputs, size, padding=size // 2)


def frames(inputs: int = 24, batch: int = 2) -> Tensor:
    return torch.randn(batch, inputs, 16, 17, generator=torch.Generator().manual_seed(1))


def direct(convolution: nn.Conv2d, inputs: Tensor) -> Tensor:
    return functional.conv2d(inputs, convolution.weight, convolution.bias, padding=convolution.padding)


@pytest.mark.parametrize("size", sorted(compiled.FORMS))
def test_large_convolutions_are_the_compiled_ones(size: int, calls: list[torch.Size]) -> None:
    convolution, inputs = make(size=size), frames(batch=4)
    made = convolution(inputs)
    assert calls == [inputs.shape] and torch.allclose(made, direct(convolution, inputs), rtol=0, atol=2e-5)
    stretched = StretchedConvolution(12, 40, (2, size, size), stride=1, bias=True)
    windows = inputs.unflatten(1, (12, 2))
    made = stretched(windows)
    assert len(calls) == 2
    assert torch.allclose(
        made, functional.conv3d(windows, stretched.weight, stretched.bias, padding=(0, size // 2, size // 2)), rtol=0, atol=2e-5
    )


def test_reference_and_small_ones_are_torchs_own(calls: list[torch.Size]) -> None:
    convolution, inputs = make(), frames()
    with kernels.using("reference"):
        assert kernels.in_use() == "reference" and torch.equal(convolution(inputs), direct(convolution, inputs))
    for other in (make(1), make(24, 1), make(size=1), make(size=9)):
        given = frames(other.in_channels)
        assert torch.equal(other(given), direct(other, given))
    assert torch.equal(convolution(inputs[:, :, :1, :1]), direct(convolution, inputs[:, :, :1, :1])) and not calls


def test_the_names_of_kernels() -> None:
    assert kernels.chosen() == "auto" and kernels.in_use().startswith("winograd-")
    with pytest.raises(ZeroDivisionError), kernels.using("reference"):
        assert kernels.chosen() == "reference"
        raise ZeroDivisionError
    assert kernels.chosen() == "auto"


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16, torch.float16])
def test_other_types_are_torchs_own(kind: torch.dtype, calls: list[torch.Size]) -> None:
    convolution, inputs = make().to(kind), frames().to(kind)
    assert torch.equal(convolution(inputs), direct(convolution, inputs)) and not calls


def test_a_weight_that_is_normalised_and_double_precision_are_bitwise_torchs(calls: list[torch.Size]) -> None:
    normed = weight_norm(make())
    assert torch.equal(normed(frames()), direct(normed, frames()))
    for settings, kind in ({"weight_norm": True}, torch.float32), ({}, torch.float64):
        network = create_network("convlstm", channels=1, hidden=[16, 16], kernel_size=5, patch_size=1, frame_size=(16, 16), **settings).to(
            kind
        )
        clips, results = torch.rand(1, 4, 1, 16, 16, dtype=kind), []
        for which in ("auto", "reference"):
            with kernels.using(which):
                network.zero_grad()
                predictions = rollout(network, clips, 2)
                predictions.square().sum().backward()
                results.append([predictions, *(weight.grad for weight in network.parameters() if weight.grad is not None)])
        assert len(results[0]) > 4 and torch.equal(results[0][0], results[1][0])
        for found, right in zip(*results, strict=True):  # in float32, gates are kept in 16 bits for gradients
            assert torch.equal(found, right) or (kind == torch.float32 and (found - right).abs().max() <= 1e-5 * right.abs().max())
    assert not calls


def test_autocast_to_bfloat16(calls: list[torch.Size]) -> None:
    convolution, inputs = make(), frames().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        made, again = convolution(inputs), convolution(inputs.bfloat16())
    assert made.dtype == again.dtype == torch.bfloat16 and len(calls) == 2
    made.backward(torch.ones_like(made))
    found = [made.detach(), inputs.grad, convolution.weight.grad, convolution.bias.grad] if convolution.bias is not None else []
    assert [tensor.dtype for tensor in found if tensor is not None] == [torch.bfloat16, *[torch.float32] * 3]
    wide, own = make().double(), frames().double().requires_grad_()
    exact = wide(own)
    exact.sum().backward()
    for tensor, right in zip(found, [exact.detach(), own.grad, wide.weight.grad, wide.bias.grad], strict=True):  # type: ignore[union-attr]
        assert tensor is not None and right is not None
        assert (tensor.double() - right).abs().max() <= (4e-3 if tensor is found[0] else 2e-5) * right.abs().max()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_autocast_gives_the_type_that_torch_gives(kind: torch.dtype) -> None:
    convolution, inputs = make(), frames()
    with torch.autocast("cpu", kind):
        assert convolution(inputs).dtype == direct(convolution, inputs).dtype == kind


def twice(compute: Callable[[nn.Conv2d, Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return a convolution as a function of the frames alone."""
    convolution = make()
    return lambda inputs: compute(convolution, inputs)


def test_transforms_of_functions_are_torchs_own() -> None:
    ours, theirs = twice(lambda convolution, inputs: convolution(inputs)), twice(direct)
    clips, tangent = torch.stack([frames(), frames().flip(0)]), frames().flip(2)
    assert torch.allclose(torch.vmap(ours)(clips), torch.vmap(theirs)(clips), rtol=0, atol=2e-5)
    for transform in (torch.func.grad, torch.func.jacrev):
        found, expected = (
            transform(lambda inputs, compute=compute: compute(inputs).square().sum())(frames()) for compute in (ours, theirs)
        )
        assert torch.allclose(found, expected, rtol=0, atol=1e-4)
    for found, expected in zip(torch.func.jvp(ours, (frames(),), (tangent,)), torch.func.jvp(theirs, (frames(),), (tangent,)), strict=True):
        assert torch.allclose(found, expected, rtol=0, atol=2e-5)


def test_tangents_of_frames_and_of_weights() -> None:
    convolution, inputs = make(), frames()
    with forward_ad.dual_level():
        made = forward_ad.unpack_dual(convolution(forward_ad.make_dual(inputs, inputs.flip(0)))).tangent
        assert torch.allclose(made, functional.conv2d(inputs.flip(0), convolution.weight, padding=2), rtol=0, atol=2e-5)
    parameters = {name: parameter.detach() for name, parameter in convolution.named_parameters()}

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        outputs: Tensor = torch.func.functional_call(convolution, parameters, (inputs,))
        return outputs.square().mean()

    found = torch.func.grad(loss)(parameters)
    direct(convolution, inputs).square().mean().backward()
    assert convolution.weight.grad is not None and torch.allclose(found["weight"], convolution.weight.grad, rtol=1e-4, atol=1e-6)


def test_gradients_of_gradients_are_right_or_refused() -> None:
    found = []
    for which in ("reference", "auto"):
        convolution, inputs = make(), frames().requires_grad_()
        with kernels.using(which):
            (gradient,) = torch.autograd.grad(convolution(inputs).square().mean(), inputs, create_graph=True)
            try:
                gradient.square().sum().backward()
            except RuntimeError as error:
                assert which == "auto" and "twice" in str(error)
                return
        found.append([inputs.grad, convolution.weight.grad])
    for one, right in zip(*found, strict=True):
        assert one is not None and right is not None and (one - right).abs().max() <= 2e-5 * right.abs().max()


@pytest.mark.parametrize("strict", [False, True])
def test_what_is_exported_is_torchs_own(strict: bool) -> None:
    convolution, other = make(), frames().flip(0)
    program = torch.export.export(convolution, (frames(),), strict=strict)
    assert torch.ops.aten.conv2d.default in {node.target for node in program.graph.nodes}
    assert torch.allclose(program.module()(other), direct(convolution, other), rtol=0, atol=2e-5)


def test_what_is_traced_is_torchs_own() -> None:
    convolution, other = make(), frames().flip(0)
    with torch.no_grad():
        traced = torch.jit.trace(convolution, (frames(),))
        functions = make_fx(convolution)(frames())
    torch.jit.save(traced, io.BytesIO())
    for made in (traced(other), functions(other)):
        assert torch.allclose(made, direct(convolution, other), rtol=0, atol=2e-5)


def test_tensors_without_numbers() -> None:
    with FakeTensorMode():
        made = make()(torch.empty(2, 24, 16, 17))
        assert made.shape == (2, 40, 16, 17)
        made.sum().backward()
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert make()(torch.empty(2, 24, 16, 17)).shape == (2, 40, 16, 17)
    convolution, inputs = make(), frames()
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert convolution(inputs).shape == (2, 40, 16, 17)
    assert make().to("meta")(frames().to("meta")).shape == (2, 40, 16, 17)


def test_what_does_not_fit_together_is_torchs_error() -> None:
    convolution = make()
    assert not winograd.serves(frames().to("meta"), convolution.weight), "C would read from nowhere"
    with pytest.raises(RuntimeError):
        kernels.convolve(frames().bfloat16(), convolution.weight)
    with pytest.raises(RuntimeError):
        kernels.convolve(frames(), convolution.weight, torch.zeros(3))
    with pytest.raises(RuntimeError):
        kernels.convolve(frames()[0, None, :23], convolution.weight)


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_defaults_for_new_tensors_are_nothing_to_it(kind: torch.dtype) -> None:
    results = []
    for default, device in ((torch.float32, "cpu"), (kind, "cpu"), (torch.float32, "meta")):
        convolution, inputs = make(), frames().requires_grad_()
        torch.set_default_dtype(default)
        try:
            with torch.device(device):
                made = convolution(inputs)
                made.square().sum().backward()
        finally:
            torch.set_default_dtype(torch.float32)
        assert convolution.weight.grad is not None and inputs.grad is not None
        results.append([made, inputs.grad, convolution.weight.grad])
    assert all(torch.equal(one, right) for other in results[1:] for one, right in zip(other, results[0], strict=True))


def test_networks_made_and_used_in_inference_mode() -> None:
    with torch.inference_mode():
        convolution, inputs = make(), frames()
        assert torch.allclose(convolution(inputs), direct(convolution, inputs), rtol=0, atol=2e-5)
    ordinary = make()
    with torch.inference_mode():
        before = ordinary(frames())
    after = ordinary(frames())
    after.sum().backward()
    assert torch.equal(before, after) and ordinary.weight.grad is not None
