"""CF files: where their pixels lie, and the forms that others write."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pyproj
import pytest

import stpredict
from stpredict.data.readers.cf import Cf
from stpredict.data.readers.cf_grid import mapping_name
from stpredict.errors import UserError
from stpredict.frames import FrameSpec, Grid
from stpredict.products import Nowcast, write_product


def centre(grid: Grid, row: int, column: int, height: int, width: int) -> tuple[float, float]:
    """Return longitude and latitude of a pixel, row and column counted as the array has them."""
    left, bottom, right, top = grid.corners
    x = left + (column + 0.5) * (right - left) / width
    y = top - (row + 0.5) * (top - bottom) / height if grid.row_origin == "north" else bottom + (row + 0.5) * (top - bottom) / height
    return pyproj.Transformer.from_crs(grid.projection, "EPSG:4326", always_xy=True).transform(x, y)


def axes(
    height: int = 6, width: int = 8, step: float = 1000.0, units: str = "m", left: float = -3000.0, top: float = 2000.0, flip: bool = False
) -> dict[str, Any]:
    up = top - step * (np.arange(height) + 0.5)
    return {
        "x": ("x", left + step * (np.arange(width) + 0.5), {"units": units, "standard_name": "projection_x_coordinate"}),
        "y": ("y", up[::-1] if flip else up, {"units": units, "standard_name": "projection_y_coordinate"}),
    }


ALBERS = "+proj=aea +lat_0=-30 +lon_0=144 +lat_1=-18 +lat_2=-36 +ellps=GRS80 +units=m +no_defs"
LAEA = "+proj=laea +lat_0=52 +lon_0=10 +x_0=4321000 +y_0=3210000 +ellps=GRS80 +units=m +no_defs"
STEREO = "+proj=stere +lat_0=90 +lat_ts=60 +lon_0=10 +a=6370040 +b=6370040 +units=m +no_defs"


def parameters(projection: str) -> dict[str, Any]:
    return {name: value for name, value in pyproj.CRS.from_user_input(projection).to_cf().items() if name != "crs_wkt"}


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("units", ["m", "km"])
@pytest.mark.parametrize("projection", [ALBERS, LAEA, STEREO])
@pytest.mark.parametrize("form", ["crs_wkt", "spatial_ref", "proj4", "parameters"])
def test_the_grid_lies_where_the_projection_puts_it(
    tmp_path: Path, cf: ModuleType, form: str, projection: str, units: str, flip: bool
) -> None:
    wkt = pyproj.CRS.from_user_input(projection).to_wkt()
    mapping = {
        "crs_wkt": {"crs_wkt": wkt},
        "spatial_ref": {"spatial_ref": wkt},
        "proj4": {"proj4": projection},
        "parameters": parameters(projection),
    }
    scale = 1000.0 if units == "km" else 1.0
    places = axes(units=units, step=2000 / scale, left=4000000 / scale, top=3000000 / scale, flip=flip)
    path = cf.write(tmp_path / "a.nc", attributes={"grid_mapping": "crs"}, coordinates=places, crs=((), 0, mapping[form]))
    grid = Cf(path).facts["grid"]
    assert grid.corners == (4000000.0, 2988000.0, 4016000.0, 3000000.0) and grid.row_origin == ("south" if flip else "north")
    for row, column in ((0, 0), (5, 7), (2, 3)):
        x, y = places["x"][1][column] * scale, places["y"][1][row] * scale
        expected = pyproj.Proj(projection)(x, y, inverse=True)  # of the same ellipsoid
        transform = pyproj.Proj(grid.projection)(x, y, inverse=True)
        np.testing.assert_allclose(transform, expected, atol=1e-9)
        np.testing.assert_allclose(
            centre(grid, row, column, 6, 8), centre(Grid(projection, grid.corners, grid.row_origin), row, column, 6, 8)
        )


def test_a_projection_in_kilometres_has_corners_in_kilometres(tmp_path: Path, cf: ModuleType) -> None:
    kilometres = "+proj=stere +lat_0=90 +lon_0=0.0 +lat_ts=60.0 +a=6378.137 +b=6356.752 +x_0=0 +y_0=0"  # KNMI's: its axes are in km
    path = cf.write(
        tmp_path / "a.nc", attributes={"grid_mapping": "crs"}, coordinates=axes(units="", step=1.0), crs=((), 0, {"proj4": kilometres})
    )
    assert Cf(path).facts["grid"].corners == (-3000.0, 1994.0, -2992.0, 2000.0)
    path = cf.write(tmp_path / "c.nc", attributes={"grid_mapping": "crs"}, coordinates=axes(), crs=((), 0, {"proj4": kilometres}))
    assert Cf(path).facts["grid"].corners == (-3.0, -4.0, 5.0, 2.0)
    told = STEREO.replace("+units=m", "+units=km")
    path = cf.write(tmp_path / "b.nc", attributes={"grid_mapping": "crs"}, coordinates=axes(units="m"), crs=((), 0, {"proj4": told}))
    assert Cf(path).facts["grid"].corners == (-3.0, -4.0, 5.0, 2.0)


@pytest.mark.parametrize("flip", [False, True])
def test_longitude_and_latitude(tmp_path: Path, cf: ModuleType, flip: bool) -> None:
    latitude = 50 + 0.01 * np.arange(6)
    places = {
        "lat": ("lat", (latitude if flip else latitude[::-1]).astype(np.float32), {"units": "degrees_north"}),
        "lon": ("lon", (4 + 0.01 * np.arange(8)).astype(np.float32), {"units": "degrees_east"}),
    }
    grid = Cf(cf.write(tmp_path / "a.nc", dims=("time", "lat", "lon"), coordinates=places)).facts["grid"]
    np.testing.assert_allclose(grid.corners, (3.995, 49.995, 4.075, 50.055), atol=1e-5)
    assert grid.row_origin == ("south" if flip else "north")
    np.testing.assert_allclose(centre(grid, 0, 2, 6, 8), (4.02, 50.0 if flip else 50.05), atol=1e-5)


def test_without_a_grid_mapping_there_is_no_grid(tmp_path: Path, cf: ModuleType) -> None:
    path = cf.write(tmp_path / "a.nc", coordinates=axes())
    assert Cf(path).facts["grid"] is None
    assert Cf(path, projection=LAEA).facts["grid"] == Grid(LAEA, (-3000.0, -4000.0, 5000.0, 2000.0), "north")
    assert Cf(cf.write(tmp_path / "b.nc")).facts["grid"] is None


def test_bad_grids(tmp_path: Path, cf: ModuleType) -> None:
    uneven = axes()
    uneven["x"] = ("x", np.array([0.0, 1, 2, 3, 4, 5, 6, 9]), {"units": "m"})
    path = cf.write(tmp_path / "a.nc", attributes={"grid_mapping": "crs"}, coordinates=uneven, crs=((), 0, {"proj4": LAEA}))
    with pytest.raises(UserError, match=r"a\.nc': the pixels are not evenly spaced along x"):
        Cf(path)
    assert Cf(path, projection="none").facts["grid"] is None
    for mapping in ({"crs_wkt": "PROJCS[nonsense"}, {"grid_mapping_name": "unheard_of"}, {"proj4": "+proj=nothing"}):
        path = cf.write(tmp_path / "b.nc", attributes={"grid_mapping": "crs"}, coordinates=axes(), crs=((), 0, mapping))
        with pytest.raises(UserError, match=r"b\.nc' has a grid mapping that cannot be understood"):
            Cf(path)
    path = cf.write(tmp_path / "c.nc", attributes={"grid_mapping": "crs"}, coordinates=axes(units="furlong"), crs=((), 0, {"proj4": LAEA}))
    with pytest.raises(UserError, match="x is in furlong, which does not fit"):
        Cf(path)


def test_extended_grid_mappings() -> None:
    assert mapping_name("crs", ["y", "x"]) == "crs"
    assert mapping_name("wgs: lat lon crs: x y", ["time", "y", "x"]) == "crs"
    assert mapping_name("", ["y"]) == ""


def test_our_own_forecasts_can_be_read(tmp_path: Path, cf: ModuleType) -> None:
    spec = FrameSpec(1, 6, 8, units="mm/h", time_step=300.0, period=300.0, grid=Grid(STEREO, (-3000.0, -4000.0, 5000.0, 2000.0), "south"))
    forecast = np.where(cf.RANDOM < 30, np.nan, cf.RANDOM * 0.3).astype(np.float32)[:, np.newaxis]
    times = np.concatenate([cf.TIMES[:1] - np.timedelta64(300, "s"), cf.TIMES]).astype("datetime64[s]")
    write_product(tmp_path / "a.nc", Nowcast("persistence", spec, forecast[:1], forecast, times, "here"))
    with pytest.raises(UserError, match="holds several variables, precip_intensity, observed"):
        Cf(tmp_path / "a.nc")
    reader = Cf(tmp_path / "a.nc", variable="precip_intensity")
    np.testing.assert_array_equal(cf.physical(reader), forecast)
    grid = reader.facts["grid"]
    assert grid.corners == spec.grid.corners and grid.row_origin == "south"
    np.testing.assert_allclose(centre(grid, 0, 0, 6, 8), centre(spec.grid, 0, 0, 6, 8), atol=1e-9)
    assert (reader.facts["units"], reader.facts["time_step"], reader.facts["period"]) == ("mm/h", 300, 300)
    assert reader.films[0].times.tolist() == times[1:].tolist()
    assert Cf(tmp_path / "a.nc", variable="observed").films[0].times.tolist() == times[:1].tolist()


def test_the_form_of_pysteps_exporter(tmp_path: Path, cf: ModuleType) -> None:
    """Its NetCDF has no grid mapping for some projections, but the PROJ string of the whole file, and an unused dimension."""
    lon = (("y", "x"), np.zeros((6, 8)), {"standard_name": "longitude", "units": "degrees_east"})
    places = {**axes(flip=False), "time": ("time", np.arange(1, 6) * 300, {"units": "seconds since 2015-05-15 16:00:00"})}
    path = cf.write(tmp_path / "a.nc", attributes={"units": "mm h-1", "coordinates": "y x"}, coordinates=places, lon=lon)
    with h5py.File(path, "r+") as file:
        file.attrs["projection"] = np.bytes_(LAEA)
    reader = Cf(path)
    assert reader.facts["grid"] == Grid(LAEA, (-3000.0, -4000.0, 5000.0, 2000.0), "north")
    assert reader.films[0].times[0] == np.datetime64("2015-05-15T16:05:00")
    # Where it has a grid mapping, that lacks the figure of the Earth, which the string tells.
    mapping = {
        name: value for name, value in parameters(STEREO).items() if "axis" not in name and "ellipsoid" not in name and "radius" not in name
    }
    path = cf.write(tmp_path / "b.nc", attributes={"grid_mapping": "polar"}, coordinates=places, polar=((), 0, mapping))
    with h5py.File(path, "r+") as file:
        file.attrs["projection"] = np.bytes_(STEREO)
    assert Cf(path).facts["grid"].projection == STEREO


def test_rainfields(tmp_path: Path, cf: ModuleType, bom_files: ModuleType) -> None:
    paths = bom_files.write_sample(tmp_path, frames=12)
    reader = Cf(tmp_path, units="mm/h", variable="precipitation")
    for number, path in enumerate(paths):  # 0.05 mm a unit, ten times 6 minutes in an hour
        np.testing.assert_allclose(cf.physical(reader)[number, 0], cf.decoded(path, "precipitation") * 10, rtol=1e-6)
    assert np.isnan(cf.physical(reader)).any() and reader.read(0, range(12)).dtype == np.int16
    assert reader.facts["period"] == 360 and reader.facts["grid"].row_origin == "north"
    grid = reader.facts["grid"]
    assert grid.corners == (-16000.0, -12000.0, 16000.0, 12000.0)
    # The middle of the grid lies where the projection has its origin.
    np.testing.assert_allclose(pyproj.Proj(grid.projection)(0, 0, inverse=True), (144.752, -37.852), atol=1e-9)
    clips = stpredict.load_data("bom", tmp_path, context=2, horizon=2)
    assert clips.spec.units == "mm/h" and len(clips) == 5
