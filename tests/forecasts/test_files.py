import io
import json
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from stpredict.data.clips import ClipSet
from stpredict.errors import UserError
from stpredict.forecasts import ForecastFile, ForecastWriter, clip_digests, join_forecasts, truth_hash
from stpredict.frames import Batch, Clip, FrameSpec, Grid, Packing, Transform

SPEC = FrameSpec(
    2, 3, 4, units="mm/h", transform=Transform("log", high=60.0), time_step=300.0, grid=Grid("+proj=stere", (0.0, 1.0, 2.0, 3.0))
)
FIXTURES = sorted((Path(__file__).resolve().parents[1] / "fixtures").glob("*/saved_forecasts.*"))
SUFFIXES = pytest.mark.parametrize("suffix", [".h5", ".npz"])


class Toy(ClipSet):
    card, split, spec, packing, context, horizon = "toy", "test", SPEC, Packing(), 2, 3

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Clip:
        return Clip(np.full((5, 2, 3, 4), index, dtype=np.uint8))


def batch(*indices: int, clock: bool = True) -> Batch:
    frames = torch.from_numpy(np.stack([Toy()[index].frames for index in indices]))
    times = torch.tensor([[1_000_000_000 + 3600 * index + 300 * lead for lead in range(5)] for index in indices])
    return Batch(frames, None, None, indices, times if clock else None)


def forecasts() -> torch.Tensor:
    return torch.randn((5, 3, 2, 3, 4), generator=torch.Generator().manual_seed(0))


def write(path: Path, *, data: ClipSet | None = None, clock: bool = True) -> Path:
    with ForecastWriter(path, "my predictor", data or Toy(), 5) as writer:
        for some in ((0, 1), (2, 3), (4,)):
            part = batch(*some, clock=clock)
            writer.write(forecasts()[list(some)], part, clip_digests(part))
    return path


def read(file: ForecastFile, *indices: int, data: ClipSet | None = None, clock: bool = True) -> torch.Tensor:
    part = batch(*indices, clock=clock)
    return file.forecast_batch(part, part.physical(Packing(), "cpu"), data or Toy())


@SUFFIXES
def test_what_was_written_is_read(tmp_path: Path, suffix: str) -> None:
    file = ForecastFile(write(tmp_path / f"nowcast{suffix}"))
    torch.testing.assert_close(read(file, 0, 1, 2, 3, 4), forecasts(), rtol=0, atol=0)
    torch.testing.assert_close(read(file, 3, 1), forecasts()[[3, 1]], rtol=0, atol=0)
    assert (file.name, file.predictor, file.card, file.split) == (f"nowcast{suffix}", "my predictor", "toy", "test")
    assert (file.spec, file.context, file.horizon, len(file)) == (SPEC, 2, 3, 5)
    assert file.hash == truth_hash(2, 3, clip_digests(batch(0, 1, 2, 3, 4)))
    assert file.times is not None and file.times.shape == (5, 3)
    assert file.times[1, 0] == np.datetime64(1_000_000_000 + 3600 + 600, "s")
    assert [path.name for path in tmp_path.iterdir()] == [f"nowcast{suffix}"]


@SUFFIXES
def test_a_film_without_a_clock_has_no_times(tmp_path: Path, suffix: str) -> None:
    assert ForecastFile(write(tmp_path / f"a{suffix}", clock=False)).times is None


def test_other_programs_read_the_files(tmp_path: Path) -> None:
    with np.load(write(tmp_path / "a.npz"), allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["forecast"], forecasts())
        np.testing.assert_array_equal(arrays["indices"], range(5))
        assert json.loads(arrays["about.json"])["spec"]["units"] == "mm/h"
    with h5py.File(write(tmp_path / "a.h5")) as file:
        np.testing.assert_array_equal(file["forecast"], forecasts())
        assert file["forecast"].chunks == (1, 1, 2, 3, 4)
        about = json.loads(file.attrs["about"])
    assert {key: about[key] for key in ("predictor", "card", "split", "context", "horizon")} == {
        "predictor": "my predictor",
        "card": "toy",
        "split": "test",
        "context": 2,
        "horizon": 3,
    }


@SUFFIXES
def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a{suffix}")
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt), ForecastWriter(path, "other", Toy(), 5) as writer:
        writer.write(torch.zeros(2, 3, 2, 3, 4), batch(0, 1), clip_digests(batch(0, 1)))
        raise KeyboardInterrupt
    assert path.read_bytes() == before and [other.name for other in tmp_path.iterdir()] == [path.name]


@SUFFIXES
def test_memory_is_bounded_by_a_batch(tmp_path: Path, suffix: str) -> None:
    class Large(Toy):
        spec, context, horizon = FrameSpec(1, 256, 256), 1, 4

    path, clips = tmp_path / f"a{suffix}", 40  # 40 MiB
    one = Batch(torch.zeros(1, 5, 1, 256, 256, dtype=torch.uint8), None, None, (0,))
    digests = clip_digests(one)
    tracemalloc.start()
    with ForecastWriter(path, "p", Large(), clips) as writer:
        for index in range(clips):
            writer.write(torch.ones(1, 4, 1, 256, 256), Batch(one.frames, None, None, (index,)), digests)
    file = ForecastFile(path)
    batches = (Batch(one.frames, None, None, (index,)) for index in range(clips))
    assert all(file.forecast_batch(part, one.frames.float(), Large()).sum() == 4 * 256 * 256 for part in batches)
    assert tracemalloc.get_traced_memory()[1] < 5 * 2**20
    tracemalloc.stop()


def test_only_known_suffixes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ends in \.h5 or \.npz, not in '\.nc'"):
        ForecastWriter(tmp_path / "a.nc", "p", Toy(), 5)
    with pytest.raises(UserError, match="There is no forecast file"):
        ForecastFile(tmp_path / "a.npz")


@SUFFIXES
def test_other_clips_are_refused(tmp_path: Path, suffix: str) -> None:
    file = ForecastFile(write(tmp_path / f"a{suffix}"))
    assert file.clips(Toy(), 5) == [0, 1, 2, 3, 4] and file.clips(Toy(), 2) == [0, 1]

    class Other(Toy):
        split, horizon, spec = "validation", 4, FrameSpec(2, 3, 5, units="dBZ")

    facts = "split test instead of validation, horizon 3 instead of 4, frames 2 x 3 x 4 instead of 2 x 3 x 5, units mm/h instead of dBZ"
    with pytest.raises(UserError, match=facts):
        file.clips(Other(), 5)
    with pytest.raises(UserError, match="forecasts 5 clips, and clip 5 is not among them"):
        read(file, 5)
    part = batch(2)
    with pytest.raises(UserError, match="clip 3 of 'toy' test had other frames or times"):
        file.forecast_batch(Batch(part.frames, None, None, (3,), part.times), part.frames.float(), Toy())
    with pytest.raises(UserError, match="clip 3 of 'toy' test had other frames or times"):
        read(file, 3, clock=False)
    with pytest.raises(UserError, match=facts):
        read(file, 0, data=Other())


@SUFFIXES
def test_some_clips_of_a_split_in_any_order(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    with ForecastWriter(path, "p", Toy(), 2) as writer:
        for index in (4, 2):
            part = batch(index)
            writer.write(forecasts()[[index]], part, clip_digests(part))
    file = ForecastFile(path)
    assert file.clips(Toy(), 5) == [2, 4] and file.clips(Toy(), 4) == [2]
    torch.testing.assert_close(read(file, 2, 4), forecasts()[[2, 4]], rtol=0, atol=0)
    assert file.hash == truth_hash(2, 3, clip_digests(batch(2, 4))), "in the order of the clips, however they were written"
    with pytest.raises(UserError, match="forecasts 2 clips, the first of which is 2: ask for more than 2"):
        file.clips(Toy(), 2)


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: f"{path.parent.name}{path.suffix}")
def test_what_an_older_version_wrote_is_read(path: Path) -> None:
    file = ForecastFile(path)
    torch.testing.assert_close(read(file, 0, 3, 4), forecasts()[[0, 3, 4]], rtol=0, atol=0)
    assert (file.members, file.spec, file.context, file.hash) == (None, SPEC, 2, truth_hash(2, 3, clip_digests(batch(0, 1, 2, 3, 4))))
    assert "5 clips of 'toy' test, by my predictor; units mm/h" in file.describe()


@SUFFIXES
def test_members_are_written_and_read(tmp_path: Path, suffix: str) -> None:
    path, members = tmp_path / f"a{suffix}", torch.stack([forecasts(), forecasts() + 1, forecasts() * 2, -forecasts()], dim=1)
    with ForecastWriter(path, "p", Toy(), 5, members=4) as writer:
        for some in ((0, 1, 2), (3, 4)):
            part = batch(*some)
            writer.write(members[list(some)], part, clip_digests(part))
    file = ForecastFile(path)
    assert file.members == 4 and "4 members" in file.describe()
    torch.testing.assert_close(read(file, 1, 4), members[[1, 4]], rtol=0, atol=0)
    if suffix == ".h5":
        with h5py.File(path) as raw:
            assert raw["forecast"].chunks == (1, 1, 1, 2, 3, 4)


@pytest.mark.parametrize("suffixes", [(".h5", ".h5", ".h5"), (".npz", ".npz", ".npz"), (".npz", ".h5", ".npz")])
@pytest.mark.parametrize("clock", [True, False])
def test_parts_of_several_processes_join_to_what_one_would_have_written(tmp_path: Path, suffixes: tuple[str, ...], clock: bool) -> None:
    parts = []
    for rank, some in enumerate(((0, 3), (1, 4), (2,))):
        parts.append(tmp_path / f"part-{rank}{suffixes[rank]}")
        with ForecastWriter(parts[-1], "my predictor", Toy(), len(some)) as writer:
            part = batch(*some, clock=clock)
            writer.write(forecasts()[list(some)], part, clip_digests(part))
    out = tmp_path / f"joined{suffixes[0]}"
    join_forecasts(parts[::-1], out)
    alone = write(tmp_path / f"alone{suffixes[0]}", clock=clock)
    joined, single = ForecastFile(out), ForecastFile(alone)
    assert (joined.indices, joined.digests, joined.hash) == (single.indices, single.digests, single.hash)
    torch.testing.assert_close(read(joined, 0, 1, 2, 3, 4, clock=clock), forecasts(), rtol=0, atol=0)
    if clock:
        np.testing.assert_array_equal(joined.times, single.times)
    if suffixes[0] == ".npz":
        with zipfile.ZipFile(out) as ours, zipfile.ZipFile(alone) as theirs:
            assert {name: ours.read(name) for name in ours.namelist()} == {name: theirs.read(name) for name in theirs.namelist()}


def test_joining_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = write(tmp_path / "a.npz"), tmp_path / "b.npz"
    out = tmp_path / "out.npz"
    with pytest.raises(UserError, match=r"Clip 0 is both in .*a\.npz and in .*a\.npz"):
        join_forecasts([first, first], out)
    with ForecastWriter(second, "another", Toy(), 1) as writer:
        part = batch(0)
        writer.write(forecasts()[:1], part, clip_digests(part))
    with pytest.raises(UserError, match="do not belong together: their predictor differs"):
        join_forecasts([first, second], out)
    write(second, clock=False)
    with pytest.raises(UserError, match="only one of them has times"):
        join_forecasts([first, second], out)

    def fail(file: ForecastFile, rows: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ForecastFile, "read_rows", fail)
    with pytest.raises(OSError, match="No space left"):
        join_forecasts([first], out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def test_joining_takes_little_memory(tmp_path: Path) -> None:
    class Large(Toy):
        spec, context, horizon = FrameSpec(1, 128, 128), 1, 4

    parts = [tmp_path / f"{rank}.npz" for rank in range(2)]
    for rank, path in enumerate(parts):
        with ForecastWriter(path, "p", Large(), 80) as writer:
            for index in range(rank, 160, 2):
                part = Batch(torch.zeros(1, 5, 1, 128, 128, dtype=torch.uint8), None, None, (index,))
                writer.write(torch.full((1, 4, 1, 128, 128), float(index)), part, clip_digests(part))
    tracemalloc.start()
    join_forecasts(parts, tmp_path / "all.npz")  # 40 MiB
    assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    tracemalloc.stop()
    with np.load(tmp_path / "all.npz") as arrays:
        np.testing.assert_array_equal(arrays["forecast"][:, 0, 0, 5, 5], np.arange(160))


def test_digests_tell_frames_masks_and_times_apart() -> None:
    frames = torch.zeros(2, 3, 1, 2, 2, dtype=torch.uint8)
    changed = frames.clone()
    changed[1, 2, 0, 1, 1] = 1
    mask = torch.ones(frames.shape, dtype=torch.bool)
    times = torch.arange(6).reshape(2, 3)
    digests = [
        clip_digests(Batch(frames, None, None, (0, 1))),
        clip_digests(Batch(changed, None, None, (0, 1))),
        clip_digests(Batch(frames, mask, None, (0, 1))),
        clip_digests(Batch(frames, None, None, (0, 1), times)),
        clip_digests(Batch(frames, None, None, (0, 1), times + 1)),
        clip_digests(Batch(frames.reshape(2, 3, 1, 4, 1), None, None, (0, 1))),
        clip_digests(Batch(frames.view(torch.int8), None, None, (0, 1))),
    ]
    assert digests[0][0] == digests[0][1] == digests[1][0] and all(len(digest) == 16 for digest in digests[0])
    assert len({clip[1] for clip in digests}) == len(digests)
    hashes = {truth_hash(*shape, some) for shape in ((1, 2), (2, 1), (12, 1), (1, 21)) for some in digests}
    assert len(hashes) == 4 * len(digests)


def rewrite_zip(path: Path, change: Callable[[dict[str, bytes]], None], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def npy(array: NDArray[Any], shape: tuple[int, ...] | None = None) -> bytes:
    """Return an array as ``.npy``, with a header that claims another shape if asked to."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": array.dtype.str, "fortran_order": False, "shape": shape or array.shape})
    return file.getvalue() + array.tobytes()


def about(**changes: Any) -> Callable[[dict[str, bytes]], None]:
    def change(entries: dict[str, bytes]) -> None:
        entries["about.json"] = json.dumps({**json.loads(entries["about.json"]), **changes}).encode()

    return change


DAMAGE: list[tuple[str, Callable[[dict[str, bytes]], Any]]] = [
    (
        "'forecast.npy' is not the array that its header says",
        lambda e: e.update({"forecast.npy": npy(np.zeros(3, "<f4"), (10**6, 3, 2, 3, 4))}),
    ),
    (
        "'forecast.npy' is not the array that its header says",
        lambda e: e.update({"forecast.npy": npy(np.zeros(0, "<f4"), (0, 3, 2, 3, 4))}),
    ),
    ("'forecast' is float64", lambda e: e.update({"forecast.npy": npy(np.zeros((5, 3, 2, 3, 4)))})),
    ("'forecast' is float32 5 x 3 x 2 x 4 x 3 instead of", lambda e: e.update({"forecast.npy": npy(np.zeros((5, 3, 2, 4, 3), "<f4"))})),
    ("'indices.npy' is not the array", lambda e: e.update({"indices.npy": npy(np.zeros(5, dtype=np.int64).astype(object))})),
    ("a clip is in it twice", lambda e: e.update({"indices.npy": npy(np.zeros(5, dtype=np.int64))})),
    ("'digests' is uint8 5 x 15", lambda e: e.update({"digests.npy": npy(np.zeros((5, 15), dtype=np.uint8))})),
    ("forecast", lambda e: e.pop("forecast.npy")),
    ("about.json", lambda e: e.pop("about.json")),
    ("about.json' is too large", lambda e: e.update({"about.json": b" " * (2**20 + 1)})),
    ("recursion", lambda e: e.update({"about.json": b"[" * 10**5})),
    ("Expecting value", lambda e: e.update({"about.json": b"no JSON"})),
    ("list indices", lambda e: e.update({"about.json": b"[]"})),
    ("'horizon' is True", about(horizon=True)),
    ("'context' is '2'", about(context="2")),
    ("'spec' is None", about(spec=None)),
    ("'members' is 'two'", about(members="two")),
    ("instead of float32 5 x 2 x 3", about(members=2)),
    ("no frame spec", about(spec={"channels": 2})),
    ("instead of float32 5 x 9", about(horizon=9)),
    ("magic", lambda e: e.update({"times.npy": b"no array" * 9})),
]


@pytest.mark.parametrize(("why", "change"), DAMAGE)
def test_a_damaged_zip_is_refused_in_a_sentence(tmp_path: Path, why: str, change: Callable[[dict[str, bytes]], None]) -> None:
    path = write(tmp_path / "a.npz")
    rewrite_zip(path, change)
    with pytest.raises(UserError, match=r"a\.npz is no whole forecast file .*" + why):
        ForecastFile(path)


def test_a_compressed_zip_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz")
    rewrite_zip(path, lambda entries: None, zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="it is compressed"):
        ForecastFile(path)


@SUFFIXES
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str, kept: float) -> None:
    path = write(tmp_path / f"a{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(UserError, match="is no whole forecast file"):
        ForecastFile(path)


def replace(file: h5py.File, name: str, **settings: Any) -> None:
    del file[name]
    file.create_dataset(name, **settings)


def link_outside(file: h5py.File) -> None:
    del file["forecast"]
    file["forecast"] = h5py.ExternalLink("/etc/passwd", "/forecast")


def raw_file_outside(file: h5py.File) -> None:
    shape = (5, 3, 2, 3, 4)
    replace(file, "forecast", shape=shape, dtype="f4", external=[("/etc/passwd", 0, 5 * 72 * 4)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((5, 3, 2, 3, 4), "f4")
    layout[:] = h5py.VirtualSource("/tmp/elsewhere.h5", "forecast", (5, 3, 2, 3, 4))
    del file["forecast"]
    file.create_virtual_dataset("forecast", layout)


HDF5_DAMAGE: list[tuple[str, Callable[[h5py.File], Any]]] = [
    ("'forecast' points out of the file", link_outside),
    ("'forecast' is no array of its own", raw_file_outside),
    ("'forecast' is no array of its own", virtual),
    ("'forecast' is compressed or not whole", lambda f: replace(f, "forecast", shape=(5, 3, 2, 3, 4), dtype="f4", compression="gzip")),
    ("'forecast' is compressed or not whole", lambda f: replace(f, "forecast", shape=(10**9, 3, 2, 3, 4), dtype="f4", chunks=True)),
    ("'forecast' is float64", lambda f: replace(f, "forecast", data=np.zeros((5, 3, 2, 3, 4)))),
    ("'indices' is", lambda f: replace(f, "indices", data=np.zeros((5, 1), dtype=np.int64))),
    ("'digests'", lambda f: f.pop("digests")),
    ("'about' is no text", lambda f: f.attrs.update({"about": 3})),
    ("about", lambda f: f.attrs.pop("about")),
]


@pytest.mark.parametrize(("why", "change"), HDF5_DAMAGE)
def test_a_damaged_hdf5_is_refused_in_a_sentence(tmp_path: Path, why: str, change: Callable[[h5py.File], None]) -> None:
    path = write(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(UserError, match=r"a\.h5 is no whole forecast file .*" + why):
        ForecastFile(path)
