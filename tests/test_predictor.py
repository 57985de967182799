"""Predictors: physical units in and out, members, streams, files."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from stpredict import extensions
from stpredict.draws import Draws
from stpredict.errors import UserError
from stpredict.frames import FrameSpec, Grid, Transform
from stpredict.networks import NETWORKS, DirectNetwork, RecurrentNetwork, Step, create_network
from stpredict.predictor import Predictor, load_predictor
from stpredict.unroll import rollout

SPEC = FrameSpec(1, 6, 7, "mm/h", Transform("sqrt", 0.0, 16.0), 0.0, 0.0, 300.0, Grid("+proj=stere", (0.0, 0.0, 7.0, 6.0), "south"))


class Wobble(RecurrentNetwork):
    """Adds noise that stays the same through a rollout, if it is given draws, and what is known."""

    stochastic = True

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.1))

    def initial_state(self, batch: int, height: int, width: int) -> tuple[()]:
        return ()

    def prepare(self, batch: int, draws: Draws | None = None) -> Tensor:
        return torch.zeros(batch) if draws is None else draws.uniform("noise").float()

    def step(self, frame: Tensor | None, state: tuple[()], constants: Tensor, known: Tensor | None = None) -> Step:
        assert frame is not None
        change = self.gain * constants[:, None, None, None]
        return Step(frame + change + (0.0 if known is None else known[:, :1]), ())


class Halver(DirectNetwork):
    """Halves the first of the frames that it is given, and adds what is known."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forecast(self, observed: Tensor, horizon: int, known: Tensor | None = None) -> Tensor:
        future = self.weight * observed[:, :1].repeat(1, horizon, 1, 1, 1)
        return future if known is None else future + known[:, -horizon:, :1]


def trained(name: str = "predrnn", **extra: Any) -> Predictor:
    torch.manual_seed(3)
    settings = {"hidden": [4, 4], "kernel_size": 3, "patch_size": 2, **extra}
    network = create_network(name, channels=1, frame_size=(6, 7), **settings)
    for weight in network.parameters():
        weight.data.mul_(3.0)
    return Predictor(network, SPEC, 3, 4, network_name=name, network_settings=settings, provenance={"step": 7})


def rain(batch: int = 2, frames: int = 3) -> Tensor:
    values = torch.rand(batch, frames, 1, 6, 7, generator=torch.Generator().manual_seed(1)) * 16
    values[0, 0, 0, 2, 2] = math.nan
    return values


def test_a_forecast_is_the_rollout_in_physical_units() -> None:
    predictor, observed = trained(), rain()
    future = predictor.forecast(observed, 4)
    scaled = torch.sqrt(torch.nan_to_num(observed) / 16)
    blank = torch.zeros(2, 4, 1, 6, 7)
    with torch.no_grad():
        expected = rollout(predictor.network, torch.cat([scaled, blank], dim=1), 3)[:, -4:].clamp(min=0) ** 2 * 16
    torch.testing.assert_close(future, expected)
    assert float(future.std()) > 0.01


def test_arrays_come_back_as_arrays_and_dataarrays_with_coordinates() -> None:
    xarray = pytest.importorskip("xarray")
    predictor, observed = trained(), rain(1).numpy()
    plain = predictor.forecast(observed, 2)
    assert isinstance(plain, np.ndarray) and plain.dtype == np.float32
    times = np.datetime64("2020-01-01T00:00:00", "ns") + np.arange(3) * np.timedelta64(300, "s")
    labelled = xarray.DataArray(
        observed[0, :, 0], dims=("time", "y", "x"), coords={"time": times, "y": np.arange(6) * 10.0}, attrs={"units": "mm/h"}
    )
    future = predictor.forecast(labelled, 2)
    np.testing.assert_array_equal(future.values, plain[0, :, 0])
    assert future.time.values.tolist() == (times[-1] + np.arange(1, 3) * np.timedelta64(300, "s")).tolist()
    assert future.y.values.tolist() == labelled.y.values.tolist() and future.attrs == labelled.attrs
    members = predictor.forecast(labelled, 2, members=3)
    assert members.dims == ("member", "time", "y", "x")
    one = predictor.forecast(labelled[-1:], 2)
    assert one.time.values[0] == times[-1] + np.timedelta64(300, "s")


def test_members() -> None:
    predictor = Predictor(Wobble(), SPEC, 1, 2, network_name="x", network_settings={})
    observed = torch.full((2, 1, 1, 6, 7), 4.0)
    ensemble = predictor.forecast(observed, 2, members=3, seed=5)
    assert ensemble.shape == (2, 3, 2, 1, 6, 7)
    noise = Draws(5, 0, tuple(range(6))).uniform("noise").float().reshape(2, 3)
    expected = (0.5 + 0.1 * noise) ** 2 * 16
    torch.testing.assert_close(ensemble[:, :, 0, 0, 0, 0], expected)
    torch.testing.assert_close(predictor.forecast(observed, 2), observed.repeat(1, 2, 1, 1, 1))
    equal = trained().forecast(rain(), 2, members=2)
    assert equal.shape == (2, 2, 2, 1, 6, 7) and torch.equal(equal[:, 0], equal[:, 1])


@pytest.mark.parametrize("name", ["convlstm", "predrnn"])
def test_a_stream_equals_a_forecast_from_all_frames_seen(name: str) -> None:
    predictor, film = trained(name, valid_channel=True), rain(2, 7)
    stream = predictor.start(film[:, :3])
    for seen in range(3, 8):
        torch.testing.assert_close(stream.forecast(3), predictor.forecast(film[:, :seen], 3), atol=1e-5, rtol=1e-5)
        if seen < 7:
            stream.observe(film[:, seen])


def test_streams_with_known_inputs_and_of_direct_networks() -> None:
    film, known = rain(1, 5).nan_to_num(), torch.rand(1, 7, 1, 6, 7)
    for network in (Wobble(), Halver()):
        predictor = Predictor(network, SPEC, 3, 2, network_name="x", network_settings={})
        stream = predictor.start(film[:, :4], known[:, :4])
        stream.observe(film[:, 4], known[:, 4])
        torch.testing.assert_close(stream.forecast(2, known[:, 5:]), predictor.forecast(film, 2, known=known))


def test_a_direct_network_sees_its_own_context() -> None:
    predictor = Predictor(Halver(), FrameSpec(1, 1, 1), 2, 2, network_name="x", network_settings={})
    film = torch.tensor([9.0, 4.0, 8.0]).reshape(1, 3, 1, 1, 1)
    assert predictor.forecast(film, 3).flatten().tolist() == [2.0, 2.0, 2.0]
    with pytest.raises(UserError, match="needs 2 observed frames"):
        predictor.forecast(film[:, :1], 1)


@pytest.mark.parametrize(
    ("observed", "horizon", "more", "sentence"),
    [
        (torch.zeros(1, 2, 3, 6, 7), 1, {}, "takes frames of 1 channels, not 3"),
        (torch.zeros(2, 1, 6, 7), 1, {}, r"must be \(batch, time"),
        (torch.zeros(1, 2, 1, 6, 7), 0, {}, "at least 1 frame"),
        (torch.zeros(1, 0, 1, 6, 7), 1, {}, "at least one observed"),
        (torch.zeros(1, 2, 1, 6, 7), 1, {"members": 0}, "at least one member"),
        (torch.zeros(1, 2, 1, 6, 7), 1, {"known": torch.zeros(1, 2, 1, 6, 7)}, "known must cover"),
        (np.array([["a"]]), 1, {}, "must be numbers"),
    ],
)
def test_frames_that_do_not_fit_are_refused(observed: Any, horizon: int, more: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        trained().forecast(observed, horizon, **more)


def test_a_file_brings_back_the_same_predictor(tmp_path: Path) -> None:
    predictor = trained()
    predictor.save(tmp_path / "p.safetensors")
    again = load_predictor(tmp_path / "p.safetensors")
    assert (again.name, again.spec, again.context, again.horizon, again.provenance) == ("p.safetensors", SPEC, 3, 4, {"step": 7})
    torch.testing.assert_close(again.forecast(rain(), 4), predictor.forecast(rain(), 4), atol=0, rtol=0)
    with safetensors.safe_open(tmp_path / "p.safetensors", framework="pt") as file:  # readable without us
        assert json.loads(file.metadata()["stpredict"])["network"]["name"] == "predrnn"


def test_bfloat16_is_a_way_to_store(tmp_path: Path) -> None:
    predictor = trained()
    predictor.save(tmp_path / "full.safetensors")
    with safetensors.safe_open(tmp_path / "full.safetensors", framework="pt") as file:
        metadata = file.metadata()
    halves = {key: value.bfloat16() for key, value in predictor.network.state_dict().items()}
    safetensors.torch.save_file(halves, tmp_path / "half.safetensors", metadata)
    half = load_predictor(tmp_path / "half.safetensors")
    for key, value in half.network.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, halves[key].float())


def test_a_file_may_not_name_code_that_nobody_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil_network.py").write_text("import pathlib\npathlib.Path('ran').touch()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    predictor = Predictor(Wobble(), SPEC, 1, 1, network_name="evil_network:Net", network_settings={})
    predictor.save(tmp_path / "p.safetensors")
    with pytest.raises(UserError, match=r"evil_network:Net.*nothing here asked for.*--allow-code"):
        load_predictor("p.safetensors")
    assert not Path("ran").exists()


def test_code_that_was_allowed_is_loaded(tmp_path: Path) -> None:
    name = f"{__name__}:Wobble"
    assert extensions.find("networks", name, NETWORKS) is Wobble
    Predictor(Wobble(), SPEC, 1, 1, network_name=name, network_settings={}).save(tmp_path / "p.safetensors")
    assert isinstance(load_predictor(tmp_path / "p.safetensors", allow=[name]).network, Wobble)


def rewrite(path: Path, change: Any) -> None:
    with safetensors.safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["stpredict"])
    change(header)
    safetensors.torch.save_file(safetensors.torch.load_file(path), path, {"stpredict": json.dumps(header)})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda header: header.update(format=99), "format 99"),
        (lambda header: header["network"]["settings"].update(hidden=[4, 4, 4]), "'cells.2.x.0.weight' is missing"),
        (lambda header: header["network"]["settings"].update(hidden=[10**6, 10**6]), "instead of"),
        (lambda header: header["network"].update(name="convlstm"), "does not hold the weights"),
        (lambda header: header.pop("spec"), "lacks 'spec'"),
        (lambda header: header["spec"].update(height=-1), "at least one channel"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path: Path, change: Any, sentence: str) -> None:
    trained().save(tmp_path / "p.safetensors")
    rewrite(tmp_path / "p.safetensors", change)
    with pytest.raises(UserError, match=sentence):
        load_predictor(tmp_path / "p.safetensors")


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    trained().save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(UserError, match="no whole predictor"):
        load_predictor(path)
    path.write_bytes((2**60).to_bytes(8, "little") + whole[8:])
    with pytest.raises(UserError, match="no whole predictor"):
        load_predictor(path)
    safetensors.torch.save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="not a predictor of stpredict"):
        load_predictor(path)
    with pytest.raises(UserError, match="did you mean 'persistence'"):
        load_predictor("persistance")
    with pytest.raises(UserError, match="holds no predictor yet"):
        load_predictor(tmp_path)


def test_nothing_half_written_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = trained()
    predictor.save(tmp_path / "p.safetensors")
    before = (tmp_path / "p.safetensors").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        predictor.save(tmp_path / "p.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["p.safetensors"] and (tmp_path / "p.safetensors").read_bytes() == before
