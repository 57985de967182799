"""NetCDF by the CF conventions, read again with xarray and pyproj."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stpredict
from stpredict.errors import UserError
from stpredict.frames import Grid
from stpredict.products import Nowcast, write_product

netCDF4 = pytest.importorskip("netCDF4")
pyproj = pytest.importorskip("pyproj")
xarray = pytest.importorskip("xarray")


def to_degrees(crs: Any, x: float, y: float) -> tuple[float, float]:
    globe = crs.target_crs if crs.is_bound else crs.geodetic_crs
    return pyproj.Transformer.from_crs(crs, globe, always_xy=True).transform(x, y)


def test_pixels_lie_where_they_lay(nowcast: Nowcast, truth: Any, tmp_path: Path) -> None:
    """By the well-known text, by the CF attributes alone, and by longitude and latitude, in the rows' own order."""
    write_product(tmp_path / "next.nc", nowcast)
    grid = nowcast.spec.grid
    with xarray.open_dataset(tmp_path / "next.nc") as data:
        rain = data["precip_intensity"]
        mapping = data[rain.attrs["grid_mapping"]]
        np.testing.assert_array_equal(rain.values, nowcast.forecast[:, 0])
        plain = {name: value for name, value in mapping.attrs.items() if name not in ("crs_wkt", "proj4")}
        ways = {"crs_wkt": pyproj.CRS.from_wkt(mapping.attrs["crs_wkt"])}
        if plain["grid_mapping_name"] != "oblique_mercator":  # for which CF has no angle to turn the grid by
            ways["attributes"] = pyproj.CRS.from_cf(plain)
        ways["proj4"] = pyproj.CRS(mapping.attrs["proj4"])
        for row, column in truth.pixels:
            x, y = float(data["x"][column]), float(data["y"][row])
            for way, crs in ways.items():
                assert truth.distance(grid, row, column, *to_degrees(crs, x, y)) < 0.1, way
            if "longitude" in data:
                assert truth.distance(grid, row, column, float(data["longitude"][row, column]), float(data["latitude"][row, column])) < 1
        assert (np.diff(data["y"].values) > 0).all() == (grid.row_origin == "south")
        geographic = plain["grid_mapping_name"] == "latitude_longitude"
        assert data["x"].attrs["units"] == ("degrees_east" if geographic else "m") and ("longitude" in data) != geographic


def test_what_stands_in_the_file(swiss: Nowcast, tmp_path: Path) -> None:
    product = replace(swiss, facts={**swiss.facts, "institution": "Rain & Co"}, spec=replace(swiss.spec, period=300.0))
    write_product(tmp_path / "next.nc", product)
    with netCDF4.Dataset(tmp_path / "next.nc") as file:
        assert file.Conventions == "CF-1.8" and file.institution == "Rain & Co" and file.stpredict_version == stpredict.__version__
        assert file.source == f"stpredict {stpredict.__version__}, predictor mine (mine abc)" and file.input_files == "radar"
        assert file.comment.startswith("Observed: 2 frames, 2020-02-28 23:50 to 2020-02-28 23:55 UTC, every 5 min; no frame was missing")
        rain = file["precip_intensity"]
        assert rain.dimensions == ("time", "y", "x") and rain.units == "mm h-1" and rain.standard_name == "lwe_precipitation_rate"
        assert rain.grid_mapping == "oblique_mercator" and rain.cell_methods == "time: mean"
        assert rain.coordinates.split() == ["lead_time", "forecast_reference_time", "longitude", "latitude"]
        assert rain._FillValue == np.float32(9.96921e36) and rain[0].mask[:3, :3].all() and rain[0].mask.sum() == 9
        assert rain[0, -1, -1] == 0 and rain.filters()["zlib"]
        assert file["time"].units == "seconds since 2020-02-28 23:55:00" and file["time"][:].tolist() == [300, 600, 900]
        assert file["time_bounds"][:].tolist() == [[0, 300], [300, 600], [600, 900]]
        assert file["lead_time"].standard_name == "forecast_period" and file["lead_time"].units == "s"
        # CF 1.8 knows no integers of 64 bits, and a coordinate has no fill value.
        assert all(variable.dtype != np.int64 for variable in file.variables.values())
        assert not [name for name in ("time", "observed_time", "x", "y", "lead_time") if "_FillValue" in file[name].ncattrs()]
        assert not [name for name in file.variables if "coordinates" in file[name].ncattrs() and "y" not in file[name].dimensions]
    with xarray.open_dataset(tmp_path / "next.nc") as data:
        assert data["time"].values.astype("datetime64[m]").astype(str).tolist() == [f"2020-02-29T00:{minute:02}" for minute in (0, 5, 10)]
        assert data["observed_time"].values[1] == data["forecast_reference_time"].values == np.datetime64("2020-02-28T23:55")
        np.testing.assert_array_equal(data["observed"].values, swiss.observed[:, 0])


def test_members_thresholds_and_frames_that_were_made_up(swiss: Nowcast, tmp_path: Path) -> None:
    forecast = np.stack([swiss.forecast, swiss.forecast / 2, np.full_like(swiss.forecast, 3.0)])
    forecast[2, :, :, :2, :2] = np.nan
    names = ("a 1", "a 2", "b 1")
    product = replace(swiss, forecast=forecast, members=names, thresholds=(3.0, 10.0), filled=(True, False), fill_rule="linear")
    write_product(tmp_path / "next.nc", product)
    with xarray.open_dataset(tmp_path / "next.nc") as data:
        assert data["precip_intensity"].dims == ("member", "time", "y", "x") and data["member"].attrs["standard_name"] == "realization"
        chances = data["probability_of_exceedance"]
        assert chances.dims == ("threshold", "time", "y", "x") and data["threshold"].values.tolist() == [3, 10]
        members = forecast[:, :, 0].astype(np.float64)
        count = np.sum(~np.isnan(members), axis=0)
        expected = [np.where(count > 0, np.nansum(members >= x, axis=0) / np.maximum(count, 1), np.nan) for x in (3, 10)]
        np.testing.assert_allclose(chances.values, expected, rtol=1e-6)  # and NaN only where no member has a value
        assert np.isnan(chances.values[0, 0, 0, 0]) and chances.values[0, 0, 2, 2] == 1 and chances.values[1, 0, 2, 2] == 0
        assert data["observed_quality"].values.tolist() == [1, 0]
        assert "missing and made up (linear): 2020-02-28 23:50" in data.attrs["comment"]


def test_channels_and_frames_without_grid_or_clock(colour: Nowcast, nowhere: Nowcast, tmp_path: Path) -> None:
    write_product(tmp_path / "colour.nc", colour)
    with xarray.open_dataset(tmp_path / "colour.nc") as data:
        assert data["forecast"].dims == ("time", "channel", "y", "x") and data["forecast"].attrs["units"] == "1"
        np.testing.assert_array_equal(data["forecast"].values, colour.forecast)
    write_product(tmp_path / "timeless.nc", replace(nowhere, times=None, spec=replace(nowhere.spec, time_step=None)))
    with xarray.open_dataset(tmp_path / "timeless.nc") as data:
        assert set(data.variables) == {"precip_intensity", "observed", "lead"} and data["lead"].values.tolist() == [1, 2, 3]
        assert data["precip_intensity"].dims == ("lead", "y", "x") and data["observed"].dims == ("observed_frame", "y", "x")


def test_projections_that_are_none(swiss: Nowcast, tmp_path: Path) -> None:
    for projection, sentence in {"+proj=nonsense": "cannot be used", "+proj=ob_tran +o_proj=longlat +o_lat_p=40": "turns the pole"}.items():
        grid = Grid(projection, (0, 0, 1, 1))
        with pytest.raises(UserError, match=sentence):
            write_product(tmp_path / "next.nc", replace(swiss, spec=replace(swiss.spec, grid=grid)))
    assert not list(tmp_path.iterdir())


def test_pysteps_reads_it(swiss: Nowcast, nowcast: Nowcast, tmp_path: Path) -> None:
    """It wants these names of variables, minutes since the newest frame, and rows from the north; it knows one projection alone."""
    importers = pytest.importorskip("pysteps.io.nowcast_importers")
    write_product(tmp_path / "next.nc", nowcast)
    values, metadata = importers.import_netcdf_pysteps(str(tmp_path / "next.nc"), onerror="raise")
    np.testing.assert_array_equal(values, nowcast.forecast[:, 0])
    assert metadata["unit"] == "mm/h" and metadata["leadtimes"].tolist() == [5, 10, 15]
    if "stere" in nowcast.spec.grid.projection:
        edges = [metadata[edge] / 1000 for edge in ("x1", "y1", "x2", "y2")]
        assert (
            edges == pytest.approx(nowcast.spec.grid.corners)
            and "+proj=stere +lon_0=0.0 +lat_0=90.0 +lat_ts=60.0" in metadata["projection"]
        )
