"""Forecasts of new files: the newest frames, in physical units, with the times and places of what follows."""

from __future__ import annotations

import importlib.util
import json
import resource
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pyproj
import pytest
import torch
import xarray

from stpredict import nowcast
from stpredict.baselines import ContextMean, Persistence
from stpredict.data.card import read_card
from stpredict.data.newest import newest_clip
from stpredict.errors import UserError
from stpredict.frames import FrameSpec
from stpredict.networks import create_network
from stpredict.nowcast import fingerprint, forecast_files, make_nowcast
from stpredict.nowcast_members import Ensemble, Perturbation
from stpredict.predictor import Predictor, read_predictor

GENERATORS = Path(__file__).resolve().parents[1] / "datasets" / "generators"
HEIGHT, WIDTH, FRAMES = 32, 28, 8


def generator(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"generator_{name}", GENERATORS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def radar(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Eight radar pictures, 23:50 to 00:25 of the next day."""
    folder = tmp_path_factory.mktemp("radar")
    paths: list[Path] = generator("knmi").write_sample(folder, FRAMES, HEIGHT, WIDTH, start=datetime(2010, 8, 25, 23, 50))
    return paths


def rain(path: Path) -> np.ndarray:
    """Return the rain of one file in mm/h by its own calibration, NaN where missing."""
    with h5py.File(path) as file:
        packed = file["image1/image_data"][:].astype(np.float64)
    return np.where(packed == 65535, np.nan, packed * 0.01 * 12)


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".nc"])
def test_persistence_repeats_the_last_radar_picture_in_millimetres_an_hour(radar: list[Path], tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"next{suffix}"
    forecast_files(Persistence(), [radar[0].parent], out, horizon=3, card="knmi")
    if suffix == ".npz":
        with np.load(out) as arrays:
            read = {name: arrays[name] for name in arrays}
            about = json.loads(str(read["about"]))
    elif suffix == ".h5":
        with h5py.File(out) as file:
            read = {name: file[name][:] for name in file}
            about = json.loads(file.attrs["about"])
    else:
        with xarray.open_dataset(out) as data:
            seconds = data["time"].values.astype("datetime64[s]").astype(np.int64)
            read = {"forecast": data["precip_intensity"].values[:, None], "forecast_times": seconds}
            about = json.loads(data.attrs["stpredict"])
    last = rain(radar[-1])
    # The disc outside of which nothing is measured was never seen: it stays missing.
    assert np.isnan(last).any() and np.nanmax(last) > 5
    np.testing.assert_allclose(read["forecast"], np.broadcast_to(last, (3, 1, HEIGHT, WIDTH)), rtol=1e-6)
    moments = ["2010-08-26T00:30", "2010-08-26T00:35", "2010-08-26T00:40"]
    assert read["forecast_times"].tolist() == np.array(moments, dtype="datetime64[s]").astype(np.int64).tolist()
    assert about["units"] == "mm/h"
    if "observed" in read:
        np.testing.assert_allclose(read["observed"][:, 0], np.stack([rain(path) for path in radar[-6:]]), rtol=1e-6)
        assert read["observed_times"][-1] == read["forecast_times"][0] - 300
        assert FrameSpec.from_dict(about["spec"]).grid.row_origin == "north" and about["predictor"] == "persistence"


def test_netcdf_says_when_and_where(radar: list[Path], tmp_path: Path) -> None:
    """The corner of KNMI's grid is known: its files begin at 0 degrees east, 55.974 degrees north."""
    out = tmp_path / "next.nc"
    forecast_files(ContextMean(), [radar[0].parent], out, horizon=2, card="knmi")
    with xarray.open_dataset(out) as data:
        rain_rate = data["precip_intensity"]
        assert rain_rate.dims == ("time", "y", "x") and rain_rate.shape == (2, HEIGHT, WIDTH)
        assert data["lead_time"].values.tolist() == [300.0, 600.0] and data["lead_time"].attrs["units"] == "s"
        x, y = data["x"].values, data["y"].values
        np.testing.assert_allclose(np.diff(x), 1000.0)
        np.testing.assert_allclose(np.diff(y), -1000.0)
        projection = pyproj.Proj(pyproj.CRS.from_wkt(data[rain_rate.attrs["grid_mapping"]].attrs["crs_wkt"]))
        mean = np.mean([rain(path) for path in radar[-6:]], axis=0)
        np.testing.assert_allclose(rain_rate.values[0], mean, rtol=1e-5)
    # Pixels are named by their middles, so the corner lies half a kilometre up and left of the first.
    longitude, latitude = projection(x[0] - 500, y[0] + 500, inverse=True)
    assert (longitude, latitude) == (pytest.approx(0.0, abs=1e-9), pytest.approx(55.973602, abs=1e-4))
    # The archive of real size ends 700 km east and 765 km south of there, at the corner that KNMI gives.
    assert projection(7e5, -4.415e6, inverse=True) == (pytest.approx(9.0093, abs=1e-3), pytest.approx(48.8953, abs=1e-3))


def test_a_southern_row_origin_turns_the_coordinates_not_the_rows(
    radar: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def southern(*arguments: object) -> object:
        newest = newest_clip(*arguments)
        return replace(newest, spec=replace(newest.spec, grid=replace(newest.spec.grid, row_origin="south")))

    monkeypatch.setattr(nowcast, "newest_clip", southern)
    forecast_files(Persistence(), [radar[0].parent], tmp_path / "next.nc", horizon=1, card="knmi")
    with xarray.open_dataset(tmp_path / "next.nc") as data:
        assert (np.diff(data["y"].values) > 0).all()
        np.testing.assert_allclose(data["precip_intensity"].values[0], rain(radar[-1]), rtol=1e-6)


def test_several_files_are_one_film(radar: list[Path], tmp_path: Path) -> None:
    forecast_files(Persistence(), radar[1:7], tmp_path / "next.npz", horizon=1, card="knmi")
    with np.load(tmp_path / "next.npz") as arrays:
        np.testing.assert_allclose(arrays["forecast"][0, 0], rain(radar[6]), rtol=1e-6)
        assert json.loads(str(arrays["about"]))["source"] == ", ".join(str(path) for path in radar[1:7])


def predictor(spec: FrameSpec, **data: object) -> Predictor:
    torch.manual_seed(0)
    settings = {"hidden": [4], "kernel_size": 3, "patch_size": 4}
    network = create_network("convlstm", channels=spec.channels, frame_size=(spec.height, spec.width), **settings)
    return Predictor(network, spec, 3, 2, network_name="convlstm", network_settings=settings, provenance={"data": data})


def test_new_files_are_read_as_those_that_a_predictor_was_trained_on(radar: list[Path], tmp_path: Path) -> None:
    """Card, crop and length come from the training; every other frame as well, which makes the step ten minutes."""
    card = read_card("knmi")
    spec = newest_clip(card, radar[0].parent, 3).spec
    trained = predictor(spec, card="knmi", crop=[4, 6, 16, 12], every=2)
    forecast_files(trained, [radar[0].parent], tmp_path / "next.npz")
    with np.load(tmp_path / "next.npz") as arrays:
        observed = np.stack([rain(path)[4:20, 6:18] for path in radar[-5::2]])
        np.testing.assert_allclose(arrays["observed"][:, 0], observed, rtol=1e-6)
        expected = trained.forecast(torch.from_numpy(arrays["observed"])[None], 2)[0]
        np.testing.assert_allclose(arrays["forecast"], expected, atol=1e-5)
        assert np.diff(arrays["forecast_times"]).tolist() == [600]
        grid = json.loads(str(arrays["about"]))["spec"]["grid"]
        assert grid["corners"] == pytest.approx([6e3, -3.67e6, 18e3, -3.654e6])


def test_films_that_a_predictor_cannot_take_are_refused(radar: list[Path], tmp_path: Path) -> None:
    np.save(tmp_path / "film.npy", np.zeros((6, 8, 8), dtype=np.uint8))
    with pytest.raises(UserError, match=r"takes 1 channel\(s\) of mm/h, but '.*film.npy' has 1 of 1"):
        forecast_files(predictor(FrameSpec(1, 8, 8, "mm/h")), [tmp_path / "film.npy"], tmp_path / "next.npz")
    with pytest.raises(UserError, match=r"A forecast is written as .npz, .h5, .nc, .*, not '.np'"):
        forecast_files(Persistence(), [tmp_path / "film.npy"], tmp_path / "next.np")
    assert [path.name for path in tmp_path.iterdir()] == ["film.npy"]


def test_a_baseline_takes_any_film_by_its_suffix(tmp_path: Path) -> None:
    films = generator("films")
    film = films.wandering_square(12, 16, 16)
    np.save(tmp_path / "film.npy", film)
    np.savez(tmp_path / "film.npz", film)
    films.write_folder(tmp_path / "frames", film)
    films.write_video(tmp_path / "film.mp4", film, options={"crf": "0"})
    for name in ("film.npy", "film.npz", "frames", "film.mp4"):
        forecast_files(Persistence(), [tmp_path / name], tmp_path / "next.h5", horizon=2)
        with h5py.File(tmp_path / "next.h5") as file:
            assert file["forecast"].shape == (2, 1, 16, 16)
            np.testing.assert_allclose(file["forecast"][1, 0] * 255, film[-1], atol=3 if name == "film.mp4" else 1e-3)


@pytest.fixture
def gap(radar: list[Path], tmp_path: Path) -> Path:
    """The radar pictures without the one of 00:15."""
    folder = tmp_path / "gap"
    folder.mkdir()
    for path in radar:
        if path != radar[-3]:
            (folder / path.name).symlink_to(path)
    return folder


def test_a_product_says_what_it_used_and_what_was_missing(radar: list[Path], gap: Path, tmp_path: Path) -> None:
    whole = forecast_files(Persistence(), [radar[0].parent], tmp_path / "whole.npz", horizon=2, card="knmi")
    assert whole.used().startswith("6 frames, 2010-08-26 00:00 to 2010-08-26 00:25 UTC, every 5 min; no frame was missing; ")
    share = 100 * np.isnan(np.stack([rain(path) for path in radar[-6:]])).mean()
    assert whole.used().endswith(f"; {share:.1f} % of the pixels have no value")
    with pytest.raises(UserError, match=r"has 2 since the last gap in time, .*--fill-gaps"):
        forecast_files(Persistence(), [gap], tmp_path / "next.npz", card="knmi")
    filled = forecast_files(ContextMean(), [gap], tmp_path / "filled.nc", horizon=2, card="knmi", fill_gaps="linear")
    assert "; missing and made up (linear): 2010-08-26 00:15; " in filled.used()
    made_up = (rain(radar[-4]) + rain(radar[-2])) / 2
    frames = [rain(path) if path != radar[-3] else made_up for path in radar[-6:]]
    with xarray.open_dataset(tmp_path / "filled.nc") as data:
        np.testing.assert_allclose(data["precip_intensity"].values[0], np.mean(frames, axis=0), rtol=1e-5)
        assert data["observed_quality"].values.tolist() == [0, 0, 0, 1, 0, 0]
        assert filled.used() in data.attrs["comment"]
        about = json.loads(data.attrs["stpredict"])
        assert (about["used"], about["filled"], about["fill_rule"]) == (filled.used(), ["2010-08-26T00:15:00"], "linear")


def test_several_predictors_are_members_and_give_probabilities(radar: list[Path], tmp_path: Path) -> None:
    product = forecast_files(
        Persistence(), [radar[0].parent], tmp_path / "next.npz", also=[ContextMean()], horizon=2, card="knmi", exceed=[5.0, 0.55]
    )
    assert product.members == ("persistence", "context-mean") and product.predictor == "persistence + context-mean"
    last, mean = rain(radar[-1]), np.mean([rain(path) for path in radar[-6:]], axis=0)
    with np.load(tmp_path / "next.npz") as arrays:
        np.testing.assert_allclose(arrays["forecast"][:, 1, 0], [last, mean], rtol=1e-5)
        assert arrays["thresholds"].tolist() == [0.55, 5.0]
        both = np.isnan(last)
        expected = [np.where(both, np.nan, ((last >= x).astype(float) + (mean >= x)) / 2) for x in (0.55, 5.0)]
        np.testing.assert_allclose(arrays["exceedance"][:, 0, 0], expected)
        assert 0.5 in expected[1]


def test_members_see_frames_that_are_perturbed(radar: list[Path], tmp_path: Path) -> None:
    ensemble = Ensemble(3, Perturbation("gain", 0.3), seed=4)
    product = make_nowcast([Persistence(), ContextMean()], [radar[0].parent], horizon=2, card="knmi", ensemble=ensemble)
    assert product.members == ("persistence 1", "persistence 2", "persistence 3", "context-mean 1", "context-mean 2", "context-mean 3")
    np.testing.assert_allclose(product.forecast[0, 0, 0], rain(radar[-1]), rtol=1e-6)
    expected = Perturbation("gain", 0.3).apply(torch.from_numpy(product.observed), product.spec, 4, 2)[-1, 0].numpy()
    np.testing.assert_array_equal(product.forecast[2, 0, 0], expected)
    assert product.facts["ensemble"] == {"members": 3, "seed": 4, "perturbation": "gain=0.3"}


@pytest.mark.parametrize(
    ("out", "settings", "sentence"),
    [
        ("next.nc", {"exceed": [1.0]}, "One forecast has no probabilities"),
        ("next.nc", {"also": [ContextMean()], "exceed": [1.0, 1.0]}, "Thresholds are different numbers, not 1, 1"),
        ("next.nc", {"also": [Persistence()]}, "Two predictors of the ensemble have one name, among persistence, persistence"),
        ("next.nc", {"ensemble": Ensemble(4)}, "its 4 members would be equal"),
        ("next.tif", {"also": [ContextMean()]}, "'next.tif' has room for one forecast, not for an ensemble: write it as .npz, .h5, .nc"),
        ("next.odim.h5", {"ensemble": Ensemble(4, Perturbation("gain", 0.2))}, "has room for one forecast"),
        ("next.mp4", {"institution": "Rain & Co"}, "is a film, which says no institution"),
        ("next.nc", {"fill_gaps": "spline"}, "no rule 'spline' to fill gaps"),
    ],
)
def test_options_that_do_nothing_are_refused(
    radar: list[Path], tmp_path: Path, out: str, settings: dict[str, object], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        forecast_files(Persistence(), [radar[0].parent], tmp_path / out, horizon=1, card="knmi", **settings)
    assert not list(tmp_path.iterdir())


def test_members_forecast_the_same_frames(radar: list[Path], tmp_path: Path) -> None:
    spec = newest_clip(read_card("knmi"), radar[0].parent, 3).spec
    cut = predictor(spec, card="knmi", crop=[4, 6, 16, 12])
    with pytest.raises(UserError, match=r"'convlstm' and 'whole' forecast frames of different shape, \(1, 16, 12\) and \(1, 32, 28\)"):
        whole = predictor(spec, card="knmi")
        whole.name = "whole"
        forecast_files(whole, [radar[0].parent], tmp_path / "next.npz", also=[cut], horizon=1)


def test_a_baseline_beside_a_trained_predictor_reads_as_that_one(radar: list[Path], tmp_path: Path) -> None:
    spec = newest_clip(read_card("knmi"), radar[0].parent, 3).spec
    trained = predictor(spec, card="knmi", crop=[4, 6, 16, 12])
    for first, other in ((trained, ContextMean()), (ContextMean(), trained)):
        product = forecast_files(first, [radar[0].parent], tmp_path / "next.npz", also=[other])
        mean = product.forecast[product.members.index("context-mean")]
        np.testing.assert_allclose(mean[0, 0], np.mean([rain(path)[4:20, 6:18] for path in radar[-3:]], axis=0), rtol=1e-5)
        assert product.forecast.shape == (2, 2, 1, 16, 12)


def test_frames_that_come_at_another_pace_than_in_training_are_told(radar: list[Path]) -> None:
    spec = newest_clip(read_card("knmi"), radar[0].parent, 3).spec
    slower = predictor(replace(spec, time_step=600.0), card="knmi")
    told = make_nowcast([slower], [radar[0].parent]).used()
    assert told.endswith("; 'convlstm' was trained on steps of 600 s, and these are of 300 s")
    assert "trained" not in make_nowcast([predictor(spec, card="knmi")], [radar[0].parent]).used()


def test_a_frame_that_comes_in_between_is_noticed(radar: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in radar[:-1]:
        (tmp_path / path.name).symlink_to(path)

    def late(*arguments: object) -> object:
        newest = newest_clip(*arguments)
        if not (tmp_path / radar[-1].name).exists():
            (tmp_path / radar[-1].name).symlink_to(radar[-1])
        return newest

    monkeypatch.setattr(nowcast, "newest_clip", late)
    spec = newest_clip(read_card("knmi"), radar[0].parent, 3).spec
    other = predictor(spec, card="knmi")
    other.context = 4
    other.name = "other"
    with pytest.raises(UserError, match=r"A frame came into '.*' while its newest were read: forecast again"):
        make_nowcast([predictor(spec, card="knmi"), other], [tmp_path])


def test_a_fingerprint_tells_one_predictor_from_another(radar: list[Path], tmp_path: Path) -> None:
    spec = newest_clip(read_card("knmi"), radar[0].parent, 3).spec
    one, other = predictor(spec, card="knmi"), predictor(spec, card="knmi")
    assert fingerprint(one) == fingerprint(other) and len(fingerprint(one)) == 32
    one.save(tmp_path / "one.safetensors")
    assert fingerprint(read_predictor(tmp_path / "one.safetensors")) == fingerprint(one)
    with torch.no_grad():
        next(other.network.parameters()).view(-1)[0] += 1e-6
    assert fingerprint(one) != fingerprint(other) != fingerprint(predictor(spec, card="knmi", every=2))
    assert fingerprint(Persistence()) != fingerprint(ContextMean())


@pytest.mark.parametrize("out", ["next.tif", "next.odim.h5", "next.nc"])
def test_a_product_is_written_whole_or_not_at_all(radar: list[Path], tmp_path: Path, out: str) -> None:
    (tmp_path / out).write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            forecast_files(Persistence(), [radar[0].parent], tmp_path / out, horizon=1, card="knmi")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


class Clockwork(Persistence):
    """Forecasts what is known of each frame that is to come."""

    def forecast(
        self, observed: torch.Tensor, horizon: int, *, members: int | None = None, known: torch.Tensor | None = None
    ) -> torch.Tensor:
        assert known is not None
        return known[:, -horizon:, :1]


def test_what_is_known_of_the_frames_to_come_reaches_the_predictor(radar: list[Path]) -> None:
    card = replace(read_card("knmi"), known=("time-of-day",))
    newest = newest_clip(card, radar[0].parent, 3)
    made = nowcast.continue_newest(Clockwork(), newest, radar[0].parent, 4)
    assert made.times is not None
    minutes = [(time.astype("datetime64[m]") - time.astype("datetime64[D]")).astype(int) for time in made.times[-4:]]
    np.testing.assert_allclose(made.forecast[:, 0, 0, 0], np.sin(2 * np.pi * np.array(minutes) / 1440), atol=1e-6)
