"""Reflectivity that a card wants as rain rate, pixel by pixel against the Z-R relation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from stpredict.data import load_data
from stpredict.data.card import Card, Frames, read_card
from stpredict.data.clips import ClipSet
from stpredict.data.rates import read_as_rain
from stpredict.data.storing import prepare_archive
from stpredict.errors import UserError
from stpredict.frames import Transform

RAIN = Frames(units="mm/h", transform=Transform("sqrt", 0.0, 120.0, clip=True), minimum=0.0)
WINDOW = {"context": 2, "horizon": 2}


def physical(clips: ClipSet) -> np.ndarray:
    return clips.packing.unpack(torch.from_numpy(clips[0].frames)).numpy()


def wanting(name: str, **changes: object) -> Card:
    return replace(read_card(name), frames=replace(RAIN, **changes))


def test_shanghai_by_a_pair_of_the_card(generator: Callable[[str], ModuleType], tmp_path: Path) -> None:
    generator("shanghai").write_sample(tmp_path / "events")
    dbz = physical(load_data("shanghai", tmp_path / "events", "all", **WINDOW)).astype(np.float64)
    clips = load_data(wanting("shanghai", z_r=(200.0, 1.6)), tmp_path / "events", "all", **WINDOW)
    expected = np.where(dbz > 0, (10 ** (dbz / 10) / 200) ** (1 / 1.6), 0.0)
    assert clips.spec.units == "mm/h" and clips.spec.z_r == (200.0, 1.6) and (expected > 1).any() and (expected == 0).any()
    np.testing.assert_allclose(physical(clips), expected, rtol=1e-5)
    prepare_archive(wanting("shanghai", z_r=(200.0, 1.6)), tmp_path / "events", tmp_path / "rain.h5")
    np.testing.assert_array_equal(
        physical(load_data(wanting("shanghai", z_r=(200.0, 1.6)), tmp_path / "rain.h5", "all", **WINDOW)), physical(clips)
    )
    with pytest.raises(UserError, match=r"'shanghai' wants mm/h of files in dBZ, which takes a Z-R pair: add z_r"):
        load_data(wanting("shanghai"), tmp_path / "events", "all")


def test_fmi_by_the_pair_that_its_reader_knows_and_what_is_missing_stays_so(generator: Callable[[str], ModuleType], tmp_path: Path) -> None:
    generator("fmi").write_sample(tmp_path)
    dbz = physical(load_data("fmi", tmp_path, "all", **WINDOW)).astype(np.float64)
    rates = physical(load_data(wanting("fmi"), tmp_path, "all", **WINDOW))
    np.testing.assert_array_equal(np.isnan(rates), np.isnan(dbz))
    assert np.isnan(dbz).any()
    rain = dbz > -32.0
    np.testing.assert_allclose(rates[rain], ((10 ** (dbz[rain] / 10) / 223) ** (1 / 1.53)), rtol=1e-5)
    assert not rates[dbz == -32.0].any()


def test_numbers_without_a_table_are_refused(tmp_path: Path) -> None:
    class Reader:
        def __init__(self) -> None:
            self.facts = {"units": "dBZ"}

        def read(self, film: int, positions: range) -> np.ndarray:
            return np.zeros((1, 1, 2, 2), np.float32)

    with pytest.raises(UserError, match="numbers of 8 or 16 bits, not float32"):
        read_as_rain(Reader(), (200.0, 1.6), "mine")  # type: ignore[arg-type]
