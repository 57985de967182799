import pickle
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import stpredict
from stpredict.cli.main import main
from stpredict.data.checking import check_data
from stpredict.data.readers.taxibj import TaxiBj
from stpredict.errors import UserError

GENERATORS = Path(__file__).resolve().parents[2] / "datasets" / "generators"


@pytest.fixture(scope="module")
def taxibj_files():
    return SimpleNamespace(**run_path(str(GENERATORS / "taxibj.py")))


@pytest.fixture
def arrays():
    random = np.random.default_rng(0)
    return {
        f"{kind}_{part}": random.uniform(-1, 1, (count, 4, 2, 5, 6)) for part, count in (("train", 40), ("test", 6)) for kind in ("X", "Y")
    }


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_samples_are_the_numbers_that_were_written(tmp_path, arrays, compressed, dtype):
    stored = {name: array.astype(dtype) for name, array in arrays.items()}
    (np.savez_compressed if compressed else np.savez)(tmp_path / "dataset.npz", **stored)
    # Of 40 samples the last 4 are for validation, and 7 before them share frames with them.
    for split, first, count in (("train", 0, 40 - 4 - 7), ("validation", 36, 4), ("test", 0, 6)):
        clips = stpredict.load_data("taxibj", tmp_path, split)
        assert len(clips) == count and (clips.spec.channels, clips.spec.height, clips.spec.width) == (2, 5, 6)
        assert (clips.context, clips.horizon, clips.spec.time_step) == (4, 4, 1800.0)
        part = "test" if split == "test" else "train"
        for index in range(count):
            sample = np.concatenate([stored[f"{kind}_{part}"][first + index] for kind in "XY"])
            physical = clips.packing.unpack(torch.from_numpy(clips[index].frames)).numpy()
            np.testing.assert_allclose(physical, (sample + 1) / 2, rtol=0, atol=1e-7)
            np.testing.assert_array_equal(clips[index].frames, sample.astype(np.float32))


def test_no_frame_is_in_training_and_validation(taxibj_files, tmp_path):
    taxibj_files.write_sample(tmp_path, train=60, test=12)
    seen = {
        split: {frame.tobytes() for clip in (clips[index] for index in range(len(clips))) for frame in clip.frames}
        for split, clips in ((split, stpredict.load_data("taxibj", tmp_path, split)) for split in ("train", "validation", "test"))
    }
    # Samples begin a frame apart: of n samples there are n + 7 frames.
    assert {split: len(frames) for split, frames in seen.items()} == {"train": 47 + 7, "validation": 6 + 7, "test": 12 + 7}
    assert not seen["train"] & seen["validation"] and not seen["test"] & (seen["train"] | seen["validation"])


def test_parts_of_a_sample_and_workers(taxibj_files, tmp_path):
    path = taxibj_files.write_sample(tmp_path, train=20, test=3, compressed=True)
    reader = pickle.loads(pickle.dumps(TaxiBj(path, validation=0)))
    assert [film.name for film in reader.films] == [f"train#{n}" for n in range(20)] + [f"test#{n}" for n in range(3)]
    film = taxibj_files.flows(27, 0)
    np.testing.assert_array_equal(reader.read(5, range(2, 8, 3)), film[7:13:3])


def test_check_and_show(taxibj_files, tmp_path, capsys):
    taxibj_files.write_sample(tmp_path)
    report = check_data("taxibj", tmp_path)
    assert report.ok and report.clips == {"train": 60 - 6 - 7, "validation": 6, "test": 12}
    assert main(["data", "show", "taxibj"]) == 0 and "dataset.npz" in capsys.readouterr().out


def test_longer_clips_than_samples(taxibj_files, tmp_path):
    taxibj_files.write_sample(tmp_path)
    with pytest.raises(UserError, match="longest film of 'taxibj' has 8 frames, but a clip needs 9"):
        stpredict.load_data("taxibj", tmp_path, horizon=5)


def test_mistakes(tmp_path, arrays):
    with pytest.raises(UserError, match=r"no '.*dataset\.npz'; TaxiBJ is"):
        TaxiBj(tmp_path)
    path = tmp_path / "dataset.npz"
    np.savez(path, **{name: array for name, array in arrays.items() if name != "Y_test"})
    with pytest.raises(UserError, match="no array 'Y_test'"):
        TaxiBj(tmp_path)
    np.savez(path, **{**arrays, "Y_train": arrays["Y_train"][:-1]})
    with pytest.raises(UserError, match="X_train and Y_train do not fit together"):
        TaxiBj(tmp_path)
    np.savez(path, **{**arrays, "X_train": arrays["X_train"][0]})
    with pytest.raises(UserError, match="X_train is float64 of shape"):
        TaxiBj(tmp_path)
    np.savez(path, **{name: array[..., :4] if "test" in name else array for name, array in arrays.items()})
    with pytest.raises(UserError, match=r"to test on, .* differ"):
        TaxiBj(tmp_path)
    np.savez(path, **arrays)
    with pytest.raises(UserError, match="validation is a share"):
        TaxiBj(tmp_path, validation=1.0)


def test_nothing_is_unpickled(tmp_path, arrays):
    np.savez(tmp_path / "dataset.npz", **{**arrays, "X_train": np.array([print], dtype=object)})
    with pytest.raises(UserError, match=r"dataset\.npz' holds object"):
        TaxiBj(tmp_path)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_truncated_file_is_named(taxibj_files, tmp_path, compressed, share):
    path = taxibj_files.write_sample(tmp_path, compressed=compressed)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=r"dataset\.npz' is damaged"):
        TaxiBj(tmp_path)


def test_damage_in_the_middle_is_found_when_it_is_read(taxibj_files, tmp_path):
    path = taxibj_files.write_sample(tmp_path, compressed=True)
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 4 : len(whole) // 4 + 400] = bytes(400)
    path.write_bytes(whole)
    report = check_data("taxibj", tmp_path)
    assert not report.ok and all("dataset.npz' is damaged" in sentence for sentence in report.problems)
