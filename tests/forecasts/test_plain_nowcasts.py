"""Nowcasts in stpredict's own plain files: what was written is found by its times and read again; none can do harm."""

from __future__ import annotations

import io
import json
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from stpredict.data.clips import ClipSet
from stpredict.data.loader import collate
from stpredict.errors import UserError
from stpredict.forecasts import ForecastArchive
from stpredict.predictor import load_predictor
from stpredict.products import Nowcast, write_product

START = np.datetime64("2020-05-01T23:50", "s")
SUFFIXES = pytest.mark.parametrize("suffix", [".npz", ".h5"])


def product(data: ClipSet, **changes: Any) -> Nowcast:
    """A nowcast of five leads from the end of the context of clip 2."""
    random = np.random.default_rng(0)
    times = START + np.timedelta64(300, "s") * np.arange(-2, 6)
    frames = random.gamma(0.5, 8.0, (8, *data.spec.shape)).astype(np.float32)
    nowcast = Nowcast("mine", data.spec, frames[:3], frames[3:], times, "radar", "radar", (False,) * 3)
    return replace(nowcast, **changes)


def read(archive: ForecastArchive, data: ClipSet) -> Any:
    batch = collate([(2, data[2])])
    return archive.forecast_batch(batch, batch.physical(data.packing, "cpu"), data)[0].numpy()


@SUFFIXES
def test_what_was_written_is_read(tmp_path: Path, radar: type[ClipSet], suffix: str) -> None:
    data = radar(z_r=(200.0, 1.6))
    nowcast = product(data)
    write_product(tmp_path / f"a{suffix}", nowcast)
    archive = load_predictor(tmp_path / f"a{suffix}")
    assert isinstance(archive, ForecastArchive) and list(archive.clips(data, 6)) == [2] and archive.warnings == ()
    np.testing.assert_array_equal(read(archive, data), nowcast.forecast[:4])
    assert archive.describe() == f"archive a{suffix}: 1 nowcast(s) of 5 frames in mm/h, from 2020-05-01T23:50:00, by mine"
    assert archive.files[0].z_r == (200.0, 1.6) and archive.files[0].minimum == 0.0


@SUFFIXES
def test_members_in_a_folder_with_a_log(tmp_path: Path, radar: type[ClipSet], suffix: str) -> None:
    data = radar()
    nowcast = product(data)
    nowcast = replace(nowcast, forecast=np.stack([nowcast.forecast, nowcast.forecast + 1]), members=("a", "b"))
    write_product(tmp_path / f"nowcast-20200501T2350{suffix}", nowcast)
    write_product(tmp_path / f"nowcast-20200501T2355{suffix}", replace(nowcast, times=nowcast.times + np.timedelta64(300, "s")))
    (tmp_path / "watch.jsonl").write_text("{}\n")
    archive = load_predictor(tmp_path)
    assert list(archive.clips(data, 6)) == [2, 3] and archive.members == 2
    np.testing.assert_array_equal(read(archive, data), nowcast.forecast[:, :4])


@SUFFIXES
def test_rows_of_the_other_order_and_a_late_cycle(tmp_path: Path, radar: type[ClipSet], suffix: str) -> None:
    data = radar()
    turned = replace(data.spec, grid=replace(data.spec.grid, row_origin="south"))
    nowcast = product(data)
    late = np.concatenate([nowcast.times[:3] - np.timedelta64(600, "s"), nowcast.times[3:]])
    write_product(tmp_path / f"a{suffix}", replace(nowcast, spec=turned, times=late, facts={"watch": {"cycle": str(START)}}))
    archive = ForecastArchive(tmp_path)
    assert list(archive.clips(data, 6)) == [2]
    np.testing.assert_array_equal(read(archive, data), nowcast.forecast[:4, :, ::-1])


@SUFFIXES
def test_without_a_clock_no_clip_can_be_found(tmp_path: Path, radar: type[ClipSet], suffix: str) -> None:
    write_product(tmp_path / f"a{suffix}", product(radar(), times=None))
    with pytest.raises(UserError, match="has no clock: its frames have no times by which clips could be found"):
        load_predictor(tmp_path / f"a{suffix}")


@SUFFIXES
@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_truncated_file_is_refused(tmp_path: Path, radar: type[ClipSet], suffix: str, kept: float) -> None:
    path = tmp_path / f"a{suffix}"
    write_product(path, product(radar()))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(UserError, match=rf"a\{suffix}' is damaged"):
        load_predictor(path)


def npy(array: Any, shape: tuple[int, ...] | None = None) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": array.dtype.str, "fortran_order": False, "shape": shape or array.shape})
    return file.getvalue() + array.tobytes()


def about(**changes: Any) -> Callable[[dict[str, bytes]], None]:
    def change(entries: dict[str, bytes]) -> None:
        told = json.loads(str(np.load(io.BytesIO(entries["about.npy"]))))
        entries["about.npy"] = npy(np.array(json.dumps({**told, **changes})))

    return change


GRID: dict[str, Any] = {"projection": "EPSG:4326", "corners": [0, 0, 1, 1], "row_origin": "north"}
DAMAGE: list[tuple[str, Callable[[dict[str, bytes]], Any]]] = [
    ("'about' is object", lambda e: e.update({"about.npy": npy(np.zeros((), dtype=object))})),
    ("'about' is int64", lambda e: e.update({"about.npy": npy(np.zeros((), dtype=np.int64))})),
    ("'about' is too large", lambda e: e.update({"about.npy": npy(np.zeros(2**20 + 1, dtype="<U1"))})),
    ("Expecting value", lambda e: e.update({"about.npy": npy(np.array("no JSON"))})),
    ("recursion", lambda e: e.update({"about.npy": npy(np.array("[" * 10**5))})),
    ("damaged", about(spec=None)),
    ("its grid is", about(spec={"units": "mm/h", "grid": {**GRID, "corners": [0, 0, 1]}})),
    ("its grid is", about(spec={"units": "mm/h", "grid": {**GRID, "projection": 5}})),
    ("its grid has the corners", about(spec={"units": "mm/h", "grid": {**GRID, "corners": [0, 1, 1, 0]}})),
    ("'forecast_times' is int64", lambda e: e.update({"forecast_times.npy": npy(np.zeros(5, np.int64), (10**12,))})),
    ("'forecast_times' is object", lambda e: e.update({"forecast_times.npy": npy(np.zeros(5, object))})),
    ("do not follow one another in time", lambda e: e.update({"forecast_times.npy": npy(np.full(5, 2**31, np.int64))})),
    ("it says that it begins at", lambda e: e.update({"forecast_times.npy": npy(np.arange(5))})),
    (r"its forecast is float32 \(5, 1, 10, 8\), with 4 times", lambda e: e.update({"forecast_times.npy": npy(np.arange(4) + 2**31)})),
    ("cannot hold", lambda e: e.update({"forecast.npy": npy(np.zeros(400, "<f4"), (5, 10**9, 10, 8))})),
    ("holds object", lambda e: e.update({"forecast.npy": npy(np.zeros((5, 1, 10, 8), object))})),
    ("its forecast is uint8", lambda e: e.update({"forecast.npy": npy(np.zeros((5, 1, 10, 8), np.uint8))})),
]


@pytest.mark.parametrize(("why", "change"), DAMAGE)
def test_nothing_that_a_file_says_is_believed(
    tmp_path: Path, radar: type[ClipSet], why: str, change: Callable[[dict[str, bytes]], None]
) -> None:
    path = tmp_path / "a.npz"
    write_product(path, product(radar()))
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    tracemalloc.start()
    with pytest.raises(UserError, match=why) as refused:
        load_predictor(path)
    assert str(path) in str(refused.value) and tracemalloc.get_traced_memory()[1] < 40 * 2**20
    tracemalloc.stop()


def test_strange_numbers_are_left_out(tmp_path: Path, radar: type[ClipSet]) -> None:
    path = tmp_path / "a.h5"
    write_product(path, product(radar()))
    with h5py.File(path, "a") as file:
        told = json.loads(file.attrs["about"])
        told["spec"] |= {"z_r": [0, 1], "minimum": "none", "period": ["a"], "grid": None}
        file.attrs["about"] = json.dumps({**told, "predictor": "<b>" * 1000, "watch": {"cycle": "soon"}})
    nowcast = ForecastArchive(path).files[0]
    assert (nowcast.z_r, nowcast.minimum, nowcast.period, nowcast.grid) == (None, None, None, None)
    assert nowcast.start == START and len(nowcast.made_by) == 100


def test_a_bomb_in_hdf5_is_refused(tmp_path: Path, radar: type[ClipSet]) -> None:
    path = tmp_path / "a.h5"
    write_product(path, product(radar()))
    with h5py.File(path, "a") as file:
        del file["forecast"]
        file.create_dataset("forecast", (5, 10**6, 10, 8), np.float32, chunks=(1, 1, 10, 8))
    with pytest.raises(UserError, match="declares 1600000000 bytes but stores 0"):
        ForecastArchive(path)


def test_other_files_in_a_folder_are_no_nowcasts(tmp_path: Path) -> None:
    np.savez(tmp_path / "weights.npz", weights=np.zeros(3))
    with pytest.raises(UserError, match="holds no predictor yet"):
        load_predictor(tmp_path)
