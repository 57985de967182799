import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from stpredict.data.spatial import Spatial
from stpredict.errors import UserError
from stpredict.frames import Grid, Packing

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64"])
def test_crop_keeps_type_and_values(dtype):
    frames = RANDOM.integers(0, 100, (3, 2, 7, 9)).astype(dtype)
    cropped = Spatial(crop=(1, 2, 4, 5)).apply(frames, Packing(missing=(3,)))
    assert cropped.dtype == dtype and cropped.flags.c_contiguous
    np.testing.assert_array_equal(cropped, frames[:, :, 1:5, 2:7])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64"])
def test_shrinking_is_the_mean_over_the_area(dtype):
    frames = RANDOM.integers(0, 200, (2, 3, 6, 8)).astype(dtype)
    small = Spatial(resize=(3, 4)).apply(frames, Packing())
    mean = frames.astype(np.float64).reshape(2, 3, 3, 2, 4, 2).mean((3, 5))
    integer = np.dtype(dtype).kind in "iu"
    assert (small.dtype == dtype) == integer or dtype == "float32"
    np.testing.assert_allclose(small, mean, atol=0.5 if integer else 1e-4)


def test_enlarging_is_linear():
    frames = RANDOM.random((2, 1, 5, 4)).astype(np.float32)
    large = Spatial(resize=(10, 8)).apply(frames, Packing())
    expected = functional.interpolate(torch.from_numpy(frames), (10, 8), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(large, expected, atol=1e-6)


def test_shrinking_one_axis_and_enlarging_the_other():
    frames = RANDOM.random((1, 1, 8, 4)).astype(np.float32)
    mixed = Spatial(resize=(4, 8)).apply(frames, Packing())
    halved = frames.reshape(1, 1, 4, 2, 4).mean(3)
    expected = functional.interpolate(torch.from_numpy(halved), (4, 8), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(mixed, expected, atol=1e-6)


@given(st.integers(0, 2**32 - 1))
def test_missing_pixels_are_never_blended_into_values(seed):
    random = np.random.default_rng(seed)
    packing = Packing(scale=0.12, missing=(65535.0,))
    frames = random.integers(0, 300, (1, 1, 6, 6)).astype(np.uint16)
    frames[random.random(frames.shape) < 0.4] = 65535
    spatial = Spatial(resize=(3, 3))
    small = spatial.apply(frames, packing)
    for row in range(3):
        for column in range(3):
            block = frames[0, 0, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            valid = block[block != 65535]
            if valid.size >= 2:
                assert small[0, 0, row, column] == pytest.approx(valid.mean(), rel=1e-6)
            else:
                assert math.isnan(small[0, 0, row, column])
    physical = spatial.packing(packing).unpack(torch.from_numpy(small))
    assert torch.equal(torch.isnan(physical), torch.isnan(torch.from_numpy(small)))
    np.testing.assert_allclose(physical, small * np.float32(0.12), rtol=1e-6)


def test_a_mean_that_equals_a_code_stays_a_value():
    packing = Packing(missing=(2.0,))
    spatial = Spatial(resize=(1, 1))
    small = spatial.apply(np.array([[[[1, 3]]]], dtype=np.uint8), packing)
    assert spatial.packing(packing).unpack(torch.from_numpy(small)).item() == 2.0


def test_nan_is_not_blended_either():
    frames = np.array([[[[1.0, np.nan], [3.0, 5.0]]]])
    assert Spatial(resize=(1, 1)).apply(frames, Packing()).item() == 3.0


def test_crop_comes_before_resize():
    frames = RANDOM.integers(0, 255, (1, 1, 8, 8)).astype(np.uint8)
    both = Spatial(crop=(2, 4, 4, 4), resize=(2, 2))
    np.testing.assert_array_equal(both.apply(frames, Packing()), Spatial(resize=(2, 2)).apply(frames[:, :, 2:6, 4:8].copy(), Packing()))
    assert both.size(8, 8) == (2, 2)


def test_the_grid_follows_the_crop_and_not_the_size():
    grid = Grid("+proj=stere", (0.0, -4415.0, 700.0, -3650.0), "north")
    cropped = Spatial(crop=(100, 50, 256, 300), resize=(128, 150)).grid(grid, 765, 700)
    assert cropped.corners == pytest.approx((50.0, -3650.0 - 356.0, 350.0, -3650.0 - 100.0))
    assert Spatial(resize=(10, 10)).grid(grid, 765, 700) == grid


def test_impossible_rectangles():
    with pytest.raises(UserError, match=r"crop \[4, 0, 5, 5\] .* beyond the 8 x 8 frames"):
        Spatial(crop=(4, 0, 5, 5)).size(8, 8)
    with pytest.raises(UserError, match="top, left >= 0"):
        Spatial(crop=(-1, 0, 5, 5))
    with pytest.raises(UserError, match="at least 1 pixel"):
        Spatial(resize=(0, 5))
