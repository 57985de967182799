"""Residual forecasting: the baseline before training, what the network sees and is fed, and what training adds."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import stpredict
from stpredict.baselines import BASELINES
from stpredict.costs import measure_costs
from stpredict.data.loader import collate
from stpredict.draws import Draws
from stpredict.errors import UserError
from stpredict.export import export_predictor
from stpredict.files import write_tensors
from stpredict.frames import FrameSpec, Transform
from stpredict.motion import advect, estimate_motion
from stpredict.networks import DirectNetwork, RecurrentNetwork, Step, create_network
from stpredict.networks.corrected import smooth
from stpredict.predictor import Predictor, load_predictor
from stpredict.residual import Residual
from stpredict.tiling import TiledPredictor
from stpredict.training import load_settings, resume, train
from stpredict.unroll import Unroll

CONTEXT, HORIZON = 4, 5
RATES = Transform("sqrt", 0.0, 64.0)
GENERATOR = Path(__file__).resolve().parents[1] / "datasets" / "generators" / "moving_rain.py"

INNER: dict[str, dict[str, Any]] = {
    "convrnn": {"hidden": [3], "kernel_size": 3, "patch_size": 4},
    "convgru": {"hidden": [3], "kernel_size": 3, "patch_size": 4},
    "convlstm": {"hidden": [3], "kernel_size": 3, "patch_size": 1, "valid_channel": True},
    "predrnn": {"hidden": [3, 3], "kernel_size": 3, "patch_size": 8},
    "predrnn_v2": {"hidden": [3, 3], "kernel_size": 3, "patch_size": 4, "decouple": 0.5},
    "predrnnpp": {"hidden": [3, 3], "kernel_size": 3, "patch_size": 4, "norm": "layer"},
    "e3d_lstm": {"hidden": [3, 3], "kernel_size": 3, "patch_size": 8, "readout_bias": True},
    "encoder_forecaster": {"hidden": [3, 4], "kernel_size": 3, "patch_size": 2},
    "simvp": {"hidden": [4, 8], "layers": [2, 2], "valid_channel": True},
}


def showers(batch: int = 2, total: int = CONTEXT + HORIZON, channels: int = 1, size: tuple[int, int] = (40, 48)) -> Tensor:
    """Return films in mm/h that move two pixels to the right and one up a frame; a corner is missing, and a pixel of the last frame."""
    rows, columns = torch.meshgrid(*(torch.arange(float(side)) for side in size), indexing="ij")
    random = torch.Generator().manual_seed(0)
    films = torch.zeros(batch, total, channels, *size)
    for film in films:
        for _ in range(30):
            row, column, width, peak = (torch.rand(4, generator=random) * torch.tensor([60.0, 60.0, 3.0, 20.0])).tolist()
            for time in range(total):
                distance = (rows - row + time) ** 2 + (columns - column - 2 * time + 10) ** 2
                film[time] += peak * torch.exp(-distance / (2 * (1.5 + width) ** 2))
    films[..., :6, :5] = math.nan
    films[:, CONTEXT - 1, :, 20, 20] = math.nan
    return films


def spec_of(films: Tensor, **more: Any) -> FrameSpec:
    return FrameSpec(*films.shape[2:], **{"units": "mm/h", "transform": RATES, "minimum": 0.0, **more})


def untrained(spec: FrameSpec, name: str, base: str = "extrapolation", **more: Any) -> Predictor:
    torch.manual_seed(0)
    settings = {"base": base, "of": {"name": name, **INNER[name]}, **more}
    facts: dict[str, Any] = {"channels": spec.channels, "frame_size": (spec.height, spec.width), "context": CONTEXT, "spec": spec}
    network = create_network("residual", **facts, **settings)
    return Predictor(network, spec, CONTEXT, HORIZON, network_name="residual", network_settings=settings)


def assert_is_baseline(predictor: Predictor, observed: Tensor, base: str, horizon: int = HORIZON) -> None:
    expected, found = BASELINES[base]().forecast(observed, horizon), predictor.forecast(observed, horizon)
    covered = ~expected.isnan()
    assert float(covered.float().mean()) > 0.5
    assert float(expected[covered].std()) > 0.01
    assert float((found - expected)[covered].abs().max()) < 2e-5 * float(expected[covered].abs().max())
    torch.testing.assert_close(found[~covered], torch.full_like(found[~covered], predictor.spec.fill))


@pytest.mark.parametrize("base", ["extrapolation", "persistence"])
@pytest.mark.parametrize("name", INNER)
def test_before_training_the_forecast_is_the_baseline(name: str, base: str) -> None:
    films = showers()
    assert_is_baseline(untrained(spec_of(films), name, base), films[:, :CONTEXT], base)


@pytest.mark.parametrize(("channels", "size"), [(3, (37, 51)), (1, (33, 33))], ids=["RGB", "odd"])
@pytest.mark.parametrize("name", ["predrnn", "simvp", "encoder_forecaster"])
def test_video_and_odd_sizes_and_longer_horizons(name: str, channels: int, size: tuple[int, int]) -> None:
    films = showers(1, CONTEXT, channels, size) / 60
    spec = spec_of(films, units="1", transform=Transform(), fill=0.25)
    assert_is_baseline(untrained(spec, name), films, "extrapolation", 2 * CONTEXT + 3)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rain")
    run_path(str(GENERATOR))["write_sample"](folder, events=4, frames=14, size=48)
    return folder


def test_it_is_the_baseline_of_the_generated_rain(generated: Path) -> None:
    clips = stpredict.load_data("moving_rain", root=generated, split="train")
    physical = collate([(0, clips[0]), (1, clips[len(clips) - 1])]).physical(clips.packing, "cpu")
    spec = clips.spec
    network = create_network("residual", channels=1, frame_size=spec.shape[1:], spec=spec, of={"name": "predrnn", **INNER["predrnn"]})
    predictor = Predictor(network, spec, clips.context, clips.horizon, network_name="residual", network_settings={})
    assert_is_baseline(predictor, physical[:, : clips.context], "extrapolation")


@pytest.mark.parametrize("base", ["extrapolation", "persistence"])
def test_the_baseline_of_every_frame(base: str) -> None:
    """One clip and one frame at a time, on physical values."""
    films = showers()
    spec = spec_of(films)
    observed = films[:, :CONTEXT]
    network = untrained(spec, "predrnn", base).network
    assert isinstance(network, Residual)
    scaled, covered = network.baseline(*spec.scale(observed), HORIZON)
    assert scaled.shape == covered.shape == films.shape and not covered[:, 0].any()
    found = torch.where(covered, spec.unscale(scaled), math.nan)
    for clip, film in enumerate(observed):
        motion = estimate_motion(film[None, -3:].mean(2))
        for time in range(CONTEXT - 1):
            until = film[None, : time + 1]
            expected = advect(until[:, -1], motion, 1) if base == "extrapolation" else BASELINES[base]().forecast(until, 1)
            torch.testing.assert_close(found[clip, time + 1], expected[0, 0], equal_nan=True, rtol=1e-4, atol=1e-4)
        future = BASELINES[base]().forecast(film[None], HORIZON)[0]
        torch.testing.assert_close(found[clip, CONTEXT:], future, equal_nan=True, rtol=1e-4, atol=1e-3)


class Adding(RecurrentNetwork):
    """Adds a tenth, and keeps what it was given."""

    patch_size = 4

    def __init__(self, channels: int, known_channels: int) -> None:
        super().__init__()
        self.readout, self.seen = nn.Conv2d(channels, channels, 1), list[tuple[Tensor, Tensor]]()

    def initial_state(self, batch: int, height: int, width: int) -> tuple[()]:
        return ()

    def step(self, frame: Tensor | None, state: Any, constants: Any, known: Tensor | None = None) -> Step:
        assert frame is not None and known is not None
        self.seen.append((frame, known))
        return Step(self.readout(frame) + 0.1, state, torch.full((len(frame),), 0.5))


class AddingAtOnce(DirectNetwork):
    """The same, all frames at once."""

    patch_size = 4

    def __init__(self, channels: int, context: int, known_channels: int) -> None:
        super().__init__()
        self.readout, self.context, self.seen = nn.Conv2d(channels, channels, 1), context, list[tuple[Tensor, Tensor]]()

    def forecast(self, observed: Tensor, horizon: int, known: Tensor | None = None, constants: Any = None) -> Tensor:
        assert known is not None
        self.seen.append((observed, known))
        return torch.zeros_like(observed[:, :horizon]) + 0.1


def made_with(name: str, films: Tensor, known: Tensor) -> tuple[Any, Tensor, Tensor, Tensor]:
    """Return the network within, the forecast, the baseline and where that has something, all scaled; (27, 30) are no whole patches."""
    spec = spec_of(films)
    network = create_network(
        "residual", channels=1, frame_size=(27, 30), context=CONTEXT, spec=spec, of={"name": f"{__name__}:{name}"}, known_channels=1
    )
    assert isinstance(network, Residual)
    scaled, valid = spec.scale(films[:, :CONTEXT])
    forecast, penalty = Unroll(network).forward(scaled, CONTEXT, HORIZON, None, valid, known)
    assert (penalty is None) == (name == "AddingAtOnce")
    if penalty is not None:
        torch.testing.assert_close(penalty, torch.full((len(films),), 0.5))
    return network.of, forecast, *network.baseline(scaled, valid, 2 * CONTEXT)


def test_what_a_network_sees_and_is_fed() -> None:
    films = showers(size=(27, 30))
    known = torch.arange(CONTEXT + HORIZON).float().view(1, -1, 1, 1, 1).expand(2, -1, 1, 27, 30)
    inner, forecast, base, covered = made_with("Adding", films, known)
    torch.testing.assert_close(forecast[:, -HORIZON:], base[:, CONTEXT : CONTEXT + HORIZON] + 0.1)
    assert len(inner.seen) == CONTEXT + HORIZON - 1
    for step, (frame, given) in enumerate(inner.seen):
        assert frame.shape[-2:] == given.shape[-2:] == (28, 32)
        expected = torch.cat([base[:, step + 1], covered[:, step + 1].float(), known[:, step + 1]], 1)
        assert torch.equal(given[..., :27, :30], expected)
        assert not given[:, 1, 27:].any() and not given[:, 1, :, 30:].any()
        fed = spec_of(films).scale(films)[0][:, step] if step < CONTEXT else forecast[:, step - CONTEXT]
        torch.testing.assert_close(frame[..., :27, :30], fed)


def test_what_a_direct_network_sees_and_is_fed() -> None:
    films = showers(size=(27, 30))
    known = torch.arange(CONTEXT + HORIZON).float().view(1, -1, 1, 1, 1).expand(2, -1, 1, 27, 30)
    inner, forecast, base, covered = made_with("AddingAtOnce", films, known)
    assert forecast.shape[1] == HORIZON
    torch.testing.assert_close(forecast, base[:, CONTEXT : CONTEXT + HORIZON] + 0.1)
    scaled = spec_of(films).scale(films)[0]
    assert len(inner.seen) == 2
    for number, (observed, given) in enumerate(inner.seen):
        ahead = slice(CONTEXT * (number + 1), CONTEXT * (number + 2))
        for half in (given[:, :CONTEXT], given[:, CONTEXT:]):
            assert torch.equal(half[:, :, :1, :27, :30], base[:, ahead])
            assert torch.equal(half[:, :, 1:2, :27, :30], covered[:, ahead].float())
        times = [min(time, CONTEXT + HORIZON - 1) for time in range(CONTEXT * number, CONTEXT * (number + 2))]
        assert torch.equal(given[:, :, 2:, :27, :30], known[:, times])
        fed = scaled[:, :CONTEXT] if number == 0 else forecast[:, :CONTEXT]
        torch.testing.assert_close(observed[..., :27, :30], fed)


def test_patches_do_not_show_in_what_is_smoothed() -> None:
    """A pattern of the size of a patch is gone; a single pixel becomes the triangle that two boxes make."""
    pattern = torch.rand(1, 2, 1, 4, 4, generator=torch.Generator().manual_seed(0)).tile(1, 1, 1, 8, 10)
    expected = pattern.mean((-2, -1), keepdim=True).expand_as(pattern)
    torch.testing.assert_close(smooth(pattern, 4)[..., 3:-3, 3:-3], expected[..., 3:-3, 3:-3])
    pixel = torch.zeros(1, 1, 1, 9, 9)
    pixel[..., 4, 4] = 16.0
    triangle = torch.tensor([0, 1, 2, 3, 4, 3, 2, 1, 0.0])
    torch.testing.assert_close(smooth(pixel, 4)[0, 0, 0], torch.outer(triangle, triangle) / 16)
    assert smooth(pixel, 1) is pixel


@pytest.mark.parametrize("name", ["predrnn", "encoder_forecaster", "simvp"])
def test_what_is_added_is_smooth(name: str) -> None:
    films = showers(1)[..., 6:38, 8:]
    spec = spec_of(films)
    corrections = []
    for smoothing in (1, 4):
        predictor = untrained(spec, name, smoothing=smoothing)
        torch.manual_seed(1)
        for path, weight in predictor.network.named_parameters():
            if "readout" in path:
                nn.init.normal_(weight, std=0.5)
        network: Any = predictor.network
        scaled, valid = spec.scale(films[:, :CONTEXT])
        with torch.no_grad():
            made, _ = network.forecast(torch.cat([scaled, valid.float()], 2), 1)
        corrections.append(made - network.baseline(scaled, valid, 1)[0][:, -1:])
    assert float(corrections[0].std()) > 0.01
    torch.testing.assert_close(corrections[1], smooth(corrections[0], 4))


@pytest.mark.parametrize("name", ["predrnn", "simvp"])
def test_it_learns_what_extrapolation_gets_wrong(name: str) -> None:
    """Rain that loses a fifth a frame: the baseline keeps it."""
    films = showers(2, size=(24, 32)).nan_to_num() * 0.8 ** torch.arange(float(CONTEXT + HORIZON)).view(1, -1, 1, 1, 1)
    spec = spec_of(films)
    network = untrained(spec, name).network.train()
    scaled, valid = spec.scale(films)
    optimizer = torch.optim.Adam(network.parameters(), 2e-2)
    losses = []
    for step in range(25):
        made, _ = Unroll(network).forward(scaled, CONTEXT, HORIZON, None, valid, None, Draws(0, step, (0, 1)))
        loss = (made[:, -HORIZON:] - scaled[:, CONTEXT:]).square().mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_a_file_holds_it_all(tmp_path: Path) -> None:
    films = showers()
    predictor = untrained(spec_of(films), "simvp")
    for weight in predictor.network.parameters():
        nn.init.normal_(weight, std=0.1)
    predictor.save(tmp_path / "p.safetensors")
    read = load_predictor(tmp_path / "p.safetensors")
    expected = predictor.forecast(films[:, :CONTEXT], HORIZON)
    assert torch.equal(read.forecast(films[:, :CONTEXT], HORIZON), expected)
    stream = read.start(films[:, 2 : CONTEXT + 2])
    stream.observe(films[:, CONTEXT + 2])
    assert torch.equal(stream.forecast(2), read.forecast(films[:, 3 : CONTEXT + 3], 2))
    tiled = TiledPredictor(read, 40)
    assert torch.equal(tiled.forecast(films[:, :CONTEXT, ..., :40], 2), read.forecast(films[:, :CONTEXT, ..., :40], 2))


def test_a_file_may_name_no_strangers_code_within(tmp_path: Path) -> None:
    header = {
        **untrained(spec_of(showers()), "predrnn").header(),
        "format": 1,
        "network": {"name": "residual", "settings": {"of": {"name": "stranger:Code"}}},
    }
    write_tensors(tmp_path / "p.safetensors", {"a": torch.zeros(1)}, {"stpredict": json.dumps(header)})
    with pytest.raises(UserError, match=r"names the code 'stranger:Code', which nothing here asked for"):
        load_predictor(tmp_path / "p.safetensors")


def test_a_run_is_resumed_exactly_and_its_weights_are_a_start(generated: Path, tmp_path: Path) -> None:
    words = [f"--data.root={generated}", "--trainer.device=cpu", "--data.batch_size=1", "--trainer.validate_every=0"]
    words += ["--data.workers=0", "--network.of.hidden=[3,3]", "--optimizer.schedule=constant", "--trainer.checkpoint_every=1"]

    def run(name: str, steps: int, *more: str) -> dict[str, Tensor]:
        asked = [*words, f"--run.folder={tmp_path / name}", f"--trainer.max_steps={steps}", *more]
        assert train(load_settings("moving_rain/residual", asked), progress=False).exit_code == 0
        return safetensors.torch.load_file(tmp_path / name / "last.safetensors")

    whole = run("whole", 3)
    run("stopped", 1)
    assert resume(tmp_path / "stopped", ["--trainer.max_steps=3"], progress=False).exit_code == 0
    resumed = safetensors.torch.load_file(tmp_path / "stopped" / "last.safetensors")
    assert all(torch.equal(resumed[name], weight) for name, weight in whole.items())
    assert float(whole["of.readout.weight"].abs().max()) > 0.0
    continued = run("continued", 1, f"--network.weights={tmp_path / 'whole'}", "--optimizer.learning_rate=1e-30")
    assert all(torch.equal(continued[name], weight) for name, weight in whole.items())


def test_costs_are_those_of_the_network_within() -> None:
    films = showers()
    predictor = untrained(spec_of(films), "predrnn")
    inner = create_network("predrnn", channels=1, frame_size=(40, 48), known_channels=2, **INNER["predrnn"]).eval()
    found, expected = (measure_costs(network, (1, 40, 48), CONTEXT, HORIZON) for network in (predictor.network, inner))
    assert (found.parameters, found.multiply_adds) == (expected.parameters, expected.multiply_adds)


def test_members_differ_by_noise() -> None:
    films = showers()
    predictor = untrained(spec_of(films), "predrnn", noise_channels=2)
    nn.init.normal_(predictor.network.get_parameter("of.readout.weight"), std=0.1)
    members = predictor.forecast(films[:, :CONTEXT], HORIZON, members=3)
    assert members.shape == (2, 3, HORIZON, 1, 40, 48)
    assert float(members.std(1).mean()) > 1e-4


def test_the_baseline_of_all_members_of_a_clip_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    films = showers()
    followed: list[int] = []
    predictor = untrained(spec_of(films), "predrnn", noise_channels=2)
    nn.init.normal_(predictor.network.get_parameter("of.readout.weight"), std=0.1)
    baseline = Residual.baseline

    def following(network: Residual, frames: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
        followed.append(len(frames))
        return baseline(network, frames, *given)

    monkeypatch.setattr(Residual, "baseline", following)
    scaled, valid = spec_of(films).scale(films[:, :CONTEXT].repeat_interleave(3, 0))
    draws = Draws(0, 0, (0, 1)).of_members(3)
    with torch.no_grad():
        once, each = (
            Unroll(predictor.network, 0.0).forward(scaled, CONTEXT, HORIZON, None, valid, None, how)[0]
            for how in (draws, replace(draws, members=1))
        )
    assert followed == [2, 6]
    assert torch.equal(once, each)


def test_clips_are_followed_beside_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    films = showers(5).mean(2)
    alone = torch.cat([estimate_motion(film[None]) for film in films])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(estimate_motion(films), alone)
    assert float(alone.abs().mean()) > 1.0


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"of": {}}, "The key 'network.of.name' is missing"),
        ({"of": {"name": "predrn"}}, "There is no network 'predrn'; did you mean 'predrnn'"),
        ({"of": {"name": "predrnn", **INNER["predrnn"], "hiden": [3]}}, "There is no key 'network.of.hiden'"),
        ({"of": {"name": "residual", "of": {"name": "predrnn"}}}, "one baseline is enough"),
        ({"of": {"name": "predrnn", **INNER["predrnn"], "known_channels": 1}}, "follows from the baseline and the data"),
        ({"of": {"name": "predrnn", **INNER["predrnn"], "noise_channels": 1}}, "write it beside 'of', as network.noise_channels"),
        ({"of": {"name": "predrnn", **INNER["predrnn"], "patch_size": 64}}, "64 is larger than the frame of 40 x 48 pixels"),
        ({"of": {"name": f"{__name__}:Blind"}}, "takes no known inputs, and so cannot see the baseline"),
        ({"of": {"name": f"{__name__}:Endless"}}, "has no last layer called 'readout'"),
        ({"of": {"name": "predrnn", **INNER["predrnn"]}, "base": "extrapolatoin"}, "network.base cannot be 'extrapolatoin'"),
        ({"of": {"name": "predrnn", **INNER["predrnn"]}, "smoothing": 0}, "network.smoothing is a number of pixels, at least 1, not 0"),
        ({}, "The key 'network.of' is missing"),
    ],
)
def test_mistakes(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        create_network("residual", channels=1, frame_size=(40, 48), context=CONTEXT, **settings)
    assert sentence in str(caught.value)


class Blind(Adding):
    """Sees no known inputs."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 0)


class Endless(Adding):
    """Has nothing that could start at zero."""

    def __init__(self, channels: int, known_channels: int) -> None:
        super().__init__(channels, known_channels)
        del self.readout


def test_optical_flow_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'residual' follows motion by OpenCV, of which no program can be made"):
        export_predictor(untrained(spec_of(showers()), "predrnn"), tmp_path / "program.pt2")
    with pytest.raises(UserError, match=r"takes 0 known channels and was given 2"):
        films = showers()
        untrained(spec_of(films), "predrnn").forecast(films[:, :CONTEXT], 1, known=torch.zeros(2, CONTEXT + 1, 2, 40, 48))
