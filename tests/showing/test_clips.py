"""Which panels the film of a clip has, and of several clips."""

from __future__ import annotations

from pathlib import Path
from runpy import run_path
from typing import Any

import numpy as np
import pytest
import torch

from stpredict.baselines import ContextMean, Persistence, TrainingMean
from stpredict.data import load_data
from stpredict.data.clips import ClipSet
from stpredict.errors import UserError
from stpredict.evaluation import evaluate
from stpredict.forecasts import ForecastFile
from stpredict.showing import clip_films, preview_clips, render_clips


def truth(clips: ClipSet, index: int) -> np.ndarray:
    return clips[index].frames.astype(np.float32) / 255


def test_panels_are_truth_forecast_and_error(clips: ClipSet, shown: dict[str, Any]) -> None:
    render_clips([Persistence()], clips, [2], "film.mp4", scale=3, frames_per_second=7.0)
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
    render_clips([Persistence(), ContextMean(), TrainingMean()], clips, [0], "film.mp4")
    assert [panel.title for panel in shown["panels"]] == [
        "observed, then true",
        *("persistence", "persistence - true"),
        *("context-mean", "context-mean - true"),
        *("training-mean", "training-mean - true"),
    ]
    assert clips.training_split is not None
    mean = TrainingMean.of(clips.training_split()).mean_frame
    np.testing.assert_allclose(shown["panels"][5].frames[4], mean, rtol=1e-6)
    render_clips([Persistence(), ContextMean()], clips, [0], "film.mp4", error=False)
    assert [panel.title for panel in shown["panels"]] == ["observed, then true", "persistence", "context-mean"]


def test_saved_forecasts_are_shown_for_the_clips_that_they_are_of(clips: ClipSet, shown: dict[str, Any], tmp_path: Path) -> None:
    evaluate(Persistence(), clips, baselines=False, limit=2, save_forecasts=tmp_path / "saved.h5")
    saved = ForecastFile(tmp_path / "saved.h5")
    render_clips([saved, Persistence()], clips, [1], "film.mp4", error=False)
    np.testing.assert_array_equal(shown["panels"][1].frames, shown["panels"][2].frames)
    with pytest.raises(UserError, match="clip 2 is not among them"):
        render_clips([saved], clips, [2], "film.mp4")
    others = load_data(
        "moving_digits", None, "test", context=3, horizon=2, settings={"digits": 1, "size": 32, "test_clips": 4, "speed": 0.3}
    )
    with pytest.raises(UserError, match="clip 1 of 'moving_digits' test had other frames"):
        render_clips([saved], others, [1], "film.mp4")


def test_clips_that_there_are_not(clips: ClipSet) -> None:
    for index in (-1, 4):
        with pytest.raises(UserError, match=f"has clips 0 to 3, not {index}"):
            render_clips([Persistence()], clips, [index], "film.mp4")
    assert clips.training_split is not None


def test_a_preview_shows_the_first_clips_as_they_are(clips: ClipSet, shown: dict[str, Any]) -> None:
    preview_clips(clips, 9, "film.png")
    assert [panel.title for panel in shown["panels"]] == ["test 0", "test 1", "test 2", "test 3"]
    for index, panel in enumerate(shown["panels"]):
        np.testing.assert_allclose(panel.frames, truth(clips, index), rtol=1e-6)


def test_the_score_of_each_frame_stands_under_it(clips: ClipSet, shown: dict[str, Any]) -> None:
    render_clips([Persistence(), ContextMean()], clips, [2], "film.mp4", score="mae")
    frames = truth(clips, 2)
    forecasts = {"persistence": frames[2], "context-mean": frames[:3].mean(axis=0)}
    for panel in shown["panels"]:
        if panel.title in forecasts:
            assert panel.notes[:3] == ("", "", "")
            for note, frame in zip(panel.notes[3:], frames[3:], strict=True):
                name, value = note.split()
                assert name == "mae" and float(value) == pytest.approx(np.abs(forecasts[panel.title] - frame).mean(), rel=1e-3, abs=1e-6)
        else:
            assert panel.notes == ()
    with pytest.raises(UserError, match="did you mean 'mse'"):
        render_clips([Persistence()], clips, [1], "film.mp4", score="mes")


class Blind:
    """A predictor or a baseline that says nothing of the left half."""

    name = "blind"

    def forecast(self, observed: Any, horizon: int, *, members: int | None = None, known: Any = None) -> Any:
        film = observed[:, -1:].repeat(1, horizon, 1, 1, 1)
        film[..., : film.shape[-1] // 2] = np.nan
        return film


def test_a_predictors_nan_is_no_score_and_a_baselines_is_the_fill(clips: ClipSet, shown: dict[str, Any]) -> None:
    class BlindBaseline(Blind, Persistence):
        name = "blind baseline"

    render_clips([Blind(), BlindBaseline()], clips, [0], "film.mp4", error=False, score="mse")
    _, predictor, baseline = shown["panels"]
    assert predictor.notes[3:] == ("mse -", "mse -")
    frames = truth(clips, 0)
    forecast = frames[2].copy()
    forecast[..., :16] = 0.0
    values = [float(note.removeprefix("mse ")) for note in baseline.notes[3:]]
    np.testing.assert_allclose(values, ((forecast - frames[3:]) ** 2).mean(axis=(1, 2, 3)), rtol=1e-3)
    assert np.isnan(baseline.frames[3:, ..., :16]).all(), "what it does not know is shown as missing all the same"


def test_of_an_ensemble_the_mean_is_shown(clips: ClipSet, shown: dict[str, Any]) -> None:
    class Pair(Persistence):
        name = "pair"

        def forecast(self, observed: Any, horizon: int, **_: Any) -> Any:
            last = observed[:, -1:].repeat(1, horizon, 1, 1, 1)
            return torch.stack([0.5 * last, last], dim=1)

    render_clips([Pair()], clips, [0], "film.mp4", error=False)
    np.testing.assert_allclose(shown["panels"][1].frames[3:], [0.75 * truth(clips, 0)[2]] * 2, rtol=1e-6)


def test_an_answer_of_another_shape_is_refused(clips: ClipSet) -> None:
    class Short(Persistence):
        def forecast(self, observed: Any, horizon: int, **_: Any) -> Any:
            return observed[:, -1:]

    with pytest.raises(UserError, match=r"'persistence' answered with Tensor \(1, 1, 1, 32, 32\) instead of a tensor \(1, 2, 1, 32, 32\)"):
        render_clips([Short()], clips, [0], "film.mp4")


def test_each_clip_has_a_row_of_its_name(clips: ClipSet, shown: dict[str, Any]) -> None:
    render_clips([Persistence()], clips, [2, 0], "film.mp4", theme="light", hold=1.5, colours="viridis")
    assert [(panel.row, panel.title) for panel in shown["panels"]] == [
        (row, title) for row in ("test 2", "test 0") for title in ("observed, then true", "persistence", "error")
    ]
    np.testing.assert_allclose(shown["panels"][3].frames, truth(clips, 0), rtol=1e-6)
    assert (shown["theme"], shown["hold"], shown["colours"], shown["captions"][3]) == ("light", 1.5, "viridis", "lead 1")
    render_clips([Persistence()], clips, [2, 2], "film.mp4")
    assert [panel.row for panel in shown["panels"]] == [""] * 3, "a clip named twice is one clip"
    with pytest.raises(UserError, match="no clip to show"):
        render_clips([Persistence()], clips, [], "film.mp4")


def test_predictors_may_be_named(clips: ClipSet, shown: dict[str, Any]) -> None:
    render_clips(["persistence", ContextMean()], clips, [0], "film.mp4", error=False)
    assert [panel.title for panel in shown["panels"]][1:] == ["persistence", "context-mean"]
    for one in ({"last": "persistence"}, "persistence", Persistence()):
        render_clips(one, clips, 0, "film.mp4", error=False)
        assert [panel.title for panel in shown["panels"]][1:] == ["last" if isinstance(one, dict) else "persistence"]
    with pytest.raises(UserError, match="no predictor 'persistance'"):
        render_clips(["persistance"], clips, [0], "film.mp4")


def test_of_frames_of_two_channels_the_first_is_shown(tmp_path: Path, shown: dict[str, Any]) -> None:
    generator = Path(__file__).resolve().parents[2] / "datasets" / "generators" / "taxibj.py"
    run_path(str(generator))["write_sample"](tmp_path)
    data = load_data("taxibj", tmp_path, "test")
    render_clips([Persistence()], data, [0], "film.mp4")
    titles = ["observed, then true", "persistence", "error"]
    assert [panel.title for panel in shown["panels"]] == [f"{title} (channel 1 of 2)" for title in titles]
    packed = data[0].frames[:, :1].astype(np.float64)
    assert np.corrcoef(shown["panels"][0].frames.ravel(), packed.ravel())[0, 1] == pytest.approx(1)
    found = clip_films([Persistence()], data, 0, tmp_path, "taxi", error=False)
    assert [film.label for film in found.films] == ["true (channel 1 of 2)", "persistence (channel 1 of 2)"]
    assert found.films[1].predictor == "persistence"
