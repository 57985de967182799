"""What people look at: which panels a film has, their captions, and predictors in words."""

from __future__ import annotations

import math
from pathlib import Path
from runpy import run_path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from stpredict import showing
from stpredict.baselines import ContextMean, Persistence, TrainingMean
from stpredict.data import load_data
from stpredict.data.clips import ClipSet
from stpredict.errors import UserError
from stpredict.evaluation import evaluate
from stpredict.forecasts import ForecastFile
from stpredict.frames import FrameSpec, Grid, Transform
from stpredict.networks import create_network
from stpredict.predictor import Predictor
from stpredict.render import Panel
from stpredict.render.colours import VIL_PIXEL_STEPS, value_colours
from stpredict.showing import caption, describe_predictor, find_geography, preview_clips, render_clip, show_panels

SETTINGS = {"hidden": [4], "kernel_size": 3, "patch_size": 4}


@pytest.fixture(scope="module")
def clips() -> ClipSet:
    return load_data("moving_digits", None, "test", context=3, horizon=2, settings={"digits": 1, "size": 32, "test_clips": 4})


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is handed on to be drawn."""
    noted: dict[str, Any] = {}

    def note(panels: list[Panel], path: Path, **settings: Any) -> Path:
        noted.update(settings, panels=panels, path=path)
        return path

    monkeypatch.setattr(showing, "save_film", note)
    return noted


def truth(clips: ClipSet, index: int) -> np.ndarray:
    return clips[index].frames.astype(np.float32) / 255


def test_panels_are_truth_forecast_and_error(clips: ClipSet, shown: dict[str, Any]) -> None:
    render_clip([Persistence()], clips, 2, "film.mp4", scale=3, frames_per_second=7.0)
    true, predicted, error = shown["panels"]
    assert [panel.title for panel in shown["panels"]] == ["observed, then true", "persistence", "error"]
    assert [panel.kind for panel in shown["panels"]] == ["value", "value", "error"]
    frames = truth(clips, 2)
    np.testing.assert_allclose(true.frames, frames, rtol=1e-6)
    assert np.isnan(predicted.frames[:3]).all() and np.isnan(error.frames[:3]).all()
    np.testing.assert_allclose(predicted.frames[3:], np.stack([frames[2]] * 2), rtol=1e-6)
    np.testing.assert_allclose(error.frames[3:], frames[2:3] - frames[3:], atol=1e-6)
    assert shown["captions"] == ["", "", "", "lead 1", "lead 2"]
    assert (shown["context"], shown["value_range"], shown["units"], shown["row_origin"]) == (3, (0.0, 1.0), "1", "north")
    assert (shown["scale"], shown["frames_per_second"], shown["path"]) == (3, 7.0, "film.mp4")


def test_several_predictors_stand_side_by_side(clips: ClipSet, shown: dict[str, Any]) -> None:
    render_clip([Persistence(), ContextMean(), TrainingMean()], clips, 0, "film.mp4")
    assert [panel.title for panel in shown["panels"]] == [
        "observed, then true",
        *("persistence", "persistence - true"),
        *("context-mean", "context-mean - true"),
        *("training-mean", "training-mean - true"),
    ]
    assert clips.training_split is not None
    mean = TrainingMean.of(clips.training_split()).mean_frame
    np.testing.assert_allclose(shown["panels"][5].frames[4], mean, rtol=1e-6)
    render_clip([Persistence(), ContextMean()], clips, 0, "film.mp4", error=False)
    assert [panel.title for panel in shown["panels"]] == ["observed, then true", "persistence", "context-mean"]


def test_saved_forecasts_are_shown_for_the_clips_that_they_are_of(clips: ClipSet, shown: dict[str, Any], tmp_path: Path) -> None:
    evaluate(Persistence(), clips, baselines=False, limit=2, save_forecasts=tmp_path / "saved.h5")
    saved = ForecastFile(tmp_path / "saved.h5")
    render_clip([saved, Persistence()], clips, 1, "film.mp4", error=False)
    np.testing.assert_array_equal(shown["panels"][1].frames, shown["panels"][2].frames)
    with pytest.raises(UserError, match="clip 2 is not among them"):
        render_clip([saved], clips, 2, "film.mp4")
    others = load_data(
        "moving_digits", None, "test", context=3, horizon=2, settings={"digits": 1, "size": 32, "test_clips": 4, "speed": 0.3}
    )
    with pytest.raises(UserError, match="clip 1 of 'moving_digits' test had other frames"):
        render_clip([saved], others, 1, "film.mp4")


def test_clips_that_there_are_not(clips: ClipSet) -> None:
    for index in (-1, 4):
        with pytest.raises(UserError, match=f"has clips 0 to 3, not {index}"):
            render_clip([Persistence()], clips, index, "film.mp4")
    assert clips.training_split is not None


def test_a_preview_shows_the_first_clips_as_they_are(clips: ClipSet, shown: dict[str, Any]) -> None:
    preview_clips(clips, 9, "film.png")
    assert [panel.title for panel in shown["panels"]] == ["test 0", "test 1", "test 2", "test 3"]
    for index, panel in enumerate(shown["panels"]):
        np.testing.assert_allclose(panel.frames, truth(clips, index), rtol=1e-6)


@pytest.mark.parametrize(
    ("lead", "time_step", "time", "words"),
    [
        (0, None, None, ""),
        (-3, 300.0, None, ""),
        (1, None, None, "lead 1"),
        (3, 300.0, None, "lead 3  +15 min"),
        (1, 0.04, None, "lead 1  +0.04 s"),
        (12, 0.25, None, "lead 12  +3 s"),
        (2, 45.0, None, "lead 2  +1.5 min"),
        (0, 300.0, np.datetime64("2010-08-26T00:05:00", "s"), "2010-08-26 00:05 UTC"),
        (2, 300.0, np.datetime64("2010-08-26T23:55:00", "s"), "lead 2  +10 min  2010-08-26 23:55 UTC"),
    ],
)
def test_captions(lead: int, time_step: float | None, time: np.datetime64 | None, words: str) -> None:
    assert caption(lead, time_step, time) == words


def test_rain_is_shown_as_its_spec_says(shown: dict[str, Any]) -> None:
    spec = FrameSpec(
        1, 4, 4, "mm/h", Transform("sqrt", 0.0, 50.0), time_step=300.0, grid=Grid("+proj=stere", (0.0, 0.0, 4.0, 4.0), "south")
    )
    times = np.datetime64("2010-08-26T00:05", "s") + np.timedelta64(300, "s") * np.arange(3)
    show_panels([Panel("rain", np.zeros((3, 1, 4, 4), np.float32))], spec, "rain.mp4", context=1, times=times)
    assert (shown["units"], shown["value_range"], shown["row_origin"]) == ("mm/h", (0.0, 50.0), "south")
    assert shown["captions"] == [
        "2010-08-26 00:05 UTC",
        "lead 1  +5 min  2010-08-26 00:10 UTC",
        "lead 2  +10 min  2010-08-26 00:15 UTC",
    ]


@pytest.mark.parametrize("row_origin", ["north", "south"])
def test_a_kilometre_is_as_long_as_on_the_ground_in_the_middle(row_origin: Literal["north", "south"]) -> None:
    laea = find_geography(Grid("+proj=laea +lat_0=52 +lon_0=5 +ellps=WGS84", (-64e3, -32e3, 64e3, 32e3), row_origin), 32, 64)
    assert laea.pixel_km == pytest.approx(2.0, rel=1e-6)
    radius = 6371007.2
    mercator = find_geography(Grid(f"+proj=merc +R={radius}", (-50e3, 8362e3, 50e3, 8462e3), row_origin), 100, 100)
    latitude = 2 * math.atan(math.exp(8412e3 / radius)) - math.pi / 2
    assert mercator.pixel_km == pytest.approx(math.cos(latitude), rel=5e-3)
    degrees = find_geography(Grid("+proj=longlat +datum=WGS84", (-5.0, 46.0, 2.84, 51.65), row_origin), 565, 784)
    assert degrees.pixel_km == pytest.approx(0.01 * 111.32 * math.cos(math.radians(48.825)), rel=5e-3)


def test_without_a_projection_that_can_be_used_a_metre_is_a_metre(monkeypatch: pytest.MonkeyPatch) -> None:
    grids = [Grid("+proj=laea +lat_0=52", (0.0, 0.0, 64e3, 32e3)), Grid("+proj=longlat", (0.0, 40.0, 10.0, 50.0))]
    assert find_geography(Grid("PROJCS[...]", (0.0, 0.0, 64e3, 32e3)), 32, 64).pixel_km == 1.0
    monkeypatch.setattr(showing, "find_pyproj", lambda: None)
    assert [find_geography(grid, 32, 64).pixel_km for grid in grids] == [1.0, None]


def test_coasts_are_drawn_where_pyproj_puts_them(shown: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import pyproj

    coast = np.array([[4.12, 51.98], [4.57, 52.46], [4.75, 52.96]])
    monkeypatch.setattr(showing, "coast_lines", lambda: [coast])
    for row_origin in ("north", "south"):
        grid = Grid("+proj=laea +lat_0=52 +lon_0=5 +ellps=WGS84", (-128e3, -128e3, 128e3, 128e3), row_origin)
        spec = FrameSpec(1, 64, 64, "mm/h", grid=grid)
        show_panels([Panel("rain", np.zeros((2, 1, 64, 64), np.float32))], spec, "rain.mp4", context=1, times=None)
        x, y = pyproj.Transformer.from_crs(4326, grid.projection, always_xy=True).transform(coast[:, 0], coast[:, 1])
        (line,) = shown["geography"].lines
        np.testing.assert_allclose(line, np.stack([x + 128e3, 128e3 - y], axis=1) / 4000, atol=1e-3)
        assert (shown["row_origin"], shown["geography"].pixel_km) == (row_origin, pytest.approx(4.0))


def test_storms_are_shown_by_their_own_grids_in_sevirs_classes(
    shown: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = Path(__file__).resolve().parents[1] / "datasets" / "generators" / "sevir.py"
    run_path(str(generator))["write_sample"](tmp_path)
    data = load_data("sevir", tmp_path, "test")
    monkeypatch.setattr(showing, "coast_lines", lambda: [np.array([[-98.5, 31.0], [-98.6, 31.5]])])
    render_clip([Persistence()], data, 0, "storm.mp4")
    assert (shown["units"], shown["row_origin"]) == ("VIL, pixel value", "south")
    np.testing.assert_array_equal(value_colours(shown["colours"], shown["units"], shown["value_range"]).edges, VIL_PIXEL_STEPS)
    # 384 km are 24 pixels here; the projection keeps areas, and this far from its centre stretches lengths by less than 1 %.
    assert shown["geography"].pixel_km == pytest.approx(16.0, rel=0.01)
    assert len(shown["geography"].lines) == 1
    preview_clips(data, 3, "storms.mp4")
    assert shown["row_origin"] == "south" and not shown["geography"].lines
    render_clip([Persistence()], data, 0, "storm.mp4", colours="safe")
    assert shown["colours"] == "safe"
    render_clip([Persistence()], load_data("sevir", tmp_path, "test", crop=[0, 0, 12, 12]), 0, "storm.mp4")
    assert shown["geography"].pixel_km == pytest.approx(16.0, rel=0.01)


def test_a_predictor_in_words(tmp_path: Path) -> None:
    spec = FrameSpec(
        1, 8, 12, "mm/h", Transform("sqrt", 0.0, 100.0), 0.0, 0.0, 300.0, Grid("+proj=stere", (0.0, -3650.0, 12.0, -3642.0), "north")
    )
    network = create_network("convlstm", channels=1, frame_size=(8, 12), **SETTINGS)
    count = sum(weight.numel() for weight in network.parameters())
    assert count == 16 * 16 * 9 + 16 * 4 * 9 + 4 * 16, "input to four gates, state to four gates, readout"
    provenance = {"run": "rain-1", "step": 7, "validation_mse": None}
    Predictor(network, spec, 6, 4, network_name="convlstm", network_settings=SETTINGS, provenance=provenance).save(
        tmp_path / "p.safetensors"
    )
    assert describe_predictor(tmp_path / "p.safetensors").splitlines() == [
        "predictor   p.safetensors",
        "network     convlstm (hidden [4], kernel_size 3, patch_size 4)",
        f"weights     {count:,} parameters",
        "frames      1 x 8 x 12, units mm/h, every 5 min",
        "scaled      sqrt, 0 to 0 and 100 to 1; missing is fed as 0",
        "trained     6 observed frames, 4 to forecast",
        f"cost        {count * 6 * 9 / 1000:.1f} thousand multiply-adds for a clip of 6 + 4 frames",
        f"memory      weights {count * 4 / 1024:.1f} KiB, state 192 bytes for each clip after 6 frames",
        "grid        +proj=stere, corners (0.0, -3650.0, 12.0, -3642.0), row 0 in the north",
        "run         rain-1",
        "step        7",
    ]


def test_baselines_and_forecast_files_in_words(clips: ClipSet, tmp_path: Path) -> None:
    assert describe_predictor("context-mean").startswith("baseline context-mean: The mean over time of each pixel's valid values")
    evaluate(Persistence(), clips, baselines=False, limit=2, save_forecasts=tmp_path / "saved.npz")
    assert (
        describe_predictor(tmp_path / "saved.npz")
        == "forecast file saved.npz: 2 frames after 3, 2 clips of 'moving_digits' test, by persistence; units 1"
    )
    with pytest.raises(UserError, match="no predictor 'nothing'"):
        describe_predictor("nothing")
    torch.save({}, tmp_path / "pickle.safetensors")
    with pytest.raises(UserError, match=r"pickle\.safetensors is no whole predictor file"):
        describe_predictor(tmp_path / "pickle.safetensors")
