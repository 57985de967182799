import io
import os
import pickle
import zipfile
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import stpredict
from stpredict.data.card import read_card
from stpredict.data.checking import check_data
from stpredict.data.readers.finding import BadFiles
from stpredict.data.readers.meteonet import MeteoNet
from stpredict.data.readers.pickled_dates import read_dates
from stpredict.data.windows import runs
from stpredict.errors import UserError

GENERATORS = Path(__file__).resolve().parents[2] / "datasets" / "generators"
SAMPLE = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "meteonet"
needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason="the MeteoNet sample files are not here")
START = datetime(2016, 8, 21)


@pytest.fixture(scope="module")
def meteonet_files():
    return SimpleNamespace(**run_path(str(GENERATORS / "meteonet.py")))


def physical(reader, film=0):
    return reader.packing.unpack(torch.from_numpy(reader.read(film, range(reader.films[film].length)))).numpy()[:, 0]


def minutes(reader):
    return ((reader.films[0].times - np.datetime64(START)) / np.timedelta64(1, "m")).tolist()


@pytest.mark.parametrize(
    ("product", "scale", "offset", "units", "period"),
    [
        ("rainfall", 0.12, 0, "mm/h", 300.0),  # hundredths of a millimetre in 5 minutes, 12 times an hour
        ("reflectivity_old", 1, 0, "dBZ", None),
        ("reflectivity_new", 0.1, 0, "dBZ", None),
    ],
)
def test_units_and_missing_of_each_product(meteonet_files, tmp_path, product, scale, offset, units, period):
    path = meteonet_files.write_sample(tmp_path, product, lacking=[3, 4, 20])
    with np.load(path, allow_pickle=True) as arrays:
        stored, dates = arrays["data"], arrays["dates"]
    reader = MeteoNet(tmp_path, product=product)
    np.testing.assert_array_equal(reader.read(0, range(57))[:, 0], stored)
    assert reader.films[0].times.tolist() == dates.tolist() and reader.films[0].length == 57
    missing = stored == meteonet_files.MISSING[product]
    np.testing.assert_array_equal(np.isnan(physical(reader)), missing)
    assert missing.any() and missing.mean() < 0.2
    np.testing.assert_allclose(physical(reader)[~missing], scale * stored[~missing] + offset, rtol=1e-6, atol=1e-5)
    assert (reader.facts["units"], reader.facts.get("period"), reader.facts["z_r"]) == (units, period, (200.0, 1.6))


def test_what_was_not_detected_in_the_new_product_is_no_echo_and_not_missing(meteonet_files, tmp_path):
    frames = np.array([[[-200, -100], [-90, 455]]], np.int16)
    meteonet_files.write_file(tmp_path / "reflectivity_new_SE_2018_12.2.npz", frames, [START])
    reader = MeteoNet(tmp_path, product="reflectivity_new", zone="SE")
    np.testing.assert_allclose(physical(reader)[0], [[np.nan, -10.0], [-9.0, 45.5]], atol=1e-5)
    assert reader.facts["grid"] is None


def test_files_are_one_film_and_gaps_are_not_crossed(meteonet_files, tmp_path):
    later = START + timedelta(minutes=60)
    meteonet_files.write_sample(tmp_path / "b", frames=12, seed=1)
    meteonet_files.write_sample(tmp_path / "a", start=later, frames=12, lacking=[6], seed=2).rename(
        tmp_path / "a" / "reflectivity_old_NW_2016_08.1.npz"
    )
    meteonet_files.write_sample(tmp_path, "rainfall")
    reader = MeteoNet(tmp_path)
    assert minutes(reader) == [*range(0, 90, 5), *range(95, 120, 5)]
    both = np.concatenate([meteonet_files.echo("reflectivity_old", 12, 20, 26, seed) for seed in (1, 2)])
    both = np.delete(both, 18, axis=0)
    for positions in (range(23), range(10, 14), range(3, 22, 4), range(11, 12), range(2, 23, 13)):
        np.testing.assert_array_equal(reader.read(0, positions)[:, 0], both[positions.start : positions.stop : positions.step])
    assert runs(reader.films[0], range(23), read_card("meteonet").time) == [range(18), range(18, 23)]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(reader)).read(0, range(2)), reader.read(0, range(2)))


def test_the_splits_of_the_card(meteonet_files, tmp_path):
    for start in (datetime(2017, 5, 21), datetime(2018, 2, 21), datetime(2018, 6, 21)):
        meteonet_files.write_sample(tmp_path, start=start, frames=60)
    clips = {split: stpredict.load_data("meteonet", tmp_path, split) for split in ("train", "validation", "test")}
    assert {split: one[0].times[0].item().year for split, one in clips.items()} == {"train": 2017, "validation": 2018, "test": 2018}
    assert (clips["test"].context, clips["test"].horizon, clips["test"].spec.thresholds) == (12, 12, (12, 18, 24, 32))
    assert clips["test"].spec.units == "dBZ" and check_data("meteonet", tmp_path).ok


def test_the_grid_is_that_of_the_coordinates(meteonet_files, tmp_path):
    path = meteonet_files.write_sample(tmp_path / "files")
    grid = MeteoNet(tmp_path).facts["grid"]
    # Outer edges, half a pixel of 0.01 degrees beyond the middles.
    assert grid.corners == pytest.approx((-5.842, 51.696, -5.582, 51.896), abs=1e-9)
    assert grid.row_origin == "north" and grid.projection.startswith("+proj=longlat")
    assert MeteoNet(path).facts["grid"] == grid
    lats, lons = np.meshgrid(51.891 - 0.01 * np.arange(20), -5.837 + 0.01 * np.arange(26), indexing="ij")
    coordinates = path.parent / "radar_coords_NW.npz"
    np.savez(coordinates, lats=lats[::-1], lons=lons)
    assert MeteoNet(tmp_path).facts["grid"] == stpredict.Grid(grid.projection, pytest.approx(grid.corners), "south")
    for arrays, sentence in (
        ({"lats": lats, "lons": lons + 0.001 * np.random.default_rng(0).random(lons.shape)}, "'lons' is no regular grid"),
        ({"lats": lats**2, "lons": lons}, "'lats' is no regular grid"),
        ({"lats": lats[:5], "lons": lons[:5]}, r"'lats' of shape \(5, 26\), but the frames are 20 x 26"),
        ({"lats": lats, "lons": lons[:, ::-1]}, "column 0 is expected in the west"),
        ({"lats": lats}, "holds no array 'lons'"),
    ):
        np.savez(coordinates, **arrays)
        with pytest.raises(UserError, match=sentence):
            MeteoNet(tmp_path)


def test_files_that_overlap_or_differ_are_named(meteonet_files, tmp_path):
    path = meteonet_files.write_sample(tmp_path, frames=10)
    other = meteonet_files.write_sample(tmp_path / "b", start=START + timedelta(minutes=45), frames=5)
    with pytest.raises(BadFiles, match=r"08\.3\.npz' and '.*b/.*08\.3\.npz' overlap in time, at 2016-08-21T00:45:00; keep one"):
        MeteoNet(tmp_path)
    assert MeteoNet(tmp_path, leave_out=["b/*"]).films[0].length == 10
    meteonet_files.write_sample(tmp_path / "b", start=START + timedelta(days=1), frames=5, height=19)
    with pytest.raises(BadFiles, match=r"holds 20 x 26 frames|holds 19 x 26 frames"):
        MeteoNet(tmp_path)
    other.unlink()
    with pytest.raises(UserError, match=r"is not called rainfall_NW_YYYY_MM\.PART\.npz; the settings ask for rainfall of NW"):
        MeteoNet(path, product="rainfall")
    with pytest.raises(UserError, match=r"holds no file called reflectivity_old_SE_\*\.npz"):
        MeteoNet(tmp_path, zone="SE")
    for frames, dates, sentence in (
        (np.zeros((2, 4, 4), np.int16), [START], r"holds 2 frames, but 1 dates"),
        (np.zeros((2, 4, 4), np.int16), [START, START + timedelta(0)], "dates of 'dates' are not in order"),
        (np.zeros((1, 4, 4), np.float32), [START], r"holds float32 data of shape \(1, 4, 4\)"),
        (np.zeros((4, 4), np.int16), [START], r"holds int16 data of shape \(4, 4\)"),
    ):
        meteonet_files.write_file(path, frames, dates)
        with pytest.raises(BadFiles, match=sentence):
            MeteoNet(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_named(meteonet_files, tmp_path, share):
    path = meteonet_files.write_sample(tmp_path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(BadFiles, match=r"2016_08\.3\.npz' is damaged"):
        MeteoNet(tmp_path)


def test_changed_bytes_are_found_or_change_nothing(meteonet_files, tmp_path):
    path = meteonet_files.write_sample(tmp_path, frames=6, height=8, width=8)
    (tmp_path / "radar_coords_NW.npz").unlink()
    good = path.read_bytes()
    wanted, times = MeteoNet(path).read(0, range(6)), MeteoNet(path).films[0].times
    named = 0
    for position in range(0, len(good), 3):
        changed = bytearray(good)
        changed[position] ^= 0x24
        path.write_bytes(changed)
        try:
            reader = MeteoNet(path)
            np.testing.assert_array_equal(reader.read(0, range(6)), wanted)
            np.testing.assert_array_equal(reader.films[0].times, times)
        except UserError as error:
            named += str(path) in str(error)
    assert named > len(good) // 3 * 0.5  # the rest is in miss_dates, times of files, and the like


# The dates: never unpickled.


def write_pickled(path, content, count=1, data=None):
    """Write an .npz file whose array ``dates`` is any pickle under a header of objects."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": (count,)})
    frames = io.BytesIO()
    np.save(frames, np.zeros((count, 4, 4), np.int16) if data is None else data)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("dates.npy", header.getvalue() + content)
        archive.writestr("data.npy", frames.getvalue())
    return path


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("count", [1, 2, 999, 1000, 1001, 2500])
def test_dates_of_any_protocol(tmp_path, protocol, count):
    dates = np.array([START + timedelta(minutes=5 * number, seconds=number % 60) for number in range(count)], dtype=object)
    path = write_pickled(tmp_path / "a.npz", pickle.dumps(dates, protocol), count)
    assert read_dates(path, "dates").tolist() == dates.tolist()


class _Evil:
    def __init__(self, function, *arguments):
        self.made = function, arguments

    def __reduce__(self):
        return self.made


def test_what_is_no_row_of_dates_is_not_unpickled(tmp_path):
    mark = tmp_path / "mark"
    evil = _Evil(os.mkdir, str(mark))
    dates = [START, START + timedelta(minutes=5)]
    whole = pickle.dumps(np.array(dates, dtype=object), 3)
    contents = [
        pickle.dumps(evil),
        pickle.dumps(np.array([START, evil], dtype=object)),
        pickle.dumps(np.array([evil, START], dtype=object), 3),
        b"cos\nmkdir\n(V" + str(mark).encode() + b"\ntR.",
        pickle.dumps(evil, 3)[:-1] + whole[2:],  # a call, and then all that is asked for
        whole[:-1] + pickle.dumps(evil, 3)[2:],
        whole.replace(b"cdatetime\ndatetime", b"cos\nsystem"),
        whole.replace(b"cnumpy\nndarray", b"cos\nsystem"),
        pickle.dumps(dates),
        pickle.dumps(np.array(["2016-08-21", "2016-08-22"], dtype=object)),
        pickle.dumps(np.array([date.isoformat() for date in dates], dtype=object)),
        pickle.dumps(np.array([date.astimezone() for date in dates], dtype=object)),
        pickle.dumps(np.array([date.date() for date in dates], dtype=object)),
        whole.replace(b"\x07\xe0\x08\x15", b"\x07\xe0\x0d\x15"),  # the 13th month
        whole.replace(b"\x07\xe0\x08\x15", b"\x07\xe0\x88\x15"),  # the hour that comes twice
        whole[: len(whole) // 2],
        b"",
        b"\x80\x03" + b"]" * 10000 + b".",
        b"\x80\x03h\x00.",
        b"\x80\x04\x93.",
    ]
    for content in contents:
        with pytest.raises(UserError, match=r"a\.npz': the array 'dates' is no pickled row of dates \(.+\); it was not unpickled"):
            read_dates(write_pickled(tmp_path / "a.npz", content, 2), "dates")
    assert not mark.exists()
    with pytest.raises(UserError, match="tells of 3 dates, but holds 2"):
        read_dates(write_pickled(tmp_path / "a.npz", whole, 3), "dates")
    pickle.loads(pickle.dumps(evil))
    assert mark.exists()  # so that the test could fail


def test_dates_that_are_out_of_all_proportion(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("dates.npy", bytes(17 << 20))
    with pytest.raises(UserError, match="'dates' is larger than 16 MiB"):
        read_dates(path, "dates")
    np.savez(path, dates=np.zeros(3), other=np.zeros(3))
    with pytest.raises(UserError, match=r"'dates' holds float64 of shape \(3,\), not a row of dates"):
        read_dates(path, "dates")
    with pytest.raises(UserError, match="holds no array 'miss_dates'"):
        read_dates(path, "miss_dates")


@needs_sample
@pytest.mark.parametrize(
    ("product", "zone", "missing", "gaps"),
    [("rainfall", "NW", -1, 9), ("rainfall", "SE", -1, 9), ("reflectivity_old", "NW", 255, 10), ("reflectivity_old", "SE", 255, 10)],
)
def test_the_real_files(product, zone, missing, gaps):
    """Against numpy, which unpickles: these copies are trusted, in this test only."""
    with np.load(SAMPLE / f"{product}_{zone}_2016_08.3.npz", allow_pickle=True) as arrays:
        stored, dates, lacking = arrays["data"], arrays["dates"], arrays["miss_dates"]
    reader = MeteoNet(SAMPLE, product=product, zone=zone)
    assert reader.films[0].times.tolist() == dates.tolist()
    assert read_dates(SAMPLE / f"{product}_{zone}_2016_08.3.npz", "miss_dates").tolist() == lacking.tolist()
    np.testing.assert_array_equal(reader.read(0, range(5, len(dates), 7))[:, 0], stored[5::7])
    values = reader.packing.unpack(torch.from_numpy(reader.read(0, range(3)))).numpy()[:, 0]
    np.testing.assert_array_equal(np.isnan(values), stored[:3] == missing)
    valid = stored[:3] != missing
    np.testing.assert_allclose(values[valid], stored[:3][valid] * (0.12 if product == "rainfall" else 1.0), rtol=1e-6)
    assert sum(later - earlier != timedelta(minutes=5) for earlier, later in pairwise(dates)) == gaps
    assert len(runs(reader.films[0], range(len(dates)), read_card("meteonet").time)) == gaps + 1
    with np.load(SAMPLE / f"radar_coords_{zone}.npz") as coordinates:
        lats, lons = coordinates["lats"], coordinates["lons"]
    corners = (lons.min() - 0.005, lats.min() - 0.005, lons.max() + 0.005, lats.max() + 0.005)
    assert reader.facts["grid"].corners == pytest.approx(corners, abs=1e-6) and reader.facts["grid"].row_origin == "north"


@needs_sample
def test_the_generator_is_faithful(meteonet_files, tmp_path):
    for product in ("rainfall", "reflectivity_old"):
        made = meteonet_files.write_sample(tmp_path, product)
        for ours, real in ((made, SAMPLE / made.name), (tmp_path / "radar_coords_NW.npz", SAMPLE / "radar_coords_NW.npz")):
            with np.load(ours, allow_pickle=True) as mine, np.load(real, allow_pickle=True) as theirs:
                assert set(mine) == set(theirs)
                for name in mine:
                    assert (mine[name].dtype, mine[name].ndim) == (theirs[name].dtype, theirs[name].ndim)
            with zipfile.ZipFile(ours) as mine, zipfile.ZipFile(real) as theirs:
                assert {info.compress_type for info in mine.infolist()} == {info.compress_type for info in theirs.infolist()}
