from itertools import groupby
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import stpredict
from stpredict.cli.main import main
from stpredict.data.checking import check_data
from stpredict.data.readers.kth import Kth
from stpredict.errors import UserError

GENERATORS = Path(__file__).resolve().parents[2] / "datasets" / "generators"

NUMBERS = (*range(1, 46), *range(60, 130))  # runs of 45 and 70 frames
SETTINGS = {"size": [128, 128], "classic": 30}


@pytest.fixture(scope="module")
def kth_files():
    return SimpleNamespace(**run_path(str(GENERATORS / "kth.py")))


@pytest.fixture(scope="module")
def actions(kth_files, tmp_path_factory):
    root = tmp_path_factory.mktemp("kth")
    kth_files.write_frames(root, actions=("boxing", "running"), numbers=NUMBERS)
    return root


def published_frame(root, action, person, number):
    path = root / action / f"person{person:02}_{action}_d1_uncomp" / f"image_{number:04}.jpg"
    gray = np.asarray(Image.open(path))[:, :, 0]
    return cv2.resize(gray.astype(np.float32), (128, 128)) / 255


def published_starts(numbers, length, fast):
    """Walk back from the last frame: where ``length`` numbers in a row end, take them and go back behind them (or by 3)."""
    starts, last = [], len(numbers) - 1
    while last >= length - 1:
        if numbers[last] - numbers[last - length + 1] == length - 1:
            starts.append(numbers[last - length + 1])
            last -= 3 if fast else length
        else:
            last -= 1
    return starts[::-1]


def test_clips_of_every_split_are_the_frames_that_were_written(actions):
    people = {"train": 1, "validation": 15, "test": 17}
    for split, person in people.items():
        clips = stpredict.load_data("kth", actions, split)
        # Of runs of 45 and 70 frames a clip of 30 fits in 16 and 41 places, of which every tenth is taken; two actions.
        assert len(clips) == 2 * (2 + 5) and (clips.context, clips.horizon) == (10, 20)
        assert (clips.spec.channels, clips.spec.height, clips.spec.width, clips.spec.time_step) == (1, 128, 128, 0.04)
        assert all(f"person{person:02}_" in clips[index].name for index in range(len(clips)))
        for index, (action, first) in {1: ("boxing", 11), 6: ("boxing", 100), 7: ("running", 1), 10: ("running", 70)}.items():
            physical = clips.packing.unpack(torch.from_numpy(clips[index].frames)).numpy()
            for offset in (0, 9, 29):
                np.testing.assert_allclose(physical[offset, 0], published_frame(actions, action, person, first + offset), rtol=0, atol=1e-7)


def test_the_clips_of_published_scores(actions):
    clips = stpredict.load_data("kth", actions, "classic")
    boxing, running = published_starts(NUMBERS, 30, fast=False), published_starts(NUMBERS, 30, fast=True)
    # Closed form: floor(L / 30) one after another; floor((L - 30) / 3) + 1 three frames apart.
    assert len(boxing) == 45 // 30 + 70 // 30 and len(running) == 15 // 3 + 1 + 40 // 3 + 1
    assert len(clips) == len(boxing) + len(running)
    names = [clips[index].name for index in range(len(clips))]
    assert names[0] == "clip of boxing, person 17, scene 1, from frame 16, frame 0" and names[1].split(", ")[3] == "from frame 70"
    wanted = [("boxing", number) for number in boxing] + [("running", number) for number in running]
    for index, (action, number) in enumerate(wanted):
        assert names[index].startswith(f"clip of {action}, person 17, scene 1, from frame {number},")
        for offset in (0, 29):
            published = published_frame(actions, action, 17, number + offset) * 255
            np.testing.assert_allclose(clips[index].frames[offset, 0], published, rtol=0, atol=2e-5)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("lengths", [(29,), (30,), (31, 33), (95, 1, 62), (12, 150)])
def test_published_clips_of_films_with_gaps(kth_files, tmp_path, lengths, fast):
    numbers = [1000 * part + number for part, count in enumerate(lengths) for number in range(count)]
    action = "jogging" if fast else "walking"
    kth_files.write_frames(tmp_path, persons=[25], actions=[action], numbers=numbers, height=8, width=8)
    reader = Kth(tmp_path, classic=30)
    found = [int(film.name.split("from frame ")[1]) for film in reader.films if film.name.startswith("clip of")]
    assert found == published_starts(numbers, 30, fast)
    assert [film.length for film in reader.films if not film.name.startswith("clip of")] == list(lengths)


def test_10_to_40_and_no_person_in_two_splits(actions):
    seen = {}
    for split in ("train", "validation", "test"):
        clips = stpredict.load_data("kth", actions, split, horizon=40)
        assert len(clips) == 2 * 3 and clips[0].frames.shape == (50, 1, 128, 128)  # 21 places of 70 frames, every tenth
        seen[split] = {clips[index].name.split("person")[1][:2] for index in range(len(clips))}
    assert sum(len(people) for people in seen.values()) == len(set.union(*seen.values())) == 3
    longer = stpredict.load_data("kth", actions, "classic", horizon=40, settings={"classic": 50})
    assert len(longer) == 70 // 50 + (70 - 50) // 3 + 1


def test_every_person_is_in_one_split(kth_files, tmp_path):
    kth_files.write_frames(tmp_path, persons=range(1, 26), actions=["walking"], numbers=range(1, 32), height=8, width=8)
    splits = {split: stpredict.load_data("kth", tmp_path, split) for split in ("train", "validation", "test", "classic")}
    people = {split: sorted({clips[index].name for index in range(len(clips))}) for split, clips in splits.items()}
    assert [len(names) for names in people.values()] == [14, 2, 9, 9]
    numbers = {split: [int(name.split("person")[1].strip()[:2]) for name in names] for split, names in people.items()}
    assert numbers == {"train": [*range(1, 15)], "validation": [15, 16], "test": [*range(17, 26)], "classic": [*range(17, 26)]}


def test_the_original_videos(kth_files, tmp_path):
    paths = kth_files.write_videos(tmp_path, actions=("boxing", "running"))
    clips = stpredict.load_data("kth", tmp_path, "test")
    assert len(clips) == 2 * 2 and len(stpredict.load_data("kth", tmp_path, "classic")) == 1 + 10 // 3 + 1
    path = next(path for path in paths if "person17_running" in path.name)
    with av.open(str(path)) as container:
        decoded = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    walker = kth_files.walker(40, seed=17 + 100 * kth_files.ACTIONS.index("running"))
    assert np.abs(decoded[15].astype(int) - walker[15]).mean() < 4  # it is the film that was written
    for offset in (0, 15, 29):
        frame = cv2.resize(decoded[10 + offset].astype(np.float32), (128, 128))
        np.testing.assert_allclose(clips[3].frames[offset, 0], frame, rtol=0, atol=1e-4)


def test_frames_as_they_are_stored_and_cropped(actions):
    clips = stpredict.load_data("kth", actions, crop=[0, 20, 120, 120], settings={"size": None})
    assert clips[0].frames.dtype == np.uint8 and clips[0].frames.shape == (30, 1, 120, 120)
    path = actions / "boxing" / "person01_boxing_d1_uncomp" / "image_0003.jpg"
    np.testing.assert_array_equal(clips[0].frames[2, 0], np.asarray(Image.open(path))[:, 20:140, 0])


def test_check_and_show(actions, capsys):
    report = check_data("kth", actions)
    classic = 45 // 30 + 70 // 30 + 6 + 14
    assert report.ok and report.clips == {"train": 14, "validation": 14, "test": 14, "classic": classic}
    assert report.films == 3 * 2 * 2 + classic
    assert main(["data", "show", "kth"]) == 0
    assert "boxing/person01_boxing_d1_uncomp/image_0001.jpg" in capsys.readouterr().out


def test_a_damaged_frame_is_named(kth_files, tmp_path):
    folders = kth_files.write_frames(tmp_path, actions=["boxing"], numbers=range(1, 41), height=8, width=8)
    (folders[0] / "image_0007.jpg").write_bytes(b"no image")
    report = check_data("kth", tmp_path)
    assert not report.ok and len(report.problems) == 1 and "image_0007.jpg" in report.problems[0]


def test_mistakes(kth_files, tmp_path):
    with pytest.raises(UserError, match=r"no folder or file '.*nowhere'"):
        Kth(tmp_path / "nowhere")
    kth_files.write_frames(tmp_path, persons=[1], actions=["boxing"], numbers=[1, 2], height=8, width=8)
    with pytest.raises(UserError, match=r"size of \[height, width\]"):
        Kth(tmp_path, size=(0, 8))
    with pytest.raises(UserError, match="at least 2 frames, not 1"):
        Kth(tmp_path, classic=1)
    folder = next((tmp_path / "boxing").iterdir())
    (folder / "image_0001.jpg").rename(folder / "image.jpg")
    with pytest.raises(UserError, match=r"image\.jpg' bears no number"):
        Kth(tmp_path)


def test_runs_cut_where_numbers_are_missing(actions):
    films = Kth(actions, **SETTINGS).films
    lengths = {name: [film.length for film in group] for name, group in groupby(films, key=lambda film: film.name.split("#")[0])}
    assert lengths["boxing/person01_boxing_d1_uncomp"] == [45, 70]
