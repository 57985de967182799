"""What one NetCDF file says of a nowcast; none can do harm."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from stpredict.data.clips import ClipSet
from stpredict.data.loader import collate
from stpredict.errors import UserError
from stpredict.forecasts import ForecastArchive
from stpredict.forecasts.cf_nowcasts import read_cf_nowcast
from stpredict.predictor import load_predictor

netCDF4 = pytest.importorskip("netCDF4")
xarray = pytest.importorskip("xarray")
pytest.importorskip("pyproj")

Write = Callable[..., Path]
START = np.datetime64("2020-05-01T23:40", "s")


@pytest.fixture
def path(tmp_path: Path, radar: type[ClipSet], pysteps_file: Write) -> Path:
    return pysteps_file(tmp_path / "a.nc", np.ones((2, 4, 10, 8), np.float32), START, radar().spec.grid)


def change(path: Path, how: Callable[[Any], object]) -> Path:
    with netCDF4.Dataset(path, "a") as file:
        how(file)
    return path


def test_what_pysteps_says(path: Path, radar: type[ClipSet]) -> None:
    nowcast = read_cf_nowcast(path)
    assert (nowcast.start, nowcast.members, nowcast.made_by) == (START, 2, "pysteps v1.21.5")
    assert nowcast.times.tolist() == (START + np.timedelta64(300, "s") * np.arange(1, 5)).tolist()
    assert nowcast.header.grid is not None and nowcast.header.grid.corners == radar().spec.grid.corners


def test_a_reference_time_is_believed(path: Path) -> None:
    def say(file: Any) -> None:
        moment = file.createVariable("issued", float, ())
        moment[()], moment.standard_name, moment.units = 10.0, "forecast_reference_time", "minutes since 2020-05-01 23:31:00"

    assert read_cf_nowcast(change(path, say)).start == np.datetime64("2020-05-01T23:41", "s")


def test_without_one_the_first_lead_is_as_long_as_the_next(path: Path) -> None:
    """What xarray writes counts time from the first frame, which says nothing."""
    with xarray.open_dataset(path, decode_coords="all") as data:
        plain = data["precip_intensity"].load()
    plain.attrs.pop("grid_mapping", None)
    plain.to_dataset().to_netcdf(path.with_name("b.nc"))
    assert read_cf_nowcast(path.with_name("b.nc")).start == START
    plain[:, :1].to_dataset().to_netcdf(path.with_name("c.nc"))
    with pytest.raises(
        UserError, match=r"c\.nc' does not say what it forecasts from: give it a variable of the standard_name forecast_ref"
    ):
        read_cf_nowcast(path.with_name("c.nc"))


def test_a_start_after_the_first_frame_is_none(path: Path) -> None:
    change(path, lambda file: file["time"].setncattr("units", "seconds since 2020-05-01 23:40:00"))
    change(path, lambda file: file["time"].__setitem__(slice(None), [0, 300, 600, 900]))
    with pytest.raises(
        UserError, match="is no nowcast: it says that it begins at 2020-05-01T23:40:00, and its first frame is of 2020-05-01"
    ):
        read_cf_nowcast(path)


WRONG: list[tuple[str, Callable[[Any], object]]] = [
    ("do not follow one another in time", lambda f: f["time"].__setitem__(slice(None), [300, 300, 600, 900])),
    ("do not follow one another in time", lambda f: f["time"].__setitem__(slice(None), [1200, 900, 600, 300])),
    ("not those of a time", lambda f: f["time"].setncattr("units", "K")),
    ("is damaged", lambda f: f["time"].setncattr("units", "seconds since 9999-99-99 00:00:00")),
    ("does not say in which units 'precip_intensity' is: give it the attribute units", lambda f: f["precip_intensity"].delncattr("units")),
    ("cannot be understood", lambda f: f.setncattr("projection", "+proj=nothing")),
    ("not evenly spaced along x", lambda f: f["x"].__setitem__(slice(None), [0, 1, 2, 3, 4, 5, 6, 70])),
    ("runs from east to west", lambda f: f["x"].__setitem__(slice(None), f["x"][::-1])),
    (
        "holds no numbers with dimensions time, y and x",
        lambda f: f.renameVariable("precip_intensity", "longitude"),
    ),
]


@pytest.mark.parametrize(("why", "how"), WRONG)
def test_what_is_no_nowcast_is_refused_in_a_sentence(path: Path, why: str, how: Callable[[Any], object]) -> None:
    with pytest.raises(UserError, match=why) as refused:
        load_predictor(change(path, how))
    assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    "said",
    [
        "[" * 10**5,
        "no JSON",
        "[]",
        json.dumps({"watch": {"cycle": 5}, "spec": {"z_r": ["a", 0], "minimum": "x", "period": []}, "predictor": {"a": 1}}),
        json.dumps({"watch": [], "spec": [1], "predictor": "<script>" * 10**4}),
        json.dumps({"spec": {"z_r": [-1, 2], "minimum": float("nan")}}),
    ],
)
def test_nothing_that_a_file_says_of_itself_is_believed_unseen(path: Path, said: str) -> None:
    nowcast = read_cf_nowcast(change(path, lambda file: file.setncattr("stpredict", said)))
    assert (nowcast.start, nowcast.z_r, nowcast.minimum) == (START, None, None) and len(nowcast.made_by) <= 100


def test_a_cycle_that_is_no_time_is_damage(path: Path) -> None:
    change(path, lambda file: file.setncattr("stpredict", json.dumps({"watch": {"cycle": "2020-99-99T00:00:00"}})))
    with pytest.raises(UserError, match="is damaged"):
        read_cf_nowcast(path)


def test_a_bomb_is_refused_before_it_is_read(tmp_path: Path, radar: type[ClipSet], pysteps_file: Write) -> None:
    """A hundred thousand members that were never written take no room on the disk."""
    data = radar()
    path = pysteps_file(tmp_path / "a.nc", np.ones((2, 4, 10, 8), np.float32), START, data.spec.grid)
    with h5py.File(path, "a") as file:
        old = file["precip_intensity"]
        new = file.create_dataset("new", (10**6, 4, 10, 8), np.float32, chunks=(1, 1, 10, 8), fillvalue=1.0, compression="gzip")
        for name, value in old.attrs.items():
            if name not in ("DIMENSION_LIST", "_Netcdf4Coordinates"):
                new.attrs[name] = value
        numbers = file.create_dataset("many", (10**6,), np.int8, chunks=(1000,))
        numbers.make_scale("ens_number")
        del file["precip_intensity"], file["ens_number"]
        file.move("new", "precip_intensity")
        file.move("many", "ens_number")
        for axis, name in enumerate(("ens_number", "time", "y", "x")):
            file["precip_intensity"].dims[axis].attach_scale(file[name])
    batch = collate([(0, data[0])])
    tracemalloc.start()
    with pytest.raises(UserError, match=r"a\.nc' declares 1280000000 bytes of 4 frames in a file of \d+: it is damaged"):
        ForecastArchive(path).forecast_batch(batch, batch.physical(data.packing, "cpu"), data)
    assert tracemalloc.get_traced_memory()[1] < 40 * 2**20
    tracemalloc.stop()


def test_links_out_of_the_file_are_not_followed(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["precip_intensity"]
        file["precip_intensity"] = h5py.ExternalLink("/etc/passwd", "/rain")
    with pytest.raises(UserError, match="'precip_intensity' is a link, which is not followed"):
        load_predictor(path)


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused(path: Path, kept: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(UserError, match=r"a\.nc' is damaged"):
        load_predictor(path)


def test_flipped_bytes_give_a_sentence_or_a_forecast(path: Path, radar: type[ClipSet]) -> None:
    data = radar()
    content, random = path.read_bytes(), np.random.default_rng(0)
    batch = collate([(0, data[0])])
    physical = batch.physical(data.packing, "cpu")
    refused = 0
    for number in range(60):
        damaged = np.frombuffer(content, np.uint8).copy()
        damaged[random.integers(0, len(damaged), 3)] = random.integers(0, 256, 3)
        other = path.with_name(f"{number}.nc")
        other.write_bytes(damaged.tobytes())
        try:
            archive = ForecastArchive(other)
            archive.clips(data, 6)
            assert archive.forecast_batch(batch, physical, data).shape[-4:] == (4, 1, 10, 8)
        except UserError:
            refused += 1
    assert 5 < refused < 55


def test_a_file_that_is_replaced_while_it_is_used(path: Path, tmp_path: Path, radar: type[ClipSet], pysteps_file: Write) -> None:
    data, archive = radar(), ForecastArchive(path)
    shutil.copy(pysteps_file(tmp_path / "b.nc", np.ones((3, 4, 10, 8), np.float32), START, data.spec.grid), path)
    batch = collate([(0, data[0])])
    with pytest.raises(UserError, match="has changed its size"):
        archive.forecast_batch(batch, batch.physical(data.packing, "cpu"), data)
