"""Packed, physical and scaled numbers."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stpredict.errors import UserError
from stpredict.frames import Batch, FrameSpec, Grid, Packing, Transform


def test_unpack_keeps_missing_apart_from_zero() -> None:
    packed = torch.from_numpy(np.array([0, 1, 250, 65535], dtype=np.uint16))
    physical = Packing(scale=0.12, offset=-1.0, missing=(65535.0,)).unpack(packed)
    np.testing.assert_allclose(physical[:3], [-1.0, -0.88, 29.0], rtol=1e-6)
    assert math.isnan(physical[3])


def test_small_integers_do_not_wrap() -> None:
    packed = torch.tensor([200], dtype=torch.uint8)
    assert float(Packing(scale=90 / 255).unpack(packed)) == pytest.approx(200 * 90 / 255)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["linear", "sqrt", "log"]), st.floats(-50, 50), st.floats(0.1, 100), st.floats(0.01, 10), st.floats(0, 1))
def test_transforms_are_invertible(name: str, low: float, span: float, knee: float, share: float) -> None:
    transform = Transform(name, low, low + span, knee)  # type: ignore[arg-type]
    physical = torch.tensor(low + share * span, dtype=torch.float64)
    scaled = transform.scale(physical)
    assert -1e-9 <= float(scaled) <= 1 + 1e-9
    assert float(transform.unscale(scaled)) == pytest.approx(float(physical), abs=1e-9 * max(1.0, abs(low), span))


def test_transforms_in_closed_form() -> None:
    value = torch.tensor(3.0)
    assert float(Transform("linear", 1.0, 5.0).scale(value)) == pytest.approx(0.5)
    assert float(Transform("sqrt", 1.0, 9.0).scale(value)) == pytest.approx(0.5)
    assert float(Transform("log", 0.0, 15.0, 1.0).scale(value)) == pytest.approx(0.5)


def test_scale_fills_what_is_missing() -> None:
    spec = FrameSpec(1, 1, 3, units="mm/h", transform=Transform("linear", 0, 10), fill=2.0)
    scaled, valid = spec.scale(torch.tensor([5.0, math.nan, 0.0]))
    assert scaled.tolist() == [0.5, pytest.approx(0.2), 0.0] and valid.tolist() == [True, False, True]


def test_unscale_respects_the_minimum() -> None:
    spec = FrameSpec(1, 1, 1, minimum=0.0)
    assert spec.unscale(torch.tensor([-0.5, 0.5])).tolist() == [0.0, 0.5]


def test_spec_survives_json() -> None:
    grid = Grid("+proj=stere +lat_0=90", (0.0, -4415.0, 700.0, -3650.0), "south")
    spec = FrameSpec(1, 765, 700, "mm/h", Transform("log", 0.0, 60.0, 0.5), 0.0, 0.0, 300.0, grid)
    assert FrameSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize("plain", [{}, {"channels": 1, "height": 2, "width": 2, "hieght": 3}, {"channels": 0, "height": 1, "width": 1}])
def test_a_bad_spec_is_refused(plain: dict[str, int]) -> None:
    with pytest.raises(UserError):
        FrameSpec.from_dict(plain)


@pytest.mark.parametrize("origin", ["north", "south"])
def test_cropping_a_grid_keeps_each_pixel_in_its_place(origin: str) -> None:
    full = Grid("x", (100.0, 200.0, 140.0, 260.0), origin)  # type: ignore[arg-type]  # 6 rows and 4 columns of 10 x 10
    part = full.crop(top=1, left=2, height=3, width=2, full_height=6, full_width=4)
    top = 250.0 if origin == "north" else 240.0
    assert part.corners == (120.0, top - 30.0, 140.0, top)


def test_a_batch_marks_what_its_mask_excludes() -> None:
    frames = torch.full((1, 1, 1, 1, 2), 255, dtype=torch.uint8)
    batch = Batch(frames, torch.tensor([True, False]).reshape(1, 1, 1, 1, 2), None, (0,))
    physical = batch.physical(Packing(scale=1 / 255), "cpu").flatten()
    assert float(physical[0]) == pytest.approx(1.0) and math.isnan(physical[1])
