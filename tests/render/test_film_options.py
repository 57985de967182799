"""What a film can have besides its pictures: rows, notes, a theme, a stand before the forecast; and that it is whole."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from stpredict.errors import UserError
from stpredict.render import Panel, save_film, strip, writers
from stpredict.render.layout import FilmLayout
from stpredict.render.painter import make_painter
from stpredict.render.panels import check_panels
from stpredict.render.paper import DARK, LIGHT

Array = NDArray[Any]
OBSERVED, FORECAST = (0x56, 0xB4, 0xE9), (0xE6, 0x9F, 0x00)


def ramp(count: int, side: int = 16) -> Array:
    """Return frames of one gray each, ever lighter."""
    return np.broadcast_to((np.arange(count, dtype=np.float32) / count)[:, None, None], (count, side, side)).copy()


def decoded(path: Path) -> list[Array]:
    if path.suffix in (".gif", ".webp", ".png"):
        with Image.open(path) as image:
            frames = []
            for index in range(getattr(image, "n_frames", 1)):
                image.seek(index)
                frames.append(np.asarray(image.convert("RGB")))
            return frames
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def shades(path: Path) -> list[int]:
    """Return the gray in the middle of the first picture of each frame."""
    return [int(frame[150, 100].mean()) for frame in decoded(path)]


@pytest.mark.parametrize("suffix", ["mp4", "webm"])
def test_the_last_observed_frame_stands_before_the_forecast(tmp_path: Path, suffix: str) -> None:
    film = save_film({"a": ramp(6)}, tmp_path / f"film.{suffix}", context=2, hold=0.5, frames_per_second=8.0)
    expected = [round(time / 6 * 255) for time in (0, 1, 1, 1, 1, 1, 2, 3, 4, 5)]
    np.testing.assert_allclose(shades(film), expected, atol=4)
    assert film.frames == 10
    with av.open(str(film)) as container:
        stream = container.streams.video[0]
        assert (stream.frames or 10, float(stream.average_rate or 0)) == (10, 8.0)
        assert (stream.width, stream.height) == (film.width, film.height)


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_in_an_animation_it_stands_as_one_frame_that_lasts(tmp_path: Path, suffix: str) -> None:
    film = save_film({"a": ramp(6)}, tmp_path / f"film.{suffix}", context=2, hold=0.5, frames_per_second=10.0)
    with Image.open(film) as image:
        durations = []
        for index in range(image.n_frames):  # type: ignore[attr-defined]
            image.seek(index)
            image.load()
            durations.append(image.info["duration"])
    assert durations == [100, 600, 100, 100, 100, 100]
    np.testing.assert_allclose(shades(film), [round(time / 6 * 255) for time in range(6)], atol=1)


def test_nothing_stands_where_nothing_follows(tmp_path: Path) -> None:
    for context in (0, 6):
        assert save_film({"a": ramp(6)}, tmp_path / "film.mp4", context=context, hold=3.0).frames == 6


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_equal_frames_after_each_other_are_one_that_lasts_and_no_fault(tmp_path: Path, suffix: str) -> None:
    film = save_film({"a": np.zeros((5, 8, 8))}, tmp_path / f"film.{suffix}", captions=["x"] * 5, frames_per_second=10.0)
    with Image.open(film) as image:
        assert image.n_frames == 1  # type: ignore[attr-defined]
    assert film.frames == 5
    changing = np.zeros((5, 8, 8))
    changing[2] = 1.0
    assert len(decoded(save_film({"a": changing}, tmp_path / f"film.{suffix}", captions=["x"] * 5))) == 3


def test_themes_differ_in_paper_and_words_not_in_pictures(tmp_path: Path) -> None:
    pictures = {}
    for theme, (paper, text, border) in {
        "dark": ("#24272c", "#e8eaed", OBSERVED),
        "light": ("#ffffff", "#1b1d21", (0, 0x72, 0xB2)),
    }.items():
        colours = [tuple(bytes.fromhex(colour[1:])) for colour in (paper, text)]
        frame = decoded(save_film({"title": ramp(3)}, tmp_path / f"{theme}.webp", context=3, theme=theme))[2]  # type: ignore[arg-type]
        counts = [(frame == colour).all(axis=-1).sum() for colour in (*colours, border)]
        assert tuple(frame[0, 0]) == colours[0] and min(counts) > 30
        inside = (frame == border).all(axis=-1)
        top, left = np.argwhere(inside)[0]
        pictures[theme] = frame[top + 4 : top + 260, left + 4 : left + 260]
        assert tuple(decoded(save_film({"a": ramp(3)}, tmp_path / "strip.png", theme=theme))[0][0, 0]) == colours[0]  # type: ignore[arg-type]
    np.testing.assert_array_equal(pictures["dark"], pictures["light"])
    assert tuple(decoded(save_film({"a": ramp(3)}, tmp_path / "strip.png"))[0][0, 0]) == (255, 255, 255)


@pytest.mark.parametrize("theme", [DARK, LIGHT])
def test_words_are_legible_on_their_paper(theme: Any) -> None:
    """At least 4.5 to 1 for text and 3 to 1 for what is drawn, as WCAG 2.1 has it."""

    def luminance(colour: str) -> float:
        channels = [part / 255 for part in bytes.fromhex(colour[1:])]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(one: str, other: str) -> float:
        darker, lighter = sorted([luminance(one), luminance(other)])
        return (lighter + 0.05) / (darker + 0.05)

    assert contrast(theme.text, theme.paper) > 4.5
    assert min(contrast(theme.observed, theme.paper), contrast(theme.forecast, theme.paper)) > 3


def test_notes_stand_under_their_panel_and_change_with_it(tmp_path: Path) -> None:
    same = np.zeros((3, 16, 16), dtype=np.float32)
    film = save_film(
        {"true": same, "predicted": same},
        tmp_path / "film.webp",
        context=3,
        captions=["x"] * 3,
        notes={"predicted": ["", "mse 0.5", "mse 7"]},
    )
    empty, first, second = decoded(film)
    borders = (empty == OBSERVED).all(axis=-1)
    bottom = np.flatnonzero(borders.sum(axis=1) > 400).max()
    middle = film.width // 2
    for one, other in ((empty, first), (first, second)):
        rows, columns = np.nonzero((one != other).any(axis=-1))
        assert rows.size and rows.min() > bottom and rows.max() < bottom + 26 and columns.min() > middle - 40


def test_notes_stand_in_strips_too(tmp_path: Path) -> None:
    same = np.zeros((3, 64, 64), dtype=np.float32)
    plain, noted = (
        decoded(save_film({"a": same, "b": same}, tmp_path / "strip.png", notes=notes))[0] for notes in (None, {"a": ["0.25", "0.5", "1"]})
    )
    assert len(noted) - len(plain) == 24
    dark = lambda image: (image < 80).all(axis=-1)  # noqa: E731
    assert dark(noted).sum() - dark(plain).sum() > 50


def test_a_long_title_of_a_strip_is_broken_not_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words: list[str] = []
    monkeypatch.setattr(strip, "write", lambda page, corner, text, *_: words.append(text))
    title = "forecaster.walk.cells.1 hidden 0..0.59"
    save_film({title: np.zeros((2, 64, 64), np.float32)}, tmp_path / "strip.png", scale=2)
    assert [text for text in words if text in title] == ["forecaster.walk.cells.1", "hidden 0..0.59"]
    assert strip._title_lines("a b c d", 1, 13, 2) == ["a", "b c d"]


def test_a_strip_leaves_blank_what_nobody_forecasts(tmp_path: Path) -> None:
    true, forecast = np.zeros((4, 64, 64), np.float32), np.zeros((4, 64, 64), np.float32)
    forecast[:3] = np.nan
    whole, with_gaps = (
        decoded(save_film({"true": true, "predicted": film}, tmp_path / "strip.png", context=2, captions=[""] * 4))[0]
        for film in (true, forecast)
    )
    black = (whole == 0).all(axis=-1)
    rows = np.flatnonzero(black.sum(axis=1) > 300)
    lower = slice(int(rows[len(rows) // 2]), int(rows[-1]) + 1)
    columns = np.flatnonzero(black[lower].all(axis=0)).reshape(4, -1)
    pictures = [with_gaps[lower, part[0] : part[-1] + 1] for part in columns]
    assert (pictures[0] == 255).all() and (pictures[1] == 255).all() and (pictures[3] == 0).all()
    assert not (pictures[2] == 255).all(axis=-1).any(), "a forecast that lacks says so"


def rows_of(*clips: str) -> dict[str, dict[str, Array]]:
    rng = np.random.default_rng(0)
    return {clip: {title: rng.integers(0, 256, (4, 16, 16)).astype(np.float32) / 255 for title in ("true", "predicted")} for clip in clips}


def test_each_clip_has_a_row_and_each_panel_a_column(tmp_path: Path) -> None:
    rows = rows_of("storm", "drizzle", "dry")
    film = save_film(rows, tmp_path / "grid.webp", context=1)
    panels = check_panels(rows)
    painter = make_painter(panels, "1", (0.0, 1.0), "auto", film_scale := 16, "north")
    layout = FilmLayout(panels, painter, "1", 1, ["x"] * 4)
    lefts, tops = sorted({left for left, _ in layout.places}), sorted({top for _, top in layout.places})
    assert (len(lefts), len(tops)) == (2, 3)
    assert all(place % 2 == 0 for place in (*lefts, *tops))
    for time, frame in enumerate(decoded(film)):
        assert frame.shape == (layout.height, layout.width, 3)
        border = OBSERVED if time == 0 else FORECAST
        for number, (left, top) in enumerate(layout.places):
            clip, title = list(rows)[number // 2], ("true", "predicted")[number % 2]
            expected = np.round(rows[clip][title][time] * 255).astype(np.uint8).repeat(film_scale, 0).repeat(film_scale, 1)
            np.testing.assert_array_equal(frame[top : top + 256, left : left + 256, 1], expected)
            assert (frame[top - 1, left : left + 256] == border).all()


@pytest.mark.parametrize("shorter", ["first", "last"])
def test_a_shorter_row_leaves_its_rest_blank(tmp_path: Path, shorter: str) -> None:
    rows = rows_of("first", "last")
    whole = decoded(save_film(rows, tmp_path / "film.webp", scale=4))[0]
    del rows[shorter]["predicted"]
    part = decoded(save_film(rows, tmp_path / "film.webp", scale=4))[0]
    other = next(iter(rows[shorter].values()))[0]
    panels = check_panels(rows)
    layout = FilmLayout(panels, make_painter(panels, "1", (0.0, 1.0), "auto", 4, "north"), "1", 0, ["x"] * 4)
    assert (len(layout.places), part.shape) == (3, (layout.height, layout.width, 3))
    blank = (part == (0x24, 0x27, 0x2C)).all(axis=-1)
    left = max(left for left, _ in layout.places)
    ((_, top),) = (place for place, panel in zip(layout.places, panels, strict=True) if panel.row == shorter)
    assert blank[top - 4 : top + 68, left - 4 : left + 68].all(), "no picture and no border"
    first = min(place for place, _ in layout.places)
    expected = np.round(other * 255).astype(np.uint8).repeat(4, 0).repeat(4, 1)
    np.testing.assert_array_equal(part[top : top + 64, first : first + 64, 1], expected)
    assert whole.shape[1] == part.shape[1]


def test_the_rows_of_a_contact_sheet_stand_under_their_names(tmp_path: Path) -> None:
    rows = rows_of("storm", "drizzle")
    sheet = decoded(save_film(rows, tmp_path / "sheet.png", scale=4))[0]
    films = [film for row in rows.values() for film in row.values()]
    plain = decoded(
        save_film(
            {f"{number}": film for number, film in enumerate(films)},
            tmp_path / "plain.png",
            scale=4,
        )
    )[0]
    assert len(sheet) > len(plain) + 2 * 16
    found = []
    for film in films:
        picture = np.round(film[2] * 255).astype(np.uint8).repeat(4, 0).repeat(4, 1)
        places = np.argwhere(sheet[:-63, :-63, 0] == picture[0, 0])
        found.append([(top, left) for top, left in places if (sheet[top : top + 64, left : left + 64, 0] == picture).all()])
    assert [len(one) for one in found] == [1] * 4
    tops = [one[0][0] for one in found]
    assert tops == sorted(tops) and len({one[0][1] for one in found}) == 1
    assert tops[2] - tops[1] > tops[1] - tops[0] == tops[3] - tops[2]


def test_films_whose_encoder_is_lacking_are_refused_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = lambda *names: lambda name: name not in names  # noqa: E731
    monkeypatch.setattr(writers, "_has_encoder", lacking("libx264"))
    with pytest.raises(UserError, match=r"\.mp4 needs the encoder libx264, which this machine's 'av' lacks; \.webm works without it"):
        save_film({"a": ramp(3)}, tmp_path / "film.mp4")
    assert len(decoded(save_film({"a": ramp(3)}, tmp_path / "film.webm"))) == 3
    monkeypatch.setattr(writers, "_has_encoder", lacking("libx264", "libvpx-vp9"))
    np.testing.assert_allclose(shades(save_film({"a": ramp(3)}, tmp_path / "film.webm")), [0, 85, 170], atol=12)
    assert [path.name for path in tmp_path.iterdir()] == ["film.webm"]


def test_the_encoders_are_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert writers._has_encoder("libx264") and writers._has_encoder("libvpx-vp9") and not writers._has_encoder("libx26")
    monkeypatch.setitem(sys.modules, "av", None)
    assert not writers._has_encoder("libx264")


@pytest.mark.parametrize("suffix", ["mp4", "webm", "gif", "webp"])
def test_a_film_that_lacks_frames_is_no_film(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    """What stands on disk is counted: here another film, one frame shorter, stands there."""
    shorter = save_film({"a": ramp(4)}, tmp_path / f"shorter.{suffix}").read_bytes()
    check, seen = writers._check_count, []

    def counted(path: Path, found: int, count: int) -> None:
        seen.append((found, count))
        check(path, found, count)

    opened = {"mp4": (av, "open"), "webm": (av, "open"), "gif": (Image, "open"), "webp": (Image, "open")}[suffix]
    open_file = getattr(*opened)

    def cut(path: Any, *words: Any, **more: Any) -> Any:
        if not words:
            Path(path).write_bytes(shorter)
        return open_file(path, *words, **more)

    monkeypatch.setattr(writers, "_check_count", counted)
    monkeypatch.setattr(*opened, cut)
    with pytest.raises(OSError, match="Only 4 of 5 frames"):
        save_film({"a": ramp(5)}, tmp_path / f"film.{suffix}")
    assert seen == [(4, 5)] and not (tmp_path / f"film.{suffix}").exists()


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder in which nobody may write, root neither")
@pytest.mark.parametrize("suffix", ["mp4", "gif", "png"])
def test_a_place_that_cannot_be_written_is_named(suffix: str) -> None:
    with pytest.raises(OSError, match=rf"/proc/film\.{suffix}"):
        save_film({"a": ramp(2)}, f"/proc/film.{suffix}")


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="no folder"):
        save_film({"a": ramp(2)}, tmp_path / "file" / "film.mp4")


def test_titles_and_rows_of_several_lines_are_one(tmp_path: Path) -> None:
    (panel,) = check_panels([Panel("<b>a\nb</b>", ramp(2), row="r\r\ns", notes=["x\ny", ""])])
    assert (panel.title, panel.row, panel.notes) == ("<b>a b</b>", "r s", ("x y", ""))
