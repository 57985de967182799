from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest

from stpredict.data.card import Window, read_card
from stpredict.data.checking import check_data, describe, list_cards
from stpredict.errors import UserError

SHORT = Window(context=1, horizon=2)


def test_all_is_well(knmi_files, tmp_path):
    knmi_files.write_sample(tmp_path, frames=40)
    (tmp_path / "RAD_NL25_RAP_5min_201008260200.h5").unlink()
    report = check_data(replace(read_card("knmi"), window=SHORT), tmp_path)
    assert report.ok and (report.films, report.frames, report.gaps) == (1, 39, 1)
    # Of 39 frames 16, 11 (less a clip of 3) and 12 (less 3); the gap, after frame 23, takes two of the validation's.
    assert report.clips == {"train": 14, "validation": 4, "test": 7}
    assert str(report).splitlines()[0] == "knmi: all is well" and "39 frames, 1 gap(s)" in str(report)


def test_gaps_are_counted_and_the_longest_is_told(knmi_files, tmp_path):
    paths = knmi_files.write_sample(tmp_path, frames=60)
    for number in (10, 30, 31, 32, 50, 51, 52):
        paths[number].unlink()
    report = check_data(replace(read_card("knmi"), window=SHORT), tmp_path)
    assert (report.frames, report.gaps, report.missing) == (53, 3, 7)
    gap = report.longest_gap  # the first of two as long
    assert (gap.after, gap.seconds, gap.missing) == (np.datetime64("2010-08-26T02:25", "s"), 1200.0, 3)
    # Of the 53 frames that are left 21, 15 and 17: the gaps come after the 10th, the 29th and the 46th.
    assert report.split_gaps == {"train": 1, "validation": 1, "test": 1}
    name = tmp_path.name
    assert f"53 frames, 3 gap(s) in time (7 frames missing), the longest 1200 s after 2010-08-26T02:25:00 in '{name}'" in str(report)
    assert f"split train: {10 - 2 + 11 - 2} clips, 1 gap(s) in time" in str(report)


def test_frames_that_come_too_soon_are_gaps_too(knmi_files, tmp_path):
    knmi_files.write_sample(tmp_path, frames=40)
    knmi_files.write_file(tmp_path, np.zeros((32, 28), np.uint16), datetime(2010, 8, 26, 1, 1))
    report = check_data(replace(read_card("knmi"), window=SHORT), tmp_path)
    assert (report.gaps, report.missing, report.longest_gap.seconds) == (2, 0, 240.0)


def test_every_bad_file_is_named_and_the_others_are_read(knmi_files, tmp_path):
    paths = knmi_files.write_sample(tmp_path, frames=40, height=100, width=80)
    for path in paths[3:5]:
        path.write_bytes(path.read_bytes()[:1000])
    damaged = bytearray(paths[7].read_bytes())
    middle = damaged.index(b"\x78\x5e") if b"\x78\x5e" in damaged else damaged.index(b"\x78\x9c")
    damaged[middle + 40 : middle + 400] = bytes(360)
    paths[7].write_bytes(damaged)
    knmi_files.write_file(tmp_path, np.zeros((5, 5), np.uint16), datetime(2010, 8, 27))
    report = check_data(replace(read_card("knmi"), window=SHORT), tmp_path)
    assert not report.ok and len(report.problems) == 4
    for path in (*paths[3:5], paths[7], tmp_path / "RAD_NL25_RAP_5min_201008270000.h5"):
        assert sum(str(path) in sentence for sentence in report.problems) == 1
    assert report.frames == 38 and report.gaps == 1 and "problem: " in str(report)


def test_bad_frames_of_folders_and_arrays(films, tmp_path):
    paths = films.write_folder(tmp_path / "frames", films.wandering_square(40))
    for number in (4, 30):
        paths[number].write_bytes(b"no image")
    report = check_data(replace(read_card("frames_folder"), window=SHORT), tmp_path / "frames")
    assert [sum(str(paths[number]) in sentence for sentence in report.problems) for number in (4, 30)] == [1, 1] and len(
        report.problems
    ) == 2
    stack = np.zeros((10, 5, 4, 4), np.float32)
    stack[3, 1:4] = stack[7] = np.nan
    np.save(tmp_path / "films.npy", stack)
    report = check_data(replace(read_card("array"), window=SHORT), tmp_path / "films.npy")
    assert [sentence.split()[0] for sentence in report.problems] == ["'films.npy#3'", "'films.npy#7'"] and report.frames == 50


def test_bad_films(films, tmp_path):
    films.write_video(tmp_path / "good.mp4", films.wandering_square(40, 32, 32))
    bad = films.write_video(tmp_path / "bad.mp4", films.wandering_square(40, 32, 32))
    bad.write_bytes(bad.read_bytes()[:3000])
    report = check_data(replace(read_card("video"), window=SHORT), tmp_path)
    assert len(report.problems) == 1 and "bad.mp4" in report.problems[0] and (report.films, report.frames) == (1, 40)
    good = check_data(replace(read_card("video"), window=SHORT), tmp_path / "good.mp4")
    assert good.ok and good.clips == {"train": 22, "validation": 3, "test": 3}
    only_bad = check_data("video", bad)
    assert not only_bad.ok and only_bad.films == 0


def test_a_split_without_clips_is_a_problem(films, tmp_path):
    films.write_folder(tmp_path, films.wandering_square(50))
    report = check_data("frames_folder", tmp_path)
    assert report.clips == {"train": 11} and [sentence.split()[2] for sentence in report.problems] == ["'validation'", "'test'"]


def test_nothing_to_check(tmp_path):
    with pytest.raises(UserError, match=r"'knmi' needs the folder of its files \(--root .*\)\. Download"):
        check_data("knmi", None)
    with pytest.raises(UserError, match="holds no file"):
        check_data("knmi", tmp_path)


def test_clips_that_are_made():
    card = replace(read_card("moving_digits"), settings={"size": 40, "validation_clips": 3, "test_clips": 2}, window=SHORT)
    report = check_data(card, None)
    assert report.ok and report.frames is None and report.clips["validation"] == 3 and report.clips["test"] == 2
    broken = check_data(replace(card, settings={"size": 4}), None)
    assert not broken.ok and not broken.clips


def test_description():
    text = describe("knmi")
    assert "units:      mm/h" in text and "by time: train 0.4" in text and "300 s" in text
    assert "crop" not in text and all(len(title) > 0 for title in list_cards().values())
