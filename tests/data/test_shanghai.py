import struct
import zlib
from datetime import datetime
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import stpredict
from stpredict.data.card import read_card
from stpredict.data.checking import check_data
from stpredict.data.readers.finding import BadFiles
from stpredict.data.readers.shanghai import Shanghai
from stpredict.data.windows import runs
from stpredict.errors import UserError

GENERATORS = Path(__file__).resolve().parents[2] / "datasets" / "generators"
SAMPLE = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "shanghai_png"
needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason="the Shanghai sample files are not here")


@pytest.fixture(scope="module")
def shanghai_files():
    return SimpleNamespace(**run_path(str(GENERATORS / "shanghai.py")))


@pytest.fixture
def sample(shanghai_files, tmp_path):
    shanghai_files.write_sample(tmp_path)
    return tmp_path


def first_file(folder):
    return min(folder.glob("20180724/*.png"))


def test_frames_times_and_scale(shanghai_files, sample):
    reader = Shanghai(sample)
    assert [film.name for film in reader.films] == ["20150809", "20180724", "20180730"]
    assert (reader.channels, reader.height, reader.width) == (1, 30, 30) and reader.facts == {"units": "dBZ"}
    for film, start in enumerate(shanghai_files.EVENTS):
        written = shanghai_files.echo(30, 30, film)
        np.testing.assert_array_equal(reader.read(film, range(4, 20, 5))[:, 0], written[4:20:5])
        assert reader.films[film].times[0].item() == start
        physical = reader.packing.unpack(torch.from_numpy(reader.read(film, range(30)))).numpy()
        # No echo is 0 dBZ, and nothing is missing; the product with 90 does not fit into 8 bits.
        np.testing.assert_allclose(physical[:, 0], written.astype(np.float64) * 90 / 255, atol=1e-5)
        assert (physical[:, 0][written == 0] == 0).all() and physical.max() > 70


def test_scans_are_ordered_by_time_not_by_name(shanghai_files, tmp_path):
    for seconds, value in ((0, 40), (330, 50), (660, 60)):
        shanghai_files.write_frame(tmp_path, datetime(2018, 7, 30, 1, seconds // 60, seconds % 60), np.full((8, 8), value, np.uint8))
    (path,) = tmp_path.glob("*010530*")
    path.rename(tmp_path / path.name.replace("Z_RADR_I_Z9210", "Z_RADR_I_A"))
    reader = Shanghai(tmp_path)
    assert reader.read(0, range(3))[:, 0, 0, 0].tolist() == [40, 50, 60] and (np.diff(reader.films[0].times).astype(int) == 330).all()


def test_irregular_steps_pass_and_gaps_are_not_crossed(shanghai_files, tmp_path):
    seconds = np.cumsum([0, *[322] * 12, 476, *[340] * 12, 806, *[331] * 26]).tolist()
    for number, second in enumerate(seconds):
        minutes, rest = divmod(second, 60)
        moment = datetime(2018, 7, 30, minutes // 60, minutes % 60, rest)
        shanghai_files.write_frame(tmp_path / "event", moment, np.full((4, 4), number, np.uint8))
    reader = Shanghai(tmp_path)
    assert runs(reader.films[0], range(53), read_card("shanghai").time) == [range(26), range(26, 53)]
    for day in (1, 2):
        shanghai_files.write_sample(tmp_path / f"more{day}", [datetime(2019, 1, day)], frames=25, size=4)
    clips = stpredict.load_data("shanghai", tmp_path)
    assert clips.index.tolist() == [[0, 0], [0, 26]] and clips.gaps == 1
    assert (clips.context, clips.horizon, clips.spec.time_step, clips.spec.thresholds) == (5, 20, 331.0, (20, 30, 35, 40))


def test_two_scans_of_one_time_are_both_named(sample):
    path = first_file(sample)
    again = path.with_name(path.name.replace("_CAP", "_CAQ"))
    again.write_bytes(path.read_bytes())
    with pytest.raises(BadFiles, match=r"_CAP\.bin\.png' and '.*_CAQ\.bin\.png' are of the same time, 2018-07-24T"):
        Shanghai(sample)
    assert len(Shanghai(sample, leave_out=["*_CAQ*"]).films) == 3


@pytest.mark.parametrize("name", ["Z_RADR_I_Z9210_2018072402_O.png", "Z_RADR_I_Z9210_20180231020202_O.png", "Z_RADR_I_20180724.png"])
def test_a_name_without_a_time_is_refused(sample, name):
    path = first_file(sample)
    path.rename(path.with_name(name))
    with pytest.raises(BadFiles, match=rf"{name}' bears (no time|a time that does not exist)"):
        Shanghai(sample)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.95])
def test_a_truncated_file_is_named(sample, share):
    path = first_file(sample)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=rf"{path.name}' is damaged or is no PNG file"):
        Shanghai(sample).read(1, range(3))
    report = check_data("shanghai", sample)
    assert not report.ok and any(path.name in problem for problem in report.problems)


def test_a_changed_byte_is_found_wherever_it_is(sample):
    """The checksums of PNG cover all but the lengths and the last chunk's end, which Pillow does not need."""
    path = first_file(sample)
    good = path.read_bytes()
    reader = Shanghai(sample)
    wanted = reader.read(1, range(1))
    for position in range(len(good)):
        changed = bytearray(good)
        changed[position] ^= 0x55
        path.write_bytes(changed)
        with pytest.raises(UserError, match=rf"'.*{path.name}'"):
            reader.read(1, range(1))
    path.write_bytes(good)
    np.testing.assert_array_equal(reader.read(1, range(1)), wanted)


def png(height, width, bits=8, colour=0, data=b""):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (png(60_000, 60_000, data=bytes(1000)), r"tells of 60000 x 60000 pixels, which its \d+ bytes cannot hold"),
        (png(2**31, 2**31), "tells of 2147483648 x 2147483648 pixels"),
        (png(0, 30), "tells of 0 x 30 pixels"),
        (png(30, 30, bits=16, data=bytes(2 * 900 + 30)), "has 16 bits a pixel, not 8"),
        (png(31, 30, data=bytes(31 * 31)), r"holds 31 x 30 pixels, but '.*' holds 30 x 30 pixels"),
        (b"GIF89a" + bytes(100), "is damaged or is no PNG file"),
        (b"", "is damaged or is no PNG file"),
    ],
)
def test_a_picture_of_another_kind_is_refused_before_it_is_decoded(sample, content, sentence):
    first_file(sample).write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        Shanghai(sample)


def test_pictures_that_lack_pixels_or_inflate_without_end_are_refused(sample):
    path = first_file(sample)
    reader = Shanghai(sample)
    path.write_bytes(png(30, 30, data=bytes(100)))
    with pytest.raises(UserError, match=rf"{path.name}' is damaged"):
        reader.read(1, range(1))
    path.write_bytes(png(30, 30, data=bytes(31 * 30)))
    assert (reader.read(1, range(1)) == 0).all()


def test_gray_that_is_stored_in_colour_is_read_and_colour_refused(shanghai_files, sample):
    path = first_file(sample)
    gray = shanghai_files.echo(1, 30, 5)[0]
    Image.fromarray(np.stack([gray] * 3, axis=2)).save(path)
    reader = Shanghai(sample)
    np.testing.assert_array_equal(reader.read(1, range(1))[0, 0], gray)
    Image.fromarray(np.stack([gray, gray, gray // 2], axis=2)).save(path)
    with pytest.raises(UserError, match=rf"{path.name}' is coloured; frames are gray"):
        reader.read(1, range(1))


def test_no_files(tmp_path):
    with pytest.raises(UserError, match=r"holds no file called Z_RADR_I_\*\.png"):
        Shanghai(tmp_path)


@needs_sample
def test_the_real_files_pixel_by_pixel():
    reader = Shanghai(SAMPLE)
    assert [film.length for film in reader.films] == [63, 117, 158] and (reader.height, reader.width) == (501, 501)
    card = read_card("shanghai")
    # The only gap is that of 806 s.
    assert [len(runs(film, range(film.length), card.time)) for film in reader.films] == [1, 1, 2]
    for film, folder in enumerate(sorted(SAMPLE.iterdir())):
        paths = sorted(folder.glob("*.png"))
        for position in range(0, len(paths), 9):
            stored = np.asarray(Image.open(paths[position]))
            frames = reader.read(film, range(position, position + 1))
            np.testing.assert_array_equal(frames[0, 0], stored)
            told = datetime.strptime(paths[position].name.split("_")[4], "%Y%m%d%H%M%S")
            assert reader.films[film].times[position].item() == told
            dbz = reader.packing.unpack(torch.from_numpy(frames))[0, 0].numpy()
            np.testing.assert_allclose(dbz, stored.astype(np.float64) / 255 * 90, atol=1e-5)


@needs_sample
def test_the_generator_is_faithful(shanghai_files, tmp_path):
    made = Image.open(shanghai_files.write_sample(tmp_path, frames=1)[0])
    real = Image.open(next(SAMPLE.glob("*/*.png")))
    assert (made.mode, made.format) == (real.mode, real.format)
