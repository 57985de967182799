from __future__ import annotations

import warnings

import cv2
import matplotlib
import matplotlib.colors
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stpredict.data.readers.sevir import vil_table
from stpredict.errors import UserError
from stpredict.render.colours import (
    ACCUMULATION_STEPS,
    PYSTEPS_STEPS,
    RAIN_STEPS,
    REFLECTIVITY_STEPS,
    VIL_PIXEL_STEPS,
    VIL_STEPS,
    error_colours,
    round_up,
    value_colours,
)
from stpredict.render.paper import UNCOVERED, hatch

NAMES = ["accumulation", "gray", "pysteps", "rain", "reflectivity", "vil", "vil_pixels", "viridis"]
CLASSES = [
    ("auto", "mm/h", RAIN_STEPS),
    ("safe", "mm/h", RAIN_STEPS),
    ("pysteps", "mm/h", PYSTEPS_STEPS),
    ("auto", "dBZ", REFLECTIVITY_STEPS),
    ("safe", "dBZ", REFLECTIVITY_STEPS),
    ("auto", "mm", ACCUMULATION_STEPS),
    ("auto", "kg/m2", VIL_STEPS),
    ("auto", "kg m-2", VIL_STEPS),
    ("auto", "VIL, pixel value", VIL_PIXEL_STEPS),
]


@pytest.mark.parametrize(("name", "units", "steps"), CLASSES)
def test_a_threshold_belongs_to_the_class_above_it_and_the_number_just_below_does_not(
    name: str, units: str, steps: tuple[float, ...]
) -> None:
    colours = value_colours(name, units, (0.0, 1.0))
    at = np.array(steps, dtype=np.float32)
    below = np.nextafter(at, np.float32(-np.inf))
    assert len(colours.colours) == len(steps) + 1
    assert colours.classes(at).tolist() == list(range(1, len(steps) + 1))
    assert colours.classes(below).tolist() == list(range(len(steps)))
    assert len(np.unique(colours.colours, axis=0)) == len(colours.colours)
    assert [float(label) for _, label in colours.ticks] == list(steps)


def test_rain_is_nine_even_samples_of_turbo_between_a_dark_ground_and_magenta() -> None:
    turbo = [matplotlib.colors.to_rgb(matplotlib.colormaps["turbo"](place)) for place in np.linspace(0.08, 0.93, 9)]
    ours = value_colours("rain", "1", (0.0, 1.0)).colours.astype(int)
    np.testing.assert_allclose(ours[1:-1], np.array(turbo) * 255, atol=0.5001)
    assert ours[0].max() < 32
    assert (ours[-1, [0, 2]] > 190).all() and ours[-1, 1] < 64


def test_reflectivity_is_the_weather_service_palette() -> None:
    colours = value_colours("auto", "dBZ", (0.0, 1.0))
    painted = colours.paint(np.array([-32.0, 5.0, 22.0, 37.0, 54.9, 66.0, 90.0], dtype=np.float32))
    assert [bytes(colour).hex() for colour in painted[1:].tolist()] == [
        "00ecec", "00ff00", "ffff00", "ff0000", "ff00ff", "ffffff",
    ]  # fmt: skip
    assert painted[0].max() < 32


@pytest.mark.parametrize("value", [0.08, 0.3, 1.0, 9.99, 10.0, 99.0, 100.0, 159.0, 200.0])
def test_pysteps_classes_are_those_that_pysteps_draws(value: float) -> None:
    visualization = pytest.importorskip("pysteps.visualization.precipfields")
    theirs, norm, bounds, _ = visualization.get_colormap("intensity", "mm/h", "pysteps")
    assert tuple(bounds) == PYSTEPS_STEPS
    expected = np.array(theirs(norm(value))[:3]) * 255
    np.testing.assert_allclose(
        value_colours("pysteps", "mm/h", (0.0, 1.0)).paint(np.array([value], dtype=np.float32))[0], expected, atol=0.5001
    )


@pytest.mark.parametrize(
    ("name", "values", "colours"),
    [
        ("pysteps", (0.08, 0.2, 1.0, 12.0, 101.0, 500.0), ("9c7e94", "640064", "0064ff", "c8ff00", "e11900", "8b0000")),
        ("accumulation", (1.0, 6.0, 15.0, 35.0, 60.0, 99.0, 300.0), ("50d0d0", "00e080", "ffff00", "ff0000", "f040ff", "8020ff", "4040ff")),
        ("vil_pixels", (16.0, 74.0, 100.0, 133.0, 160.0, 181.0, 219.0, 254.0),
         ("28be28", "0a4b0a", "f5f500", "edac00", "f06e00", "a00000", "e700ff", "e700ff")),
    ],
)  # fmt: skip
def test_classes_have_the_colours_of_their_public_tables(name: str, values: tuple[float, ...], colours: tuple[str, ...]) -> None:
    painted = value_colours(name, "1", (0.0, 1.0)).paint(np.array(values, dtype=np.float32))
    assert [bytes(colour).hex() for colour in painted.tolist()] == list(colours)


def test_classes_of_vil_are_the_same_in_pixel_values_and_in_kg_per_square_metre() -> None:
    np.testing.assert_allclose(VIL_STEPS, [vil_table()[int(step)] for step in VIL_PIXEL_STEPS], rtol=0.03)


@pytest.mark.parametrize("units", ["mm/h", "dBZ", "mm", "kg/m2"])
def test_safe_colours_rise_in_lightness_by_even_steps(units: str) -> None:
    colours = value_colours("safe", units, (0.0, 1.0)).colours
    lightness = cv2.cvtColor(colours[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0, :, 0]
    steps = np.diff(lightness[1:])
    assert lightness[1] - lightness[0] > 15
    assert steps.min() > 0.6 * steps.mean() and steps.max() < 1.4 * steps.mean()


def test_gray_is_the_nearest_of_256_levels() -> None:
    values = np.concatenate([np.arange(256) / 255, np.random.default_rng(0).uniform(-0.5, 1.5, 1000)]).astype(np.float32)
    levels = np.clip(np.round(values.astype(np.float64) * 255), 0, 255)
    np.testing.assert_array_equal(value_colours("auto", "1", (0.0, 1.0)).paint(values), np.stack([levels] * 3, axis=-1))


def test_viridis_spans_the_value_range_as_in_matplotlib() -> None:
    colours = value_colours("auto", "K", (-10.0, 30.0))
    values = np.random.default_rng(1).uniform(-15, 35, 1000).astype(np.float32)
    levels = np.clip(np.round((values.astype(np.float64) + 10) / 40 * 255), 0, 255).astype(int)
    expected = np.array(matplotlib.colormaps["viridis"].colors)[levels] * 255  # type: ignore[attr-defined]
    np.testing.assert_allclose(colours.paint(values), expected, atol=0.5001)
    assert [value for value, _ in colours.ticks] == [-10, 0, 10, 20, 30]
    assert colours.ticks[0][1] == "-10"


def test_errors_of_equal_size_are_equally_light_blue_below_zero_and_red_above() -> None:
    colours = error_colours(5.0)
    sizes = np.linspace(0, 5, 21, dtype=np.float32)
    pictures = [colours.paint(values)[None].astype(np.float32) / 255 for values in (sizes, -sizes)]
    above, below = (cv2.cvtColor(picture, cv2.COLOR_RGB2LAB)[0, :, 0] for picture in pictures)
    np.testing.assert_allclose(above, 7 + 83 * sizes / 5, atol=5)
    np.testing.assert_allclose(above, below, atol=3.5)
    assert (np.diff(above) > 0).all() and (np.diff(below) > 0).all()
    strong = colours.paint(np.array([-3.0, 3.0], dtype=np.float32)).astype(int)
    assert strong[0, 2] > strong[0, 0] + 100 and strong[1, 0] > strong[1, 2] + 100
    np.testing.assert_array_equal(colours.paint(np.array([-99.0, 99.0], dtype=np.float32)), colours.colours[[0, -1]])
    assert [label for _, label in colours.ticks] == ["-5", "-2.5", "0", "+2.5", "+5"]


@pytest.mark.parametrize("name", NAMES)
def test_ticks_stand_where_their_colour_begins(name: str) -> None:
    colours = value_colours(name, "1", (0.0, 1.0))
    for value, _ in colours.ticks:
        row = colours.height_of(value) * len(colours.colours)
        assert abs(row - colours.classes(np.float32(value))) <= 1  # type: ignore[arg-type]


def test_missing_has_a_colour_that_no_map_has() -> None:
    stripes = {UNCOVERED, *(tuple(colour) for colour in hatch(16, 16).reshape(-1, 3).tolist())}
    assert len(stripes) == 3
    for name in NAMES:
        assert stripes.isdisjoint(tuple(colour) for colour in value_colours(name, "1", (0.0, 1.0)).colours.tolist())
    assert stripes.isdisjoint(tuple(colour) for colour in error_colours(1.0).colours.tolist())


@given(st.floats(1e-6, 1e9))
@settings(max_examples=50, deadline=None)
def test_round_up_gives_the_next_of_one_two_five(value: float) -> None:
    rounded = round_up(value)
    digit = float(f"{rounded:e}".split("e")[0])
    assert digit in (1.0, 2.0, 5.0)
    assert value * (1 - 1e-6) <= rounded <= 2.5 * value * (1 + 1e-6)


def test_numbers_gone_wild_have_the_outermost_colours_and_no_warning() -> None:
    wild = np.array([np.nan, np.inf, 3e38, -np.inf, -3e38], dtype=np.float32)
    wild.view(np.uint32)[0] = 0x7F800001  # a NaN that signals
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert value_colours("gray", "1", (0.0, 1.0)).classes(wild).tolist() == [255, 255, 255, 0, 0]


def test_an_unknown_map_is_named_with_its_neighbour() -> None:
    with pytest.raises(UserError, match=r"no colour map 'virids'; did you mean 'viridis'"):
        value_colours("virids", "1", (0.0, 1.0))
