import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from stpredict.data import index
from stpredict.data.index import HeaderIndex, index_folder, load_index, save_index
from stpredict.data.readers import knmi
from stpredict.data.readers.finding import BadFiles, find_files, inspect_each
from stpredict.errors import UserError
from stpredict.frames import Grid, Packing

COUNT = 70


@dataclass(frozen=True)
class Header:
    number: int
    share: float
    name: str
    end: np.datetime64
    packing: Packing
    grid: Grid | None
    more: tuple[float, ...] = ()
    listed: object = None


def header(path):
    number = int(path.read_text())
    return Header(
        number=number,
        share=number / 3,
        name=path.name,
        end=np.datetime64("2020-01-01", "s") + number,
        packing=Packing(0.5, missing=(float(number % 2),), codes=((0.0, -1.0),)),
        grid=Grid("+proj=laea", (0.0, 1.0, 2.0, 3.0)) if number % 2 else None,
        more=(1.0, float("inf")),
        listed={
            "a": [1, (2, np.float32(0.1))],
            "kind": np.dtype(">f4"),
            "path": Path("x/y"),
            "n": np.int64(3),
            "day": np.datetime64("2020", "D"),
        },
    )


class Counted:
    def __init__(self):
        self.seen = []

    def __call__(self, path):
        self.seen.append(path.name)
        return header(path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("STPREDICT_INDEX", raising=False)
    archive = tmp_path / "archive"
    archive.mkdir()
    for number in range(COUNT):
        write(archive / f"{number}.txt", number)
    return archive


def write(path, number, age=10):
    path.write_text(str(number))
    then = time.time_ns() - age * 1_000_000_000
    os.utime(path, ns=(then, then))


def look(folder, **more):
    counted = Counted()
    found = inspect_each(folder, find_files(folder, ["*.txt"]), counted, cache=Header, **more)
    return found, counted.seen


def kept(tmp_path):
    return sorted((tmp_path / "cache" / "stpredict" / "index").glob("*"))


def test_headers_are_looked_at_once(folder, tmp_path):
    first, seen = look(folder)
    assert len(seen) == COUNT and first == [header(path) for path in find_files(folder, ["*.txt"])]
    again, seen = look(folder)
    assert seen == [] and again == first
    for ours, theirs in zip(again, first, strict=True):
        assert repr(ours) == repr(theirs)  # of the same types, too
        assert ours.listed["n"].dtype == np.int64 and ours.end.dtype == theirs.end.dtype
    assert sorted(os.listdir(folder)) == sorted(f"{number}.txt" for number in range(COUNT))
    (path,) = kept(tmp_path)
    assert path.suffix == ".json" and json.loads(path.read_text())["files"].keys() == set(os.listdir(folder))


def test_what_changed_is_looked_at_again(folder):
    look(folder)
    write(folder / "3.txt", 77)  # size and time
    os.utime(folder / "5.txt", ns=(1, 1))  # the time alone
    then = (folder / "7.txt").stat().st_mtime_ns
    (folder / "7.txt").write_text("123")
    os.utime(folder / "7.txt", ns=(then, then))  # the size alone
    (folder / "9.txt").unlink()
    write(folder / "new.txt", 5)
    found, seen = look(folder)
    assert sorted(seen) == ["3.txt", "5.txt", "7.txt", "new.txt"]
    assert found == [header(path) for path in find_files(folder, ["*.txt"])]
    assert look(folder)[1] == []


def test_a_file_that_changed_just_now_may_change_again(folder):
    write(folder / "3.txt", 3, age=0)
    look(folder)
    assert look(folder)[1] == ["3.txt"]


def test_the_same_archive_by_another_spelling(folder, monkeypatch):
    look(folder)
    monkeypatch.chdir(folder.parent)
    assert look(Path("archive"))[1] == [] and look(Path("archive/../archive"))[1] == []


def test_other_settings_and_other_archives_do_not_share(folder, tmp_path):
    look(folder)
    assert len(look(folder, depends={"dataset": "a"})[1]) == COUNT
    assert look(folder, depends={"dataset": "a"})[1] == []
    folder.rename(tmp_path / "moved")
    assert len(look(tmp_path / "moved")[1]) == COUNT


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", "null", '{"values": [], "files": {}}', '{"values": {"a": 1}, "files": 3}', "[" * 100000, "numbers", "class"]
)
def test_a_damaged_index_is_as_none(folder, tmp_path, damage):
    first, _ = look(folder)
    (path,) = kept(tmp_path)
    content = json.loads(path.read_text())
    if damage == "numbers":
        content["files"] = {name: [*entry[:2], 10**6] for name, entry in content["files"].items()}
    if damage == "class":
        content["values"] = [{"class": "Path", "fields": ["x"]} for _ in content["values"]]
    path.write_text(json.dumps(content) if damage in ("numbers", "class") else damage)
    found, seen = look(folder)
    assert found == first and len(seen) == COUNT
    assert look(folder) == (first, [])


def test_bad_files_are_told_each_time(folder):
    (folder / "5.txt").write_text("five")

    def inspect(path):
        try:
            return header(path)
        except ValueError:
            raise UserError(f"'{path}' is bad") from None

    for _ in range(2):
        with pytest.raises(BadFiles, match=r"5\.txt' is bad"):
            inspect_each(folder, find_files(folder, ["*.txt"]), inspect, cache=Header)


def test_switched_off_or_small_or_unwritable(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("STPREDICT_INDEX", "off")
    assert index_folder() is None and [len(look(folder)[1]) for _ in range(2)] == [COUNT, COUNT] and not (tmp_path / "cache").exists()
    monkeypatch.setenv("STPREDICT_INDEX", str(tmp_path / "own"))
    assert [len(look(folder)[1]) for _ in range(2)] == [COUNT, 0] and len(list((tmp_path / "own").iterdir())) == 1
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STPREDICT_INDEX", str(tmp_path / "file" / "below"))
    assert [len(look(folder)[1]) for _ in range(2)] == [COUNT, COUNT]
    monkeypatch.setenv("STPREDICT_INDEX", str(tmp_path / "small"))
    monkeypatch.setattr("stpredict.data.readers.finding.LEAST_FILES", COUNT + 1)
    assert [len(look(folder)[1]) for _ in range(2)] == [COUNT, COUNT] and not (tmp_path / "small").exists()
    paths = find_files(folder, ["*.txt"])
    assert inspect_each(folder, paths, header) == [header(path) for path in paths]


def test_few_changes_of_a_large_archive_are_not_worth_writing_it_again(folder, tmp_path):
    look(folder)
    (path,) = kept(tmp_path)
    before = path.stat().st_ino
    large = HeaderIndex(folder, Counted(), Header)
    write(folder / "3.txt", 4)
    large.look(folder / "3.txt")
    large.save(5000)
    assert path.stat().st_ino == before
    large.save(900)
    assert path.stat().st_ino != before and look(folder)[1] == []


def test_files_that_are_gone_are_forgotten_some_day(folder, monkeypatch):
    one = HeaderIndex(folder, header, Header)
    one._files = {f"gone {number}": [1, 1] for number in range(2000)}
    one.look(folder / "3.txt")
    one.save(COUNT)
    assert list(load_index(one._name)["files"])[-1] == "3.txt" and len(load_index(one._name)["files"]) == COUNT


def test_the_oldest_index_goes(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(index, "_KEPT", 3)
    for number in range(5):
        save_index(f"headers-{number}.json", number)
        os.utime(tmp_path / "cache" / "stpredict" / "index" / f"headers-{number}.json", ns=(number, number))
    assert [path.name for path in kept(tmp_path)] == ["headers-2.json", "headers-3.json", "headers-4.json"]


def test_two_processes_write_at_once(folder, tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from stpredict.data.index import save_index, load_index\n"
        "for number in range(300):\n"
        "    save_index('headers-x.json', [sys.argv[2]] * 2000)\n"
        "    found = load_index('headers-x.json')\n"
        "    assert found in (['a'] * 2000, ['b'] * 2000), found\n"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parents[2])]
    processes = [subprocess.Popen([*command, name]) for name in "ab"]
    assert [process.wait() for process in processes] == [0, 0]
    assert [path.name for path in kept(tmp_path)] == ["headers-x.json"]


def test_real_headers_of_radar_files(knmi_files, tmp_path, monkeypatch):
    monkeypatch.setenv("STPREDICT_INDEX", str(tmp_path / "index"))
    (tmp_path / "rain").mkdir()
    paths = knmi_files.write_sample(tmp_path / "rain", frames=COUNT)
    for path in paths:
        os.utime(path, ns=(1, 1))
    first = inspect_each(tmp_path / "rain", paths, knmi._read_header, cache=knmi._Header)

    def never(path):
        raise AssertionError(path)

    with monkeypatch.context() as patch:
        patch.setattr(knmi.hdf5, "open_file", never)
        again = inspect_each(tmp_path / "rain", paths, knmi._read_header, cache=knmi._Header)
    assert again == first == [knmi._read_header(path) for path in paths]


@pytest.mark.parametrize("value", [(3, "a"), 7, np.datetime64("2020-01-01T10:00", "s"), "text"])
def test_plain_headers(folder, value):
    seen = []

    def inspect(path):
        seen.append(path)
        return value

    paths = find_files(folder, ["*.txt"])
    assert inspect_each(folder, paths, inspect, cache=type(value)) == [value] * COUNT and len(seen) == COUNT
    assert inspect_each(folder, paths, inspect, cache=type(value)) == [value] * COUNT and len(seen) == COUNT
    assert inspect_each(folder, paths, lambda path: value, cache=type(value)) == [value] * COUNT


def test_two_ways_of_looking_do_not_share(folder):
    paths = find_files(folder, ["*.txt"])
    assert inspect_each(folder, paths, lambda path: 1, cache=int) == [1] * COUNT

    def two(path):
        return 2

    assert inspect_each(folder, paths, two, cache=int) == [2] * COUNT
