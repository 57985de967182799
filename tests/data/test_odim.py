import math
import pickle
import sys
from datetime import datetime, timedelta
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import stpredict
from stpredict.data.odim_files import write_odim
from stpredict.data.readers.odim import Odim
from stpredict.data.readers.projections import in_metres
from stpredict.errors import UserError
from stpredict.frames import Grid

SAMPLE = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "opera_odim"
needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason="the OPERA sample file is not here")
pytest.importorskip("pyproj")

LAEA = "+proj=laea +lat_0=55 +lon_0=10 +x_0=1950000 +y_0=-2100000 +ellps=WGS84 +units=m"
GRID = Grid(LAEA, (1_000_000.0, -3_012_000.0, 1_008_000.0, -3_000_000.0))
TIME = datetime(2024, 2, 29, 23, 55)
WHERE = {"LL": (-2.2, 46.1), "UL": (-3.0, 52.0), "UR": (6.0, 52.5), "LR": (5.5, 46.5)}


def physical(reader, film=0, positions=range(1)):
    return reader.packing.unpack(torch.from_numpy(reader.read(film, positions)))[:, 0].numpy()


def raw_file(path, data, quantity="RATE", what=None, where=None, root=None, projection=LAEA):
    """Write a file by hand, with all attributes of its dataset in one group, as version 2.0 has them."""
    with h5py.File(path, "w") as file:
        file["dataset1/data1/data"] = data
        given = {"quantity": np.bytes_(quantity), "gain": 0.5, "offset": -2.0, "nodata": 255.0, "undetect": 0.0}
        given |= {"startdate": np.bytes_("20240229"), "starttime": np.bytes_("234000")}
        given |= {"enddate": np.bytes_("20240229"), "endtime": np.bytes_("235500")}
        group = file.create_group("dataset1/what")
        for name, value in (given | (what or {})).items():
            if value is not None:
                group.attrs[name] = value
        for name, value in ({"object": np.bytes_("COMP")} | (root or {})).items():
            file.require_group("what").attrs[name] = value
        places = {f"{corner}_{axis}": value for corner, point in WHERE.items() for axis, value in zip(("lon", "lat"), point, strict=True)}
        group = file.create_group("where")
        for name, value in (places | {"projdef": np.bytes_(projection)} | (where or {})).items():
            if value is not None:
                group.attrs[name] = value
    return path


def test_a_depth_becomes_a_rate_by_its_own_period(tmp_path):
    depth = np.array([[0.0, 1.0], [2.5, np.nan]])
    write_odim(tmp_path / "a.h5", depth, quantity="ACRR", grid=GRID, time=TIME, seconds=900, gain=0.1)
    reader = Odim(tmp_path)
    np.testing.assert_allclose(physical(reader)[0], depth * 4, rtol=1e-6)
    assert reader.facts["units"] == "mm/h" and reader.facts["period"] == 900.0
    write_odim(tmp_path / "a.h5", depth, quantity="ACRR", grid=GRID, time=TIME, seconds=0, gain=0.1)
    with pytest.raises(UserError, match=r"a\.h5' holds an accumulation from 2024-02-29T23:55:00 to 2024-02-29T23:55:00"):
        Odim(tmp_path)


def test_reflectivity_where_nothing_was_found_is_no_echo(tmp_path):
    echo = np.array([[-50.0, -32.0, -31.5], [20.0, np.nan, 200.0]])
    write_odim(tmp_path / "a.h5", echo, quantity="DBZH", grid=GRID, time=TIME, gain=0.5, offset=-32, dtype="uint8")
    np.testing.assert_array_equal(physical(Odim(tmp_path))[0], [[-32, -32, -31.5], [20, np.nan, 95.0]])
    np.testing.assert_array_equal(physical(Odim(tmp_path, no_echo=-10))[0], [[-10, -10, -31.5], [20, np.nan, 95.0]])
    assert Odim(tmp_path).facts["units"] == "dBZ"


NUMBERS = [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.uint64, np.int64, np.float16, np.float32, np.float64]


@pytest.mark.parametrize("dtype", [*NUMBERS, ">u2", ">f8"])
def test_every_type_of_number(tmp_path, dtype):
    dtype = np.dtype(dtype)
    data = np.array([[0, 1, 2], [100, 126, 127]]).astype(dtype)
    raw_file(tmp_path / "a.h5", data, what={"nodata": 127.0})
    reader = Odim(tmp_path)
    np.testing.assert_array_equal(physical(reader)[0], [[0, -1.5, -1], [48, 61, np.nan]])
    kept = dtype.newbyteorder("=") if dtype.kind in "iu" and dtype.itemsize <= 2 else np.dtype(np.float32)
    assert reader.read(0, range(1)).dtype == kept


@pytest.mark.parametrize(
    ("dtype", "nodata", "undetect"),
    [
        (np.float64, -1.7976931348623157e308, -1.0e300),
        (np.float64, math.nan, -8888000.0),
        (np.float64, 0.1, 0.2),
        (np.float64, math.inf, -math.inf),
        (np.float32, float(np.float32(1e38)), 0.1),
        (np.float32, math.nan, -1.0),
        (np.int32, 2147483647, 2147483646),
        (np.uint32, 4294967295, 0),
        (np.int64, -(2**53), -(2**53) + 1),
    ],
)
def test_codes_that_float32_does_not_hold(tmp_path, dtype, nodata, undetect):
    """Nodata, undetect, and a number that differs from nodata less than float32 can tell, stay three things."""
    info = np.iinfo(dtype) if np.issubdtype(dtype, np.integer) else None
    near = np.array(nodata, dtype) - 2 if info and nodata > 0 else np.array(5, dtype)
    data = np.array([[nodata, undetect, 7, near]], dtype=dtype)
    raw_file(tmp_path / "a.h5", data, what={"nodata": float(nodata), "undetect": float(undetect), "gain": 1.0, "offset": 1.0})
    values = physical(Odim(tmp_path))[0, 0]
    np.testing.assert_allclose(values, [np.nan, 0, 8, float(near) + 1], rtol=1e-6)
    frames = Odim(tmp_path).read(0, range(1))
    assert np.isfinite(frames).all(), "what stands for missing passes the check for NaN"


def test_where_both_codes_are_one_the_pixel_is_missing(tmp_path):
    raw_file(tmp_path / "a.h5", np.array([[0, 9]], np.uint8), what={"nodata": 0.0, "undetect": 0.0})
    np.testing.assert_array_equal(physical(Odim(tmp_path))[0], [[np.nan, 2.5]])


def test_codes_that_a_file_lacks_mean_nothing(tmp_path):
    raw_file(tmp_path / "a.h5", np.array([[0, 255]], np.uint8), what={"nodata": None, "undetect": None, "gain": None, "offset": None})
    np.testing.assert_array_equal(physical(Odim(tmp_path))[0], [[0, 255]])


def test_a_nan_that_is_no_code_is_refused_as_its_card_says(tmp_path):
    raw_file(tmp_path / "a.h5", np.array([[math.nan, 1]]), what={"nodata": -1.0})
    assert np.isnan(Odim(tmp_path).read(0, range(1))).any()


def test_the_time_is_the_nominal_one_or_the_end(tmp_path):
    nominal = {"date": np.bytes_("20240301"), "time": np.bytes_("000000")}
    path = raw_file(tmp_path / "a.h5", np.zeros((2, 2), np.uint8), root=nominal)
    assert Odim(path).films[0].times.tolist() == [datetime(2024, 3, 1)]
    raw_file(path, np.zeros((2, 2), np.uint8))
    assert Odim(path).films[0].times.tolist() == [TIME]
    raw_file(path, np.zeros((2, 2), np.uint8), quantity="ACRR", root=nominal)
    assert Odim(path).films[0].times.tolist() == [TIME]
    raw_file(path, np.zeros((2, 2), np.uint8), what={"enddate": np.bytes_("20240230")})
    with pytest.raises(UserError, match=r"a\.h5' has the enddate '20240230' and the endtime '235500'"):
        Odim(path)
    raw_file(path, np.zeros((2, 2), np.uint8), what=dict.fromkeys(("startdate", "starttime", "enddate", "endtime")))
    with pytest.raises(UserError, match=r"a\.h5' tells no time"):
        Odim(path)


@pytest.fixture
def several(tmp_path):
    """A file with reflectivity, a quality field beside it, and rain in the second data set and in the tenth of the third."""
    path = raw_file(tmp_path / "a.h5", np.full((2, 2), 10, np.uint8), quantity="TH")
    with h5py.File(path, "r+") as file:
        for place, quantity, value in (("dataset1/data2", "QIND", 1), ("dataset2/data1", "RATE", 20), ("dataset3/data10", "RATE", 30)):
            file[f"{place}/data"] = np.full((2, 2), value, np.uint8)
            file.create_group(f"{place}/what").attrs["quantity"] = np.bytes_(quantity)
        for place in ("dataset2", "dataset3"):
            file[place].copy(file["dataset1/what"], "what")
        file["dataset2/data1/what"].attrs["gain"] = 2.0
    return path


def test_the_quantity_that_is_asked_for_is_read(several):
    assert physical(Odim(several)).tolist() == [[[3.0, 3.0], [3.0, 3.0]]] and Odim(several).facts["units"] == "dBZ"
    assert physical(Odim(several, quantity="RATE"))[0, 0, 0] == 20 * 2.0 - 2, "the nearest group wins, and what it lacks the next one tells"
    assert physical(Odim(several, quantity="QIND"))[0, 0, 0] == -1.5
    with pytest.raises(UserError, match=r"a\.h5' holds no ACRR; it holds TH, QIND, RATE, RATE"):
        Odim(several, quantity="ACRR")
    with pytest.raises(UserError, match=r"'quantity' is one of ACRR, .*, not 'rain'"):
        Odim(several, quantity="rain")
    with pytest.raises(UserError, match="'no_echo' is a finite number"):
        Odim(several, no_echo=math.inf)


@pytest.mark.parametrize(
    ("projection", "metres"),
    [
        (LAEA, LAEA),
        ("+proj=stere +lat_0=90 +a=6378.137 +b=6356.752 +x_0=0 +y_0=2.5", "+proj=stere +lat_0=90 +a=6378137 +b=6356752 +x_0=0 +y_0=2500"),
        ("+proj=stere +lat_0=90 +a=6378.14 +b=6356.75 +x_0=0 y_0=0", "+proj=stere +lat_0=90 +a=6378140 +b=6356750 +x_0=0 y_0=0"),
        ("+proj=merc +R=6371.0 +lat_ts=50", "+proj=merc +R=6371000 +lat_ts=50"),
        ("+proj=merc +R=6371000 +lat_ts=50", "+proj=merc +R=6371000 +lat_ts=50"),
        ("+proj=utm +zone=33 +units=km +ellps=WGS84", "+proj=utm +zone=33 +ellps=WGS84 +units=m"),
        ("+proj=utm +to_meter=1000 +zone=33", "+proj=utm +zone=33 +units=m"),
        ("EPSG:3035", "EPSG:3035"),
    ],
)
def test_projections_are_brought_to_metres(projection, metres):
    assert in_metres(projection) == metres


@pytest.mark.parametrize("change", ["+units=km", "+to_meter=1000", "+a=6378.137 +b=6356.752"])
def test_a_grid_in_kilometres_lies_where_the_one_in_metres_does(tmp_path, change):
    base = "+proj=stere +lat_0=90 +lon_0=0 +lat_ts=60"
    reference = Odim(raw_file(tmp_path / "a.h5", np.zeros((3, 2), np.uint8), projection=f"{base} +a=6378137 +b=6356752")).facts["grid"]
    changed = f"{base} {change}" if "+a=" in change else f"{base} +a=6378137 +b=6356752 {change}"
    grid = Odim(raw_file(tmp_path / "b.h5", np.zeros((3, 2), np.uint8), projection=changed)).facts["grid"]
    np.testing.assert_allclose(grid.corners, reference.corners, rtol=0, atol=0.02)
    # On a sphere the lower edge would be R (1 + sin 60) tan((90 - 46.1) / 2) from the pole; the ellipsoid differs by half a percent.
    assert grid.corners[1] == pytest.approx(-6371e3 * (1 + math.sin(math.pi / 3)) * math.tan(math.radians(21.95)), rel=0.01)


def test_degrees_stay_degrees(tmp_path):
    raw_file(tmp_path / "a.h5", np.zeros((3, 2), np.uint8), projection="+proj=longlat +ellps=WGS84")
    assert Odim(tmp_path).facts["grid"].corners == (-3.0, 46.1, 6.0, 52.5)


def test_without_pyproj_there_is_no_grid(tmp_path, monkeypatch):
    raw_file(tmp_path / "a.h5", np.zeros((3, 2), np.uint8))
    monkeypatch.setitem(sys.modules, "pyproj", None)
    assert "grid" not in Odim(tmp_path).facts


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"root": {"object": np.bytes_("PVOL")}}, "'PVOL', a polar one"),
        ({"quantity": "VRAD"}, "holds the quantity 'VRAD' first; those that are read are ACRR"),
        ({"what": {"quantity": 3}}, "where ODIM_H5 has a text"),
        ({"what": {"gain": 0.0}}, "gain 0 and the offset -2"),
        ({"what": {"gain": math.nan}}, "gain nan"),
        ({"what": {"gain": np.bytes_("x")}}, "'gain' .*x.*, which is no number"),
        ({"where": {"projdef": None}}, "does not tell where it lies"),
        ({"where": {"LL_lon": None}}, "needs projdef and the corners LL and UR"),
        ({"where": {"xsize": 5}}, "holds 3 x 2 pixels, but its 'where' tells of 3 x 5"),
        ({"where": {"LL_lon": 20.0, "UL_lon": 20.0}}, "lower left corner right of"),
        ({"projection": "+proj=nothing"}, "is no projection"),
        ({"projection": "+proj=laea +lat_0=500"}, "is no projection"),
        ({"projection": "+init=/tmp/mine:3"}, "no PROJ string"),
        ({"projection": "+proj=utm +zone=33 +geoidgrids=/etc/passwd"}, "no PROJ string"),
        ({"projection": "+proj=gnom +lat_0=-60 +lon_0=190"}, "does not reach the corners"),
        ({"data": np.zeros((2, 2, 2), np.uint8)}, "data of shape"),
        ({"data": np.zeros((2, 2), "S3")}, "not rows and columns of numbers"),
        ({"data": np.zeros((0, 2), np.uint8)}, "not rows and columns of numbers"),
    ],
)
def test_a_file_that_is_no_composite_is_named(tmp_path, changes, sentence):
    raw_file(tmp_path / "bad.h5", **({"data": np.zeros((3, 2), np.uint8)} | changes))
    with pytest.raises(UserError, match=sentence) as caught:
        Odim(tmp_path)
    assert "bad.h5'" in str(caught.value)


def test_a_file_that_says_something_else_than_the_others_is_named(tmp_path):
    for number in range(3):
        grid = Grid(LAEA, (0.0, 0.0, 4000.0, 6000.0)) if number == 2 else GRID
        path, time = tmp_path / f"{number}.h5", TIME.replace(minute=5 * number)
        write_odim(path, np.ones((3, 2)), quantity="RATE", grid=grid, time=time, gain=1 + (number == 1))
    with pytest.raises(UserError, match=r"1\.h5' holds .*gain 2.* one archive has one kind of frames \(1 more") as caught:
        Odim(tmp_path)
    assert set(caught.value.sentences) == {"1.h5", "2.h5"} and "(0.0, 0.0, 4000.0, 6000.0)" in caught.value.sentences["2.h5"]


def test_two_files_of_one_time_and_films_by_folder(tmp_path):
    for folder, minutes in (("day 2", (10, 5, 0)), ("day 10", (20, 25))):
        (tmp_path / folder).mkdir()
        for minute in minutes:
            path, time = tmp_path / folder / f"{99 - minute}.h5", TIME.replace(minute=minute)
            write_odim(path, np.full((2, 2), minute), quantity="RATE", grid=GRID, time=time, gain=1)
    whole, by_folder = Odim(tmp_path), Odim(tmp_path, films="folders")
    assert [(film.name, film.length) for film in by_folder.films] == [("day 2", 3), ("day 10", 2)]
    assert len(whole.films) == 1 and physical(whole, 0, range(0, 5, 2))[:, 0, 0].tolist() == [0, 10, 25]
    assert physical(by_folder, 1, range(2))[:, 0, 0].tolist() == [20, 25]
    pickle.loads(pickle.dumps(by_folder)).read(1, range(2))
    (tmp_path / "again.h5").write_bytes((tmp_path / "day 2" / "89.h5").read_bytes())
    for films in ("one", "folders"):
        with pytest.raises(UserError, match=r"again\.h5' are of the same time, 2024-02-29T23:10:00|89\.h5' are of the same time"):
            Odim(tmp_path, films=films)
    assert Odim(tmp_path, leave_out=["again.h5"]).films[0].length == 5


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_a_truncated_file_is_named(tmp_path, share):
    path = tmp_path / "a.h5"
    write_odim(path, np.ones((20, 20)), quantity="RATE", grid=GRID, time=TIME, gain=1)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=r"a\.h5' is damaged or is no HDF5 file"):
        Odim(tmp_path)


def test_flipped_bytes_never_crash_a_reader(tmp_path):
    path = tmp_path / "a.h5"
    write_odim(path, np.arange(400.0).reshape(20, 20), quantity="RATE", grid=GRID, time=TIME, gain=1)
    whole, random, refused = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(150):
        flipped = np.frombuffer(whole, np.uint8).copy()
        flipped[random.integers(len(flipped), size=3)] = random.integers(256, size=3)
        path.write_bytes(flipped.tobytes())
        try:
            Odim(tmp_path).read(0, range(1))
        except UserError as error:
            refused += 1
            assert "a.h5'" in str(error)
    assert refused > 20


def test_a_size_that_is_not_stored_is_not_believed(tmp_path):
    path = raw_file(tmp_path / "a.h5", np.zeros((2, 2), np.uint8))
    with h5py.File(path, "r+") as file:
        del file["dataset1/data1/data"]
        file.create_dataset("dataset1/data1/data", (500_000, 500_000), np.uint8, chunks=(1000, 1000))
    with pytest.raises(UserError, match=r"a\.h5'.* declares 250000000000 bytes but stores 0"):
        Odim(tmp_path)


@needs_sample
def test_the_real_file():
    """The numbers are those of pysteps 1.21, import_opera_hdf5: missing and dry pixels, sum and maximum of the others, corners."""
    reader = Odim(SAMPLE, quantity="RATE")
    assert reader.films[0].times.tolist() == [datetime(2018, 8, 24, 18)] and reader.facts["units"] == "mm/h"
    rain = physical(reader)[0]
    assert rain.shape == (2200, 1900) and np.isnan(rain).sum() == 2_085_857 and (rain == 0).sum() == 1_612_044
    assert np.nansum(rain, dtype=np.float64) == pytest.approx(304_024.06, abs=0.01) and np.nanmax(rain) == pytest.approx(1205.22)
    np.testing.assert_allclose(reader.facts["grid"].corners, [-0.0004, -4_400_000.0011, 3_800_000.0004, -0.0004], rtol=0, atol=0.01)
    quality = physical(Odim(SAMPLE, quantity="QIND"))[0]
    assert np.nanmin(quality) >= 0 and np.nanmax(quality) <= 1


@needs_sample
def test_the_real_file_pixel_by_pixel():
    importers = pytest.importorskip("pysteps").io.importers
    rain, _, about = importers.import_opera_hdf5(str(next(SAMPLE.glob("*.hdf"))), qty="RATE")
    reader = Odim(SAMPLE)
    np.testing.assert_allclose(physical(reader)[0], rain, rtol=1e-6)
    np.testing.assert_allclose(reader.facts["grid"].corners, [about[name] for name in ("x1", "y1", "x2", "y2")], rtol=0, atol=0.01)


def test_the_card(tmp_path):
    for number in range(45):
        time = datetime(2020, 1, 1) + timedelta(minutes=15 * number)
        write_odim(tmp_path / f"{number}.hdf", np.full((4, 4), number), quantity="RATE", grid=GRID, time=time, gain=1)
    clips = stpredict.load_data("odim", tmp_path, "train")
    assert len(clips) == 27 - 12 + 1 and clips.spec.time_step == 900.0 and clips.spec.grid == GRID
    assert clips[3].frames[:, 0, 0, 0].tolist() == list(range(3, 15))
