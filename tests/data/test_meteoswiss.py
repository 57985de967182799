import pickle
from datetime import datetime, timedelta
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import stpredict
from stpredict.data.readers.meteoswiss import GRID, MeteoSwiss, rain_rates
from stpredict.errors import UserError

GENERATOR = Path(__file__).resolve().parents[2] / "datasets" / "generators" / "meteoswiss.py"
SAMPLE = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "mch_aqc"
needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason="the MeteoSwiss sample files are not here")
FRAMES = 5


@pytest.fixture(scope="module")
def files():
    return SimpleNamespace(**run_path(str(GENERATOR)))


@pytest.fixture
def sample(files, tmp_path):
    files.write_sample(tmp_path, FRAMES)
    return tmp_path


def physical(reader, film, positions):
    return reader.packing.unpack(torch.from_numpy(reader.read(film, positions)))[:, 0].numpy()


def test_colours_stand_for_rain():
    """Rates as pysteps 1.21 gives them (import_mch_gif, times 12), and the steps of half a decibel between them."""
    rates = np.array(rain_rates())
    assert len(rates) == 256 and np.isnan(rates[255]) and not np.isnan(rates[:255]).any()
    assert (rates[:2] == 0).all() and (rates[251:255] == 0).all()
    theirs = [0.001247545874286599, 0.009909609120596347, 0.2687756108969204, 2.3052773910755064, 115.53755983766285]
    np.testing.assert_allclose(rates[[2, 29, 72, 100, 151]], theirs, rtol=1e-12)
    np.testing.assert_allclose(np.diff(15 * np.log10(rates[2:251])), 0.5, rtol=1e-9)


def test_frames_times_and_grid(sample, files):
    reader = MeteoSwiss(sample)
    assert [(film.name, film.length) for film in reader.films] == [("20150515", FRAMES), ("20170131", FRAMES)]
    for film, start in zip(reader.films, files.EVENTS, strict=True):
        assert film.times.tolist() == [start + timedelta(minutes=5 * number) for number in range(FRAMES)]
    assert (reader.channels, reader.height, reader.width) == (1, 640, 710)
    frames = reader.read(1, range(0, FRAMES, 2))
    assert frames.dtype == np.uint8
    for frame, path in zip(frames, sorted((sample / "20170131").iterdir())[::2], strict=True):
        np.testing.assert_array_equal(frame[0], np.asarray(Image.open(path)))
    rain = physical(reader, 0, range(1))[0]
    assert np.isnan(rain[0, 0]) and rain[400, 400] == 0 and rain[300, 200] == pytest.approx(rain_rates()[140])
    facts = reader.facts
    assert (facts["units"], facts["time_step"], facts["period"], facts["z_r"]) == ("mm/h", 300.0, 300.0, (316.0, 1.5))
    assert facts["grid"].corners == (255_000.0, -160_000.0, 965_000.0, 480_000.0) and facts["grid"].row_origin == "north"
    pickle.loads(pickle.dumps(reader)).read(0, range(1))


def test_the_grid_is_the_swiss_one():
    """The old observatory of Bern, at 46 57 03.89813 N, 7 26 19.07665 E of today's datum, is the origin (600000, 200000) of LV03."""
    pyproj = pytest.importorskip("pyproj")
    bern = pyproj.Proj(GRID.projection)(7 + 26 / 60 + 19.07665 / 3600, 46 + 57 / 60 + 3.89813 / 3600)
    assert bern == pytest.approx((600_000, 200_000), abs=0.1)


def test_one_film_of_all_folders(sample):
    film = MeteoSwiss(sample, films="one").films
    assert len(film) == 1 and film[0].length == 2 * FRAMES and (np.diff(film[0].times) > np.timedelta64(0, "s")).all()


@pytest.mark.parametrize(
    ("name", "moment"),
    [
        ("AQC151351545F_00005.801.gif", datetime(2015, 5, 15, 15, 45)),
        ("AQC160600000G_00005.801.gif", datetime(2016, 2, 29)),
        ("AQC163662355X.gif", datetime(2016, 12, 31, 23, 55)),
        ("aqc170010000F_00005.801.GIF", datetime(2017, 1, 1)),
        ("AQC173660000F_00005.801.gif", None),
        ("AQC170000000F_00005.801.gif", None),
        ("AQC170012400F_00005.801.gif", None),
        ("AQC170010060F_00005.801.gif", None),
        ("AQC1700100.gif", None),
        ("AQC later.gif", None),
    ],
)
def test_names_tell_times(files, tmp_path, name, moment):
    files.write_file(tmp_path, np.zeros((640, 710), np.uint8), datetime(2020, 1, 1)).rename(tmp_path / name)
    if moment is not None:
        assert MeteoSwiss(tmp_path).films[0].times.tolist() == [moment]
        return
    with pytest.raises(UserError, match="tells no time: a name is AQC, year, day of the year") as caught:
        MeteoSwiss(tmp_path)
    assert name in str(caught.value)


def test_two_files_of_one_time_are_both_named(sample, files):
    files.write_file(sample / "20150515", np.zeros((640, 710), np.uint8), files.EVENTS[0], "Z")
    with pytest.raises(UserError, match=r"AQC151351545F_00005\.801\.gif' and '.*AQC151351545Z.*' are of the same time, 2015-05-15T15:45"):
        MeteoSwiss(sample)
    assert MeteoSwiss(sample, leave_out=["*545Z_*"]).films[0].length == FRAMES


def test_images_of_another_kind_are_named(sample, files):
    bad = files.write_file(sample / "20150515", np.zeros((64, 71), np.uint8), datetime(2015, 5, 15))
    with pytest.raises(UserError, match=r"AQC151350000F.* is 64 x 71 pixels; MeteoSwiss' images are 640 x 710"):
        MeteoSwiss(sample)
    bad.write_bytes(b"GIF89a" + b"\xff" * 40)
    with pytest.raises(UserError, match="AQC151350000F"):
        MeteoSwiss(sample)
    Image.new("L", (710, 640)).save(bad, "PNG")
    with pytest.raises(UserError, match=r"AQC151350000F.* is no GIF image"):
        MeteoSwiss(sample)
    with pytest.raises(UserError, match=r"holds no file called AQC\*\.gif"):
        MeteoSwiss(sample, leave_out=["*"])


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9])
def test_a_truncated_file_is_named(sample, share):
    path = sorted((sample / "20150515").iterdir())[2]
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=r"AQC151351555H.* is damaged or is no GIF image"):
        MeteoSwiss(sample).read(0, range(FRAMES))


def test_flipped_bytes_never_crash_a_reader(files, tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (640, 710)).astype(np.uint8)
    colours[40:] = 0
    path = files.write_file(tmp_path, colours, datetime(2015, 5, 15))
    whole, random, refused = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(60):
        flipped = np.frombuffer(whole, np.uint8).copy()
        flipped[random.integers(len(flipped), size=2)] = random.integers(256, size=2)
        flipped[random.integers(1000)] = random.integers(256)
        path.write_bytes(flipped.tobytes())
        try:
            MeteoSwiss(tmp_path).read(0, range(1))
        except UserError as error:
            refused += 1
            assert path.name in str(error)
    assert refused > 10


def test_the_card(files, tmp_path):
    files.write_sample(tmp_path, 40)
    data = {split: stpredict.load_data("meteoswiss", tmp_path, split) for split in ("train", "validation", "test")}
    assert {split: len(clips) for split, clips in data.items()} == {"train": 12, "validation": 3, "test": 32}
    assert all("20170131" in data["test"][index].name for index in (0, 31)) and "20150515" in data["validation"][0].name
    assert data["train"][11].times[-1] < data["validation"][0].times[0]
    assert data["train"].spec.period == 300.0 and data["train"].spec.z_r == (316.0, 1.5) and data["train"].spec.units == "mm/h"


@needs_sample
def test_the_generator_is_faithful(files, tmp_path):
    """Header, palette, the kinds of blocks and their order are those of a real file; names too."""
    real = SAMPLE / "20150515" / "AQC151351545F_00005.801.gif"
    made = files.write_file(tmp_path, np.asarray(Image.open(real)), files.EVENTS[0])
    assert made.name == real.name
    ours, theirs = made.read_bytes(), real.read_bytes()
    start = 13 + 3 * 256
    assert ours[: start + 10] == theirs[: start + 10]
    assert blocks(ours, start) == blocks(theirs, start) == [(0x21, 0xF9), (0x21, 0xFE), (0x2C, 8), (0x3B, None)]
    np.testing.assert_array_equal(np.asarray(Image.open(made)), np.asarray(Image.open(real)))


def blocks(content, start):
    found = []
    while content[start] != 0x3B:
        head = 2 if content[start] == 0x21 else 11
        found.append((content[start], content[start + head - 1]))
        start += head
        while content[start]:
            start += content[start] + 1
        start += 1
    return [*found, (0x3B, None)]


@needs_sample
def test_the_real_files():
    """The numbers are those of pysteps 1.21: import_mch_gif of all 80 files."""
    reader = MeteoSwiss(SAMPLE)
    assert [(film.name, film.length) for film in reader.films] == [("20150515", 40), ("20170131", 40)]
    assert reader.films[0].times[-1] == np.datetime64("2015-05-15T19:00") and reader.films[1].times[0] == np.datetime64("2017-01-31T09:45")
    rain = [physical(reader, film, range(40)) for film in (0, 1)]
    assert sum(int(np.isnan(film).sum()) for film in rain) == 10_767_891
    assert [np.nanmax(film) for film in rain] == [pytest.approx(115.53756, rel=1e-5), pytest.approx(29.021723, rel=1e-5)]
    assert [np.nanmean(film, dtype=np.float64) for film in rain] == [pytest.approx(0.343773, abs=1e-5), pytest.approx(0.264244, abs=1e-5)]


@needs_sample
def test_the_real_files_pixel_by_pixel():
    importers = pytest.importorskip("pysteps").io.importers
    reader = MeteoSwiss(SAMPLE)
    for film in (0, 1):
        for position in range(40):
            path = reader._paths[film][position]
            depth, _, about = importers.import_mch_gif(str(path), product="AQC", unit="mm", accutime=5.0)
            np.testing.assert_allclose(physical(reader, film, range(position, position + 1))[0], depth * 12, rtol=1e-6)
    assert [about[name] for name in ("x1", "y1", "x2", "y2")] == list(GRID.corners)
