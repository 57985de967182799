import json
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

import stpredict
from stpredict.configuration import build, read_yaml
from stpredict.data import storing
from stpredict.data.card import Card, Window, open_reader, read_card
from stpredict.data.checking import check_data
from stpredict.data.clips import Film, Reader
from stpredict.data.loader import collate
from stpredict.data.readers.knmi import Knmi
from stpredict.data.readers.store import About, Store, is_store
from stpredict.data.spatial import Spatial
from stpredict.data.splits import Splits
from stpredict.data.storing import prepare_archive
from stpredict.errors import UserError
from stpredict.forecasts import clip_digests, truth_hash
from stpredict.frames import Grid, Packing

SAMPLE = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "knmi_rap_2010-08-26"
KNMI = replace(read_card("knmi"), window=Window(2, 2))


class Strange(Reader):
    """Films with and without a clock, two channels, and a packing of all that there can be."""

    channels, height, width = 2, 3, 5
    packing = Packing(0.5, -1.0, (255.0, float("nan")), ((0.0, float("-inf")),), (0.0, float("nan"), 2.5))
    facts = {  # noqa: RUF012
        "units": "dBZ",
        "time_step": 60.0,
        "grid": Grid("+proj=laea", (0.0, 1.0, 2.0, 3.0), "south"),
        "z_r": (200.0, 1.6),
        "period": None,
    }

    def __init__(self, root: Path, *, dtype: str = "uint8", lengths: tuple[int, ...] = (3, 1, 40)) -> None:
        start = np.datetime64("2020-02-29T23:59", "s")
        self.films = [Film(f"fílm {n}", n, None if n == 3 else start + 60 * np.arange(n)) for n in lengths]
        self.dtype = dtype

    def read(self, film, positions):
        drawn = np.random.default_rng([film]).integers(0, 255, (self.films[film].length, 2, 3, 5))
        return drawn[positions.start : positions.stop : positions.step].astype(self.dtype)


def strange(**settings):
    return Card(
        name="strange",
        reader=f"{__name__}:Strange",
        settings=settings,
        window=Window(1, 1),
        splits=Splits("film", fractions={"train": 1.0}),
    )


@pytest.fixture
def archive(knmi_files, tmp_path):
    folder = tmp_path / "archive"
    folder.mkdir()
    knmi_files.write_sample(folder, frames=40)
    (folder / "RAD_NL25_RAP_5min_201008260200.h5").unlink()
    return folder


@pytest.fixture
def prepared(archive, tmp_path):
    prepare_archive("knmi", archive, tmp_path / "rain.h5")
    return tmp_path / "rain.h5"


def same_reader(one, other):
    assert [film.name for film in one.films] == [film.name for film in other.films]
    for number, (ours, theirs) in enumerate(zip(one.films, other.films, strict=True)):
        assert (ours.times is None) == (theirs.times is None)
        if ours.times is not None:
            np.testing.assert_array_equal(ours.times, theirs.times)
            assert ours.times.dtype == theirs.times.dtype
        for positions in (range(ours.length), range(1, ours.length, 2), range(ours.length - 1, ours.length)):
            mine, yours = one.read(number, positions), other.read(number, positions)
            assert mine.dtype == yours.dtype and mine.shape == yours.shape and mine.tobytes() == yours.tobytes()
    assert (one.channels, one.height, one.width, one.facts) == (other.channels, other.height, other.width, other.facts)
    assert repr(one.packing) == repr(other.packing)  # NaN is not equal to itself


@pytest.mark.parametrize(("compression", "workers"), [("gzip", 2), ("none", 1)])
def test_every_clip_is_that_of_the_archive(archive, tmp_path, compression, workers, monkeypatch):
    monkeypatch.setattr(storing, "_BLOCK", 7 * 32 * 28 * 2)
    path = tmp_path / "rain.h5"
    report = prepare_archive("knmi", archive, path, workers=workers, compression=compression)
    assert (report.films, report.frames, report.kept, report.size) == (1, 39, 0, path.stat().st_size) and report.seconds is not None
    assert sorted(file.name for file in tmp_path.iterdir()) == ["archive", "rain.h5"]
    same_reader(Store(path), Knmi(archive))
    for split in ("train", "validation", "test"):
        for change in ({}, {"crop": (3, 1, 20, 24), "resize": (10, 12)}, {"every": 2, "stride": 3}):
            if split == "validation" and "every" in change:  # it is too short for that
                continue
            asked = {"context": 2, "horizon": 1, **change}
            ours, theirs = (stpredict.load_data("knmi", root, split, **asked) for root in (path, archive))
            assert len(ours) == len(theirs) > 0 and ours.spec == theirs.spec and ours.packing == theirs.packing
            for index in range(len(theirs)):
                mine, yours = ours[index], theirs[index]
                assert mine.frames.dtype == yours.frames.dtype and mine.frames.tobytes() == yours.frames.tobytes()
                assert mine.name == yours.name and (mine.times == yours.times).all()


def test_the_hash_of_scored_clips_is_that_of_the_archive(archive, prepared):
    hashes = []
    for root in (archive, prepared):
        clips = stpredict.load_data("knmi", root, "test", context=2, horizon=2)
        hashes.append(truth_hash(2, 2, clip_digests(collate([(index, clips[index]) for index in range(len(clips))]))))
    assert hashes[0] == hashes[1] and len(hashes[0]) > 8


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32", "float64"])
def test_films_of_any_kind(tmp_path, dtype, monkeypatch):
    monkeypatch.setattr(storing, "_BLOCK", 6 * 2 * 3 * 5)
    card = strange(dtype=dtype)
    prepare_archive(card, tmp_path, tmp_path / "all.hdf5")
    store = open_reader(card, tmp_path / "all.hdf5")
    assert isinstance(store, Store)
    same_reader(store, Strange(tmp_path, dtype=dtype))
    same_reader(pickle.loads(pickle.dumps(store)), Strange(tmp_path, dtype=dtype))


def test_what_the_file_says_of_itself(archive, prepared):
    with h5py.File(prepared) as file:
        assert file["frames"].shape == (39, 1, 32, 28) and file["frames"].chunks == (1, 1, 32, 28) and file["frames"].dtype == np.uint16
        assert file["times"].dtype == np.int64 and file["times"][0] == 1282780800  # 2010-08-26T00:00
        sources = json.loads(bytes(file["sources"][()]))
    listed = sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in archive.iterdir())
    assert [tuple(source) for source in sources] == listed
    about = Store(prepared).about
    assert (about.reader, about.settings, about.compression, about.version) == ("knmi", {}, "gzip", stpredict.__version__)
    text = prepared.with_name("card.yaml")
    text.write_text(about.card, encoding="utf-8")
    assert build(Card, read_yaml(text)) == read_card("knmi")
    assert About.from_json(about.to_json()) == about


def test_a_complete_file_is_left_alone_and_changes_are_told(archive, prepared, knmi_files):
    before = prepared.stat()
    again = prepare_archive("knmi", archive, prepared)
    assert again.seconds is None and again.frames == 39 and "nothing to do" in str(again)
    assert (prepared.stat().st_ino, prepared.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    (archive / "RAD_NL25_RAP_5min_201008260010.h5").unlink()
    os.utime(archive / "RAD_NL25_RAP_5min_201008260000.h5", ns=(1, 1))
    (archive / "note.txt").write_text("new")
    wanted = r"1 new \(note\.txt\), 1 gone \(RAD_\w+0010\.h5\), 1 changed \(RAD_\w+0000\.h5\); --again makes it anew"
    with pytest.raises(UserError, match=wanted):
        prepare_archive("knmi", archive, prepared)
    assert prepare_archive("knmi", archive, prepared, again=True).frames == 38
    same_reader(replace_name(Store(prepared)), replace_name(Knmi(archive)))
    with pytest.raises(UserError, match="was made with the compression gzip, not none; --again"):
        prepare_archive("knmi", archive, prepared, compression="none")
    with pytest.raises(UserError, match=r"was made with settings\.files None, but the card 'knmi' says RAD\*; --again makes it anew"):
        prepare_archive(replace(KNMI, settings={"files": "RAD*"}), archive, prepared)


def replace_name(reader):
    reader.films = [Film("rain", film.length, film.times) for film in reader.films]
    return reader


def test_a_card_that_reads_in_another_way_is_refused(prepared):
    with pytest.raises(UserError, match=r"rain\.h5' was made by the reader knmi, but the card 'kth' names kth"):
        stpredict.load_data("kth", prepared)
    with pytest.raises(UserError, match=r"was made with settings\.files None, but the card 'knmi' says other\*"):
        stpredict.load_data("knmi", prepared, settings={"files": "other*"})
    # What counts after reading may be another: here splits and window.
    card = replace(KNMI, name="mine", splits=Splits("time", fractions={"train": 1.0}))
    assert len(stpredict.load_data(card, prepared)) == 21 + 12
    direct = replace(card, reader="stpredict.data.readers.store:Store")
    assert len(stpredict.load_data(direct, prepared)) == 21 + 12


@pytest.mark.parametrize("compression", ["gzip", "none"])
def test_a_crop_is_all_that_is_kept(archive, tmp_path, compression):
    crop = (3, 1, 20, 24)
    cropped = replace(KNMI, spatial=Spatial(crop))
    prepare_archive(cropped, archive, tmp_path / "part.h5", compression=compression)
    with h5py.File(tmp_path / "part.h5") as file:
        assert file["frames"].shape == (39, 1, 20, 24)
    for spatial in ({"crop": crop}, {"crop": (10, 7, 13, 18)}, {"crop": crop, "resize": (9, 30)}):
        ours, theirs = (stpredict.load_data(cropped, root, **spatial) for root in (tmp_path / "part.h5", archive))
        assert len(ours) == len(theirs) > 0 and ours.spec == theirs.spec
        assert all(ours[index].frames.tobytes() == theirs[index].frames.tobytes() for index in range(len(theirs)))
    assert check_data(cropped, tmp_path / "part.h5").ok
    for spatial in ({"crop": (2, 1, 20, 24)}, {"crop": (3, 0, 20, 24)}, {"crop": (4, 1, 20, 24)}, {"crop": (3, 2, 20, 24)}):
        with pytest.raises(UserError, match=r"holds only the part \[3, 1, 20, 24\] .* asks for the crop"):
            stpredict.load_data(cropped, tmp_path / "part.h5", **spatial)
    for reader in ("knmi", "stpredict.data.readers.store:Store"):
        with pytest.raises(UserError, match="asks for whole frames: crop to what is there, or prepare it again"):
            stpredict.load_data(replace(KNMI, reader=reader), tmp_path / "part.h5")
    assert prepare_archive(cropped, archive, tmp_path / "part.h5", compression=compression).seconds is None
    with pytest.raises(UserError, match=r"was made with the crop \(3, 1, 20, 24\), not None; --again makes it anew"):
        prepare_archive("knmi", archive, tmp_path / "part.h5", compression=compression)
    with pytest.raises(UserError, match="beyond the 32 x 28 frames"):
        prepare_archive(replace(KNMI, spatial=Spatial((0, 0, 33, 1))), archive, tmp_path / "x.h5")


def test_a_preparation_that_fails_goes_on_where_it_was(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(storing, "_BLOCK", 10 * 32 * 28 * 2)
    read, seen = Knmi.read, []

    def stops(self, film, positions):
        if positions.start == 20 and len(positions) > 1:
            raise KeyboardInterrupt
        seen.append(positions)
        return read(self, film, positions)

    monkeypatch.setattr(Knmi, "read", stops)
    with pytest.raises(KeyboardInterrupt):
        prepare_archive("knmi", archive, tmp_path / "rain.h5")
    assert not (tmp_path / "rain.h5").exists() and [block for block in seen if len(block) > 1] == [range(10), range(10, 20)]
    seen.clear()
    monkeypatch.setattr(Knmi, "read", lambda self, film, positions: seen.append(positions) or read(self, film, positions))
    report = prepare_archive("knmi", archive, tmp_path / "rain.h5")
    assert report.kept == 20 and [block for block in seen if len(block) > 1] == [range(20, 30), range(30, 39)]
    same_reader(replace_name(Store(tmp_path / "rain.h5")), replace_name(Knmi(archive)))


def test_parts_of_another_archive_are_not_used(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(storing, "_BLOCK", 10 * 32 * 28 * 2)
    with monkeypatch.context() as patch, pytest.raises(UserError, match="full"):
        patch.setattr(storing, "_join", lambda *_: (_ for _ in ()).throw(UserError("full")))
        prepare_archive("knmi", archive, tmp_path / "rain.h5")
    assert len(list((tmp_path / ".rain.h5.parts").glob("*.h5"))) == 4
    os.utime(archive / "RAD_NL25_RAP_5min_201008260000.h5", ns=(1, 1))
    assert prepare_archive("knmi", archive, tmp_path / "rain.h5").kept == 0


def test_a_killed_preparation_goes_on(archive, tmp_path):
    """Killed without warning while two processes read: nothing lies under the final name, no process stays, and the rest is soon done."""
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[3])\n"
        "from stpredict.data import storing\nfrom stpredict.data.readers.knmi import Knmi\n"
        "read = Knmi.read\n"
        "def slow(self, film, positions):\n"
        "    print(positions, flush=True); time.sleep(0.2 if positions.start < 20 else 60); return read(self, film, positions)\n"
        "Knmi.read = slow\nstoring._BLOCK = 5 * 32 * 28 * 2\nstoring._SAMPLES = 1\n"
        "storing.prepare_archive('knmi', sys.argv[1], sys.argv[2], workers=2)\n"
    )
    out = tmp_path / "rain.h5"
    command = [sys.executable, "-c", code, str(archive), str(out), str(Path(__file__).parents[2])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    parts = tmp_path / ".rain.h5.parts"
    deadline = time.monotonic() + 30
    while len(list(parts.glob("0*.h5"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists() and len(list(parts.glob("0*.h5"))) == 4
    process.stdout.read()  # ends when the last process does that could write to it
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storing, "_BLOCK", 5 * 32 * 28 * 2)
        assert prepare_archive("knmi", archive, out).kept == 20
    same_reader(replace_name(Store(out)), replace_name(Knmi(archive)))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["archive", "rain.h5"]


def test_only_one_process_prepares_a_file(archive, tmp_path):
    with (
        storing._alone(tmp_path / ".rain.h5.parts", tmp_path / "rain.h5"),
        pytest.raises(UserError, match="Another stpredict is preparing"),
    ):
        prepare_archive("knmi", archive, tmp_path / "rain.h5")


def test_what_cannot_be_prepared(archive, prepared, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="nothing to prepare"):
        prepare_archive("moving_digits", None, tmp_path / "x.h5")
    with pytest.raises(UserError, match=r"ends in \.h5, not '\.npy'"):
        prepare_archive("knmi", archive, tmp_path / "x.npy")
    with pytest.raises(UserError, match="is a prepared file already"):
        prepare_archive("knmi", prepared, tmp_path / "x.h5")
    with pytest.raises(UserError, match="needs the folder of its files"):
        prepare_archive("knmi", None, tmp_path / "x.h5")
    (tmp_path / "mine.h5").write_bytes(b"mine")
    with pytest.raises(UserError, match="is there and is no prepared file"):
        prepare_archive("knmi", archive, tmp_path / "mine.h5")
    assert (tmp_path / "mine.h5").read_bytes() == b"mine"
    monkeypatch.setattr(storing.shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(UserError, match=r"needs about 0\.00\d+ GB while it is made, but the disk has 1e-07 GB free"):
        prepare_archive("knmi", archive, tmp_path / "x.h5")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["archive", "mine.h5", "rain.h5"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_damaged_file_is_named(archive, tmp_path, workers):
    path = archive / "RAD_NL25_RAP_5min_201008260100.h5"
    with h5py.File(path, "r+") as file:
        del file["image1/image_data"]
        file["image1/image_data"] = np.zeros((5, 5), np.uint16)
    reader = Knmi.__init__

    with pytest.raises(UserError, match=r"0100\.h5"):
        prepare_archive("knmi", archive, tmp_path / "rain.h5", workers=workers)
    assert reader is Knmi.__init__ and not (tmp_path / "rain.h5").exists()


def test_check_finds_a_changed_frame(prepared):
    assert check_data(KNMI, prepared).ok
    with h5py.File(prepared, "r+") as file:
        file["frames"][17, 0, 4, 5] += 1
    report = check_data(KNMI, prepared)
    assert len(report.problems) == 1 and "frame 17 of 'archive' is not what was written: prepare it again" in report.problems[0]


def test_a_damaged_prepared_file_is_refused(prepared, tmp_path):
    assert is_store(prepared) and not is_store(tmp_path)
    content = prepared.read_bytes()
    (tmp_path / "cut.h5").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"cut\.h5' is damaged or is no HDF5 file"):
        stpredict.load_data("knmi", tmp_path / "cut.h5")
    changes = {
        "version 9": lambda file: file.attrs.__setitem__("stpredict_store", 9),
        "holds float32 frames of shape": lambda file: (file.__delitem__("frames"), file.__setitem__("frames", np.zeros(4, np.float32))),
        "'films' is no text": lambda file: (file.__delitem__("films"), file.__setitem__("films", np.zeros(4))),
        "'films' is damaged": lambda file: file["films"].__setitem__(0, ord("!")),
        "'about'": lambda file: file.__delitem__("about"),
        "39 times and 2 checksums": lambda file: (file.__delitem__("crc32"), file.__setitem__("crc32", np.zeros(2, np.uint32))),
        "is a link": lambda file: (file.__delitem__("times"), file.__setitem__("times", h5py.SoftLink("/crc32"))),
    }
    for number, (sentence, change) in enumerate(changes.items()):
        path = tmp_path / f"{number}.h5"
        path.write_bytes(content)
        with h5py.File(path, "r+") as file:
            change(file)
        with pytest.raises(UserError, match=sentence):
            stpredict.load_data("knmi", path)
    with pytest.raises(UserError, match="is no prepared file"):
        Store(tmp_path / "archive" / "RAD_NL25_RAP_5min_201008260000.h5")


def test_a_film_table_that_does_not_fit_is_refused(prepared):
    for table in ([{"name": "a", "first": 0, "length": 38, "timed": True}], [{"name": "a", "first": 1, "length": 38, "timed": True}], [{}]):
        with h5py.File(prepared, "r+") as file:
            del file["films"]
            file["films"] = np.frombuffer(json.dumps(table).encode(), np.uint8)
        with pytest.raises(UserError, match="is damaged or was changed"):
            Store(prepared)


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the KNMI sample files are not here")
def test_the_real_files(tmp_path):
    prepare_archive("knmi", SAMPLE, tmp_path / "rain.h5", workers=2)
    ours, theirs = Store(tmp_path / "rain.h5"), Knmi(SAMPLE)
    assert ours.films[0].length == theirs.films[0].length > 80
    everything = range(ours.films[0].length)
    np.testing.assert_array_equal(ours.read(0, everything), theirs.read(0, everything))
    assert (tmp_path / "rain.h5").stat().st_size < 0.06 * ours.films[0].length * 765 * 700 * 2
