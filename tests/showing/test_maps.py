"""How frames are shown that have a frame spec: captions, units, scale, coasts."""

from __future__ import annotations

import math
from pathlib import Path
from runpy import run_path
from typing import Any, Literal

import numpy as np
import pytest

from stpredict.baselines import Persistence
from stpredict.data import load_data
from stpredict.frames import FrameSpec, Grid, Transform
from stpredict.render import Panel
from stpredict.render.colours import VIL_PIXEL_STEPS, value_colours
from stpredict.showing import caption, find_geography, maps, preview_clips, render_clips, show_panels


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
    monkeypatch.setattr(maps, "find_pyproj", lambda: None)
    assert [find_geography(grid, 32, 64).pixel_km for grid in grids] == [1.0, None]


def test_coasts_are_drawn_where_pyproj_puts_them(shown: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import pyproj

    coast = np.array([[4.12, 51.98], [4.57, 52.46], [4.75, 52.96]])
    monkeypatch.setattr(maps, "coast_lines", lambda: [coast])
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
    generator = Path(__file__).resolve().parents[2] / "datasets" / "generators" / "sevir.py"
    run_path(str(generator))["write_sample"](tmp_path)
    data = load_data("sevir", tmp_path, "test")
    monkeypatch.setattr(maps, "coast_lines", lambda: [np.array([[-98.5, 31.0], [-98.6, 31.5]])])
    render_clips([Persistence()], data, [0], "storm.mp4")
    assert (shown["units"], shown["row_origin"]) == ("VIL, pixel value", "south")
    np.testing.assert_array_equal(value_colours(shown["colours"], shown["units"], shown["value_range"]).edges, VIL_PIXEL_STEPS)
    # 384 km are 24 pixels here; the projection keeps areas, and this far from its centre stretches lengths by less than 1 %.
    assert shown["geography"].pixel_km == pytest.approx(16.0, rel=0.01)
    assert len(shown["geography"].lines) == 1
    preview_clips(data, 3, "storms.mp4")
    assert shown["row_origin"] == "south" and not shown["geography"].lines
    render_clips([Persistence()], data, [0], "storm.mp4", colours="safe")
    assert shown["colours"] == "safe"
    render_clips([Persistence()], load_data("sevir", tmp_path, "test", crop=[0, 0, 12, 12]), [0], "storm.mp4")
    assert shown["geography"].pixel_km == pytest.approx(16.0, rel=0.01)
