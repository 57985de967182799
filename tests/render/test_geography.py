"""Where pixels lie on Earth, against closed forms and pyproj."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyproj
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stpredict.frames import Grid
from stpredict.render.geography import coast_lines, draw_lines, lines_in_pixels, read_polylines, scale_bar

Line = NDArray[np.float64]
STEREOGRAPHIC = "+proj=stere +lat_0=90 +lon_0=0 +lat_ts=60 +a=6378137 +b=6356752 +units=m"
COAST = np.array([[3.57, 51.44], [4.12, 51.98], [4.57, 52.46], [4.75, 52.96]])
BORDER = np.array([[7.2, 53.3], [7.0, 52.2], [6.0, 51.8]])


def write_shapefile(path: Path, records: list[tuple[int, list[Line]]]) -> None:
    """Write records of a kind, each of several parts."""
    body = b""
    for number, (kind, parts) in enumerate(records, start=1):
        points = np.concatenate(parts)
        starts = np.cumsum([0, *(len(part) for part in parts[:-1])]).astype("<i4")
        content = struct.pack("<i4d2i", kind, *points.min(axis=0), *points.max(axis=0), len(parts), len(points))
        content += starts.tobytes() + points.astype("<f8").tobytes()
        body += struct.pack(">2i", number, len(content) // 2) + content
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(">i20xi", 9994, 50 + len(body) // 2) + bytes(72) + body)


@given(st.floats(1e-3, 50), st.floats(20, 1000))
@settings(max_examples=200, deadline=None)
def test_a_scale_bar_is_the_longest_round_number_that_fits(pixel_km: float, longest: float) -> None:
    kilometres, pixels = scale_bar(pixel_km, longest)
    assert f"{kilometres:e}"[0] in "125" and float(f"{kilometres:.0e}") == pytest.approx(kilometres)
    assert abs(pixels - kilometres / pixel_km) <= 0.5
    assert 0.4 * longest - 1 <= pixels <= longest + 0.5


def test_lines_are_where_pyproj_puts_them() -> None:
    projection = pyproj.Proj(STEREOGRAPHIC)
    grid = Grid(STEREOGRAPHIC, (0.0, -4415000.0, 700000.0, -3650000.0))
    first, second = lines_in_pixels([COAST, BORDER], grid, 765, 700, projection)
    transformer = pyproj.Transformer.from_crs(pyproj.CRS(STEREOGRAPHIC).geodetic_crs, STEREOGRAPHIC, always_xy=True)
    for line, degrees in ((first, COAST), (second, BORDER)):
        x, y = transformer.transform(degrees[:, 0], degrees[:, 1])
        np.testing.assert_allclose(line, np.stack([x / 1000, (-3650000.0 - y) / 1000], axis=1), atol=1e-3)
    # The middle of a pixel comes back to the place that it is the middle of.
    x, y = 12.5, 400.5
    longitude, latitude = projection(x * 1000, -3650000.0 - y * 1000, inverse=True)
    (line,) = lines_in_pixels([np.array([[longitude, latitude]] * 2)], grid, 765, 700, projection)
    np.testing.assert_allclose(line, [[x, y]] * 2, atol=1e-6)


def test_the_order_of_rows_moves_no_line() -> None:
    corners = (2.0, 50.0, 8.0, 54.0)
    projection = pyproj.Proj("+proj=longlat")
    north, south = (lines_in_pixels([COAST], Grid("+proj=longlat", corners, origin), 40, 60, projection) for origin in ("north", "south"))
    np.testing.assert_array_equal(north[0], south[0])
    np.testing.assert_allclose(north[0], np.stack([(COAST[:, 0] - 2) * 10, (54 - COAST[:, 1]) * 10], axis=1))


def test_what_lies_far_away_or_nowhere_is_cut_out() -> None:
    grid = Grid("", (0.0, 0.0, 10.0, 10.0))
    line = np.array([[1.0, 1.0], [2.0, 2.0], [np.inf, 3.0], [4.0, 4.0], [5.0, 5.0], [500.0, 5.0], [6.0, 6.0], [7.0, np.nan]])

    def as_it_is(x: Line, y: Line) -> tuple[Line, Line]:
        return x, y

    pieces = lines_in_pixels([line, np.array([[8.0, 8.0], [9.0, 9.0]])], grid, 10, 10, as_it_is)
    assert [piece.tolist() for piece in pieces] == [[[1, 9], [2, 8]], [[4, 6], [5, 5]], [[8, 2], [9, 1]]]
    assert lines_in_pixels([], grid, 10, 10, as_it_is) == ()


def test_the_whole_world_in_a_polar_projection_is_drawn_without_a_wild_line() -> None:
    """Circles of latitude become circles around the pole, and no chord crosses them."""
    circles = [np.stack([np.linspace(-180, 180, 361), np.full(361, latitude)], axis=1) for latitude in np.arange(-90.0, 91.0, 10.0)]
    grid = Grid(STEREOGRAPHIC, (-3e6, -3e6, 3e6, 3e6))
    lines = lines_in_pixels(circles, grid, 300, 300, pyproj.Proj(STEREOGRAPHIC))
    radii = [np.hypot(*(line - 150).T) for line in lines]
    assert all(np.ptp(radius) < 1e-6 * 300 for radius in radii)
    assert len(radii) > 3


@pytest.mark.parametrize("scale", [1, 3])
def test_a_line_along_the_middles_of_pixels_is_drawn_on_them_alone(scale: int) -> None:
    row, column = np.array([[0.0, 2.5], [8.0, 2.5]]), np.array([[5.5, 1.0], [5.5, 5.9]])
    drawn = draw_lines([row, column], 6, 8, scale)
    assert drawn.shape == (6 * scale, 8 * scale)
    rows, columns = np.nonzero(drawn)
    middle = scale // 2
    assert set(rows[columns == 0]) == {2 * scale + middle}
    assert set(columns[rows == 6 * scale - 1]) == {5 * scale + middle}
    assert drawn[2 * scale + middle].all()
    assert not draw_lines([], 6, 8, scale).any()


def test_shapefiles_are_read_part_by_part(tmp_path: Path) -> None:
    path = tmp_path / "lines.shp"
    write_shapefile(path, [(3, [COAST, BORDER]), (5, [BORDER]), (13, [BORDER])])
    lines = list(read_polylines(path))
    assert [line.tolist() for line in lines] == [COAST.tolist(), BORDER.tolist(), BORDER.tolist()]
    path.write_bytes(path.read_bytes()[:-20])
    assert len(list(read_polylines(path))) == 2
    path.write_bytes(b"no shapefile")
    assert list(read_polylines(path)) == []


def test_coasts_are_those_that_cartopy_has_on_this_machine_and_else_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cartopy: Any = ModuleType("cartopy")
    cartopy.config = {"pre_existing_data_dir": "", "data_dir": tmp_path / "data"}
    monkeypatch.setitem(sys.modules, "cartopy", cartopy)
    assert coast_lines() == []
    folder = tmp_path / "data/shapefiles/natural_earth"
    write_shapefile(folder / "physical/ne_110m_coastline.shp", [(3, [COAST[:2]])])
    write_shapefile(folder / "physical/ne_50m_coastline.shp", [(3, [COAST])])
    write_shapefile(folder / "cultural/ne_110m_admin_0_boundary_lines_land.shp", [(3, [BORDER])])
    assert [line.tolist() for line in coast_lines()] == [COAST.tolist(), BORDER.tolist()]
    monkeypatch.setitem(sys.modules, "cartopy", None)
    assert coast_lines() == []
