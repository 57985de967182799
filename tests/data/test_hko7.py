import math
import pickle
import zlib
from datetime import datetime
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import stpredict
from stpredict.data.checking import check_data
from stpredict.data.readers.finding import BadFiles
from stpredict.data.readers.hko7 import Hko7, rain_rates
from stpredict.errors import UserError

GENERATORS = Path(__file__).resolve().parents[2] / "datasets" / "generators"
LISTS = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "hko7_meta"
DAYS = {name: f"hko7_rainy_{file}_days.txt" for name, file in (("train", "train"), ("validation", "valid"), ("test", "test"))}
PIXELS = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.fixture(scope="module")
def hko7_files():
    return SimpleNamespace(**run_path(str(GENERATORS / "hko7.py")))


@pytest.fixture
def sample(hko7_files, tmp_path):
    hko7_files.write_sample(tmp_path, frames=3, size=16)
    return tmp_path


def physical(reader, frames):
    return reader.packing.unpack(torch.from_numpy(frames)).numpy()


def test_every_pixel_value_in_dbz_and_a_masked_one_is_missing(hko7_files, tmp_path):
    """All 256 values are values: masked ones must not collide with any of them."""
    mask = np.random.default_rng(0).random((16, 16)) < 0.7
    path = hko7_files.write_frame(tmp_path, datetime(2012, 6, 30, 23, 54), PIXELS, mask)
    assert path.relative_to(tmp_path).as_posix() == "radarPNG/2012/06/30/RAD120630235400.png"
    reader = Hko7(tmp_path, units="dBZ")
    dbz = physical(reader, reader.read(0, range(1)))[0, 0]
    np.testing.assert_array_equal(np.isnan(dbz), ~mask)
    np.testing.assert_allclose(dbz[mask], 70 * PIXELS[mask].astype(np.float64) / 255 - 10, atol=1e-5)
    assert reader.films[0].name == "20120630" and reader.films[0].times.tolist() == [datetime(2012, 6, 30, 23, 54)]
    assert reader.facts == {"units": "dBZ", "time_step": 360.0, "z_r": (58.53, 1.56)}
    everything = Hko7(tmp_path, units="dBZ", masks=False)
    np.testing.assert_array_equal(everything.read(0, range(1))[0, 0], PIXELS)


def test_rain_rates(hko7_files, tmp_path):
    """R of Z = 58.53 R^1.56, by another order of steps than the reader's; no echo is no rain."""
    mask = PIXELS % 3 > 0
    hko7_files.write_frame(tmp_path, datetime(2012, 6, 30), PIXELS, mask)
    reader = Hko7(tmp_path)
    rates = physical(reader, reader.read(0, range(1)))[0, 0]
    expected = [0.0] + [10 ** (((70 * p / 255 - 10) - 10 * math.log10(58.53)) / 1.56 / 10) for p in range(1, 256)]
    np.testing.assert_allclose(rain_rates(), expected, rtol=1e-12)
    np.testing.assert_array_equal(np.isnan(rates), ~mask)
    np.testing.assert_allclose(rates[mask], np.array(expected)[PIXELS[mask]], rtol=1e-5)
    # The benchmark's thresholds in mm/h, and the first pixel values that reach them.
    assert [int(np.argmax(np.array(rain_rates()) >= threshold)) for threshold in (0.5, 2, 5, 10, 30)] == _pixels((0.5, 2, 5, 10, 30))


def _pixels(thresholds):
    return [math.ceil((10 * math.log10(58.53) + 15.6 * math.log10(rate) + 10) / 70 * 255) for rate in thresholds]


def test_scaled_values_of_the_card_are_pixels_over_255(hko7_files, tmp_path):
    for file, day in (("train", "20120630"), ("valid", "20120702"), ("test", "20120704")):
        start = datetime.strptime(day, "%Y%m%d")
        for step in range(25):
            hko7_files.write_frame(tmp_path, start.replace(hour=step // 10, minute=step % 10 * 6), PIXELS, PIXELS < 256)
        (tmp_path / f"hko7_rainy_{file}_days.txt").write_text(f"{day}, 1.5\n")
    clips = stpredict.load_data("hko7", tmp_path)
    scaled, valid = clips.spec.scale(clips.packing.unpack(torch.from_numpy(clips[0].frames)))
    assert valid.all() and scaled.shape == (25, 1, 16, 16)
    np.testing.assert_allclose(scaled[0, 0].numpy(), PIXELS / 255.0, atol=2e-6)
    assert clips.spec.z_r == (58.53, 1.56) and clips.spec.units == "mm/h" and clips.spec.thresholds == (0.5, 2, 5, 10, 30)


def test_days_of_a_list_that_follow_one_another_are_one_film(hko7_files, sample):
    hko7_files.write_sample(sample, frames=30, size=16)
    reader = Hko7(sample, days=DAYS)
    assert [(film.name, film.length) for film in reader.films] == [
        ("train/20090215", 60),
        ("train/20100320", 30),
        ("validation/20100105", 30),
        ("test/20150107", 30),
    ]
    assert reader.films[0].times[30] == np.datetime64("2009-02-16T00:00")
    chosen = {split: stpredict.load_data("hko7", sample, split) for split in ("train", "validation", "test")}
    # 30 frames of 240 a day were written, so that each day is a run: clips of 25 begin at 0 and 5.
    assert {split: clips.index.tolist() for split, clips in chosen.items()} == {
        "train": [[0, 0], [0, 5], [0, 30], [0, 35], [1, 0], [1, 5]],
        "validation": [[2, 0], [2, 5]],
        "test": [[3, 0], [3, 5]],
    }
    assert len(Hko7(sample).films) == 4 and check_data("hko7", sample).ok
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(reader)).read(2, range(3)), reader.read(2, range(3)))


def test_a_clip_may_reach_over_midnight(hko7_files, tmp_path):
    for day, hours in (("20120630", 23), ("20120701", 0)):
        for step in range(10):
            moment = datetime.strptime(day, "%Y%m%d").replace(hour=hours, minute=6 * step)
            hko7_files.write_frame(tmp_path, moment, np.full((4, 4), step, np.uint8), np.ones((4, 4), bool))
    reader = Hko7(tmp_path)
    assert [film.length for film in reader.films] == [20] and (np.diff(reader.films[0].times).astype(int) == 360).all()
    assert reader.read(0, range(8, 13))[:, 0, 0, 0].tolist() == [8, 9, 0, 1, 2]


def test_masks_that_are_wrong_are_named(sample):
    frame = next((sample / "radarPNG").rglob("RAD150107000000.png"))
    mask = sample / "radarPNG_mask" / frame.relative_to(sample / "radarPNG").with_suffix(".mask")
    reader = Hko7(sample)
    for content, sentence in (
        (mask.read_bytes()[:10], "is no mask of 16 x 16 pixels"),
        (b"", "is no mask of 16 x 16 pixels"),
        (b"\x00" * 30, "is damaged or is no mask"),
        (zlib.compress(bytes(255)), "is no mask of 16 x 16 pixels"),
        (zlib.compress(bytes(257)), "is no mask of 16 x 16 pixels"),
        (zlib.compress(bytes(50_000_000)), "is no mask of 16 x 16 pixels"),
        (zlib.compress(b"\x02" * 256), "holds 2, but a mask holds 0 and 1 only"),
    ):
        mask.write_bytes(content)
        with pytest.raises(UserError, match=rf"RAD150107000000\.mask' {sentence}"):
            reader.read(3, range(1))
    mask.unlink()
    with pytest.raises(BadFiles, match=r"RAD150107000000\.png' has no mask '.*radarPNG_mask/2015/01/07/RAD150107000000\.mask'"):
        Hko7(sample)
    assert Hko7(sample, leave_out=["*RAD150107000000.png"]).films[3].length == 2


def test_folders_and_lists_that_are_not_there(sample):
    with pytest.raises(UserError, match=r"holds no folder 'radarPNG'; give the one that holds"):
        Hko7(sample / "radarPNG")
    (sample / DAYS["test"]).unlink()
    with pytest.raises(UserError, match=r"no list of days '.*hko7_rainy_test_days\.txt' \(settings\.days\.test\)"):
        Hko7(sample, days=DAYS)
    for text, sentence in (
        ("20150107, 1\n2015-01-08, 2\n", "line 2: '2015-01-08, 2' is no day such as 20120630"),
        ("20150230\n", "line 1: '20150230' is no day"),
        ("20150107\n20090215\n", "lists 20090215, which is in the list 'train' too"),
    ):
        (sample / DAYS["test"]).write_text(text)
        with pytest.raises(UserError, match=sentence):
            Hko7(sample, days=DAYS)
    with pytest.raises(UserError, match="holds no frame of a listed day"):
        (sample / "none.txt").write_text("19990101\n")
        Hko7(sample, days={"train": "none.txt"})
    (sample / "radarPNG_mask").rename(sample / "elsewhere")
    with pytest.raises(UserError, match=r"no folder 'radarPNG_mask'; without masks say so by the setting masks: false"):
        Hko7(sample)
    assert len(Hko7(sample, masks=False).films) == 4


@pytest.mark.parametrize("name", ["RAD1501070000.png", "RAD150108000000.png", "RAD150107246000.png", "RAD150107000030.png", "RADAR.png"])
def test_a_name_that_tells_no_time_is_refused(sample, name):
    frame = next((sample / "radarPNG").rglob("RAD150107000000.png"))
    frame.rename(frame.with_name(name))
    with pytest.raises(BadFiles, match=rf"{name}' tells (no time|a time that does not exist)"):
        Hko7(sample)


def test_a_frame_of_another_size_is_named(hko7_files, sample):
    hko7_files.write_frame(sample, datetime(2015, 1, 7, 0, 6), np.zeros((16, 17), np.uint8))
    with pytest.raises(UserError, match=r"RAD150107000600\.png' is 16 x 17 pixels, but the archive's frames are 16 x 16"):
        Hko7(sample).read(3, range(2))
    frame = next((sample / "radarPNG").rglob("RAD150107000000.png"))
    frame.write_bytes(frame.read_bytes()[:60])
    with pytest.raises(UserError, match=r"RAD150107000000\.png' is damaged"):
        Hko7(sample).read(3, range(1))


@pytest.mark.skipif(not LISTS.is_dir(), reason="the lists of HKO-7's days are not here")
def test_the_real_lists_of_days(hko7_files, tmp_path):
    for file in DAYS.values():
        (tmp_path / file).write_bytes((LISTS / file).read_bytes())
    days = {name: [line[:8] for line in (LISTS / file).read_text().splitlines()] for name, file in DAYS.items()}
    assert {name: len(listed) for name, listed in days.items()} == {"train": 812, "validation": 50, "test": 131}
    frame = hko7_files.write_frame(tmp_path, datetime(2009, 1, 1), np.zeros((2, 2), np.uint8))
    for listed in days.values():
        for day in listed:
            path = tmp_path / "radarPNG" / day[:4] / day[4:6] / day[6:] / f"RAD{day[2:]}000000.png"
            path.parent.mkdir(parents=True)
            path.hardlink_to(frame)
    films = Hko7(tmp_path, days=DAYS, masks=False).films
    counts = {name: sum(film.length for film in films if film.name.startswith(name)) for name in DAYS}
    assert counts == {"train": 812, "validation": 50, "test": 131}  # and not the day that is in no list
