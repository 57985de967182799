"""What is known of every frame: clocks in closed form, places by a projection whose middle is known, arrays beside the data."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from stpredict.data.known import KnownInputs
from stpredict.data.spatial import Spatial
from stpredict.errors import UserError
from stpredict.frames import FrameSpec, Grid

TIMES = np.array(["2021-01-01T00:00", "2021-01-01T06:00", "2021-07-02T12:00"], dtype="datetime64[s]")
LAEA = Grid("+proj=laea +lat_0=55 +lon_0=10 +units=m +ellps=WGS84", (-1500.0, -1500.0, 1500.0, 1500.0))


def inputs(*names: str, root: Path | None = None, spatial: Spatial | None = None, grid: Grid | None = LAEA) -> KnownInputs:
    spec = FrameSpec(1, 3, 3, time_step=300.0, grid=grid)
    return KnownInputs(names, root, spec, spatial or Spatial(), (3, 3))


def test_clocks_go_round() -> None:
    known = inputs("time-of-day", "day-of-year").frames(TIMES, 3)
    assert known.shape == (3, 4, 3, 3) and (known == known[:, :, :1, :1]).all()
    year = 31556952.0
    days = [0.0, 0.25, 182.5]
    expected = [
        [math.sin(2 * math.pi * day), math.cos(2 * math.pi * day), math.sin(angle), math.cos(angle)]
        for day in days
        for angle in [2 * math.pi * day * 86400 / year]
    ]
    np.testing.assert_allclose(known[:, :, 0, 0], expected, atol=1e-6)


@pytest.mark.parametrize("row_origin", ["north", "south"])
def test_places_are_those_of_the_grid(row_origin: str) -> None:
    known = inputs("latitude", "longitude", grid=Grid(LAEA.projection, LAEA.corners, row_origin)).frames(None, 2)
    assert known.shape == (2, 2, 3, 3) and (known[0] == known[1]).all()
    degrees = known[0] * np.array([90.0, 180.0])[:, None, None]
    np.testing.assert_allclose(degrees[:, 1, 1], [55.0, 10.0], atol=1e-5)
    north = degrees[0, 0, 1] - degrees[0, 1, 1]
    assert north == pytest.approx((1 if row_origin == "north" else -1) * 1000 / 111_300, rel=0.01)
    assert degrees[1, 1, 2] - degrees[1, 1, 1] == pytest.approx(1000 / 111_300 / math.cos(math.radians(55)), rel=0.01)


def test_an_array_beside_the_data_is_cropped_as_the_frames_are(tmp_path: Path) -> None:
    height = np.arange(9.0).reshape(3, 3)
    np.save(tmp_path / "height.npy", np.stack([height, -height]))
    spec = FrameSpec(1, 2, 2, time_step=300.0)
    known = KnownInputs(["file:height.npy", "time-of-day"], tmp_path, spec, Spatial(crop=(1, 0, 2, 2)), (3, 3))
    assert known.channels == 4
    frames = known.frames(TIMES, 3)
    expected = ((height - 4) / height.std())[1:, :2]
    np.testing.assert_allclose(frames[2, :2], [expected, -expected], rtol=1e-6)
    np.testing.assert_allclose(frames[1, 2:, 0, 0], [1.0, 0.0], atol=1e-7)


@pytest.mark.parametrize(
    ("name", "grid", "sentence"),
    [
        ("time_of_day", LAEA, "did you mean 'time-of-day'"),
        ("latitude", None, "have no grid"),
        ("latitude", Grid(LAEA.projection, (0.0, 0.0, 1e9, 1e9)), "nowhere on Earth"),
        ("file:../height.npy", LAEA, "outside of the folder"),
        ("file:/etc/height.npy", LAEA, "outside of the folder"),
        ("file:flat.npy", LAEA, "tells a network nothing"),
        ("file:small.npy", LAEA, "the frames are 3 x 3"),
    ],
)
def test_what_cannot_be_known(name: str, grid: Grid | None, sentence: str, tmp_path: Path) -> None:
    np.save(tmp_path / "flat.npy", np.ones((3, 3)))
    np.save(tmp_path / "small.npy", np.ones((2, 3)))
    with pytest.raises(UserError, match=sentence):
        inputs(name, root=tmp_path, grid=grid)


def test_a_clock_is_needed_for_the_time() -> None:
    with pytest.raises(UserError, match="needs frames with a clock"):
        KnownInputs(["time-of-day"], None, FrameSpec(1, 3, 3), Spatial(), (3, 3))
