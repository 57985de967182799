"""CF files that are damaged or made to do harm, and readers in other processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pytest

import stpredict
from stpredict.data.readers.cf import Cf
from stpredict.errors import UserError


class _Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("unpickled",)


def test_nothing_is_unpickled(tmp_path: Path, cf_files: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = cf_files.write_zarr(tmp_path / "a.zarr", version=2)
    about = json.loads((store / "x" / ".zarray").read_text())
    about.update(dtype="|O", filters=[{"id": "pickle", "protocol": 5}], compressor=None, chunks=[28], fill_value=None)
    (store / "x" / ".zarray").write_text(json.dumps(about))
    (store / "x" / "0").write_bytes(pickle.dumps([_Trap(), [28]]))
    (store / ".zmetadata").unlink()
    with pytest.raises(UserError, match=r"a\.zarr"):
        Cf(store)
    assert not (tmp_path / "unpickled").exists()


def test_declared_sizes_are_not_believed(tmp_path: Path, cf_files: ModuleType) -> None:
    store = cf_files.write_zarr(tmp_path / "a.zarr", version=3)
    about = json.loads((store / "rain" / "zarr.json").read_text())
    about["shape"] = [24, 10**6, 10**6]
    about["chunk_grid"]["configuration"]["chunk_shape"] = [1, 10**6, 10**6]
    (store / "rain" / "zarr.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match="'rain' declares 4000000000000 bytes in one piece"):
        Cf(store)
    with h5py.File(tmp_path / "a.nc", "w") as file:
        for number, name in enumerate(("time", "y", "x")):
            file.create_dataset(name, (10**10,), "f8", chunks=(1000,)).make_scale(name)
            file[name].attrs["_Netcdf4Dimid"] = number
    with pytest.raises(UserError, match=r"a\.nc': '.*' declares 80000000000 bytes in one piece in a file of"):
        Cf(tmp_path / "a.nc")


def test_no_link_is_followed(tmp_path: Path, cf: ModuleType) -> None:
    path = cf.write(tmp_path / "a.nc")
    with h5py.File(path, "r+") as file:
        file["elsewhere"] = h5py.ExternalLink("b.nc", "/rain")
    with pytest.raises(UserError, match="'elsewhere' is a link, which is not followed"):
        Cf(path)
    path = cf.write(tmp_path / "c.nc")
    (tmp_path / "secret").write_bytes(bytes(960))
    with h5py.File(path, "r+") as file:
        file.create_dataset("other", (240,), "f4", external=[(str(tmp_path / "secret"), 0, 960)])
    with pytest.raises(UserError, match="the data of 'other' lie in another file"):
        Cf(path)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.97])
@pytest.mark.parametrize("engine", ["NETCDF4", "NETCDF3_64BIT"])
def test_a_truncated_file_is_named(tmp_path: Path, cf: ModuleType, share: float, engine: str) -> None:
    path = cf.write(tmp_path / "a.nc", form=engine)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=r"a\.nc'"):
        cf.physical(Cf(path))


@pytest.mark.parametrize("form", ["rain.nc", "rain.zarr"])
def test_worker_processes_read_what_was_opened_before_they_began(tmp_path: Path, cf_files: ModuleType, form: str) -> None:
    cf_files.write_netcdf(tmp_path / "rain.nc")
    cf_files.write_zarr(tmp_path / "rain.zarr")
    clips = stpredict.load_data("cf", tmp_path / form, context=2, horizon=2)
    expected = [clips[index].frames for index in range(4)]  # the libraries' threads and caches are there before the fork
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.map_async(clips.__getitem__, range(4)).get(timeout=30)
    for clip, frames in zip(found, expected, strict=True):
        np.testing.assert_array_equal(clip.frames, frames)
