import math
import pickle
from datetime import datetime, timedelta
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import stpredict
from stpredict.data.readers import knmi
from stpredict.data.readers.knmi import Knmi
from stpredict.errors import UserError

SAMPLE = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "knmi_rap_2010-08-26"
needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason="the KNMI sample files are not here")


@pytest.fixture
def sample(knmi_files, tmp_path):
    knmi_files.write_sample(tmp_path, frames=24)
    return tmp_path


def change(path, group, **attributes):
    with h5py.File(path, "r+") as file:
        for name, value in attributes.items():
            file[group].attrs[name] = value


def path_of(folder, hour, minute):
    return folder / f"RAD_NL25_RAP_5min_20100826{hour:02}{minute:02}.h5"


def test_frames_times_scale_and_grid(sample):
    reader = Knmi(sample)
    assert (len(reader.films), reader.films[0].length, reader.channels, reader.height, reader.width) == (1, 24, 1, 32, 28)
    assert reader.films[0].times.tolist() == [datetime(2010, 8, 26) + timedelta(minutes=5 * number) for number in range(24)]
    with h5py.File(path_of(sample, 0, 35)) as file:
        raw = file["image1/image_data"][()]
    frames = reader.read(0, range(7, 8))
    assert frames.dtype == np.uint16
    np.testing.assert_array_equal(frames[0, 0], raw)
    assert reader.packing.missing == (65535.0,) and reader.packing.scale == pytest.approx(0.12) and reader.packing.offset == 0.0
    physical = reader.packing.unpack(torch.from_numpy(frames))[0, 0].numpy()
    missing = raw == 65535
    np.testing.assert_array_equal(np.isnan(physical), missing)
    # Hundredths of a millimetre in 5 minutes; there are 12 times 5 minutes in an hour.
    np.testing.assert_allclose(physical[~missing], raw[~missing] / 100 * 12, rtol=1e-6)
    assert reader.facts["units"] == "mm/h" and reader.facts["time_step"] == 300.0
    grid = reader.facts["grid"]
    assert grid.corners == (0.0, -3_682_000.0, 28_000.0, -3_650_000.0) and grid.row_origin == "north"
    assert grid.projection == "+proj=stere +lat_0=90 +lon_0=0.0 +lat_ts=60.0 +a=6378137 +b=6356752 +x_0=0 +y_0=0"
    assert reader.facts["period"] == 300.0


def test_the_rate_follows_from_the_files_own_accumulation(knmi_files, tmp_path):
    knmi_files.write_sample(tmp_path, frames=3, minutes=15)
    reader = Knmi(tmp_path)
    assert reader.packing.scale == pytest.approx(0.04) and reader.facts["time_step"] == 900.0


def test_files_are_ordered_by_their_content(sample):
    first = path_of(sample, 0, 0)
    first.rename(sample / "RAD_NL25_RAP_5min_z.h5")
    deep = sample / "deep" / "er"
    deep.mkdir(parents=True)
    path_of(sample, 0, 5).rename(deep / "RAD_NL25_RAP_5min_a.h5")
    reader = Knmi(sample)
    assert (np.diff(reader.films[0].times) == np.timedelta64(300, "s")).all()
    assert reader._paths[0].name == "RAD_NL25_RAP_5min_z.h5" and reader._paths[1].name == "RAD_NL25_RAP_5min_a.h5"


def test_a_gap_is_not_crossed(sample):
    path_of(sample, 0, 30).unlink()
    clips = stpredict.load_data("knmi", sample, context=2, horizon=2)
    # The first 0.4 of 23 frames are 0..8, the missing one would be the seventh.
    assert clips.gaps == 1 and clips.index[:, 1].tolist() == [0, 1, 2]
    clips = stpredict.load_data("knmi", sample, context=1, horizon=1)
    assert clips.index[:, 1].tolist() == [0, 1, 2, 3, 4, 6, 7]
    assert all((np.diff(clips[index].times) == np.timedelta64(300, "s")).all() for index in range(len(clips)))


def test_two_files_of_one_time_are_both_named(sample, knmi_files):
    knmi_files.write_sample(sample / "again", frames=1, start=datetime(2010, 8, 26, 1))
    with pytest.raises(UserError, match=r"RAD_NL25_RAP_5min_201008260100\.h5' and '.*0100\.h5' are of the same time, 2010-08-26T01:00:00"):
        Knmi(sample)
    assert Knmi(sample, leave_out=["again/*"]).films[0].length == 24


def test_calibration_formulas():
    path = Path("a.h5")
    assert knmi._parse_formula(path, "GEO=0.01*PV+0.0") == (0.01, 0.0)
    assert knmi._parse_formula(path, "GEO = 0.500000 * PV + -32.000000") == (0.5, -32.0)
    assert knmi._parse_formula(path, "GEO=1e-2*PV-3") == (0.01, -3.0)
    assert knmi._parse_formula(path, "GEO=2*PV") == (2.0, 0.0)
    for formula in (
        "GEO=PV",
        "GEO=0.01*PV 3",
        "GEO=0.01*PV3",
        "GEO=0.01*PV+0.0;import os",
        "GEO=__import__('os')*PV+0",
        "",
        "GEO=1*PV+1+1",
    ):
        with pytest.raises(UserError, match=r"'a\.h5' has the calibration formula"):
            knmi._parse_formula(path, formula)


def test_moments():
    path = Path("a.h5")
    assert knmi._parse_moment(path, "29-FEB-2012;23:59:59.000") == np.datetime64("2012-02-29T23:59:59")
    for text in ("29-FEB-2011;00:00:00.000", "26-Aug-2010;00:00:00", "26-AUG-10;00:00:00", "26-AUG-2010 00:00:00", "26-AUG-2010;24:00:00"):
        with pytest.raises(UserError, match=r"'a\.h5' has the time"):
            knmi._parse_moment(path, text)


@pytest.mark.parametrize(
    ("group", "attributes", "sentence"),
    [
        ("image1/calibration", {"calibration_formulas": np.bytes_("GEO=PV**2")}, "calibration formula 'GEO=PV"),
        ("image1/calibration", {"calibration_formulas": np.bytes_("GEO=0.02*PV+0.0")}, "0.02 mm a unit .* one archive has one kind"),
        ("image1/calibration", {"calibration_missing_data": np.array([255], np.int32)}, r"missing \(255\.0, 65535\.0\)"),
        ("image1", {"image_geo_parameter": np.bytes_("REFLECTIVITY_[DBZ]")}, r"holds REFLECTIVITY_\[DBZ\]"),
        ("overview", {"product_datetime_end": np.bytes_("yesterday")}, "has the time 'yesterday'"),
        (
            "overview",
            {"product_datetime_end": np.bytes_("25-AUG-2010;00:00:00.000")},
            "accumulation from 2010-08-26T00:25:00 to 2010-08-25",
        ),
        ("geographic", {"geo_pixel_size_y": np.array([1.0], np.float32)}, "row 0 is expected in the north"),
        ("geographic", {"geo_dim_pixel": np.bytes_("DEG,DEG")}, "pixels in units of 'DEG,DEG'"),
        ("geographic", {"geo_row_offset": np.array([3000.0], np.float32)}, "one archive has one kind"),
    ],
)
def test_a_file_that_says_something_else_is_named(sample, group, attributes, sentence):
    change(path_of(sample, 0, 30), group, **attributes)
    with pytest.raises(UserError, match=rf"201008260030\.h5' .*{sentence}"):
        Knmi(sample)


def test_a_file_of_another_kind_is_named(sample):
    path = path_of(sample, 0, 30)
    with h5py.File(path, "w") as file:
        file["image1/image_data"] = np.zeros((4, 4), np.float32)
    with pytest.raises(UserError, match=r"0030\.h5' holds float32 data"):
        Knmi(sample)
    with h5py.File(path, "w") as file:
        file["image1/image_data"] = np.zeros((32, 28), np.uint16)
    with pytest.raises(UserError, match=r"0030\.h5' has no attribute 'image_geo_parameter' in '/image1'"):
        Knmi(sample)
    with h5py.File(path, "w") as file:
        file["other"] = h5py.ExternalLink("elsewhere.h5", "/image1")
        file["image1"] = h5py.ExternalLink("elsewhere.h5", "/image1")
    with pytest.raises(UserError, match=r"0030\.h5'"):
        Knmi(sample)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.99])
def test_a_truncated_file_is_named(sample, share):
    path = path_of(sample, 0, 30)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=r"0030\.h5' is damaged or is no HDF5 file"):
        Knmi(sample)


def test_damaged_pixels_are_found_when_they_are_read(knmi_files, tmp_path):
    noise = np.random.default_rng(0).integers(0, 60000, (100, 80)).astype(np.uint16)
    for number in range(3):
        knmi_files.write_file(tmp_path, noise, datetime(2010, 8, 26, 0, 5 * number))
    path = path_of(tmp_path, 0, 5)
    with h5py.File(path) as file:
        start, size = (value for value in (lambda info: (info.byte_offset, info.size))(file["image1/image_data"].id.get_chunk_info(0)))
    whole = bytearray(path.read_bytes())
    whole[start + size // 2 : start + size // 2 + 100] = bytes(100)
    path.write_bytes(whole)
    with pytest.raises(UserError, match=r"0005\.h5' is damaged"):
        Knmi(tmp_path).read(0, range(3))


def test_no_files(tmp_path):
    with pytest.raises(UserError, match="no folder or file"):
        Knmi(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"holds no file called RAD_NL25_RAP_5min_\*\.h5"):
        Knmi(tmp_path)


def test_the_generator_is_faithful(knmi_files, tmp_path):
    """Whatever attribute the generator writes, a real file has too, of the same type and shape."""
    if not SAMPLE.is_dir():
        pytest.skip("the KNMI sample files are not here")
    made = knmi_files.write_sample(tmp_path, frames=1)[0]
    with h5py.File(made) as ours, h5py.File(SAMPLE / made.name) as real:
        assert ours["image1/image_data"].dtype == real["image1/image_data"].dtype
        assert ours["image1/image_data"].compression == real["image1/image_data"].compression

        def compare(name, item):
            for key, value in item.attrs.items():
                theirs = real[name].attrs[key]
                assert np.asarray(value).dtype.kind == np.asarray(theirs).dtype.kind and np.shape(value) == np.shape(theirs), (name, key)

        ours.visititems(compare)


@needs_sample
def test_the_real_files():
    data = {split: stpredict.load_data("knmi", SAMPLE, split) for split in ("train", "validation", "test")}
    assert all(len(clips) > 0 for clips in data.values())
    train, test = data["train"], data["test"]
    assert train[len(train) - 1].times[-1] < test[0].times[0] and test[len(test) - 1].times[-1] == np.datetime64("2010-08-26T07:35")
    physical = train.packing.unpack(torch.from_numpy(train[0].frames))
    assert torch.isnan(physical).float().mean().item() == pytest.approx(0.744, abs=0.001)
    maximum = max(np.nanmax(train.packing.unpack(torch.from_numpy(clips[0].frames))) for clips in data.values())
    assert 5 < maximum < 29.5
    pickle.loads(pickle.dumps(test))[0]


@needs_sample
def test_the_corners_are_those_of_the_real_files():
    """The corners in the files, longitude and latitude to a thousandth of a degree, must lie where the projection puts the outer edges."""
    with h5py.File(SAMPLE / "RAD_NL25_RAP_5min_201008260000.h5") as file:
        listed = file["geographic"].attrs["geo_product_corners"].reshape(4, 2)
    left, bottom, right, top = Knmi(SAMPLE).facts["grid"].corners
    for (longitude, latitude), (x, y) in zip(listed, [(left, bottom), (left, top), (right, top), (right, bottom)], strict=True):
        assert _stereographic(longitude, latitude) == pytest.approx((x, y), abs=100)


@needs_sample
def test_pixels_lie_where_pyproj_puts_them():
    """Longitude and latitude of known pixels: pyproj, by the projection in km that the files have, and by ours in metres."""
    pyproj = pytest.importorskip("pyproj")
    grid = Knmi(SAMPLE).facts["grid"]
    with h5py.File(SAMPLE / "RAD_NL25_RAP_5min_201008260000.h5") as file:
        theirs = pyproj.Proj(file["geographic/map_projection"].attrs["projection_proj4_params"].decode())
        listed = file["geographic"].attrs["geo_product_corners"].reshape(4, 2)
    ours, geod = pyproj.Proj(grid.projection), pyproj.Geod(a=6378137, b=6356752)
    left, bottom, right, top = grid.corners
    for row, column in [(0, 0), (764, 0), (0, 699), (764, 699), (380, 350)]:
        x, y = left + (column + 0.5) / 700 * (right - left), top - (row + 0.5) / 765 * (top - bottom)
        place = ours(x, y, inverse=True)
        expected = theirs(column + 0.5, -3650 - row - 0.5, inverse=True)
        assert geod.inv(*place, *expected)[2] < 1e-3
    for (longitude, latitude), corner in zip(listed, [(left, bottom), (left, top), (right, top), (right, bottom)], strict=True):
        assert geod.inv(longitude, latitude, *ours(*corner, inverse=True))[2] < 100


def _stereographic(longitude, latitude, a=6_378_137.0, b=6_356_752.0, true_scale=60.0):
    """Polar stereographic on the ellipsoid, in metres: Snyder, Map Projections (1987), equations 15-9, 14-15, 21-33, 21-34."""
    eccentricity = math.sqrt(1 - (b / a) ** 2)

    def t(angle):
        sine = eccentricity * math.sin(angle)
        return math.tan(math.pi / 4 - angle / 2) / ((1 - sine) / (1 + sine)) ** (eccentricity / 2)

    fixed = math.radians(true_scale)
    m = math.cos(fixed) / math.sqrt(1 - (eccentricity * math.sin(fixed)) ** 2)
    radius = a * m * t(math.radians(latitude)) / t(fixed)
    return radius * math.sin(math.radians(longitude)), -radius * math.cos(math.radians(longitude))
