"""The bridge to pysteps: the same dictionary as its own importers make."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from stpredict.baselines import Persistence
from stpredict.errors import UserError
from stpredict.products import Nowcast, to_pysteps, write_product

pytest.importorskip("pyproj")

MCH = {
    "x1": 255000.0,
    "y1": -160000.0,
    "x2": 965000.0,
    "y2": 480000.0,
    "cartesian_unit": "m",
    "yorigin": "upper",
    "unit": "mm/h",
    "transform": None,
    "zerovalue": 0.0,
    "zr_a": 316.0,
    "zr_b": 1.5,
    "accutime": 5.0,
}
"""What pysteps 1.21 says of a MeteoSwiss picture (import_mch_gif with unit mm/h; sizes of pixels are those of its 640 x 710)."""


def test_the_dictionary_of_pysteps(swiss: Nowcast) -> None:
    product = replace(swiss, spec=replace(swiss.spec, z_r=(316.0, 1.5)))
    values, metadata, times = to_pysteps(product)
    np.testing.assert_array_equal(values, swiss.forecast[:, 0])
    assert {key: metadata[key] for key in MCH} == MCH
    assert (metadata["xpixelsize"], metadata["ypixelsize"]) == (710000 / 16, 640000 / 20)
    assert times == [datetime(2020, 2, 29, 0, minute) for minute in (0, 5, 10)] == metadata["timestamps"].tolist()
    assert "+proj=somerc" in metadata["projection"] and metadata["threshold"] == 0.1


def test_rows_from_the_south_and_members(nowcast: Nowcast) -> None:
    values, metadata, _ = to_pysteps(replace(nowcast, forecast=np.stack([nowcast.forecast] * 4), members=tuple("abcd")))
    assert values.shape == (4, 3, 20, 16)
    assert metadata["yorigin"] == {"north": "upper", "south": "lower"}[nowcast.spec.grid.row_origin]


def test_a_file_that_was_written_comes_back_the_same(nowcast: Nowcast, tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray")
    write_product(tmp_path / "next.nc", nowcast)
    with xarray.open_dataset(tmp_path / "next.nc", decode_coords="all") as data:
        values, metadata, times = to_pysteps(data["precip_intensity"])
    expected_values, expected, expected_times = to_pysteps(nowcast)
    np.testing.assert_array_equal(values, expected_values)
    assert times == expected_times
    for key in ("x1", "y1", "x2", "y2", "xpixelsize", "ypixelsize", "yorigin", "unit", "accutime", "cartesian_unit"):
        assert metadata[key] == (expected[key] if isinstance(expected[key], str) else pytest.approx(expected[key], abs=1e-6))


def test_what_pysteps_cannot_take(nowhere: Nowcast, colour: Nowcast, swiss: Nowcast) -> None:
    xarray = pytest.importorskip("xarray")
    for product in (nowhere, colour):
        with pytest.raises(UserError, match="of one channel with a clock and a grid"):
            to_pysteps(product)
    with pytest.raises(UserError, match="knows the units mm/h, mm, dBZ, not 'kg/m2'"):
        to_pysteps(replace(swiss, spec=replace(swiss.spec, units="kg/m2")))
    with pytest.raises(UserError, match="this DataArray has no coordinates time, y, x"):
        to_pysteps(xarray.DataArray(swiss.forecast[:, 0], dims=("time", "y", "x")))


def test_pysteps_verifies_it(swiss: Nowcast) -> None:
    """CSI of a forecast with itself is 1; and pysteps turns it into dBR by the dictionary."""
    detcatscores = pytest.importorskip("pysteps.verification.detcatscores")
    transformation = pytest.importorskip("pysteps.utils.transformation")
    values, metadata, _ = to_pysteps(swiss)
    assert detcatscores.det_cat_fct(values[0], values[0], thr=1.0, scores="CSI")["CSI"] == 1
    logarithms, after = transformation.dB_transform(values.copy(), metadata, threshold=metadata["threshold"])
    rain = values > 0.1
    np.testing.assert_allclose(logarithms[rain], 10 * np.log10(values[rain]), rtol=1e-5)
    assert after["transform"] == "dB"


def test_a_forecast_from_a_dataarray_keeps_its_places(nowcast: Nowcast, tmp_path: Path) -> None:
    """What xarray reads with its coordinates goes through a predictor and on to pysteps."""
    xarray = pytest.importorskip("xarray")
    write_product(tmp_path / "next.nc", nowcast)
    with xarray.open_dataset(tmp_path / "next.nc", decode_coords="all") as data:
        observed = data["observed"].rename(observed_time="time").load()
    future = Persistence().forecast(observed, 2)
    assert future.dims == ("time", "y", "x") and set(future.coords) == set(observed.coords) - {"observed_time_bounds"}
    for name in future.coords:
        if name != "time":
            np.testing.assert_array_equal(future.coords[name].values, observed.coords[name].values)
    values, metadata, times = to_pysteps(future)
    _, expected, expected_times = to_pysteps(nowcast)
    assert times == expected_times[:2] and metadata["x1"] == pytest.approx(expected["x1"]) and metadata["yorigin"] == expected["yorigin"]
    np.testing.assert_array_equal(values[1], nowcast.observed[1, 0])
    with xarray.open_dataset(tmp_path / "next.nc") as data, pytest.raises(UserError, match='open the file with decode_coords="all"'):
        to_pysteps(data["precip_intensity"])
