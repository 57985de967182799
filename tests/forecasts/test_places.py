"""Whether two grids are the same pixels, whatever their projections are called."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from stpredict.errors import UserError
from stpredict.forecasts.places import Window, find_window
from stpredict.frames import Grid

pyproj = pytest.importorskip("pyproj")

SIZE = (640, 710)
SWISS = Grid("EPSG:21781", (255000, -160000, 965000, 480000))
SOMERC = "+proj=somerc +lat_0=46.9524055555556 +lon_0=7.43958333333333 +k_0=1 +x_0=600000 +y_0=200000 +ellps=bessel +units=m"
LAEA = Grid("+proj=laea +lat_0=55 +lon_0=10 +x_0=1950000 +y_0=-2100000 +units=m +ellps=WGS84", (0, -4400000, 3800000, 0))
DEGREES = Grid("+proj=longlat +datum=WGS84", (-5, 46, 3, 50))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (SWISS, replace(SWISS, projection=pyproj.CRS("EPSG:21781").to_wkt())),
        (SWISS, Grid(SOMERC, SWISS.corners)),
        (LAEA, Grid(LAEA.projection.replace("units=m", "units=km"), (0, -4400, 3800, 0))),
        (DEGREES, replace(DEGREES, projection="EPSG:4326")),
    ],
)
def test_one_place_under_several_names(one: Grid, other: Grid) -> None:
    for ours, theirs in ((one, other), (other, one)):
        assert find_window(ours, SIZE, theirs, SIZE) == Window(0, 0, SIZE, False)
        assert find_window(replace(ours, row_origin="south"), SIZE, theirs, SIZE) == Window(0, 0, SIZE, True)
        assert find_window(replace(ours, row_origin="south"), SIZE, replace(theirs, row_origin="south"), SIZE) == Window(0, 0, SIZE, False)


@pytest.mark.parametrize("edge", range(4))
def test_a_corner_may_be_off_by_a_tenth_of_a_pixel(edge: int) -> None:
    for share, fits in {0.09: True, 0.11: False}.items():
        corners = list(DEGREES.corners)
        corners[edge] += share * 0.01
        moved = replace(DEGREES, corners=tuple(corners))
        if fits:
            find_window(moved, (400, 800), DEGREES, (400, 800))
        else:
            with pytest.raises(
                UserError,
                match=r"it covers \(-[45].\d+, 4[56].\d+\) to .* in 400 x 800 pixels and the data \(-5.000, 46.000\) to \(3.000, 50.000\)",
            ):
                find_window(moved, (400, 800), DEGREES, (400, 800))


def test_the_same_corners_of_another_projection_are_other_pixels() -> None:
    """Between corners that fall together, a cylinder and a cone part."""
    lines = pyproj.Proj("+proj=lcc +lat_1=30 +lat_2=60 +lon_0=0 +ellps=WGS84")
    left, bottom = lines(-20, 40)
    right, top = lines(20, 60)
    cone = Grid("+proj=lcc +lat_1=30 +lat_2=60 +lon_0=0 +ellps=WGS84", (left, bottom, right, top))
    with pytest.raises(UserError, match="none of its pixels: regrid one of them"):
        find_window(cone, (100, 100), Grid("EPSG:4326", (-20, 40, 20, 60)), (100, 100))


@pytest.mark.parametrize("ours_from", ["north", "south"])
@pytest.mark.parametrize("theirs_from", ["north", "south"])
def test_the_data_may_be_a_part(ours_from: str, theirs_from: str) -> None:
    """The part that a crop takes is found again, with its values, however rows lie; in km or in metres."""
    whole = replace(LAEA, row_origin=ours_from)
    part = replace(whole.crop(7, 3, 20, 30, 44, 38), row_origin=theirs_from)
    part = replace(part, projection=LAEA.projection.replace("units=m", "units=km"), corners=tuple(edge / 1000 for edge in part.corners))
    window = find_window(whole, (44, 38), part, (20, 30))
    assert window == Window(7, 3, (20, 30), ours_from != theirs_from)
    frames = torch.arange(2 * 44 * 38).reshape(2, 44, 38)
    expected = frames[:, 7:27, 3:33]
    assert torch.equal(window.cut(frames), expected if ours_from == theirs_from else expected.flip(1))
    with pytest.raises(UserError, match="none of its pixels"):
        find_window(part, (20, 30), whole, (44, 38))
    with pytest.raises(UserError, match="none of its pixels"):
        find_window(whole, (44, 38), part, (10, 15))


def test_where_one_is_not_known_the_size_must_do() -> None:
    assert find_window(None, SIZE, SWISS, SIZE) == Window(0, 0, SIZE) == find_window(SWISS, SIZE, None, SIZE)
    with pytest.raises(UserError, match="it has 640 x 710 pixels and the data 640 x 640: crop or resize"):
        find_window(None, SIZE, SWISS, (640, 640))


def test_a_projection_that_is_none() -> None:
    with pytest.raises(UserError, match=r"its projection '\+proj=nothing' cannot be used"):
        find_window(replace(SWISS, projection="+proj=nothing"), SIZE, SWISS, SIZE)
    with pytest.raises(UserError, match="it covers"):
        find_window(replace(LAEA, corners=(0, 0, 1e30, 1e30)), SIZE, LAEA, SIZE)
