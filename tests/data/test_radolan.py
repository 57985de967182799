import bz2
import gzip
import io
import pickle
from datetime import datetime
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace

import numpy as np
import pyproj
import pytest
import torch

import stpredict
from stpredict.data.readers.radolan import MISSING, Radolan
from stpredict.errors import UserError

wradlib = pytest.importorskip("wradlib")
GENERATORS = Path(__file__).resolve().parents[2] / "datasets" / "generators"


@pytest.fixture(scope="module")
def radolan_files():
    return SimpleNamespace(**run_path(str(GENERATORS / "radolan.py")))


def physical(reader):
    return reader.packing.unpack(torch.from_numpy(reader.read(0, range(reader.films[0].length)))).numpy()[:, 0]


@pytest.mark.parametrize(("product", "packing"), [("RY", ""), ("RW", ".bz2"), ("YW", ".gz")])
def test_numbers_are_those_of_wradlib(radolan_files, tmp_path, product, packing):
    paths = radolan_files.write_sample(tmp_path, frames=2, product=product, packing=packing)
    reader = Radolan(tmp_path)
    rates = physical(reader)
    for path, rate in zip(paths, rates, strict=True):
        amounts, about = wradlib.io.read_radolan_composite(str(path), missing=-1)
        # Of the interval that the header tells.
        np.testing.assert_allclose(rate, np.where(amounts < 0, np.nan, amounts * 3600 / about["intervalseconds"]), rtol=1e-6)
    minutes = radolan_files.MINUTES[product]
    assert reader.films[0].times.tolist() == [datetime(2021, 7, 14, 12), datetime(2021, 7, 14, 12 + minutes // 60, minutes % 60)]
    assert (reader.facts["units"], reader.facts["period"], reader.facts["time_step"]) == ("mm/h", 60 * minutes, 60 * minutes)
    assert np.isnan(rates).any() and 0 < np.nanmax(rates) < 20


def test_closed_form_and_flags(radolan_files, tmp_path):
    pixels = np.zeros((900, 900), np.uint16)
    flags = {"secondary": 0x1000, "none": radolan_files.NO_DATA, "negative": 0x4000, "clutter": radolan_files.CLUTTER}
    pixels[0, :7] = [0, 1, 2500, 4095, 7 | flags["secondary"], flags["none"], 7 | flags["negative"]]
    pixels[899, 899] = 7 | flags["clutter"]
    radolan_files.write_file(tmp_path, pixels, datetime(2021, 7, 14, 23, 55), "RY")
    reader = Radolan(tmp_path)
    frames = reader.read(0, range(1))
    assert frames.shape == (1, 1, 900, 900) and frames.dtype == np.uint16
    assert frames[0, 0, 0, :7].tolist() == [0, 1, 2500, 4095, 7, MISSING, MISSING] and frames[0, 0, 899, 899] == 7
    # Hundredths of a millimetre in 5 minutes; 2500 is a number like others where no bit says that there is none.
    np.testing.assert_allclose(physical(reader)[0, 0, :5], [0, 0.12, 300, 491.4, 0.84], rtol=1e-6)
    assert np.isnan(physical(reader)[0, 0, 5:7]).all()


# Longitude and latitude of the corners, from DWD's description of the format.
CORNERS = {
    "RY": {(0, 0): (3.5889, 46.9526), (0, 1): (14.6209, 47.0705), (1, 1): (15.7208, 54.7405), (1, 0): (2.0715, 54.5877)},
    "YW": {(0, 0): (4.6759, 46.1929), (0, 1): (15.4801, 46.1827), (1, 1): (17.1128, 55.5342), (1, 0): (3.0889, 55.5482)},
}


@pytest.mark.parametrize("product", ["RY", "YW"])
def test_the_corners(radolan_files, tmp_path, product):
    radolan_files.write_sample(tmp_path, frames=1, product=product)
    reader = Radolan(tmp_path)
    grid = reader.facts["grid"]
    left, bottom, right, top = grid.corners
    for (up, across), place in CORNERS[product].items():
        found = pyproj.Proj(grid.projection)(right if across else left, top if up else bottom, inverse=True)
        np.testing.assert_allclose(found, place, atol=2e-4)  # the tables have four digits
    x, y = wradlib.georef.get_radolan_coordinates(
        reader.height, reader.width, mode="edge", crs=wradlib.georef.create_crs("dwd-radolan-sphere")
    )
    np.testing.assert_allclose(grid.corners, (x[0], y[0], x[-1], y[-1]), atol=0.1)
    assert grid.row_origin == "south"


@pytest.mark.parametrize("size", [(900, 900), (1100, 900), (1200, 1100)])
def test_the_newer_format_lies_on_wgs84(radolan_files, tmp_path, size):
    radolan_files.write_file(tmp_path, np.zeros(size, np.uint16), datetime(2023, 1, 1), version=5)
    grid = Radolan(tmp_path).facts["grid"]
    crs = wradlib.georef.create_crs("dwd-radolan-wgs84")
    x, y = wradlib.georef.get_radolan_coordinates(*size, mode="edge", crs=crs)
    np.testing.assert_allclose(grid.corners, (x[0], y[0], x[-1], y[-1]), atol=0.1)
    if size == (1200, 1100):  # the corners that DWD's description of the grid DE1200 gives
        for x, y, place in ((0, 1, (3.566994635, 45.69642538)), (2, 3, (18.73161645, 55.84543856))):
            np.testing.assert_allclose(pyproj.Proj(grid.projection)(grid.corners[x], grid.corners[y], inverse=True), place, atol=2e-6)


def test_clips_gaps_and_pickles(radolan_files, tmp_path):
    paths = radolan_files.write_sample(tmp_path, frames=8)
    paths[3].unlink()
    clips = stpredict.load_data("radolan", tmp_path, context=1, horizon=1)
    assert clips.gaps == 1 and clips.index[:, 1].tolist() == [0, 1, 3]
    assert clips.spec.units == "mm/h" and clips.spec.period == 300
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(clips))[0].frames, clips[0].frames)


def test_what_cannot_be_read(radolan_files, tmp_path):
    zeros = np.zeros((900, 900), np.uint16)
    path = radolan_files.write_file(tmp_path, zeros, datetime(2021, 7, 14), "RV")
    with pytest.raises(UserError, match=r"raa01-rv_.* is a forecast \(RV\), not a measurement"):
        Radolan(tmp_path)
    path.unlink()
    path = radolan_files.write_file(tmp_path, zeros, datetime(2021, 7, 14), "RY")
    sound = path.read_bytes()
    for damaged, sentence in (
        (b"RX" + sound[2:], "holds the product RX; accumulations can be read: RY"),
        (sound.replace(b"E-02", b"E+09"), "tells of 900 x 900 pixels of 1e"),
        (sound.replace(b"INT   5", b"INT   0"), "in 0 s"),
        (sound.replace(b"INT   5", b"INT   x"), "is damaged or is no RADOLAN file"),
        (sound.replace(b" 900x 900", b"9999x9999"), f"should have {len(sound) - 1620000 + 199960002} bytes by its header but has"),
        (sound[:-1], f"should have {len(sound)} bytes by its header but has {len(sound) - 1}"),
        (sound[:50], "has no RADOLAN header"),
        (b"", "has no RADOLAN header"),
        (b"\x89HDF" + bytes(5000), "has no RADOLAN header"),
        (b"RY999999" + sound[8:], "is damaged or is no RADOLAN file"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(UserError) as caught:
            Radolan(tmp_path)
        assert sentence in str(caught.value) and path.name in str(caught.value)
    path.write_bytes(sound)
    radolan_files.write_file(tmp_path / "again", zeros, datetime(2021, 7, 14), "RY")
    with pytest.raises(UserError, match="are of the same time, 2021-07-14T00:00:00; keep one"):
        Radolan(tmp_path)
    radolan_files.write_file(tmp_path / "again", zeros, datetime(2021, 7, 14), "RW", ".gz")
    with pytest.raises(UserError, match=r"RW: 900 x 900 frames of 3600 s, 0\.1 mm a unit.* one archive has one kind of frames"):
        Radolan(tmp_path, leave_out=["again/raa01-ry*"])


@pytest.mark.parametrize(("ending", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress)])
def test_packed_files_that_expand_or_stop(radolan_files, tmp_path, ending, pack):
    path = radolan_files.write_file(tmp_path, np.zeros((900, 900), np.uint16), datetime(2021, 7, 14), "RY", ending)
    packed = path.read_bytes()
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(UserError, match=r"---bin\.(gz|bz2)' is damaged or is no RADOLAN file"):
        physical(Radolan(tmp_path))
    content = radolan_files.write_file(tmp_path, np.zeros((900, 900), np.uint16), datetime(2021, 7, 14), "RY").read_bytes()
    path.write_bytes(pack(content + bytes(1 << 26)))
    with pytest.raises(UserError, match=f"should have {len(content)} bytes by its header but has {1 << 26}"):
        physical(Radolan(path))


def test_flipped_bits_end_in_a_sentence_or_numbers(radolan_files, tmp_path):
    path = radolan_files.write_file(tmp_path, np.zeros((900, 900), np.uint16), datetime(2021, 7, 14), "RY")
    sound, outcomes = path.read_bytes(), set()
    for seed in range(100):
        random, damaged = np.random.default_rng(seed), bytearray(sound)
        damaged[random.integers(140)] ^= 1 << random.integers(8)
        path.write_bytes(damaged)
        try:
            outcomes.add(physical(Radolan(path)).shape)
        except UserError as error:
            assert path.name in str(error)
            outcomes.add("sentence")
    assert outcomes == {(1, 900, 900), "sentence"}


def test_the_generator_writes_what_wradlib_reads(radolan_files, tmp_path):
    path = radolan_files.write_sample(tmp_path, frames=1, product="YW")[0]
    header = wradlib.io.radolan.read_radolan_header(io.BytesIO(path.read_bytes()))
    about = wradlib.io.radolan.parse_dwd_composite_header(header)
    assert (about["nrow"], about["ncol"], about["precision"], about["intervalseconds"]) == (1100, 900, 0.01, 300)
    assert about["datasize"] == 1100 * 900 * 2 and about["radarlocations"][0] == "boo" and about["datetime"] == datetime(2021, 7, 14, 12)
