"""GeoTIFF, read again tag by tag, and by GDAL where that is there."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stpredict.errors import UserError
from stpredict.products import Nowcast, write_product

pyproj = pytest.importorskip("pyproj")
tifffile = pytest.importorskip("tifffile")


def read_keys(page: Any) -> dict[int, Any]:
    """Return the GeoKeys by the rules of the standard: a number, or a piece of the text."""
    numbers, texts = page.tags[34735].value, page.tags.get(34737)
    keys: dict[int, Any] = {}
    for place in range(4, len(numbers), 4):
        key, where, count, value = numbers[place : place + 4]
        keys[key] = value if where == 0 else texts.value[value : value + count].rstrip("|")
    assert len(keys) == numbers[3] and list(keys) == sorted(keys)
    return keys


def projection(keys: dict[int, Any]) -> Any:
    if keys[1024] == 2:
        return pyproj.CRS.from_epsg(keys[2048])
    if 3072 in keys:
        return pyproj.CRS.from_epsg(keys[3072])
    return pyproj.CRS.from_wkt(keys[3073].removeprefix("ESRI PE String = "))


def test_pixels_lie_where_they_lay(nowcast: Nowcast, truth: Any, tmp_path: Path) -> None:
    write_product(tmp_path / "next.tif", nowcast)
    grid = nowcast.spec.grid
    north_up = nowcast.forecast[:, 0] if grid.row_origin == "north" else nowcast.forecast[:, 0, ::-1]
    with tifffile.TiffFile(tmp_path / "next.tif") as file:
        page = file.pages[0]
        np.testing.assert_array_equal(file.asarray(), north_up)
        dx, dy, _ = page.tags[33550].value
        left, top = page.tags[33922].value[3:5]
        keys = read_keys(page)
        metadata = page.tags[42112].value
    assert keys[1025] == 1, "a pixel is an area, and the point that is told is its corner"
    crs = projection(keys)
    globe = crs.target_crs if crs.is_bound else crs.geodetic_crs
    to_degrees = pyproj.Transformer.from_crs(crs, globe, always_xy=True)
    for row, column in truth.pixels:
        below = row if grid.row_origin == "north" else north_up.shape[1] - 1 - row
        place = to_degrees.transform(left + (column + 0.5) * dx, top - (below + 0.5) * dy)
        assert truth.distance(grid, row, column, *place) < 0.1
    assert re.findall(r'sample="(\d)" role="description">(.*?)<', metadata) == [(str(n), f"2020-02-29T00:{5 * n:02}:00Z") for n in range(3)]
    assert '"LEAD_TIME_SECONDS" sample="2">900<' in metadata and "no frame was missing" in metadata


def test_gdal_reads_it(nowcast: Nowcast, truth: Any, tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    write_product(tmp_path / "next.tif", nowcast)
    grid = nowcast.spec.grid
    with rasterio.open(tmp_path / "next.tif") as file:
        assert file.units == ("mm/h",) * 3 and np.isnan(file.nodata) and file.descriptions[0] == "2020-02-29T00:00:00Z"
        crs = pyproj.CRS.from_wkt(file.crs.to_wkt())
        assert crs.is_bound == ("towgs84" in grid.projection), "the shift of the datum is kept"
        globe = crs.target_crs if crs.is_bound else crs.geodetic_crs
        for row, column in truth.pixels:
            place = file.xy(row if grid.row_origin == "north" else file.height - 1 - row, column)
            if file.crs.is_projected:
                place = pyproj.Transformer.from_crs(crs, globe, always_xy=True).transform(*place)
            assert truth.distance(grid, row, column, *place) < 0.1
            assert file.crs.is_projected or file.crs.to_epsg() == 4326


def test_what_does_not_fit(colour: Nowcast, nowhere: Nowcast, swiss: Nowcast, tmp_path: Path) -> None:
    globe = replace(swiss.spec.grid, projection="+proj=longlat +R=6371000", corners=(5.0, 45.0, 11.0, 49.0))
    for product, sentence in (
        (nowhere, "these frames have no grid"),
        (colour, "these frames have 3 channels"),
        (replace(swiss, spec=replace(swiss.spec, grid=globe)), "cannot say the globe of '.proj=longlat .R=6371000'"),
    ):
        with pytest.raises(UserError, match=sentence):
            write_product(tmp_path / "next.tif", product)
    assert not list(tmp_path.iterdir())
