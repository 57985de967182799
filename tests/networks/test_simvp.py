"""SimVP: gradients, horizons, sizes, masks, known inputs, draws, and a run that goes on with the same bits."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from stpredict.checkpoint import Checkpoint, checkpoints
from stpredict.draws import Draws, uniform
from stpredict.errors import UserError
from stpredict.networks import DirectNetwork, create_network
from stpredict.networks.simvp import SimVP
from stpredict.predictor import load_predictor
from stpredict.training import make_settings, resume, train
from stpredict.unroll import Unroll, rollout


def small(**changes: Any) -> SimVP:
    """A network of each kind of part, with weights and statistics that make each of them matter, in float64."""
    torch.manual_seed(0)
    settings = {"channels": 1, "context": 2, "hidden": (4, 6), "layers": (2, 3), "mlp_ratio": 2.0} | changes
    if settings.get("translator") == "incepu":
        del settings["mlp_ratio"]
    network = SimVP(**settings).double()
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                value.add_(0.3 * torch.randn_like(value))
            if name.endswith("running_var"):
                value.abs_()
    return network.eval()


def film(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def kinds(**changes: Any) -> Any:
    return pytest.mark.parametrize("kind", [{"translator": "gsta"} | changes, {"translator": "incepu"} | changes], ids=["gsta", "incepu"])


@kinds(hidden=(2, 6))
@pytest.mark.parametrize("training", [False, True])
def test_gradients(kind: dict[str, Any], training: bool) -> None:
    """Through two passes, and in training through batch statistics and branches that are left out."""
    network = small(**kind, **({"drop_path": 0.5} if kind["translator"] == "gsta" else {})).train(training)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.track_running_stats = not training  # otherwise each call would change them
    weights = dict(network.named_parameters())
    draws = Draws(0, 3, (0, 1))

    def future(frames: Tensor, *values: Tensor) -> Tensor:
        along = {"frames": frames, "context": 2, "horizon": 3, "draws": draws}
        return torch.func.functional_call(
            Unroll(network), {f"network.{name}": v for name, v in zip(weights, values, strict=True)}, (), along
        )[0]

    inputs = [film(2, 2, 1, 4, 4), *weights.values()]
    assert torch.autograd.gradcheck(future, [value.detach().requires_grad_() for value in inputs], fast_mode=True)
    future(film(2, 2, 1, 4, 4), *weights.values()).square().sum().backward()
    assert all(float(weight.grad.abs().max()) > 0 for weight in weights.values() if weight.grad is not None)
    assert all(weight.grad is not None for weight in weights.values())


@kinds()
@torch.no_grad()
def test_longer_horizons_are_fed_the_whole_pass_before_and_shorter_ones_are_cut(kind: dict[str, Any]) -> None:
    network, observed = small(**kind), film(2, 2, 1, 6, 8)
    one = network.forecast(observed, 2)
    two = network.forecast(one, 2)
    expected = torch.cat([one, two, network.forecast(two, 2)], dim=1)
    for horizon in (1, 2, 5):
        assert torch.equal(network.forecast(observed, horizon), expected[:, :horizon])
    assert torch.equal(network.forecast(torch.cat([film(2, 3, 1, 6, 8), observed], dim=1), 5), expected[:, :5])
    assert float((two - one).abs().max()) > 0.05


@kinds(channels=3, layers=(4, 2))
@torch.no_grad()
def test_any_size_any_batch_and_what_is_missing(kind: dict[str, Any]) -> None:
    """Colour, 7 x 10 pixels: padded to 8 x 12 with the fill, at the right and the bottom; a sample does not hang on its neighbours."""
    network, frames = small(**kind), film(3, 7, 3, 7, 10)
    assert network.patch_size == 4
    future = rollout(network, frames, context=2, fill=-0.5)
    padded = functional.pad(frames[:, :2], (0, 2, 0, 1), value=-0.5)
    torch.testing.assert_close(future, network.forecast(padded, 5)[..., :7, :10], atol=1e-12, rtol=0)
    alone = torch.cat([rollout(network, frames[i : i + 1], context=2, fill=-0.5) for i in range(3)])
    torch.testing.assert_close(alone, future, atol=1e-12, rtol=0)

    frames[:, 2:] = math.nan
    torch.testing.assert_close(rollout(network, frames, context=2, fill=-0.5), future, atol=0, rtol=0)
    frames[0] = math.nan  # a blank clip
    partly = rollout(network, frames, context=2, valid=~torch.isnan(frames), fill=-0.5)
    torch.testing.assert_close(partly[1:], future[1:], atol=1e-12, rtol=0)
    blank = rollout(network, torch.full((1, 7, 3, 7, 10), -0.5, dtype=torch.float64), context=2, fill=-0.5)
    torch.testing.assert_close(partly[:1], blank, atol=1e-12, rtol=0)


@torch.no_grad()
def test_frames_cut_out_of_a_longer_film_are_taken_as_they_lie() -> None:
    network, frames = small(), film(2, 5, 1, 4, 8)
    cut = frames.transpose(0, 1)[1:3].transpose(0, 1)
    assert not cut.is_contiguous() and torch.equal(network.forecast(cut, 3), network.forecast(cut.contiguous(), 3))


@torch.no_grad()
def test_the_mask_and_known_inputs_stand_beside_the_frames_that_are_fed() -> None:
    frames, known = film(2, 5, 1, 4, 8), film(2, 5, 2, 4, 8) - 0.5
    valid = film(2, 5, 1, 4, 8) < 0.7
    network = small(valid_channel=True, known_channels=2)
    plain = small(channels=4)  # the same, but for its first and last layer
    plain.load_state_dict(
        {
            key: value if key.startswith(("enc", "tra", "dec")) else value.repeat_interleave(4, 0)
            for key, value in network.state_dict().items()
        }
    )
    assert network.takes_valid
    first = plain.forecast(torch.cat([torch.where(valid, frames, -1.0), valid, known], dim=2)[:, :2], 2)[:, :, :1]
    second = plain.forecast(torch.cat([first, torch.ones_like(first), known[:, 2:4]], dim=2), 2)[:, :, :1]
    future = rollout(network, frames, 2, valid=valid, known=known, fill=-1.0)
    torch.testing.assert_close(future, torch.cat([first, second], dim=1)[:, :3], atol=1e-12, rtol=0)
    more = (torch.cat([part[:, :1], part], dim=1) for part in (torch.cat([frames, valid], dim=2), known))
    longer, known = next(more)[:, :4], next(more)
    torch.testing.assert_close(
        network.forecast(longer[:, :3], 3, known), network.forecast(longer[:, 1:3], 3, known[:, 1:]), atol=1e-12, rtol=0
    )


@torch.no_grad()
def test_branches_are_left_out_in_training_by_draws_alone() -> None:
    """Each sample equals one of a network whose layer scales are multiplied by what is drawn for it, and for it alone."""
    network = small(drop_path=0.6).train()
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()  # otherwise samples hang together
    frames, rates = film(3, 2, 1, 4, 8), np.array([0.01, 0.305, 0.6])
    future, _ = Unroll(network)(frames, 2, 4, draws=Draws(7, 5, (40, 41, 49)))
    left = 0
    for row, index in enumerate((40, 41, 49)):
        numbers = uniform(7, "drop path", 5, index, 2 * 3 * 2).reshape(2, 3, 2)
        kept = (numbers >= rates[:, None]) / (1.0 - rates[:, None])
        left += int((kept == 0).sum())
        fed = frames[row : row + 1]
        for number in range(2):
            scaled = small(drop_path=0.6)
            for block, (attention, mlp) in zip(scaled.translator.blocks, kept[number], strict=True):
                block.attention_scale.mul_(attention), block.mlp_scale.mul_(mlp)
            fed = scaled.forecast(fed, 2)
            torch.testing.assert_close(future[row : row + 1, 2 * number : 2 * number + 2], fed, atol=1e-6, rtol=0)
    assert 0 < left < 2 * 3 * 2 * 3
    alone, _ = Unroll(network)(frames[2:], 2, 4, draws=Draws(7, 5, (49,)))
    torch.testing.assert_close(alone, future[2:], atol=1e-12, rtol=0)

    nothing, _ = Unroll(network)(frames, 2, 4)
    forecast, _ = Unroll(network.eval())(frames, 2, 4, draws=Draws(7, 5, (40, 41, 49)))
    assert torch.equal(nothing, forecast) and float((forecast - future).abs().max()) > 0.01


def test_the_rates_run_from_one_percent_also_down_to_none() -> None:
    assert small(layers=(2, 5), drop_path=0.2).drop_rates == pytest.approx([0.01, 0.0575, 0.105, 0.1525, 0.2])
    assert small(layers=(2, 3)).drop_rates == pytest.approx([0.01, 0.005, 0.0])
    kept = small(layers=(2, 3))._draw_kept(Draws(0, 0, tuple(range(5000))), 1)
    shares = (kept == 0).double().mean(dim=(0, 1))
    assert float(shares[0].mean()) == pytest.approx(0.01, abs=0.003) and float(shares[2].max()) == 0.0
    torch.testing.assert_close(kept.mean(dim=0), torch.ones(1, 3, 2), atol=0.01, rtol=0)


def test_fresh_weights() -> None:
    """Deviations of those that are not drawn as torch does by itself, within what so many numbers let expect."""
    torch.manual_seed(0)
    network = create_network("simvp", channels=1, context=4, hidden=[32, 64], layers=[4, 3])
    block = network.translator.blocks[1]
    wanted = [(layer.convolution, 0.02) for layer in [*network.encoder[1:], *network.decoder]]
    wanted += [(block.attention.gate, math.sqrt(2 / 128)), (block.attention.far, math.sqrt(2 * 64 / (49 * 64)))]
    wanted += [(block.mlp.expand, math.sqrt(2 / 512)), (block.mlp.mix, math.sqrt(2 / 9))]
    for convolution, deviation in wanted:
        assert float(convolution.weight.detach().std()) == pytest.approx(deviation, rel=0.05)
        assert not convolution.bias.any()
    assert all(bool((scale == 0.01).all()) for scale in (block.attention_scale, block.mlp_scale))


def test_a_direct_network_is_given_what_it_has_prepared_and_nothing_else() -> None:
    class Plain(DirectNetwork):
        def forecast(self, observed: Tensor, horizon: int, known: Tensor | None = None) -> Tensor:
            return observed[:, -1:].repeat(1, horizon, 1, 1, 1)

    class Noisy(DirectNetwork):
        def prepare(self, batch: int, draws: Draws | None = None) -> Tensor | None:
            return None if draws is None else draws.normal("noise", 1, 1, 1, 1)

        def forecast(self, observed: Tensor, horizon: int, known: Tensor | None = None, constants: Tensor | None = None) -> Tensor:
            return observed[:, -1:].repeat(1, horizon, 1, 1, 1) + (0.0 if constants is None else constants)

    frames, draws = torch.ones(2, 3, 1, 1, 1), Draws(0, 4, (8, 9))
    assert Unroll(Plain())(frames, 3, 2, draws=draws)[0].flatten().tolist() == [1, 1, 1, 1]
    assert Unroll(Noisy())(frames, 3, 2)[0].flatten().tolist() == [1, 1, 1, 1]
    torch.testing.assert_close(Unroll(Noisy())(frames, 3, 1, draws=draws)[0].flatten(), 1.0 + draws.normal("noise"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"context": 0}, "'context' must be at least 1"),
        ({"hidden": (5, 6)}, "'hidden' is the width of the encoder, an even number"),
        ({"hidden": (4,)}, "'hidden' is the width"),
        ({"layers": (3, 3)}, "'layers' is the number of layers of the encoder, an even number"),
        ({"layers": (0, 3)}, "'layers'"),
        ({"layers": (2, 1)}, "'layers'"),
        ({"kernel_size": 4}, "'kernel_size' must be odd"),
        ({"decoder_kernel_size": 2}, "'decoder_kernel_size' must be odd"),
        ({"drop_path": 1.0}, "'drop_path' is a rate"),
        ({"mlp_ratio": 0.1}, "'mlp_ratio' 0.1 leaves the MLP"),
        ({"translator": "incepu", "drop_path": 0.1}, "belong to the translator 'gsta'"),
        ({"translator": "incepu", "hidden": (2, 16)}, "works in 8 groups"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        small(**changes)


def test_frames_and_known_inputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="takes 2 observed frames and was given 1"):
        rollout(small(), film(1, 3, 1, 4, 4), context=1)
    for known, given in ((None, 0), (film(1, 3, 1, 4, 4), 1)):
        with pytest.raises(UserError, match=f"takes 2 known channels and was given {given}"):
            rollout(small(known_channels=2), film(1, 3, 1, 4, 4), context=2, known=known)


def test_a_run_goes_on_with_the_same_bits_and_its_predictor_with_the_same_statistics(tmp_path: Path) -> None:
    settings = {
        "data": {"card": "moving_digits", "context": 3, "horizon": 4, "batch_size": 3, "workers": 0, "settings": {"size": 32}},
        "network": {"name": "simvp", "hidden": [4, 8], "layers": [2, 2], "mlp_ratio": 2.0, "drop_path": 0.5},
        "loss": {"over": "future"},
        "trainer": {"max_steps": 4, "validate_every": 2, "validation_clips": 2, "checkpoint_every": 2, "device": "cpu", "threads": 1},
        "run": {"folder": str(tmp_path / "run")},
    }
    run = train(make_settings(settings), progress=False)
    newest = checkpoints(run.checkpoints)[-1]
    before = Checkpoint.load(newest)
    (run.folder / "done").unlink()
    newest.unlink()
    resume(run.folder, progress=False)
    after = Checkpoint.load(newest)
    held = before.tensors()
    assert held.keys() == after.tensors().keys() and all(torch.equal(held[key], tensor) for key, tensor in after.tensors().items())
    del before.facts["state"]["seconds"], after.facts["state"]["seconds"]
    assert (before.step, before.best, before.facts) == (after.step, after.best, after.facts)

    predictor = load_predictor(run.folder / "last.safetensors")
    given = predictor.network.state_dict()
    statistics = [key for key in given if "running" in key]
    assert len(statistics) == 2 * 2 * 2 and not predictor.network.training
    assert all(torch.equal(given[key], held[f"network.{key}"]) for key in given)
    assert all(bool((given[key] != (1.0 if key.endswith("var") else 0.0)).any()) for key in statistics)
    assert predictor.forecast(torch.rand(1, 5, 1, 32, 32), 4).shape == (1, 4, 1, 32, 32)
