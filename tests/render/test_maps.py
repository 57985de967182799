"""What a forecaster reads off a map: what is missing, the scale, which way is north, and the classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from stpredict.render import Geography, Panel, save_film
from stpredict.render.colours import value_colours
from stpredict.render.painter import draw_legends, make_painter
from stpredict.render.paper import DARK, UNCOVERED, bar_height, hatch, legend, wrapped

Array = NDArray[Any]
OBSERVED = (0x56, 0xB4, 0xE9)
HATCHED = [(70, 73, 78), (138, 141, 146)]
LINE = (226, 229, 233)


def has(picture: Array, *colours: tuple[int, ...]) -> Array:
    return np.asarray(np.logical_or.reduce([(picture == colour).all(axis=-1) for colour in colours]))


def first_frame(path: Path) -> Array:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def picture_of(film: Array, height: int, width: int) -> Array:
    """Return the only picture of a frame of a film, inside its border."""
    rows, columns = np.nonzero(has(film, OBSERVED))
    wide = np.flatnonzero(np.bincount(rows) > width)
    top, left = wide[0] + 4, columns[rows == wide[0]][0] + 4
    return film[top : top + height, left : left + width]


@pytest.mark.parametrize("row_origin", ["north", "south"])
def test_hatch_is_on_missing_pixels_and_only_there(row_origin: Literal["north", "south"]) -> None:
    rng = np.random.default_rng(0)
    frames = rng.gamma(0.5, 5.0, (3, 1, 64, 64)).astype(np.float32)
    never = np.zeros((64, 64), dtype=np.bool_)
    never[:10], never[:, 60:] = True, True
    now = rng.random((3, 64, 64)) < 0.2
    now[0] &= ~now[1]
    frames[:, 0][now | never] = np.nan
    panel = Panel("rain", frames)
    painter = make_painter([panel], "mm/h", (0.0, 1.0), "auto", 4, row_origin)
    for time in range(3):
        picture = painter.paint(panel, time)
        if row_origin == "south":
            picture = picture[::-1]
        missing = np.kron(now[time] & ~never, np.ones((4, 4), dtype=np.bool_))
        outside = np.kron(never, np.ones((4, 4), dtype=np.bool_))
        np.testing.assert_array_equal(has(picture, *HATCHED), missing)
        np.testing.assert_array_equal(has(picture, UNCOVERED), outside)
        # Diagonal lines take a third of what is missing, and each pixel of a frame, 4 x 4 here, has some of both.
        assert 0.3 < has(picture[missing], HATCHED[1]).mean() < 0.37


def test_lines_of_the_hatch_are_diagonal_and_wide_enough_for_small_pictures() -> None:
    for height, width in ((64, 64), (256, 256), (765, 700)):
        pattern = hatch(height, width)
        np.testing.assert_array_equal(pattern[1:, :-1], pattern[:-1, 1:])
        light = has(pattern[0], HATCHED[1])
        lengths = np.diff(np.flatnonzero(np.diff(np.concatenate([[0], light, [0]]).astype(int))))[::2][:-1]
        assert set(lengths.tolist()) == {max(2, min(height, width) // 160)}
    assert np.ptp(HATCHED, axis=0).min() > 60


def test_one_frame_does_not_tell_what_is_never_seen() -> None:
    frames = np.zeros((2, 1, 8, 8), dtype=np.float32)
    frames[0, 0, :4] = np.nan
    for count in (1, 2):
        panel = Panel("rain", frames[:count])
        painted = make_painter([panel], "mm/h", (0.0, 1.0), "auto", 4, "north").paint(panel, 0)
        assert has(painted[:16], *HATCHED).all()


def test_a_forecast_without_gaps_leaves_the_radars_reach_as_it_is() -> None:
    frames = np.zeros((3, 1, 8, 8), dtype=np.float32)
    frames[:, 0, 6:] = np.nan
    forecast = np.zeros_like(frames)
    forecast[0] = np.nan
    panels = [Panel("true", frames), Panel("predicted", forecast), Panel("error", forecast - frames, "error")]
    painter = make_painter(panels, "mm/h", (0.0, 1.0), "auto", 4, "north")
    for panel in (panels[0], panels[2]):
        painted = painter.paint(panel, 1)
        assert has(painted, UNCOVERED)[24:].all() and not has(painted, UNCOVERED, *HATCHED)[:24].any()
    assert not has(painter.paint(panels[1], 1), UNCOVERED, *HATCHED).any()


@pytest.mark.parametrize(
    ("gaps", "hatched", "flat"), [("none", False, False), ("some", True, False), ("ever", False, True), ("both", True, True)]
)
def test_the_legend_has_a_key_for_what_is_shown(gaps: str, hatched: bool, flat: bool) -> None:
    frames = np.zeros((3, 1, 64, 64), dtype=np.float32)
    if gaps in ("some", "both"):
        frames[1, 0, :8] = np.nan
        frames[2, 0, 30:] = np.nan
    if gaps in ("ever", "both"):
        frames[:, 0, :, :5] = np.nan
    panels = [Panel("rain", frames)]
    painter = make_painter(panels, "mm/h", (0.0, 1.0), "auto", 4, "north")
    (image,) = draw_legends(painter, panels, "mm/h", 16, 256, DARK).values()
    # The soft edges of letters have a few pixels of any gray.
    assert (has(np.asarray(image), HATCHED[1]).sum() > 50) == hatched
    assert (has(np.asarray(image), UNCOVERED).sum() > 150) == flat


@pytest.mark.parametrize(("name", "units"), [("auto", "mm/h"), ("auto", "dBZ"), ("auto", "mm"), ("auto", "kg/m2"), ("pysteps", "mm/h")])
def test_a_legend_of_a_small_film_has_a_tick_at_every_bound(name: str, units: str) -> None:
    colours = value_colours(name, units, (0.0, 1.0))
    panels = [Panel("rain", np.zeros((1, 1, 64, 64), dtype=np.float32))]
    painter = make_painter(panels, units, (0.0, 1.0), name, 2, "north")
    image = np.asarray(draw_legends(painter, panels, units, 13, 128, DARK)[units])
    bar = 13 + 2
    ticks = np.flatnonzero(has(image[:, bar], (0x5B, 0x60, 0x68)))
    assert len(ticks) == len(colours.ticks)
    above, below = image[ticks - 2, bar // 2], image[ticks + 2, bar // 2]
    np.testing.assert_array_equal(above, colours.colours[:0:-1])
    np.testing.assert_array_equal(below, colours.colours[-2::-1])
    assert len(image) - 20 >= bar_height(len(ticks), 0, 13)
    assert np.diff(ticks).min() >= 11


def test_a_key_stands_below_the_bar() -> None:
    colours = value_colours("rain", "mm/h", (0.0, 1.0))
    image = np.asarray(legend("mm/h", colours, 16, 300, DARK, ["missing", "no coverage"]))
    ground = np.flatnonzero(has(image[:, 9], tuple(colours.colours[0].tolist()))).max()
    stripes, flat = (np.flatnonzero(has(image[:, 9], colour)) for colour in (HATCHED[0], UNCOVERED))
    assert ground < stripes.min() < stripes.max() < flat.min()
    assert len(flat) > 10


@pytest.mark.parametrize(("pixel_km", "scale", "kilometres"), [(1.0, 2, 50), (0.943, 4, 20), (2.0, 4, 100), (0.03, 3, 1)])
@pytest.mark.parametrize("suffix", ["webp", "png"])
def test_the_scale_bar_is_as_long_as_it_says(tmp_path: Path, suffix: str, pixel_km: float, scale: int, kilometres: float) -> None:
    frames = np.zeros((2, 1, 64, 100 if kilometres > 1 else 80), dtype=np.float32)
    panels = {"rain": frames}
    with_bar, without = (
        first_frame(save_film(panels, tmp_path / f"film.{suffix}", units="mm/h", context=2, scale=scale, geography=geography))
        for geography in (Geography(pixel_km), None)
    )
    assert len(with_bar) > len(without) and with_bar.shape[1] == without.shape[1]
    text = (0xE8, 0xEA, 0xED) if suffix == "webp" else (0x1B, 0x1D, 0x21)
    length = max(_longest_run(row) for row in has(with_bar, text))
    assert abs(length - kilometres / pixel_km * scale) <= 1


def _longest_run(row: Array) -> int:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], row, [0]]).astype(int)))
    return int((edges[1::2] - edges[::2]).max(initial=0))


@pytest.mark.parametrize("row_origin", ["north", "south"])
def test_north_is_up_for_rows_in_either_order_and_lines_stay_where_they_are(tmp_path: Path, row_origin: Literal["north", "south"]) -> None:
    northward = np.zeros((1, 1, 64, 64), dtype=np.float32)
    northward[0, 0, :16] = 3.0
    frames = northward if row_origin == "north" else northward[:, :, ::-1]
    line = np.array([[0.0, 40.5], [64.0, 40.5]])
    path = save_film(
        {"rain": frames}, tmp_path / "film.webp", units="mm/h", context=1, scale=4, row_origin=row_origin, geography=Geography(1.0, (line,))
    )
    picture = picture_of(first_frame(path), 256, 256)
    wet, dry = (
        tuple(value_colours("rain", "mm/h", (0.0, 1.0)).paint(np.array([value], dtype=np.float32))[0].tolist()) for value in (3.0, 0.0)
    )
    assert has(picture[:64], wet).all()
    rows = np.flatnonzero(has(picture, LINE).all(axis=1))
    assert rows.tolist() == [162]
    assert has(np.delete(picture[64:], rows - 64, axis=0), dry).all()


def test_text_is_broken_where_a_column_is_narrow() -> None:
    assert wrapped("2019-07-09 21:55 UTC", 300) == ["2019-07-09 21:55 UTC"]
    assert wrapped("2019-07-09 21:55 UTC", 110) == ["2019-07-09 21:55", "UTC"]
    assert wrapped("2019-07-09 21:55 UTC", 5) == ["2019-07-09", "21:55", "UTC"]
    assert wrapped("", 100) == [""]
