"""The compiled convolutions, forced, against float64: errors, awkward shapes, numbers that are none, threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from stpredict.kernels import compiled, winograd
from stpredict.kernels.compiled import FORMS, Library

SIZES = sorted(FORMS)
TYPES = [torch.float32, torch.bfloat16]
LAYOUTS = ["contiguous", "channels last", "a cut", "a cut of channels last", "turned", "every second", "expanded"]
NAMES = ("outputs", "frames", "weight", "bias")

found = compiled.library()
pytestmark = pytest.mark.skipif(found is None, reason="there are no compiled kernels; test_compiled.py says whether there should be")


@dataclass(frozen=True)
class Case:
    """A convolution and the gradient of its outputs: frames (B, C, H, W), weight (K, C, r, r), bias (K,), gradient (B, K, H, W)."""

    frames: Tensor
    weight: Tensor
    bias: Tensor
    gradient: Tensor


def make(batch: int, inputs: int, outputs: int, height: int, width: int, size: int, kind: torch.dtype = torch.float32) -> Case:
    source = torch.Generator().manual_seed(batch + 7 * inputs + 11 * outputs + 13 * height + 17 * width + 19 * size)
    frames = torch.randn(batch, inputs, height, width, generator=source).to(kind)
    weight = torch.randn(outputs, inputs, size, size, generator=source) / (size * inputs**0.5)
    gradient = torch.randn(batch, outputs, height, width, generator=source).to(kind)
    return Case(frames, weight, torch.randn(outputs, generator=source), gradient)


def library() -> Library:
    assert found is not None
    return found


def forced(frames: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return winograd.convolve(library(), frames, weight, bias)


def direct(frames: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return functional.conv2d(frames, weight, bias, padding=weight.shape[-1] // 2)


def run(compute: Callable[[Tensor, Tensor, Tensor | None], Tensor], case: Case, kind: torch.dtype | None = None) -> list[Tensor]:
    """Return outputs and gradients of frames, weight and bias, computed in a type or, without one, as a case is."""
    frames, weight, bias, gradient = (
        tensor.detach() if kind is None else tensor.detach().to(kind) for tensor in (case.frames, case.weight, case.bias, case.gradient)
    )
    frames, parameter, bias = frames.requires_grad_(), nn.Parameter(weight), bias.requires_grad_()
    outputs = compute(frames, parameter, bias)
    outputs.backward(gradient)
    assert frames.grad is not None and parameter.grad is not None and bias.grad is not None
    return [outputs.detach(), frames.grad, parameter.grad, bias.grad]


def errors(results: list[Tensor], exact: list[Tensor]) -> list[tuple[float, float]]:
    """Return for each result its root mean square error and its greatest error, both in units of the root mean square of what is exact."""
    pairs = zip(results, exact, strict=True)
    scaled = [(result.double() - right) / right.square().mean().sqrt() for result, right in pairs]
    return [(error.square().mean().sqrt().item(), error.abs().max().item()) for error in scaled]


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


SHAPES = {"even": (2, 64, 64, 16, 16), "ragged": (3, 37, 83, 13, 11), "wide": (1, 896, 40, 8, 8), "narrow to wide": (1, 16, 512, 9, 8)}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("size", SIZES)
def test_float32_errs_at_most_30_times_as_much_as_the_direct_form(size: int, shape: tuple[int, int, int, int, int]) -> None:
    case = make(*shape, size)
    exact = run(direct, case, torch.float64)
    for name, ours, theirs in zip(NAMES, errors(run(forced, case), exact), errors(run(direct, case), exact), strict=True):
        assert ours[0] <= 30 * theirs[0], f"{name}: {ours[0]:.2e} against {theirs[0]:.2e}"
        # In a short sum the greatest of a few direct errors hangs on luck.
        assert ours[1] <= 60 * theirs[1], f"greatest error of {name}: {ours[1]:.2e} against {theirs[1]:.2e}"


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("size", SIZES)
def test_bfloat16_frames_err_no_more_than_in_torch(size: int, shape: tuple[int, int, int, int, int]) -> None:
    case = make(*shape, size, torch.bfloat16)
    results, exact = run(forced, case), run(direct, case, torch.float64)
    assert [result.dtype for result in results] == [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]
    for name, ours, theirs in zip(NAMES, errors(results, exact), errors(run(direct, case, torch.bfloat16), exact), strict=True):
        assert ours[0] <= 1.5 * theirs[0], f"{name}: {ours[0]:.2e} against {theirs[0]:.2e}"
        assert ours[1] <= 1.5 * theirs[1], f"greatest error of {name}: {ours[1]:.2e} against {theirs[1]:.2e}"


@pytest.mark.parametrize("size", SIZES)
@settings(max_examples=20)
@given(
    batch=st.integers(1, 3),
    inputs=st.integers(1, 70),
    outputs=st.integers(1, 70),
    height=st.integers(1, 11),
    width=st.integers(1, 11),
    kind=st.sampled_from(TYPES),
    layout=st.sampled_from(LAYOUTS),
)
def test_any_shape_and_layout(
    size: int, batch: int, inputs: int, outputs: int, height: int, width: int, kind: torch.dtype, layout: str
) -> None:
    case = make(batch, inputs, outputs, height, width, size, kind)
    frames, weight, gradient = (lay_out(tensor, layout) for tensor in (case.frames, case.weight, case.gradient))
    case = Case(frames, weight, case.bias, gradient)
    exact, bound = run(direct, case, torch.float64), 2e-5 if kind == torch.float32 else 1e-2
    for name, result, right in zip(NAMES, run(forced, case), exact, strict=True):
        scale = max(1.0, right.abs().max().item())
        assert result.shape == right.shape and (result.double() - right).abs().max().item() <= bound * scale, name


def lay_out(tensor: Tensor, layout: str) -> Tensor:
    """Return a tensor that lies otherwise, of the same numbers, unless all are to be one."""
    if layout == "channels last":
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout.startswith("a cut"):
        both = torch.cat([tensor, torch.full_like(tensor, torch.nan)], dim=1)
        return (both if layout == "a cut" else both.contiguous(memory_format=torch.channels_last))[:, : tensor.shape[1]]
    if layout == "turned":
        return tensor.transpose(0, 3).contiguous().transpose(0, 3)
    if layout == "every second":
        return torch.stack([tensor, torch.full_like(tensor, torch.nan)], dim=-1)[..., 0]
    return tensor[:1, :1, :1, :1].expand(tensor.shape) if layout == "expanded" else tensor


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "shape", [(2, 3, 4, 1, 1), (3, 1, 4, 1, 1), (1, 3, 4, 1, 1), (2, 3, 4, 5, 1), (2, 3, 4, 1, 5), (2, 3, 1, 1, 1)], ids=str
)
def test_lines_and_points_whose_strides_say_little(shape: tuple[int, int, int, int, int], layout: str) -> None:
    case = make(*shape, 5)
    case = Case(lay_out(case.frames, layout), lay_out(case.weight, layout), case.bias, lay_out(case.gradient, layout))
    for name, result, right in zip(NAMES, run(forced, case), run(direct, case, torch.float64), strict=True):
        assert (result.double() - right).abs().max() <= 2e-5 * right.abs().max().clamp_min(1.0), name


def test_a_bias_of_every_second_number() -> None:
    case = make(2, 20, 24, 9, 10, 5)
    bias = torch.stack([case.bias, torch.full_like(case.bias, torch.nan)], dim=1)[:, 0]
    plain, cut = (forced(case.frames, nn.Parameter(case.weight), made) for made in (case.bias, bias))
    assert torch.equal(plain, cut)


@pytest.mark.parametrize("size", SIZES)
def test_weights_whose_axes_between_make_the_channels_together(size: int) -> None:
    case = make(2, 40, 24, 9, 10, size)
    flat = run(forced, case)
    deep = nn.Parameter(case.weight.unflatten(1, (20, 2)))
    outputs = forced(case.frames, deep, None)
    outputs.backward(case.gradient)
    assert deep.grad is not None and deep.grad.shape == deep.shape and torch.equal(deep.grad.flatten(1, 2), flat[2])
    assert torch.allclose(outputs + case.bias[:, None, None], flat[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("frozen", ["weights", "frames", "both"])
def test_what_needs_no_gradient_gets_none(frozen: str) -> None:
    case = make(2, 24, 40, 9, 10, 5)
    frames, weight = case.frames.requires_grad_(frozen == "weights"), nn.Parameter(case.weight, requires_grad=frozen == "frames")
    made = forced(frames, weight, None)
    assert made.requires_grad == (frozen != "both")
    if frozen == "both":
        return
    made.backward(case.gradient)
    wanted, other = (frames, weight) if frozen == "weights" else (weight, frames)
    (right,) = torch.autograd.grad(direct(frames, weight, None), wanted, case.gradient)
    assert other.grad is None and wanted.grad is not None
    assert (wanted.grad - right).abs().max() <= 3e-5 * right.abs().max()


def test_weights_frozen_after_they_were_used_get_no_gradient() -> None:
    case = make(2, 24, 40, 9, 10, 5)
    frames, weight = case.frames.requires_grad_(), nn.Parameter(case.weight)
    forced(frames, weight, None).sum().backward()
    weight.requires_grad_(False).grad = None
    forced(frames, weight, None).sum().backward()
    assert weight.grad is None


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_zeros_give_zeros_and_the_bias(size: int, kind: torch.dtype) -> None:
    case = make(2, 20, 70, 9, 10, size, kind)
    nothing = run(forced, Case(torch.zeros_like(case.frames), case.weight, case.bias, torch.zeros_like(case.gradient)))
    assert torch.equal(nothing[0], case.bias[None, :, None, None].to(kind).expand_as(nothing[0]))
    assert all(not gradient.any() for gradient in nothing[1:])
    assert not forced(torch.zeros_like(case.frames), nn.Parameter(case.weight), None).any()
    assert not forced(case.frames, nn.Parameter(torch.zeros_like(case.weight)), None).any()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", TYPES, ids=str)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf], ids=str)
def test_what_is_no_number_stays_within_its_tiles(size: int, kind: torch.dtype, value: float) -> None:
    """It reaches at least as far as in torch, and never another clip, nor further than the tiles that it lies in."""
    case, form = make(3, 20, 35, 17, 18, size, kind), FORMS[size]
    reach = size // 2 + form.outputs - 1
    frames, gradient = case.frames.clone(), case.gradient.clone()
    frames[1, 3, 7, 8] = gradient[1, 5, 7, 8] = value
    plain, torch_plain = run(forced, case), run(direct, Case(frames, case.weight, case.bias, gradient), torch.float64)
    far = torch.ones(3, 17, 18, dtype=torch.bool)
    far[1, max(0, 7 - reach) : 7 + reach + 1, max(0, 8 - reach) : 8 + reach + 1] = False
    results = run(forced, Case(frames, case.weight, case.bias, gradient))
    for result, before, theirs in list(zip(results, plain, torch_plain, strict=True))[:2]:
        assert torch.equal(result.movedim(1, -1)[far], before.movedim(1, -1)[far])
        assert not result[~theirs.isfinite()].isfinite().any()
    others = torch.ones_like(case.weight, dtype=torch.bool)
    others[5] = others[:, 3] = False
    assert torch.equal(results[2][others], plain[2][others])
    assert not results[2][~torch_plain[2].isfinite()].isfinite().any()
    assert torch.equal(results[3][torch.arange(35) != 5], plain[3][torch.arange(35) != 5]) and not results[3][5].isfinite()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_threads_and_repetition_change_no_bit(size: int, kind: torch.dtype, threads: Callable[[int], None]) -> None:
    case = make(5, 37, 150, 19, 22, size, kind)
    results = []
    for count in (1, 2, 3, 1):
        threads(count)
        results.append(run(forced, case))
    assert all(torch.equal(one, first) for other in results[1:] for one, first in zip(other, results[0], strict=True))


@pytest.mark.parametrize("size", SIZES)
def test_half_is_rounded_to_the_nearest(size: int) -> None:
    """A kernel of one 1 in its middle returns what it is given, so that nothing but the rounding of outputs is seen."""
    weight = torch.zeros(16, 16, size, size)
    weight[torch.arange(16), torch.arange(16), size // 2, size // 2] = 1.0
    frames = torch.zeros(1, 16, 8, 8)
    frames[0, :, 2, 2] = torch.linspace(-3.0, 3.0, 16)
    with torch.autocast("cpu", torch.bfloat16):
        made = forced(frames, nn.Parameter(weight), None)
        # A NaN of ones alone, which rounding would carry over into a zero.
        frames[0, :, 2, 2] = torch.tensor([2**31 - 1, -1], dtype=torch.int32).view(torch.float32).repeat(8)
        lost = forced(frames, nn.Parameter(weight), None)
    assert made.dtype == torch.bfloat16 and lost[0, :, 2, 2].isnan().all()
    assert torch.allclose(made.float()[0, :, 2, 2], torch.linspace(-3.0, 3.0, 16), rtol=2**-8, atol=2e-5)
