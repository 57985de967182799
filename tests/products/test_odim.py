"""ODIM_H5, read again group by group."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from stpredict.errors import UserError
from stpredict.products import Nowcast, write_product

pyproj = pytest.importorskip("pyproj")


def text(item: Any, name: str) -> str:
    """Return an attribute that must be text of a fixed length, ended by a zero."""
    kind = item.attrs.get_id(name).get_type()
    assert kind.get_strpad() == h5py.h5t.STR_NULLTERM and not kind.is_variable_str()
    return item.attrs[name].decode()


def test_each_lead_is_a_data_set(nowcast: Nowcast, truth: Any, tmp_path: Path) -> None:
    product = replace(nowcast, spec=replace(nowcast.spec, period=300.0))
    write_product(tmp_path / "next.odim.h5", product)
    grid = nowcast.spec.grid
    with h5py.File(tmp_path / "next.odim.h5") as file:
        assert text(file, "Conventions") == "ODIM_H5/V2_3" and text(file["what"], "object") == "COMP"
        assert (text(file["what"], "date"), text(file["what"], "time")) == ("20200228", "235500")
        assert sorted(name for name in file if name.startswith("dataset")) == ["dataset1", "dataset2", "dataset3"]
        for lead in range(3):
            group = file[f"dataset{lead + 1}"]
            what, data = group["data1/what"].attrs, group["data1/data"][:]
            assert text(group["data1/what"], "quantity") == "RATE" and text(group["what"], "product") == "COMP"
            assert text(group["what"], "endtime") == f"00{5 * lead:02}00" and text(group["what"], "enddate") == "20200229"
            assert text(group["what"], "starttime") == ("235500", "000000", "000500")[lead]
            physical = data * what["gain"] + what["offset"]
            physical = np.where(data == what["nodata"], np.nan, np.where(data == what["undetect"], 0.0, physical))
            expected = nowcast.forecast[lead, 0] if grid.row_origin == "north" else nowcast.forecast[lead, 0, ::-1]
            np.testing.assert_allclose(physical, expected, atol=0.00501)
            assert (data == what["nodata"]).sum() == 9 and (data == what["undetect"]).sum() == 9
        where = file["where"].attrs
        assert (where["xsize"], where["ysize"]) == (16, 20)
        # A reader knows projection, scales and the lower left corner, and counts from there.
        projdef = text(file["where"], "projdef")
        left, bottom = where["LL_lon"], where["LL_lat"]
        proj = pyproj.Proj(projdef)
        if "longlat" not in projdef:
            left, bottom = proj(left, bottom)
        for row, column in truth.pixels:
            up = 20 - 1 - row if grid.row_origin == "north" else row
            x, y = left + (column + 0.5) * where["xscale"], bottom + (up + 0.5) * where["yscale"]
            place = (x, y) if "longlat" in projdef else proj(x, y, inverse=True)
            assert truth.distance(grid, row, column, *place) < 0.1


def test_our_own_reader_reads_the_first_lead(swiss: Nowcast, tmp_path: Path) -> None:
    odim = pytest.importorskip("stpredict.data.readers.odim")
    write_product(tmp_path / "next.odim.h5", swiss)
    reader = odim.Odim(tmp_path)
    assert reader.facts["units"] == "mm/h" and reader.facts["grid"].corners == pytest.approx(swiss.spec.grid.corners, abs=0.01)


def test_small_rain_is_rain_and_what_does_not_fit_is_refused(swiss: Nowcast, nowhere: Nowcast, colour: Nowcast, tmp_path: Path) -> None:
    forecast = swiss.forecast.copy()
    forecast[:, :, 10, :4] = (0.001, 0.0, 655.33, 0.02)
    write_product(tmp_path / "next.odim.h5", replace(swiss, forecast=forecast))
    with h5py.File(tmp_path / "next.odim.h5") as file:
        assert file["dataset1/data1/data"][10, :4].tolist() == [1, 0, 65533, 2]
    forecast[:, :, 10, 2] = 1205.0  # such spikes are in real composites
    write_product(tmp_path / "next.odim.h5", replace(swiss, forecast=forecast))
    with h5py.File(tmp_path / "next.odim.h5") as file:
        assert file["dataset1/data1/data"][10, :4].tolist() == [1, 0, 60250, 1] and file["dataset1/data1/what"].attrs["gain"] == 0.02
    sentences = {
        "has no room for 70000 mm/h of RATE": replace(swiss, forecast=forecast * 0 + 70000),
        "frames with a grid": nowhere,
        "frames with one channel": colour,
        "frames with a clock": replace(swiss, times=None),
        "units mm/h, mm, dBZ, kg/m2, not 1": replace(swiss, spec=replace(swiss.spec, units="1")),
    }
    for sentence, product in sentences.items():
        with pytest.raises(UserError, match=sentence):
            write_product(tmp_path / "other.odim.h5", product)
    assert [path.name for path in tmp_path.iterdir()] == ["next.odim.h5"]
