"""Nowcasts in ODIM_H5: what our products hold is found by its times and read again, to a step of its 16 bits, 0.01."""

from __future__ import annotations

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

pytest.importorskip("pyproj")

START = np.datetime64("2020-05-01T23:50", "s")


def product(data: ClipSet) -> Nowcast:
    """A nowcast of five leads from the end of the context of clip 2, with pixels that are dry and missing."""
    frames = np.random.default_rng(0).gamma(0.5, 8.0, (8, *data.spec.shape)).astype(np.float32)
    frames[:, :, 2, :4], frames[:, :, 5] = 0.0, np.nan
    times = START + np.timedelta64(300, "s") * np.arange(-2, 6)
    return Nowcast("mine", data.spec, frames[:3], frames[3:], times, "radar", "radar", (False,) * 3)


def read(archive: ForecastArchive, data: ClipSet) -> Any:
    batch = collate([(2, data[2])])
    return archive.forecast_batch(batch, batch.physical(data.packing, "cpu"), data)[0].numpy()


@pytest.mark.parametrize("origin", ["north", "south"])
def test_what_was_written_is_read(tmp_path: Path, radar: type[ClipSet], origin: Any) -> None:
    data = radar(fill=0.5)
    nowcast = product(data)
    turned = replace(data.spec, grid=replace(data.spec.grid, row_origin=origin))
    write_product(tmp_path / "a.odim.h5", replace(nowcast, spec=turned))
    archive = load_predictor(tmp_path / "a.odim.h5")
    assert isinstance(archive, ForecastArchive) and list(archive.clips(data, 6)) == [2] and archive.warnings == ()
    expected = np.nan_to_num(nowcast.forecast[:4], nan=0.5)
    seen = read(archive, data) if origin == "north" else read(archive, data)[..., ::-1, :]
    np.testing.assert_allclose(seen, expected, atol=0.01001)
    assert archive.describe() == "archive a.odim.h5: 1 nowcast(s) of 5 frames in mm/h, from 2020-05-01T23:50:00"


def test_reflectivity_and_what_has_none(tmp_path: Path, radar: type[ClipSet]) -> None:
    data = radar(units="dBZ", minimum=-32.0, fill=-32.0)
    nowcast = product(data)
    dbz = np.where(nowcast.forecast == 0, np.float32(-32), nowcast.forecast)
    write_product(tmp_path / "a.odim.h5", replace(nowcast, forecast=dbz))
    archive = load_predictor(tmp_path)
    np.testing.assert_allclose(read(archive, data), np.nan_to_num(dbz[:4], nan=-32.0), atol=0.01001)
    rates = read(archive, radar(z_r=(200.0, 1.6)))
    expected = np.where(dbz == -32, 0, (10 ** (dbz.astype(np.float64) / 10) / 200) ** (1 / 1.6))
    np.testing.assert_allclose(rates, np.nan_to_num(expected[:4], nan=0.0), rtol=2e-3)


def test_depths_have_the_period_of_their_start_and_end(tmp_path: Path, radar: type[ClipSet]) -> None:
    nowcast = product(radar())
    write_product(tmp_path / "a.odim.h5", replace(nowcast, spec=radar(units="mm", period=300.0).spec))
    archive = ForecastArchive(tmp_path)
    assert (archive.files[0].units, archive.files[0].period) == ("mm", 300.0)
    np.testing.assert_allclose(read(archive, radar()), np.nan_to_num(nowcast.forecast[:4]) * 12, atol=0.1201)


def shorten(file: h5py.File) -> None:
    data = file["dataset3/data1"]
    del data["data"]
    data.create_dataset("data", data=np.zeros((5, 8), np.uint16))


DAMAGE: list[tuple[str, Callable[[h5py.File], Any]]] = [
    (
        "does not say what it forecasts from: its 'what' needs date and time",
        lambda f: [f["what"].attrs.pop(name) for name in ("date", "time")],
    ),
    ("tells no enddate and endtime of dataset2", lambda f: [f["dataset2/what"].attrs.pop(name) for name in ("enddate", "endtime")]),
    ("tells of 10 x 8", shorten),
    ("by which nothing can be unpacked", lambda f: f["dataset2/data1/what"].attrs.update({"gain": 0.0})),
    ("it says that it begins at 2020-05-02T23:50:00", lambda f: f["what"].attrs.update({"date": np.bytes_("20200502")})),
    ("do not follow one another", lambda f: f["dataset2/what"].attrs.update({"endtime": np.bytes_("235500")})),
]


@pytest.mark.parametrize(("why", "change"), DAMAGE)
def test_what_is_no_nowcast_is_refused_in_a_sentence(
    tmp_path: Path, radar: type[ClipSet], why: str, change: Callable[[h5py.File], None]
) -> None:
    path = tmp_path / "a.odim.h5"
    write_product(path, product(radar()))
    with h5py.File(path, "a") as file:
        change(file)
    with pytest.raises(UserError, match=why) as refused:
        load_predictor(path)
    assert str(path) in str(refused.value)


def test_a_composite_that_was_observed_is_no_nowcast(tmp_path: Path, radar: type[ClipSet]) -> None:
    path = tmp_path / "a.h5"
    write_product(tmp_path / "b.odim.h5", product(radar()))
    with h5py.File(tmp_path / "b.odim.h5") as whole, h5py.File(path, "w") as file:
        for name in ("what", "where", "dataset1"):
            whole.copy(name, file)
        file.attrs["Conventions"] = whole.attrs["Conventions"]
        file["dataset1/what"].attrs["endtime"] = file["what"].attrs["time"]
    with pytest.raises(UserError, match="is no nowcast: it says that it begins at 2020-05-01T23:50:00, and its first frame is of"):
        load_predictor(path)
