"""CF files: numbers, units, dimensions, times."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pytest
import xarray

import stpredict
from stpredict.data.checking import check_data
from stpredict.data.readers.cf import Cf
from stpredict.data.readers.cf_files import address
from stpredict.data.readers.cf_values import FILL, convert_units
from stpredict.data.readers.finding import BadFiles
from stpredict.errors import UserError

ENCODINGS: dict[str, tuple[str, float, dict[str, Any]]] = {
    "int16": ("f8", 0.05, {"dtype": "int16", "scale_factor": 0.05, "add_offset": 1.0, "_FillValue": -9999}),
    "uint8": ("f8", 0.5, {"dtype": "uint8", "scale_factor": 0.5, "_FillValue": 255}),
    "negative scale": ("f8", 0.5, {"dtype": "int16", "scale_factor": -0.5, "_FillValue": 9999}),
    "int32": ("f8", 0.5, {"dtype": "int32", "scale_factor": 1e-5, "_FillValue": -(2**31)}),
    "float NaN": ("f4", 0.3, {"_FillValue": np.float32(np.nan)}),
    "float fill": ("f4", 0.3, {"_FillValue": np.float32(-9999.9)}),
    "double": ("f8", 0.3, {"_FillValue": -1e30}),
    "packed float": ("f8", 0.3, {"dtype": "float32", "scale_factor": 0.1, "_FillValue": -999.0}),
    "unsigned": ("f8", 1.0, {"dtype": "int8", "_Unsigned": "true", "_FillValue": np.int8(-1)}),
}
"""Of the values: their type and a factor; and how they are stored."""


@pytest.mark.parametrize("kind", ENCODINGS)
@pytest.mark.parametrize("engine", ["NETCDF4", "NETCDF3_64BIT"])
def test_numbers_are_those_that_xarray_decodes(tmp_path: Path, cf: ModuleType, kind: str, engine: str) -> None:
    dtype, factor, encoding = ENCODINGS[kind]
    if engine != "NETCDF4" and kind == "uint8":
        pytest.skip("the classic form has no unsigned bytes")
    values = np.where(cf.RANDOM < 30, np.nan, cf.RANDOM * factor).astype(dtype)
    reader = Cf(cf.write(tmp_path / "a.nc", values, encoding=encoding, form=engine))
    expected = cf.decoded(tmp_path / "a.nc")
    assert np.isnan(expected).sum() == (cf.RANDOM < 30).sum() > 0
    np.testing.assert_allclose(cf.physical(reader)[:, 0], expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(cf.physical(reader, range(1, 5, 2))[:, 0], cf.physical(reader)[1:5:2, 0])
    stored = reader.read(0, range(5))
    assert stored.dtype == {"int16": "i2", "uint8": "u1", "negative scale": "i2", "unsigned": "u1"}.get(kind, "f4")
    assert not np.isnan(stored.astype(np.float64)).any()  # what is declared missing is a code


def test_nan_that_nobody_declared_is_left_to_the_card(tmp_path: Path, cf: ModuleType) -> None:
    values = np.where(cf.RANDOM < 30, np.nan, cf.RANDOM * 0.3).astype(np.float32)
    reader = Cf(cf.write(tmp_path / "a.nc", values, encoding={"_FillValue": None}))
    np.testing.assert_array_equal(np.isnan(reader.read(0, range(5))[:, 0]), cf.RANDOM < 30)


@pytest.mark.parametrize(
    ("attributes", "kept"),
    [
        ({"valid_range": np.array([10, 150], np.int16)}, (10, 150)),
        ({"valid_min": np.int16(40)}, (40, 10**6)),
        ({"valid_max": np.int16(90)}, (-(10**6), 90)),
        ({"valid_range": np.array([0.5, 4.5])}, (10, 90)),  # of unpacked numbers, since they are not of the stored type
    ],
)
def test_what_lies_outside_of_the_valid_range_is_missing(
    tmp_path: Path, cf: ModuleType, attributes: dict[str, Any], kept: tuple[int, int]
) -> None:
    stored = cf.RANDOM.astype(np.int16)
    path = cf.write(tmp_path / "a.nc", stored, {"scale_factor": 0.05, "_FillValue": np.int16(7), **attributes})
    inside = (stored >= kept[0]) & (stored <= kept[1]) & (stored != 7)
    assert 0 < inside.sum() < inside.size
    np.testing.assert_allclose(cf.physical(Cf(path))[:, 0], np.where(inside, stored * 0.05, np.nan), rtol=1e-6)
    path = cf.write(tmp_path / "b.nc", stored, {"scale_factor": 0.05, **attributes}, {"_FillValue": None})
    inside = (stored >= kept[0]) & (stored <= kept[1])
    np.testing.assert_allclose(cf.physical(Cf(path))[:, 0], np.where(inside, stored * 0.05, np.nan), rtol=1e-6)


def test_valid_range_of_floats(tmp_path: Path, cf: ModuleType) -> None:
    values = cf.RANDOM.astype(np.float32)
    reader = Cf(cf.write(tmp_path / "a.nc", values, {"valid_range": np.array([10, 150], np.float32)}))
    np.testing.assert_array_equal(cf.physical(reader)[:, 0], np.where((values >= 10) & (values <= 150), values, np.nan))


def test_several_missing_values(tmp_path: Path, cf: ModuleType) -> None:
    reader = Cf(
        cf.write(tmp_path / "a.nc", cf.RANDOM.astype(np.int16), {"missing_value": np.array([3, 5], np.int16), "_FillValue": np.int16(9)})
    )
    assert reader.packing.missing == (3.0, 5.0, 9.0)
    np.testing.assert_array_equal(np.isnan(cf.physical(reader)[:, 0]), np.isin(cf.RANDOM, [3, 5, 9]))


def test_what_was_never_written_is_missing(tmp_path: Path, cf: ModuleType) -> None:
    with h5py.File(cf.write(tmp_path / "a.nc", cf.RANDOM.astype(np.uint16), encoding={"_FillValue": None}), "r+") as file:
        file["rain"][0, 0, :2] = 65535
    assert np.isnan(cf.physical(Cf(tmp_path / "a.nc"))).sum() == 2


def test_dimensions_by_attributes_in_any_order(tmp_path: Path, cf: ModuleType) -> None:
    values = np.moveaxis(cf.RANDOM, 0, -1)[:, ::-1].astype(np.float32)
    places = {
        "a": ("a", np.arange(6.0), {"axis": "Y"}),
        "b": ("b", np.arange(8.0), {"standard_name": "projection_x_coordinate"}),
        "c": ("c", cf.TIMES),
        "time": None,
    }
    reader = Cf(cf.write(tmp_path / "a.nc", values, dims=("a", "b", "c"), coordinates=places))
    np.testing.assert_array_equal(cf.physical(reader)[:, 0], np.moveaxis(values, -1, 0))
    assert reader.films[0].times.tolist() == cf.TIMES.astype("datetime64[s]").tolist()


def test_dimensions_by_the_card_and_further_ones(tmp_path: Path, cf: ModuleType) -> None:
    values = np.stack([cf.RANDOM, cf.RANDOM + 1000]).astype(np.float32)[:, :, np.newaxis]
    path = cf.write(tmp_path / "a.nc", values, dims=("member", "time", "level", "u", "v"))
    settings = {"dimensions": {"y": "u", "x": "v"}}
    with pytest.raises(UserError, match="2 numbers along 'member': say which with the reader's setting select"):
        Cf(path, variable="rain", **settings)
    np.testing.assert_array_equal(cf.physical(Cf(path, select={"member": 1}, **settings))[:, 0], cf.RANDOM + 1000)
    with pytest.raises(UserError, match="select asks for number 2 along 'member', which has 0 to 1"):
        Cf(path, select={"member": 2}, **settings)
    with pytest.raises(UserError, match="not 'z'"):
        Cf(path, dimensions={"z": "u"})
    with pytest.raises(UserError, match="say which is y and x"):
        Cf(path, variable="rain")


def test_several_variables(tmp_path: Path, cf: ModuleType) -> None:
    others = {"snow": (("time", "y", "x"), np.zeros(cf.SHAPE, np.float32), {"units": "mm"}), "height": (("y", "x"), np.zeros((6, 8)))}
    path = cf.write(tmp_path / "a.nc", **others)
    with pytest.raises(UserError, match=r"a\.nc' holds several variables, rain, snow: say which"):
        Cf(path)
    assert Cf(path, variable="snow").facts["units"] == "mm" and Cf(path, variable="rain").facts["units"] == "mm/h"
    with pytest.raises(UserError, match="no variable 'rian'; did you mean 'rain'"):
        Cf(path, variable="rian")
    with pytest.raises(UserError, match="say which is y and x"):
        Cf(path, variable="time")


def test_what_other_variables_point_to_is_no_candidate(tmp_path: Path, cf: ModuleType) -> None:
    quality = (("time", "y", "x"), np.zeros(cf.SHAPE, np.int8))
    place = {"lat2": (("y", "x"), np.zeros((6, 8))), "quality": quality}
    path = cf.write(tmp_path / "a.nc", attributes={"ancillary_variables": "quality", "coordinates": "lat2"}, **place)
    assert Cf(path).read(0, range(1)).shape == (1, 1, 6, 8)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: d.drop_vars("time"), r"a\.nc' has a dimension 'time' but no times along it"),
        (lambda d: d.isel(time=0, drop=True), r"a\.nc' does not say of which time it is"),
        (lambda d: d.assign(rain=d.rain.assign_attrs(units="")), r"a\.nc' does not say in which units 'rain' is"),
        (lambda d: d.assign_coords(time=np.arange(5)), "has units '', not those of a time"),
        (
            lambda d: d.assign_coords(time=d.time.values[[0, 1, 1, 2, 3]]),
            "holds two frames of the same time, 2021-03-01T06:05:00; keep one",
        ),
        (lambda d: d.rename(x="quux"), "no numbers with dimensions time, y and x; its variables are rain, time"),
        (lambda d: d.isel(x=slice(0)), "so there is no frame in it"),
        (lambda d: d.isel(time=slice(0)), "holds no frame"),
        (lambda d: d.assign(rain=d.rain.astype(str)), "no numbers with dimensions"),
        (lambda d: d.assign(rain=d.rain.assign_attrs(scale_factor=0.0)), "scale_factor 0 .* from which no value follows"),
        (lambda d: d.assign(rain=d.rain.assign_attrs(scale_factor="two")), "the attribute scale_factor of 'rain' is no number"),
        (lambda d: d.assign_coords(time=d.time.values + np.array([0, 1, "NaT", 3, 4], "m8[m]")), "'time' holds times that no clock shows"),
    ],
)
def test_what_a_file_must_say(tmp_path: Path, cf: ModuleType, change: Callable[[xarray.Dataset], xarray.Dataset], sentence: str) -> None:
    dataset = xarray.Dataset({"rain": (("time", "y", "x"), np.zeros(cf.SHAPE, np.float32), {"units": "mm/h"})}, {"time": cf.TIMES})
    change(dataset).to_netcdf(tmp_path / "a.nc", engine="netcdf4")
    with pytest.raises(UserError, match=sentence):
        Cf(tmp_path / "a.nc")


def test_calendars(tmp_path: Path, cf: ModuleType) -> None:
    stored = np.array([0, 5, 10, 15, 20])
    for calendar, fine in (("proleptic_gregorian", True), ("Gregorian", True), ("noleap", False), ("360_day", False), ("julian", False)):
        clock = ("time", stored, {"units": "minutes since 2020-02-28T23:50", "calendar": calendar})
        path = cf.write(tmp_path / "a.nc", coordinates={"time": clock})
        if fine:
            assert Cf(path).films[0].times[2:4].tolist() == [np.datetime64(f"2020-02-29T00:{m:02}:00").item() for m in (0, 5)]
        else:
            with pytest.raises(UserError, match=f"the calendar '{calendar}'"):
                Cf(path)
    path = cf.write(tmp_path / "a.nc", coordinates={"time": ("time", np.linspace(0, 1e12, 5), {"units": "days since 2000-01-01"})})
    with pytest.raises(UserError, match=r"a\.nc'"):
        Cf(path)


UNITS = [
    ("mm", "mm/h", 600, "mm/h", 6.0),
    ("kg m-2", "mm/h", 300, "mm/h", 12.0),
    ("m", "mm/h", 3600, "mm/h", 1000.0),
    ("mm h**-1", "mm/h", None, "mm/h", 1.0),
    ("mm hr-1", None, None, "mm/h", 1.0),
    ("kg m-2 s-1", "mm/h", None, "mm/h", 3600.0),
    ("kg  m-2", "mm", None, "mm", 1.0),
    ("kg m-2", None, 300, "kg/m2", 1.0),
    ("mm", None, 300, "mm", 1.0),
    ("dbz", "dBZ", None, "dBZ", 1.0),
    ("furlong", None, None, "furlong", 1.0),
]


@pytest.mark.parametrize(("told", "wanted", "period", "units", "factor"), UNITS)
def test_units(told: str, wanted: str | None, period: int | None, units: str, factor: float) -> None:
    assert convert_units(Path("a"), told, wanted, period) == (units, pytest.approx(factor))


def test_units_that_cannot_be(tmp_path: Path, cf: ModuleType) -> None:
    with pytest.raises(UserError, match=r"accumulations in mm but does not say over which time: give the reader's setting period"):
        convert_units(Path("a"), "mm", "mm/h", None)
    for told, wanted in (("dBZ", "mm/h"), ("mm/h", "mm"), ("K", "dBZ")):
        with pytest.raises(UserError, match=f"is in {told}, which cannot be turned into {wanted}"):
            convert_units(Path("a"), told, wanted, 300)
    path = cf.write(tmp_path / "a.nc", attributes={"units": ""})
    assert Cf(path, file_units="mm", units="mm/h", period=300).packing.scale == pytest.approx(12)
    with pytest.raises(UserError, match=r"is in mm/h, but the setting file_units says mm"):
        Cf(cf.write(tmp_path / "b.nc"), file_units="mm")
    with pytest.raises(UserError, match="period is in seconds"):
        Cf(path, period=0.0)


def test_the_period_is_the_files_own(tmp_path: Path, cf: ModuleType, cf_files: ModuleType) -> None:
    reader = Cf(cf_files.write_netcdf(tmp_path / "bounds.nc", minutes=10), units="mm/h")
    np.testing.assert_allclose(cf.physical(reader)[:, 0], cf_files.rates(), atol=0.005 * 6 + 1e-5)
    assert reader.facts["period"] == 600 and reader.facts["time_step"] == 600
    with pytest.raises(UserError, match="gathered over 600 s, but the setting period is 300"):
        Cf(tmp_path / "bounds.nc", units="mm/h", period=300)
    told = {"units": "mm", "cell_methods": "time: sum (interval: 5 minutes)"}
    assert Cf(cf.write(tmp_path / "a.nc", attributes=told), units="mm/h").packing.scale == pytest.approx(12)
    told["cell_methods"] = "time: sum (interval: 1 minute)"  # minutes were summed, over which time is not said
    with pytest.raises(UserError, match="does not say over which time"):
        Cf(cf.write(tmp_path / "a.nc", attributes=told), units="mm/h")


def test_many_files_are_one_film_ordered_by_time(tmp_path: Path, cf: ModuleType) -> None:
    for number, part in enumerate((slice(3, 5), slice(0, 2), slice(2, 3))):
        (tmp_path / str(number)).mkdir()
        cf.write(tmp_path / str(number) / "rain.nc", cf.RANDOM[part].astype(np.float32), coordinates={"time": ("time", cf.TIMES[part])})
    reader = Cf(tmp_path)
    assert reader.films[0].length == 5 and reader.films[0].times.tolist() == cf.TIMES.astype("datetime64[s]").tolist()
    np.testing.assert_array_equal(cf.physical(reader)[:, 0], cf.RANDOM)
    np.testing.assert_array_equal(cf.physical(reader, range(0, 5, 2))[:, 0], cf.RANDOM[::2])
    cf.write(tmp_path / "again.nc", cf.RANDOM[:1].astype(np.float32), coordinates={"time": ("time", cf.TIMES[:1])})
    with pytest.raises(BadFiles, match="hold frames of the same time, 2021-03-01T06:00:00"):
        Cf(tmp_path)
    assert Cf(tmp_path, leave_out=["again.nc"]).films[0].length == 5
    cf.write(tmp_path / "again.nc", np.zeros((1, 3, 4), np.float32), coordinates={"time": ("time", cf.TIMES[:1] + np.timedelta64(1, "D"))})
    with pytest.raises(BadFiles, match="one archive has one kind of frames"):
        Cf(tmp_path)


def test_frames_that_lie_out_of_order_in_one_file(tmp_path: Path, cf: ModuleType) -> None:
    order = [3, 0, 4, 1, 2]
    reader = Cf(cf.write(tmp_path / "a.nc", cf.RANDOM[order].astype(np.float32), coordinates={"time": ("time", cf.TIMES[order])}))
    np.testing.assert_array_equal(cf.physical(reader)[:, 0], cf.RANDOM)


@pytest.mark.parametrize("version", [2, 3])
def test_zarr(tmp_path: Path, cf: ModuleType, cf_files: ModuleType, version: int) -> None:
    store = cf_files.write_zarr(tmp_path / "rain.zarr", version=version, missing=(5, 6))
    reader = Cf(tmp_path)
    kept = [number for number in range(24) if number not in (5, 6)]
    np.testing.assert_array_equal(cf.physical(reader)[:, 0], cf_files.rates()[kept])
    assert not np.isnan(reader.read(0, range(3))).any() and reader.packing.missing == (FILL,)
    np.testing.assert_array_equal(cf.physical(Cf(store), range(3, 9, 2))[:, 0], cf_files.rates()[kept][3:9:2])
    assert reader.facts["units"] == "mm/h" and reader.facts["grid"].corners == (4321000.0, 3210000.0, 4349000.0, 3230000.0)
    clips = stpredict.load_data("cf", store, context=2, horizon=2)
    assert clips.gaps == 1 and clips.index[:, 1].tolist() == [0, 1, 5, 6, 7, 8, 9, 10, 11]
    report = check_data("cf", store)
    assert report.frames == 22 and report.gaps == 1


def test_listed_missing_times_are_gaps(tmp_path: Path, cf: ModuleType) -> None:
    values = cf.RANDOM.astype(np.float32)
    path = cf.write(tmp_path / "a.nc", values, coordinates={"missing_times": ("missing_times", cf.TIMES[[1, 3]])})
    reader = Cf(path)
    assert reader.films[0].times.tolist() == cf.TIMES[[0, 2, 4]].astype("datetime64[s]").tolist()
    np.testing.assert_array_equal(cf.physical(reader)[:, 0], values[[0, 2, 4]])


def test_chunks_of_zarr_that_were_never_written_are_missing(tmp_path: Path, cf: ModuleType, cf_files: ModuleType) -> None:
    store = cf_files.write_zarr(tmp_path / "a.zarr", version=2)
    (store / "rain" / "3.0.0").unlink()
    assert np.isnan(cf.physical(Cf(store))[3]).all() and not np.isnan(cf.physical(Cf(store))[4]).all()


def test_an_address_is_a_store(cf: ModuleType, cf_files: ModuleType) -> None:
    zarr = pytest.importorskip("zarr")
    fsspec = pytest.importorskip("fsspec")
    dataset = cf_files.make_dataset(4)
    dataset.to_zarr(zarr.storage.FsspecStore.from_url("memory://stpredict-test/rain.zarr"), zarr_format=2)
    try:
        reader = Cf(Path("memory://stpredict-test/rain.zarr"))
        np.testing.assert_array_equal(cf.physical(pickle.loads(pickle.dumps(reader)))[:, 0], cf_files.rates(4))
    finally:
        fsspec.filesystem("memory").rm("/stpredict-test", recursive=True)
    assert address(Path("s3://bucket/a b.zarr")) == "s3://bucket/a b.zarr" and address(Path("https://host/a")) == "https://host/a"
    assert address(Path("/data/a.zarr")) is None and address(Path("a/b")) is None
    with pytest.raises(UserError, match=r"unheardof://bucket/a\.zarr|unheardof:/bucket"):
        Cf(Path("unheardof://bucket/a.zarr"))


def test_a_reader_holds_no_open_file(tmp_path: Path, cf: ModuleType, cf_files: ModuleType) -> None:
    path = cf_files.write_netcdf(tmp_path / "rain.nc")
    before = set(os.listdir("/proc/self/fd"))
    reader = Cf(path, units="mm/h")
    first = cf.physical(reader)
    assert set(os.listdir("/proc/self/fd")) == before
    np.testing.assert_array_equal(cf.physical(pickle.loads(pickle.dumps(reader))), first)
