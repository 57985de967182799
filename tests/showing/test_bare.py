"""The films of a page: what they are called, what they show, what is said of them."""

from __future__ import annotations

from pathlib import Path
from runpy import run_path
from typing import Any

import av
import numpy as np
import pytest
import torch

from stpredict.baselines import ContextMean, Persistence
from stpredict.data import load_data
from stpredict.data.clips import ClipSet
from stpredict.errors import UserError
from stpredict.showing import ClipFilms, PanelFilm, clip_films


class Hostile:
    """A predictor whose name is no name of a file, and whose forecasts are NaN in the left half."""

    name = "../<img src=x onerror=alert(1)>"

    def forecast(self, observed: Any, horizon: int, *, members: int | None = None, known: Any = None) -> Any:
        film = observed[:, -1:].repeat(1, horizon, 1, 1, 1)
        film[..., : film.shape[-1] // 2] = torch.nan
        return film


def grays(path: Path) -> np.ndarray:
    """Return the gray in the middle of each pixel of each frame, ``(T, 32, 32)``."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24")[4::8, 4::8].mean(axis=-1) for frame in container.decode(video=0)])


def test_truth_forecasts_and_errors_are_films_of_their_own(clips: ClipSet, tmp_path: Path) -> None:
    found = clip_films([Persistence(), ContextMean()], clips, 2, tmp_path, "worst", frames_per_second=4.0)
    assert found == ClipFilms(
        clip=2,
        name="test 2",
        films=(
            PanelFilm("true", "truth", None, "worst-0.mp4"),
            PanelFilm("persistence", "forecast", "persistence", "worst-1.mp4"),
            PanelFilm("persistence - true", "error", "persistence", "worst-2.mp4"),
            PanelFilm("context-mean", "forecast", "context-mean", "worst-3.mp4"),
            PanelFilm("context-mean - true", "error", "context-mean", "worst-4.mp4"),
        ),
        frames=5,
        context=3,
        width=256,
        height=256,
        frames_per_second=4.0,
        captions=("observed 1 of 3", "observed 2 of 3", "observed 3 of 3", "lead 1", "lead 2"),
        legends=(("error", "worst-legend-0.png"),),
    )
    assert {path.name for path in tmp_path.iterdir()} == {*(film.file for film in found.films), "worst-legend-0.png"}
    frames = clips[2].frames[:, 0].astype(float)
    np.testing.assert_allclose(grays(tmp_path / "worst-0.mp4"), frames, atol=25)
    expected = np.concatenate([frames[:3], frames[2:3], frames[2:3]])
    np.testing.assert_allclose(grays(tmp_path / "worst-1.mp4"), expected, atol=25)
    np.testing.assert_allclose(grays(tmp_path / "worst-3.mp4")[3:], [frames[:3].mean(axis=0)] * 2, atol=25)


def test_without_errors_and_by_other_names(clips: ClipSet, tmp_path: Path) -> None:
    found = clip_films({"a": Persistence(), "b": Persistence()}, clips, 0, tmp_path, "x", error=False, scale=2)
    assert [(film.label, film.kind, film.predictor) for film in found.films] == [
        ("true", "truth", None),
        ("a", "forecast", "a"),
        ("b", "forecast", "b"),
    ]
    assert (found.width, found.height, found.legends) == (64, 64, ())
    named = clip_films({"true": Persistence()}, clips, 0, tmp_path, "z")
    assert [film.label for film in named.films] == ["true", "true (2)", "true - true"]
    twice = clip_films([Persistence(), Persistence()], clips, 0, tmp_path, "y", error=False)
    assert [film.predictor for film in twice.films] == [None, "persistence", "persistence (2)"]


def test_a_hostile_name_is_a_label_and_never_a_path(clips: ClipSet, tmp_path: Path) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    found = clip_films([Hostile()], clips, 0, folder, "clip")
    assert [film.label for film in found.films] == ["true", Hostile.name, f"{Hostile.name} - true"]
    assert {path.name for path in folder.iterdir()} == {"clip-0.mp4", "clip-1.mp4", "clip-2.mp4", "clip-legend-0.png"}
    assert list(tmp_path.iterdir()) == [folder]
    # What it does not forecast is hatched, in two grays that are neither black nor white.
    hatched = grays(folder / "clip-1.mp4")[3:, :, :16]
    assert hatched.min() > 40 and hatched.max() < 170 and hatched.std() > 10


def test_rain_has_times_and_a_legend_of_its_units(tmp_path: Path) -> None:
    generator = Path(__file__).resolve().parents[2] / "datasets" / "generators" / "sevir.py"
    run_path(str(generator))["write_sample"](tmp_path)
    data = load_data("sevir", tmp_path, "test", context=2, horizon=1)
    found = clip_films([Persistence()], data, 0, tmp_path, "storm")
    start = data[0].times
    assert start is not None
    first = str(start[0].astype("datetime64[m]")).replace("T", " ")
    assert found.captions[0] == f"observed 1 of 2  {first} UTC"
    assert found.captions[2].startswith("lead 1  +5 min  ")
    assert [heading for heading, _ in found.legends] == ["VIL, pixel value", "error VIL, pixel value"]
    assert found.name == data[0].name


def test_there_is_no_such_clip(clips: ClipSet, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has clips 0 to 3, not 4"):
        clip_films([Persistence()], clips, 4, tmp_path, "x")
    with pytest.raises(FileNotFoundError):
        clip_films([Persistence()], clips, 0, tmp_path / "nowhere", "x")
