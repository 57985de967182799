import pickle
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch

import stpredict
from stpredict.cli.main import main
from stpredict.data.checking import check_data
from stpredict.data.readers.kitticaltech import KittiCaltech
from stpredict.errors import UserError

GENERATORS = Path(__file__).resolve().parents[2] / "datasets" / "generators"

SMALL = {"height": 16, "width": 20}


@pytest.fixture(scope="module")
def kitti_files():
    return SimpleNamespace(**run_path(str(GENERATORS / "kitticaltech.py")))


@pytest.fixture
def caches(kitti_files, tmp_path):
    return tmp_path, kitti_files.write_caches(tmp_path, **SMALL)


def frames_of(clips):
    return [clips[index].frames for index in range(len(clips))]


def first_to_last(frames, starts, length=11):
    return [frames[start : start + length].transpose(0, 3, 1, 2) for start in starts]


def test_clips_of_every_split_are_the_frames_that_were_written(caches):
    root, parts = caches
    # Recordings of 25, 9 and 36 frames: clips of 11 one after another. Caltech's, of 34 and 12, end with their recording.
    starts = {"train": [0, 11, 34, 45, 56], "validation": [0, 11], "test": [1, 12, 23, 35]}
    for split, wanted in starts.items():
        clips = stpredict.load_data("kitticaltech", root, split)
        assert (clips.context, clips.horizon, clips.spec.time_step) == (10, 1, 0.1)
        assert len(clips) == len(wanted)
        for found, expected in zip(frames_of(clips), first_to_last(parts[split], wanted), strict=True):
            np.testing.assert_array_equal(found, expected)
        physical = clips.packing.unpack(torch.from_numpy(clips[0].frames)).numpy()
        np.testing.assert_allclose(physical, clips[0].frames / 255, rtol=0, atol=1e-7)


def test_the_real_size(kitti_files, tmp_path):
    parts = kitti_files.write_caches(tmp_path)
    clip = stpredict.load_data("kitticaltech", tmp_path, "test")[3].frames
    assert clip.shape == (11, 3, 128, 160)
    np.testing.assert_array_equal(clip, parts["test"][35:46].transpose(0, 3, 1, 2))


def test_as_many_clips_of_a_recording_as_in_published_training(kitti_files, caches):
    root, _ = caches
    clips = stpredict.load_data("kitticaltech", root)
    assert len(clips) == sum(count // 11 for count in kitti_files.TRAIN.values())
    assert [film.length for film in KittiCaltech(root).films if film.name.startswith("train/")] == list(kitti_files.TRAIN.values())


def test_caltech_in_red_green_blue(kitti_files, caches):
    root, parts = caches
    turned = stpredict.load_data("kitticaltech", root, "test", settings={"turn_caltech": True})
    np.testing.assert_array_equal(turned[1].frames, parts["test"][12:23, ..., ::-1].transpose(0, 3, 1, 2))
    sky = turned[1].frames[0, :, 0].mean(axis=1)
    assert sky[2] > sky[1] > sky[0]
    train = stpredict.load_data("kitticaltech", root, settings={"turn_caltech": True})
    np.testing.assert_array_equal(train[0].frames, parts["train"][:11].transpose(0, 3, 1, 2))


def test_the_npy_files(kitti_files, tmp_path):
    parts = kitti_files.write_npy(tmp_path, **SMALL)
    # 220 and 12 frames hold 21 clips of 11; a tenth of them, the last two, are for validation.
    starts = [*range(0, 220, 11), 221]
    for split, part, wanted in (("train", "train", starts[:19]), ("validation", "train", starts[19:]), ("test", "test", [1, 12, 23, 35])):
        clips = stpredict.load_data("kitticaltech", tmp_path, split)
        assert len(clips) == len(wanted) and clips.packing.scale == 1.0
        for found, expected in zip(frames_of(clips), first_to_last(parts[part], wanted), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_clips_that_overlap_share_no_frame_with_validation(kitti_files, tmp_path):
    kitti_files.write_npy(tmp_path, **SMALL)
    np.save(tmp_path / "kitticaltech_npy" / "train_idx.npy", np.arange(0, 200, 2))
    films = [film.name.split("#") for film in KittiCaltech(tmp_path).films]
    train = [int(start) for part, start in films if part.startswith("train/")]
    validation = [int(start) for part, start in films if part.startswith("validation/")]
    assert validation == [*range(180, 200, 2)] and train == [*range(0, 170, 2)]


def test_sources_as_text_of_any_length_and_workers(kitti_files, caches):
    root, parts = caches
    path = root / "kitti_hkl" / "sources_val.hkl"
    path.unlink()
    with h5py.File(path, "w") as file:  # as hickle on Python 3 writes them
        file["data"] = np.array(["a"] * 12 + ["b"] * 11, dtype=h5py.string_dtype())
    reader = pickle.loads(pickle.dumps(KittiCaltech(root)))
    found = {film.name: number for number, film in enumerate(reader.films)}
    assert reader.films[found["validation/b#12"]].length == 11
    np.testing.assert_array_equal(reader.read(found["validation/b#12"], range(1, 9, 3)), parts["validation"][13:21:3].transpose(0, 3, 1, 2))


def test_check_and_show(caches, capsys):
    report = check_data("kitticaltech", caches[0])
    assert report.ok and report.clips == {"train": 5, "validation": 2, "test": 4}
    assert report.frames == 25 + 9 + 36 + 23 + 4 * 11
    assert main(["data", "show", "kitticaltech"]) == 0 and "data_cache.npy" in capsys.readouterr().out


def test_longer_clips_than_the_indices_are_for(caches):
    with pytest.raises(UserError, match="split 'test' of 'kitticaltech' has no clip: its longest piece without a gap has 11 frames"):
        stpredict.load_data("kitticaltech", caches[0], "test", horizon=2)


def test_mistakes(kitti_files, caches):
    root, parts = caches
    with pytest.raises(UserError, match="neither 'kitti_hkl' nor 'kitticaltech_npy'"):
        KittiCaltech(root / "caltech")
    with pytest.raises(UserError, match="at least 2 frames, not 1"):
        KittiCaltech(root, clip_length=1)
    with pytest.raises(UserError, match="validation is a share"):
        KittiCaltech(root, validation=0)
    with pytest.raises(UserError, match=r"indices_cache\.npy': a clip of 12 frames from 35 on lies outside of the 46 frames"):
        KittiCaltech(root, clip_length=12)
    indices = root / "caltech" / "indices_cache.npy"
    np.save(indices, np.array([-1]))
    with pytest.raises(UserError, match="from -1 on lies outside"):
        KittiCaltech(root)
    np.save(indices, np.array([0.5]))
    with pytest.raises(UserError, match="not a list of whole numbers"):
        KittiCaltech(root)
    np.save(indices, np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"indices_cache\.npy' is damaged"):
        KittiCaltech(root)
    np.save(indices, np.array([0]))
    np.save(root / "caltech" / "data_cache.npy", parts["test"][:, :8])
    with pytest.raises(UserError, match=r"data_cache\.npy' holds frames .* but '.*X_train\.hkl'"):
        KittiCaltech(root)
    np.save(root / "caltech" / "data_cache.npy", parts["test"][..., :2])
    with pytest.raises(UserError, match=r"not frames \(N, rows, columns, 3\)"):
        KittiCaltech(root)
    (root / "caltech" / "data_cache.npy").unlink()
    with pytest.raises(UserError, match=r"There is no '.*data_cache\.npy'"):
        KittiCaltech(root)


def test_sources_that_do_not_fit(kitti_files, caches):
    root, _ = caches
    path = root / "kitti_hkl" / "sources_train.hkl"
    kitti_files.write_hickle(path, [b"a"] * 69, "<type 'list'>")
    with pytest.raises(UserError, match=r"sources_train\.hkl' holds .* not a name for each of 70 frames"):
        KittiCaltech(root)
    with h5py.File(path, "w") as file:
        file["data/data0"], file["data/data1"] = [b"a"], [b"b"]  # hickle 4 and later: a data set for each string
    with pytest.raises(UserError, match=r"sources_train\.hkl' holds 2 data sets, not one"):
        KittiCaltech(root)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.6])
@pytest.mark.parametrize(
    "name", ["kitti_hkl/X_train.hkl", "kitti_hkl/sources_val.hkl", "caltech/data_cache.npy", "caltech/indices_cache.npy"]
)
def test_a_truncated_file_is_named(caches, name, share):
    path = caches[0] / name
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=rf"{path.name}' is (damaged|truncated)"):
        KittiCaltech(caches[0])


def test_a_header_that_promises_more_than_the_file_takes_no_memory(caches):
    path = caches[0] / "kitti_hkl" / "X_train.hkl"
    path.unlink()
    with h5py.File(path, "w") as file:
        file.create_dataset("data_0", (1 << 30, 128, 160, 3), "u1", chunks=(1, 128, 160, 3))
    with pytest.raises(UserError, match=r"declares .* bytes but stores 0"):
        KittiCaltech(caches[0])
