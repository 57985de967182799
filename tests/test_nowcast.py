"""Forecasts of new files: the newest frames, in physical units, with the times and places of what follows."""

from __future__ import annotations

import importlib.util
import json
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
from stpredict.nowcast import forecast_files
from stpredict.predictor import Predictor

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


def test_the_newest_clip_is_the_end_of_the_archive(radar: list[Path]) -> None:
    clip, spec, packing = newest_clip(read_card("knmi"), radar[0].parent, 3)
    assert clip.times.astype(str).tolist() == ["2010-08-26T00:15:00", "2010-08-26T00:20:00", "2010-08-26T00:25:00"]
    physical = packing.unpack(torch.from_numpy(clip.frames))
    np.testing.assert_allclose(physical[:, 0], np.stack([rain(path) for path in radar[-3:]]), rtol=1e-6)
    assert (spec.units, spec.time_step, spec.height, spec.width) == ("mm/h", 300.0, HEIGHT, WIDTH)


def test_newest_frames_with_a_gap_or_too_few_are_refused(radar: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"needs the 9 newest frames in a row, and '.*' has 8: wait, or give more"):
        newest_clip(read_card("knmi"), radar[0].parent, 9)
    for path in radar:
        if path != radar[-3]:
            (tmp_path / path.name).symlink_to(path)
    with pytest.raises(UserError, match=r"needs the 3 newest frames in a row, and '.*' has 2 since the last gap in time"):
        newest_clip(read_card("knmi"), tmp_path, 3)


def test_of_several_films_the_newest_is_continued(tmp_path: Path) -> None:
    for number in (2, 10):
        np.save(tmp_path / f"film{number}.npy", np.full((5, 4, 4), number, dtype=np.uint8))
    card = tmp_path / "films.yaml"
    card.write_text("reader: arrays\nsettings: {axes: THW}\nsplits: {by: film, fractions: {train: 0.5, test: 0.5}}\n")
    clip, _, _ = newest_clip(read_card(card), tmp_path, 3)
    assert clip.name == "film10.npy" and (clip.frames == 10).all()


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
            read = {"forecast": data["forecast"].values, "forecast_times": seconds}
            about = {"units": data["forecast"].attrs["units"]}
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
        assert data["forecast"].dims == ("time", "channel", "y", "x") and data["forecast"].shape == (2, 1, HEIGHT, WIDTH)
        assert data["lead_time"].values.tolist() == [300.0, 600.0] and data["lead_time"].attrs["units"] == "s"
        x, y = data["x"].values, data["y"].values
        np.testing.assert_allclose(np.diff(x), 1.0)
        np.testing.assert_allclose(np.diff(y), -1.0)
        projection = pyproj.Proj(data[data["forecast"].attrs["grid_mapping"]].attrs["proj4"])
        mean = np.mean([rain(path) for path in radar[-6:]], axis=0)
        np.testing.assert_allclose(data["forecast"].values[0, 0], mean, rtol=1e-5)
    # Pixels are named by their middles, so the corner lies half a kilometre up and left of the first.
    longitude, latitude = projection(x[0] - 0.5, y[0] + 0.5, inverse=True)
    assert (longitude, latitude) == (pytest.approx(0.0, abs=1e-9), pytest.approx(55.973602, abs=1e-4))
    # The archive of real size ends 700 km east and 765 km south of there, at the corner that KNMI gives.
    assert projection(700.0, -3650.0 - 765.0, inverse=True) == (pytest.approx(9.0093, abs=1e-3), pytest.approx(48.8953, abs=1e-3))


def test_a_southern_row_origin_turns_the_coordinates_not_the_rows(
    radar: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def southern(*arguments: object) -> object:
        clip, spec, packing = newest_clip(*arguments)
        return clip, replace(spec, grid=replace(spec.grid, row_origin="south")), packing

    monkeypatch.setattr(nowcast, "newest_clip", southern)
    forecast_files(Persistence(), [radar[0].parent], tmp_path / "next.nc", horizon=1, card="knmi")
    with xarray.open_dataset(tmp_path / "next.nc") as data:
        assert (np.diff(data["y"].values) > 0).all()
        np.testing.assert_allclose(data["forecast"].values[0, 0], rain(radar[-1]), rtol=1e-6)


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
    _, spec, _ = newest_clip(card, radar[0].parent, 3)
    trained = predictor(spec, card="knmi", crop=[4, 6, 16, 12], every=2)
    forecast_files(trained, [radar[0].parent], tmp_path / "next.npz")
    with np.load(tmp_path / "next.npz") as arrays:
        observed = np.stack([rain(path)[4:20, 6:18] for path in radar[-5::2]])
        np.testing.assert_allclose(arrays["observed"][:, 0], observed, rtol=1e-6)
        expected = trained.forecast(torch.from_numpy(arrays["observed"])[None], 2)[0]
        np.testing.assert_allclose(arrays["forecast"], expected, atol=1e-5)
        assert np.diff(arrays["forecast_times"]).tolist() == [600]
        grid = json.loads(str(arrays["about"]))["spec"]["grid"]
        assert grid["corners"] == [6.0, -3670.0, 18.0, -3654.0]


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
