"""Plain arrays: OpenSTL's saved folder and a student's own, against the clips that they are said to be of."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from stpredict.data.clips import ClipSet
from stpredict.data.loader import collate
from stpredict.errors import UserError
from stpredict.evaluation import evaluate
from stpredict.forecasts import SavedArrays
from stpredict.frames import Clip, FrameSpec, Packing, Transform
from stpredict.predictor import load_predictor

CLIPS, CONTEXT, HORIZON, SIZE = 6, 3, 4, (1, 8, 6)


class Digits(ClipSet):
    """Eight-bit clips in [0, 1]."""

    card, split, context, horizon, packing = "digits", "test", CONTEXT, HORIZON, Packing(1 / 255)
    spec = FrameSpec(*SIZE)

    def __len__(self) -> int:
        return CLIPS

    def __getitem__(self, index: int) -> Clip:
        random = np.random.Generator(np.random.Philox(index))
        return Clip(random.integers(0, 256, (CONTEXT + HORIZON, *self.spec.shape), dtype=np.uint8))


class Rain(Digits):
    """Rain in mm/h as float32 with pixels that are missing, scaled by its square root."""

    card, packing = "rain", Packing()
    spec = FrameSpec(*SIZE, units="mm/h", transform=Transform("sqrt", 0.0, 60.0), minimum=0.0)

    def __getitem__(self, index: int) -> Clip:
        frames = np.random.Generator(np.random.Philox(index)).gamma(0.5, 8.0, (CONTEXT + HORIZON, *SIZE)).astype(np.float32)
        frames[:, :, :2] = np.nan
        return Clip(frames)


def truth(data: ClipSet) -> NDArray[np.float32]:
    """The whole split ``(N, T, C, H, W)`` in physical units, float64."""
    return np.stack([np.where(f := data[n].frames, f, f) * np.float64(data.packing.scale) for n in range(len(data))])


def openstl(folder: Path, data: ClipSet, scaled: Callable[[NDArray[Any]], NDArray[Any]] = lambda physical: physical) -> NDArray[np.float32]:
    """Save a split as OpenSTL does, and return the forecasts: the truth and some noise."""
    whole = np.nan_to_num(scaled(truth(data))).astype(np.float32)
    preds = whole[:, CONTEXT:] + np.random.default_rng(7).normal(0, 0.1, whole[:, CONTEXT:].shape).astype(np.float32)
    folder.mkdir(parents=True)
    for name, array in {"inputs": whole[:, :CONTEXT], "trues": whole[:, CONTEXT:], "preds": preds}.items():
        np.save(folder / f"{name}.npy", array)
    return preds


def read(saved: SavedArrays, data: ClipSet, *indices: int) -> torch.Tensor:
    batch = collate([(index, data[index]) for index in indices])
    return saved.forecast_batch(batch, batch.physical(data.packing, "cpu"), data)


def test_what_openstl_saved_is_scored_as_by_hand(tmp_path: Path) -> None:
    data = Digits()
    preds = openstl(tmp_path / "saved", data)
    scores = evaluate(tmp_path / "saved", data, scores=["mse", "mae"], baselines=False, batch_size=4, device="cpu")
    difference = preds.astype(np.float64) - truth(data)[:, CONTEXT:]
    numbers = scores.scores["saved"]
    assert numbers["mse"]["mean"] == pytest.approx((difference**2).mean(), rel=1e-6)
    assert numbers["mae"]["per_lead"] == pytest.approx(np.abs(difference).mean(axis=(0, 2, 3, 4)), rel=1e-6)


@pytest.mark.parametrize(("place", "name"), [("work/saved", "saved"), ("work", "work"), ("work/saved/preds.npy", "preds.npy")])
def test_a_folder_or_the_file_itself(tmp_path: Path, place: str, name: str) -> None:
    data = Digits()
    preds = openstl(tmp_path / "work" / "saved", data)
    saved = load_predictor(tmp_path / place)
    assert isinstance(saved, SavedArrays) and saved.name == name and saved.warnings == ()
    assert (saved.context, saved.horizon, saved.members, saved.spec) == (CONTEXT, HORIZON, None, None)
    assert list(saved.clips(data, 4)) == [0, 1, 2, 3] and list(saved.clips(data, 6)) == list(range(6))
    torch.testing.assert_close(read(saved, data, 1, 5), torch.from_numpy(preds[[1, 5]]), rtol=0, atol=0)
    assert saved.describe() == f"saved arrays {name}: forecasts of 6 clips, 4 frames of 1 x 8 x 6, scaled to [0, 1], with the truth"


def test_the_name_of_the_folder_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openstl(tmp_path / "simvp", Digits())
    monkeypatch.chdir(tmp_path / "simvp")
    assert load_predictor(".").name == "simvp"


def test_scaled_values_become_physical_by_the_card(tmp_path: Path) -> None:
    data = Rain()
    preds = openstl(tmp_path / "saved", data, lambda rain: np.sqrt(rain / 60))
    physical = np.maximum(preds.astype(np.float64), 0) ** 2 * 60
    np.testing.assert_allclose(read(SavedArrays(tmp_path / "saved"), data, 0, 3), physical[[0, 3]], rtol=1e-5, atol=1e-5)


def test_without_a_channel_axis_and_of_other_kinds_of_numbers(tmp_path: Path) -> None:
    data = Digits()
    preds = openstl(tmp_path / "saved", data)
    for name, array in {"plain": preds[:, :, 0], "double": preds.astype(">f8"), "fortran": np.asfortranarray(preds)}.items():
        folder = tmp_path / name
        folder.mkdir()
        np.save(folder / "mine.npy", array)
        np.save(folder / "trues.npy", np.load(tmp_path / "saved" / "trues.npy"))
        saved = load_predictor(folder / "mine.npy")
        assert saved.name == "mine.npy" and saved.warnings == ()
        torch.testing.assert_close(read(saved, data, 2, 0), torch.from_numpy(preds[[2, 0]]), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["forecast", "preds"])
def test_a_students_own_npz(tmp_path: Path, name: str) -> None:
    data = Digits()
    preds = openstl(tmp_path / "saved", data)
    trues = np.load(tmp_path / "saved" / "trues.npy")
    np.savez(tmp_path / "mine.npz", **{name: preds}, trues=trues, notes=np.array(["mine"]))
    saved = load_predictor(tmp_path / "mine.npz")
    assert isinstance(saved, SavedArrays) and (saved.name, saved.warnings) == ("mine.npz", ())
    torch.testing.assert_close(read(saved, data, 4), torch.from_numpy(preds[[4]]), rtol=0, atol=0)
    np.savez(tmp_path / "ensemble.npz", **{name: np.stack([preds, preds + 1, preds - 1], axis=1)}, trues=trues)
    members = load_predictor(tmp_path / "ensemble.npz")
    assert members.members == 3 and "of 3 members of 6 clips" in members.describe()
    torch.testing.assert_close(read(members, data, 4)[:, 2], torch.from_numpy(preds[[4]] - 1), rtol=0, atol=0)


def test_eight_bits_may_be_rounded_and_no_more(tmp_path: Path) -> None:
    data = Digits()
    openstl(tmp_path / "saved", data)
    exact = np.load(tmp_path / "saved" / "trues.npy")
    for step, fits in {0.49: True, 0.52: False}.items():
        np.save(tmp_path / "saved" / "trues.npy", exact + np.float32(step / 255))
        if fits:
            read(SavedArrays(tmp_path / "saved"), data, 0, 5)
        else:
            with pytest.raises(UserError, match=r"trues\.npy' is not the truth of clip 3 of 'digits' test: it differs by up to 0\.00204"):
                read(SavedArrays(tmp_path / "saved"), data, 3)


@pytest.mark.parametrize(("wrong", "fits"), [(5e-6, True), (2e-5, False)])
def test_floats_must_be_the_same_to_what_float32_loses(tmp_path: Path, wrong: float, fits: bool) -> None:
    data = Rain()
    openstl(tmp_path / "saved", data, lambda rain: np.sqrt(rain / 60))
    trues = np.load(tmp_path / "saved" / "trues.npy")
    trues[4, 1, 0, 5, 5] += wrong
    trues[4, :, :, :2] = -9  # where the truth is missing nothing is compared
    np.save(tmp_path / "saved" / "trues.npy", trues)
    if fits:
        read(SavedArrays(tmp_path / "saved"), data, *range(CLIPS))
    else:
        with pytest.raises(UserError, match=r"not the truth of clip 4 .* scale them as the card does \(sqrt, 0 mm/h to 0 and 60 to 1\)"):
            read(SavedArrays(tmp_path / "saved"), data, *range(CLIPS))


def test_a_truth_that_is_not_a_number_is_none(tmp_path: Path) -> None:
    openstl(tmp_path / "saved", Digits())
    trues = np.load(tmp_path / "saved" / "trues.npy")
    trues[0, 0, 0, 0, 0] = np.nan
    np.save(tmp_path / "saved" / "trues.npy", trues)
    with pytest.raises(UserError, match="not the truth of clip 0"):
        read(SavedArrays(tmp_path / "saved"), Digits(), 0)


def test_the_same_forecasts_of_shuffled_clips_are_refused(tmp_path: Path) -> None:
    openstl(tmp_path / "saved", Digits())
    trues = np.load(tmp_path / "saved" / "trues.npy")
    np.save(tmp_path / "saved" / "trues.npy", trues[[1, 0, 2, 3, 4, 5]])
    with pytest.raises(UserError, match="not the truth of clip 0 of 'digits' test"):
        evaluate(tmp_path / "saved", Digits(), scores=["mse"], baselines=False, device="cpu")


def test_without_the_truth_it_is_said_and_the_count_must_be_right(tmp_path: Path) -> None:
    data = Digits()
    preds = openstl(tmp_path / "saved", data)
    for name in ("trues", "inputs"):
        (tmp_path / "saved" / f"{name}.npy").unlink()
    saved = SavedArrays(tmp_path / "saved")
    assert len(saved.warnings) == 1 and "no truth (trues.npy) beside it" in saved.warnings[0] and saved.context is None
    assert list(saved.clips(data, 3)) == [0, 1, 2]
    torch.testing.assert_close(read(saved, data, 5), torch.from_numpy(preds[[5]]), rtol=0, atol=0)
    np.save(tmp_path / "saved" / "preds.npy", preds[:5])
    with pytest.raises(
        UserError, match=r"forecasts of 5 clips, and 'digits' test has 6: score the whole split, or save trues\.npy beside it"
    ):
        SavedArrays(tmp_path / "saved").clips(data, 5)
    np.save(tmp_path / "saved" / "preds.npy", preds * 255)
    with pytest.raises(UserError, match=r"values up to \d+\.?\d*, which are not scaled to \[0, 1\]: scale them as the card does"):
        read(SavedArrays(tmp_path / "saved"), data, 5)


def test_with_the_truth_fewer_clips_will_do(tmp_path: Path) -> None:
    data = Digits()
    openstl(tmp_path / "saved", data)
    for name in ("inputs", "trues", "preds"):
        np.save(tmp_path / "saved" / f"{name}.npy", np.load(tmp_path / "saved" / f"{name}.npy")[:4])
    assert list(SavedArrays(tmp_path / "saved").clips(data, 6)) == [0, 1, 2, 3]


def test_forecasts_that_are_nan_stay_so(tmp_path: Path) -> None:
    preds = openstl(tmp_path / "saved", Digits())
    preds[2] = np.nan
    np.save(tmp_path / "saved" / "preds.npy", preds)
    assert read(SavedArrays(tmp_path / "saved"), Digits(), 2).isnan().all()


class Longer(Digits):
    horizon = 5


class Earlier(Digits):
    context = 2


class Wider(Digits):
    spec = FrameSpec(3, 8, 7)


class Short(Digits):
    def __len__(self) -> int:
        return 5


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (Longer(), "horizon 4 instead of 5"),
        (Earlier(), "context 3 instead of 2"),
        (Wider(), "frames 1 x 8 x 6 instead of 3 x 8 x 7"),
        (Short(), "has forecasts of 6 clips, and 'digits' test has 5: score the split that they are of"),
    ],
)
def test_other_data_are_refused(tmp_path: Path, data: ClipSet, why: str) -> None:
    openstl(tmp_path / "saved", Digits())
    with pytest.raises(UserError, match=why):
        SavedArrays(tmp_path / "saved").clips(data, 5)


def test_frames_that_were_observed_are_no_forecasts(tmp_path: Path) -> None:
    openstl(tmp_path / "saved", Digits())
    for name in ("trues.npy", "inputs.npy"):
        with pytest.raises(UserError, match=r"no forecasts: give the preds\.npy beside it"):
            load_predictor(tmp_path / "saved" / name)
    (tmp_path / "saved" / "preds.npy").unlink()
    with pytest.raises(UserError, match="holds no predictor yet"):
        load_predictor(tmp_path / "saved")


def header(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()


def pickled() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize("entry", [".npy", ".npz", "trues.npy"])
@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is damaged or is no"),
        (b"\x93NUMPY\x01\x00", "is damaged or is no"),
        (pickled(), "holds object; frames are"),
        (header((10**12, 4, 1, 8, 6)) + bytes(64), "tells of"),
        (header((2**62, 2**62, 4, 1, 8, 6)) + bytes(64), "tells of"),
        (header((6, 4, 1, 8, -6)) + bytes(64), "damaged|empty"),
        (header((0, 4, 1, 8, 6)), "holds an empty array"),
        (header((6, 4, 1, 8, 6)) + bytes(100), "tells of"),
        (header((6, 4, 1, 8, 6), "|u1") + bytes(1152), "holds uint8, not forecasts that are scaled"),
        (header((6, 8, 6)) + bytes(1152), r"forecasts are \(clips, frames, channels, height, width\)|but the forecasts beside it"),
    ],
)
def test_hostile_arrays_are_refused_before_anything_is_read(tmp_path: Path, entry: str, content: bytes, why: str) -> None:
    if entry == ".npz":
        path = tmp_path / "mine.npz"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("preds.npy", content)
    elif entry == ".npy":
        path = tmp_path / "mine.npy"
        path.write_bytes(content)
    else:
        path = tmp_path / "mine.npy"
        np.save(path, np.zeros((6, 4, 1, 8, 6), np.float32))
        (tmp_path / "trues.npy").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(UserError, match=why):
        load_predictor(path)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "mine.npz", preds=np.zeros((200, 4, 1, 64, 64), np.float32))
    with pytest.raises(UserError, match=r"is compressed, so it cannot be read a part at a time: save it with numpy\.savez"):
        load_predictor(tmp_path / "mine.npz")


def test_other_files_keep_their_own_error(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", weights=np.zeros(3))
    with pytest.raises(UserError, match="is no whole forecast file"):
        load_predictor(tmp_path / "mine.npz")
    (tmp_path / "broken.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match="is damaged or is no npz file"):
        load_predictor(tmp_path / "broken.npz")
    with pytest.raises(UserError, match="There is no predictor"):
        load_predictor(tmp_path / "none.npy")
