import gzip
import math
import pickle
import tracemalloc
from datetime import datetime, timedelta
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import stpredict
from stpredict.data.readers.fmi import Fmi
from stpredict.errors import UserError

GENERATOR = Path(__file__).resolve().parents[2] / "datasets" / "generators" / "fmi.py"
SAMPLE = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "fmi_pgm_2017-05-09"
needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason="the FMI sample files are not here")
START = datetime(2017, 5, 9, 10, 45)
FALSE_EASTING, FALSE_NORTHING = 380_886.310, 3_395_677.920
"""Of the projection by which pysteps reads these files; by them the lower left corner is at 0, 0."""


@pytest.fixture(scope="module")
def files():
    return SimpleNamespace(**run_path(str(GENERATOR)))


@pytest.fixture
def sample(files, tmp_path):
    files.write_sample(tmp_path, 12)
    return tmp_path


def path_of(folder, number):
    return folder / f"{START + timedelta(minutes=5 * number):%Y%m%d%H%M}_fmi.radar.composite.lowest_FIN_SUOMI1.pgm.gz"


def change(path, old, new):
    content = gzip.decompress(path.read_bytes())
    assert old in content
    path.write_bytes(gzip.compress(content.replace(old, new, 1)))


def physical(reader, positions):
    return reader.packing.unpack(torch.from_numpy(reader.read(0, positions)))[:, 0].numpy()


def test_frames_times_and_packing(sample, files):
    reader = Fmi(sample)
    assert len(reader.films) == 1 and reader.films[0].times.tolist() == [START + timedelta(minutes=5 * number) for number in range(12)]
    assert (reader.channels, reader.height, reader.width) == (1, 49, 30)
    frames = reader.read(0, range(3, 8, 2))
    assert frames.dtype == np.uint8 and frames.shape == (3, 1, 49, 30)
    for frame, number in zip(frames, range(3, 8, 2), strict=True):
        raw = np.frombuffer(gzip.decompress(path_of(sample, number).read_bytes())[-49 * 30 :], np.uint8).reshape(49, 30)
        np.testing.assert_array_equal(frame[0], raw)
    packed = torch.tensor([0, 64, 65, 254, 255], dtype=torch.uint8)
    np.testing.assert_array_equal(reader.packing.unpack(packed).numpy(), [-32, 0, 0.5, 95, np.nan])
    assert reader.facts["units"] == "dBZ" and reader.facts["z_r"] == (223.0, 1.53)
    pickle.loads(pickle.dumps(reader)).read(0, range(1))


def test_the_corners_are_those_of_the_header(sample):
    """Snyder's closed form on the sphere, in float64; the corners that pysteps 1.21 computes by pyproj, less its false origin."""
    grid = Fmi(sample).facts["grid"]
    left, bottom, right, top = grid.corners
    theirs = (0.0049823, 0.009732, 759_752.2852757, 1_225_544.6588914)
    shifted = (left + FALSE_EASTING, bottom + FALSE_NORTHING, right + FALSE_EASTING, top + FALSE_NORTHING)
    np.testing.assert_allclose(shifted, theirs, rtol=0, atol=0.02)
    assert grid.row_origin == "north"
    # The size of a pixel, as real headers tell it for 760 x 1226 of them.
    assert ((right - left) / 760, (top - bottom) / 1226) == pytest.approx((999.674053, 999.62859), abs=1e-3)


def test_the_corners_by_pyproj(sample):
    pyproj = pytest.importorskip("pyproj")
    grid = Fmi(sample).facts["grid"]
    projection = pyproj.Proj(grid.projection)
    for point, corner in (((18.6, 57.93), grid.corners[:2]), ((34.903, 69.005), grid.corners[2:])):
        assert math.dist(projection(*point), corner) < 0.02


def test_the_time_is_that_of_the_header_or_else_of_the_name(sample, files):
    path_of(sample, 0).rename(sample / "209901010000_fmi_late.pgm.gz")
    assert Fmi(sample).films[0].times[0] == np.datetime64(START)
    path = path_of(sample, 1)
    change(path, b"# obstime 201705091050\n", b"")
    assert Fmi(sample).films[0].length == 12 and Fmi(path).films[0].times.tolist() == [datetime(2017, 5, 9, 10, 50)]
    path.rename(sample / "today_fmi.pgm.gz")
    with pytest.raises(UserError, match=r"today_fmi\.pgm\.gz' tells no time"):
        Fmi(sample)


def test_files_that_are_not_packed_are_read_too(sample):
    before = Fmi(sample).read(0, range(12))
    for number in range(12):
        path = path_of(sample, number)
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    np.testing.assert_array_equal(Fmi(sample).read(0, range(12)), before)


def test_two_files_of_one_time_are_both_named(sample, files):
    again = sample / "again"
    again.mkdir()
    files.write_file(again, np.zeros((49, 30), np.uint8), START)
    with pytest.raises(UserError, match=r"201705091045_.*' and '.*201705091045_.*' are of the same time, 2017-05-09T10:45:00; keep one"):
        Fmi(sample)
    assert Fmi(sample, leave_out=["again/*"]).films[0].length == 12


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (b"P5\n", b"P2\n", "it does not begin with P5"),
        (b"30 49\n", b"30 x 49\n", "has no size and greatest value 255"),
        (b"\n255\n", b"\n65535\n", "has no size and greatest value 255"),
        (b"30 49\n", b"30 0\n", "declares 0 x 30 pixels"),
        (b"30 49\n", b"30 50\n", "holds fewer pixels than the 50 x 30 of its header|one archive has one kind"),
        (b"30 49\n", b"30 48\n", "one archive has one kind of frames"),
        (b"30 49\n", b"900000 900000\n", "declares 900000 x 900000 pixels, which its .* bytes cannot hold"),
        (b"obstime 201705091115", b"obstime 201705331115", "tells no time"),
        (b"# type stereographic", b"# type mercator", "in the projection 'mercator' around 90 degrees north"),
        (b"centrallatitude 90", b"centrallatitude 60", "'stereographic' around 60 degrees north"),
        (b"# truelatitude 60\n", b"", "does not tell where it lies: its header needs numbers for centrallongitude"),
        (b"bottomleft 18.600000 57.930000", b"bottomleft 18.600000", "does not tell where it lies"),
        (b"bottomleft 18.600000 57.930000", b"bottomleft nan 57.930000", "does not tell where it lies"),
        (b"bottomleft 18.600000 57.930000", b"bottomleft 38.600000 57.930000", "lower left corner .* right of or above"),
        (b"bottomleft 18.600000 57.930000", b"bottomleft 18.700000 57.930000", "one archive has one kind of frames"),
        (b"# radar KOR 1 21.6460 60.1280\n", b"# radar " + b"x" * 5000 + b"\n", "its header has no end"),
        (b"# radar KOR 1 21.6460 60.1280\n", b"# radar KOR\n" * 9000, "its header has no end"),
    ],
)
def test_a_file_that_says_something_else_is_named(sample, old, new, sentence):
    change(path_of(sample, 6), old, new)
    with pytest.raises(UserError, match=sentence) as caught:
        Fmi(sample).read(0, range(12))
    assert "201705091115_fmi" in str(caught.value)


def test_pixels_that_do_not_fit_the_header_are_named(tmp_path, files):
    for number, (old, new) in enumerate([(b"30 49\n", b"30 48\n"), (b"30 49\n", b"30 50\n")]):
        path = files.write_file(tmp_path, np.zeros((49, 30), np.uint8), START + timedelta(minutes=number))
        change(path, old, new)
        with pytest.raises(UserError, match=rf"{path.name}' is damaged: it holds {('more', 'fewer')[number]} pixels than the"):
            Fmi(path).read(0, range(1))


def test_a_small_file_takes_little_memory_whatever_it_declares(tmp_path, files):
    path = files.write_file(tmp_path, np.zeros((49, 30), np.uint8), START)
    header = gzip.decompress(path.read_bytes())[: -49 * 30].replace(b"30 49\n", b"100 100\n")
    path.write_bytes(gzip.compress(header + bytes(64 << 20)))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="holds more pixels than the 100 x 100"):
            Fmi(path).read(0, range(1))
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_named(sample, share):
    path = path_of(sample, 6)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=r"201705091115_fmi.* is (damaged or is )?no PGM image"):
        Fmi(sample).read(0, range(12))


def test_flipped_bytes_never_crash_a_reader_and_never_pass(files, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (49, 30)).astype(np.uint8)
    path = files.write_file(tmp_path, pixels, START)
    whole, random, refused = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(200):
        flipped = np.frombuffer(whole, np.uint8).copy()
        flipped[random.integers(10, len(flipped), size=2)] ^= np.uint8(1 << random.integers(8))
        path.write_bytes(flipped.tobytes())
        try:
            np.testing.assert_array_equal(Fmi(tmp_path).read(0, range(1))[0, 0], pixels)
        except UserError as error:
            refused += 1
            assert path.name in str(error)
    assert refused > 190


def test_the_card(files, tmp_path):
    files.write_sample(tmp_path, 20)
    train, test = (stpredict.load_data("fmi", tmp_path, split) for split in ("train", "test"))
    assert (len(train), len(test)) == (3, 1) and train[2].times[-1] < test[0].times[0]
    spec = train.spec
    assert (spec.units, spec.time_step, spec.z_r, spec.fill, spec.minimum) == ("dBZ", 300.0, (223.0, 1.53), -32.0, -32.0)
    assert spec.scaled_fill == 0.0 and spec.grid == train.reader.facts["grid"]


@needs_sample
def test_the_generator_is_faithful(files, tmp_path):
    """Each kind of line in the header that the generator writes, a real one has too, in the same order; the name is the real one's."""
    made = files.write_file(tmp_path, np.zeros((1226, 760), np.uint8), START)
    real = SAMPLE / made.name
    lines = [gzip.decompress(path.read_bytes())[:900].split(b"\n255\n")[0].split(b"\n") for path in (made, real)]
    ours, theirs = ([line for line in header if not line.startswith(b"# radar")] for header in lines)
    assert [line.partition(b"meter")[0] for line in ours] == [line.partition(b"meter")[0] for line in theirs]


@needs_sample
def test_the_real_files():
    """The numbers are those of pysteps 1.21: import_fmi_pgm of all 20 files."""
    reader = Fmi(SAMPLE)
    assert reader.films[0].length == 20 and reader.films[0].times[-1] == np.datetime64("2017-05-09T12:20")
    echo = physical(reader, range(20))
    assert echo.shape == (20, 1226, 760) and np.isnan(echo).mean() == pytest.approx(0.243, abs=5e-4)
    assert np.nanmin(echo) == -32.0


@needs_sample
def test_the_real_files_pixel_by_pixel():
    importers = pytest.importorskip("pysteps").io.importers
    reader = Fmi(SAMPLE)
    for position in range(20):
        theirs, _, about = importers.import_fmi_pgm(str(reader._paths[0][position]), gzipped=True)
        np.testing.assert_array_equal(physical(reader, range(position, position + 1))[0], theirs)
    corners = np.array([about[name] for name in ("x1", "y1", "x2", "y2")]) - [FALSE_EASTING, FALSE_NORTHING] * 2
    np.testing.assert_allclose(reader.facts["grid"].corners, corners, rtol=0, atol=0.02)
