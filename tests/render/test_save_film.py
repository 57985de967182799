from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from stpredict.errors import UserError
from stpredict.render import Panel, save_film
from stpredict.render.colours import RAIN_STEPS, value_colours
from stpredict.render.layout import FilmLayout
from stpredict.render.painter import make_painter
from stpredict.render.paper import UNCOVERED

Array = NDArray[Any]
OBSERVED, FORECAST = (0x56, 0xB4, 0xE9), (0xE6, 0x9F, 0x00)


def noise(*shape: int, seed: int = 0) -> Array:
    """Return frames whose values are multiples of 1/255, so that their grays are known exactly."""
    return (np.random.default_rng(seed).integers(0, 256, shape) / 255).astype(np.float32)


def read_pillow(path: Path) -> tuple[list[Array], list[int]]:
    """Return the frames of a GIF or WebP and how long each is shown, in ms."""
    frames, durations = [], []
    with Image.open(path) as image:
        count = image.n_frames  # type: ignore[attr-defined]
        assert count == 1 or image.info["loop"] == 0
        for index in range(count):
            image.seek(index)
            frames.append(np.asarray(image.convert("RGB")))
            durations.append(int(image.info.get("duration", 0)))
    return frames, durations


def read_av(path: Path) -> list[Array]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def boxes(frame: Array, border: tuple[int, int, int], tolerance: int = 0) -> list[tuple[slice, slice]]:
    """Return where the pictures inside each border of a film frame are, from left to right."""
    like = (np.abs(frame.astype(int) - border).max(axis=-1) <= tolerance).astype(np.uint8)
    _, _, boxes, _ = cv2.connectedComponentsWithStats(like, connectivity=4)
    wide = sorted((box for box in boxes[1:].tolist() if box[2] > 190 and box[3] > 190), key=lambda box: box[0])
    return [(slice(top + 4, top + height - 4), slice(left + 4, left + width - 4)) for left, top, width, height, _ in wide]


def interiors(frame: Array, border: tuple[int, int, int], tolerance: int = 0) -> list[Array]:
    """Return what stands inside each border of a film frame, from left to right."""
    return [frame[box] for box in boxes(frame, border, tolerance)]


def enlarge(picture: Array, scale: int) -> Array:
    return np.kron(picture, np.ones((scale, scale) + (1,) * (picture.ndim - 2), dtype=picture.dtype))


def test_lossless_film_shows_each_value_as_a_block_of_its_gray_between_borders_that_tell_the_context(tmp_path: Path) -> None:
    frames = noise(5, 1, 64, 48)
    forecast = noise(5, 1, 64, 48, seed=1)
    forecast[:2] = np.nan
    path = save_film({"truth": frames, "predrnn": forecast}, tmp_path / "film.webp", context=2)
    shown, durations = read_pillow(path)
    assert durations == [200] * 5
    for time, frame in enumerate(shown):
        border, other = (OBSERVED, FORECAST) if time < 2 else (FORECAST, OBSERVED)
        assert not interiors(frame, other)
        truth, predicted = interiors(frame, border)
        # 6 is the least factor that brings the shorter side, 48, to 256.
        np.testing.assert_array_equal(truth[..., 0], enlarge(np.round(frames[time, 0] * 255).astype(np.uint8), 6))
        assert (truth == truth[..., :1]).all()
        if time >= 2:
            np.testing.assert_array_equal(predicted[..., 1], enlarge(np.round(forecast[time, 0] * 255).astype(np.uint8), 6))


def test_mp4_is_h264_for_browsers_and_keeps_frames_and_colours(tmp_path: Path) -> None:
    ramp = np.linspace(0, 1, 16 * 16).reshape(16, 16)
    frames = np.stack([np.stack([np.roll(ramp, time, axis), ramp.T, 1 - ramp]) for time, axis in zip(range(7), [0, 1] * 4, strict=False)])
    path = save_film([Panel("film", frames.astype(np.float32))], tmp_path / "film.mp4", context=3, frames_per_second=7.5)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
        assert (stream.codec_context.colorspace, stream.codec_context.color_range) == (1, 1)
        assert float(stream.average_rate or 0) == 7.5
        assert stream.width % 2 == 0 and stream.height % 2 == 0
    lossless, _ = read_pillow(save_film({"film": frames}, tmp_path / "film.webp", context=7))
    (box,) = boxes(lossless[0], OBSERVED)
    shown = read_av(path)
    assert len(shown) == 7
    for time, frame in enumerate(shown):
        assert frame.shape == lossless[0].shape
        expected = np.round(frames[time].transpose(1, 2, 0) * 255)
        centres = frame[box][8::16, 8::16].astype(int)
        border = frame[box[0].start - 2, box[1]].astype(int)
        right, wrong = (OBSERVED, FORECAST) if time < 3 else (FORECAST, OBSERVED)
        assert np.abs(border - right).mean() < 0.4 * np.abs(border - wrong).mean()
        assert np.abs(centres - expected).max() <= 12
        assert np.abs(centres - expected).mean() <= 2.5


def test_mp4_has_its_index_first(tmp_path: Path) -> None:
    data = save_film({"film": noise(3, 8, 8)}, tmp_path / "film.mp4").read_bytes()
    names, place = [], 0
    while place < len(data):
        length, name = struct.unpack(">I4s", data[place : place + 8])
        names.append(name)
        place += length
    assert names.index(b"moov") < names.index(b"mdat")


def test_gif_has_one_palette_for_all_frames_and_exact_steps(tmp_path: Path) -> None:
    values = np.array([0.0, *RAIN_STEPS], dtype=np.float32)
    frames = np.stack([np.roll(values, time) for time in range(6)])[:, None, None, :].repeat(11, axis=2)
    path = save_film([Panel("rain", frames), Panel("error", frames - 1, "error")], tmp_path / "film.gif", units="mm/h", context=6)
    shown, durations = read_pillow(path)
    assert len(shown) == 6 and sum(durations) == 6 * 200
    colours = value_colours("rain", "mm/h", (0.0, 1.0)).colours
    for time, frame in enumerate(shown):
        rain = interiors(frame, OBSERVED)[0]
        np.testing.assert_array_equal(rain[8, 8::24][:11], np.roll(colours, time, axis=0))
    assert _local_palettes(path.read_bytes()) == 0


def _local_palettes(data: bytes) -> int:
    """Walk through the blocks of a GIF89a file and count the frames that bring a palette of their own."""
    place = 13 + 3 * 2 ** ((data[10] & 7) + 1)
    found = 0
    while data[place] != 0x3B:
        if data[place] == 0x21:
            place += 2
        else:
            own = data[place + 9] & 0x80
            found += own > 0
            place += 11 + (3 * 2 ** ((data[place + 9] & 7) + 1) if own else 0)
        while data[place]:
            place += data[place] + 1
        place += 1
    return found


def test_webm_has_all_frames_with_and_without_av(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = noise(9, 1, 12, 10).round()
    with_av = read_av(save_film({"film": frames}, tmp_path / "av.webm", context=9))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "av", None)
        save_film({"film": frames}, tmp_path / "opencv.webm", context=9)
    with_opencv = read_av(tmp_path / "opencv.webm")
    assert len(with_av) == len(with_opencv) == 9
    for shown in (with_av, with_opencv):
        for frame, values in zip(shown, frames, strict=True):
            (picture,) = interiors(frame, OBSERVED, tolerance=40)
            assert ((picture[13::26, 13::26, 0][:12, :10] > 127) == (values[0] > 0.5)).all()


def test_without_av_mp4_is_refused_and_webm_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"\.mp4 needs the library 'av'.*\.webm works without it"):
        save_film({"film": noise(2, 8, 8)}, tmp_path / "film.mp4")
    assert not list(tmp_path.iterdir())


def test_frames_that_opencv_drops_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Dropping:
        fourcc = cv2.VideoWriter.fourcc

        def __init__(self, *arguments: Any) -> None:
            self.writer, self.seen = cv2_writer(*arguments), 0

        def write(self, picture: Array) -> None:
            self.seen += 1
            self.writer.write(picture if self.seen != 3 else picture[:-2])

        def release(self) -> None:
            self.writer.release()

    cv2_writer = cv2.VideoWriter
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr(cv2, "VideoWriter", Dropping)
    with pytest.raises(OSError, match="Only 4 of 5 frames"):
        save_film({"film": noise(5, 8, 8)}, tmp_path / "film.webm")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ["mp4", "webm", "gif", "webp"])
def test_a_failure_half_way_leaves_the_older_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    path = tmp_path / f"film.{suffix}"
    path.write_bytes(b"older")
    draw = FilmLayout.picture

    def fail(self: FilmLayout, time: int) -> Array:
        if time == 3:
            raise OSError("disk full")
        return draw(self, time)

    monkeypatch.setattr(FilmLayout, "picture", fail)
    with pytest.raises(OSError, match="disk full"):
        save_film({"film": noise(5, 8, 8)}, path)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"older"]


def test_strip_has_a_row_for_each_panel_and_at_most_twelve_columns(tmp_path: Path) -> None:
    red = np.zeros((30, 3, 10, 14), dtype=np.float32)
    red[:, 0] = 1.0
    blue = np.zeros((30, 3, 10, 14), dtype=np.float32)
    blue[:, 2] = np.arange(30)[:, None, None] * 8 / 255
    image = np.asarray(Image.open(save_film({"red": red, "blue": blue}, tmp_path / "strip.png", scale=3, context=10)))
    like = (image == (255, 0, 0)).all(axis=-1)
    assert like.sum() == 12 * 10 * 14 * 3 * 3
    starts = np.flatnonzero(np.diff(np.concatenate([[0], like.any(axis=0), [0]]).astype(int)) == 1)
    top = np.flatnonzero(like.any(axis=1))[-1] + 1
    below = image[top:, starts + 5]
    shades = [int(column[(column[:, :2] == 0).all(axis=1)][:, 2].max()) // 8 for column in below.transpose(1, 0, 2)]
    assert shades == [round(place) for place in np.linspace(0, 29, 12)]
    observed = np.flatnonzero((image == (0x00, 0x72, 0xB2)).all(axis=-1).any(axis=0))
    forecast = np.flatnonzero((image == (0xD5, 0x5E, 0x00)).all(axis=-1).any(axis=0))
    assert (observed.min(), observed.max() < starts[4], forecast.min()) == (starts[0], True, starts[4])


def test_missing_is_striped_and_never_looks_like_zero(tmp_path: Path) -> None:
    frames = np.zeros((2, 1, 8, 8), dtype=np.float32)
    frames[0, ..., :4] = np.nan
    for units in ("1", "mm/h", "dBZ", "mm", "kg/m2", "K"):
        path = save_film([Panel("a", frames), Panel("e", frames, "error")], tmp_path / "film.webp", units=units, context=2)
        for picture in interiors(read_pillow(path)[0][0], OBSERVED):
            missing, zero = picture[:, :128].reshape(-1, 3), picture[:, 128:].reshape(-1, 3)
            assert len(np.unique(zero, axis=0)) == 1
            assert len(np.unique(missing, axis=0)) == 2
            assert np.abs(missing.astype(int) - zero[0]).max(axis=1).min() > 25


def test_a_frame_that_is_missing_altogether_says_so_in_words() -> None:
    frames = np.full((2, 1, 64, 64), np.nan, dtype=np.float32)
    frames[1] = 0.5
    painter = make_painter([Panel("a", frames)], "1", (0.0, 1.0), "auto", 4, "north")
    picture = painter.paint(Panel("a", frames), 0)
    different = (picture != UNCOVERED).any(axis=-1)
    rows, columns = np.nonzero(different)
    assert 0.02 < different.mean() < 0.2
    assert abs(rows.mean() - 127.5) < 3 and abs(columns.mean() - 127.5) < 3


def test_row_origin_south_turns_frames_over(tmp_path: Path) -> None:
    frames = noise(1, 1, 16, 16)
    frames[0, 0, 2, 3] = np.nan
    north = interiors(read_pillow(save_film({"a": frames}, tmp_path / "n.webp", context=1))[0][0], OBSERVED)[0]
    south = interiors(read_pillow(save_film({"a": frames}, tmp_path / "s.webp", context=1, row_origin="south"))[0][0], OBSERVED)[0]
    north, south = north[8::16, 8::16], south[8::16, 8::16]
    np.testing.assert_array_equal(np.delete(south, 13, axis=0), np.delete(north[::-1], 13, axis=0))
    assert (north[2, 3] == north[2, 3, 0] + [0, 3, 8]).all() and (south[13, 3] == south[13, 3, 0] + [0, 3, 8]).all()


def test_a_legend_shows_every_step_unless_units_are_one(tmp_path: Path) -> None:
    dry = np.zeros((1, 1, 32, 32), dtype=np.float32)
    rain = {tuple(colour) for colour in value_colours("rain", "mm/h", (0.0, 1.0)).colours.tolist()}
    seen = []
    for units in ("mm/h", "1"):
        (frame,), _ = read_pillow(save_film({"a": dry}, tmp_path / "film.webp", units=units, colours="rain", context=1))
        (box,) = boxes(frame, OBSERVED)
        seen.append({tuple(colour) for colour in frame[box[0], box[1].stop :].reshape(-1, 3).tolist()})
    assert rain <= seen[0]
    assert not rain & seen[1]


def test_errors_of_rain_share_a_round_range_and_others_span_the_value_range() -> None:
    rng = np.random.default_rng(3)
    small, large = rng.normal(0, 1, (4, 1, 50, 50)).astype(np.float32), rng.normal(0, 3, (4, 1, 50, 50)).astype(np.float32)
    large[0, 0, 0, 0] = np.nan
    panels = [Panel("a", small, "error"), Panel("b", large, "error")]
    percentile = np.nanpercentile(np.abs(np.concatenate([small, large])), 99.5)
    assert 5 < percentile < 10
    assert make_painter(panels, "mm/h", (0.0, 1.0), "auto", 1, "north").errors.ticks[-1][0] == 10.0
    assert make_painter([Panel("a", small * 0, "error")], "mm/h", (0.0, 1.0), "auto", 1, "north").errors.ticks[-1][0] == pytest.approx(0.1)
    assert make_painter(panels, "K", (250.0, 310.0), "auto", 1, "north").errors.ticks[-1][0] == 60.0


def test_captions_stand_below_the_pictures(tmp_path: Path) -> None:
    frames = np.zeros((2, 1, 32, 32), dtype=np.float32)
    first, second = read_pillow(save_film({"a": frames}, tmp_path / "film.webp", context=2, captions=["lead 1", "+5 min  µ"]))[0]
    changed = np.flatnonzero((first != second).any(axis=(1, 2)))
    bottom = np.flatnonzero((first == OBSERVED).all(axis=-1).sum(axis=1) > 200).max()
    assert changed.size and changed.min() > bottom


def test_a_default_film_is_no_wider_than_a_screen(tmp_path: Path) -> None:
    for count, side, scale in ((1, 64, 4), (3, 64, 4), (8, 64, 3), (3, 700, 1)):
        panels = {f"panel {index}": np.zeros((1, side, side), dtype=np.float32) for index in range(count)}
        frame = read_pillow(save_film(panels, tmp_path / "film.webp", context=1))[0][0]
        pictures = interiors(frame, OBSERVED)
        assert [picture.shape[:2] for picture in pictures] == [(side * scale, side * scale)] * count


@given(
    count=st.integers(1, 3), times=st.integers(1, 3), height=st.integers(1, 9), width=st.integers(1, 9),
    channels=st.sampled_from([1, 3]), scale=st.integers(1, 5), gaps=st.sampled_from([0.0, 0.3, 1.0]), units=st.sampled_from(["1", "mm/h"]),
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_a_layout_of_any_size_is_even_and_holds_each_picture_whole(
    count: int, times: int, height: int, width: int, channels: int, scale: int, gaps: float, units: str
) -> None:
    frames = noise(times, channels, height, width)
    frames[np.random.default_rng(1).random(frames.shape) < gaps] = np.nan
    panels = [Panel(f"panel {index}", frames) for index in range(count)]
    painter = make_painter(panels, units, (0.0, 1.0), "auto", scale, "north")
    layout = FilmLayout(panels, painter, units, times, ["x"] * times)
    for time in range(times):
        frame = layout.picture(time)
        assert frame.shape == (layout.height, layout.width, 3) and layout.height % 2 == layout.width % 2 == 0
        picture = painter.paint(panels[0], time)
        assert picture.shape == (height * scale, width * scale, 3)
        found = sum(
            bool((frame[top : top + height * scale, left : left + width * scale] == picture).all())
            and (frame[top - 4 : top, left : left + width * scale] == OBSERVED).all()
            for top in range(4, 60, 2)
            for left in range(4, layout.width - width * scale, 2)
        )
        assert found >= count


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"panels": {}}, "no panel"),
        ({"panels": {"a": np.zeros((2, 8, 8)), "b": np.zeros((3, 8, 8))}}, "'a' is 2 x 8 x 8, 'b' is 3 x 8 x 8"),
        ({"panels": {"a": np.zeros((2, 2, 8, 8))}}, "'a' has the shape"),
        ({"panels": {"a": np.zeros((8, 8))}}, "'a' has the shape"),
        ({"panels": {"a": np.zeros((0, 8, 8))}}, "'a' has the shape"),
        ({"panels": [Panel("a", np.zeros((2, 1, 8, 8), dtype=np.float32), "eror")]}, "did you mean 'error'"),  # type: ignore[arg-type]
        ({"path": "film.avi"}, r"\.gif, \.mp4, \.png, \.webm, \.webp"),
        ({"path": "film"}, "no known format"),
        ({"path": "nowhere/film.mp4"}, "no folder .*nowhere"),
        ({"context": 3}, "context is 3, but the film has 2"),
        ({"context": -1}, "context is -1"),
        ({"captions": ["one"]}, "1 captions for 2 frames"),
        ({"value_range": (1.0, 1.0)}, "low < high"),
        ({"value_range": (0.0, float("nan"))}, "low < high"),
        ({"scale": 0}, "enlarged 0 times"),
        ({"scale": 100000}, "enlarged 100000 times"),
        ({"frames_per_second": 0.0}, "frames_per_second"),
        ({"hold": -1.0}, "hold must lie in 0 to 60 seconds, not -1"),
        ({"hold": float("nan")}, "hold must lie"),
        ({"theme": "drak"}, "no theme 'drak'; did you mean 'dark'"),
        ({"notes": {"b": ["x", "y"]}}, "notes for 'b', but no such panel"),
        ({"notes": {"a": ["x"]}}, "'a' has 1 notes for 2 frames"),
        ({"frames_per_second": float("nan")}, "frames_per_second"),
        ({"path": "film.gif", "frames_per_second": 60.0}, "at most 50"),
        ({"row_origin": "top"}, "row_origin"),
        ({"colours": "gry"}, "did you mean 'gray'"),
    ],
)  # fmt: skip
def test_what_cannot_be_shown_is_refused_in_a_sentence(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    arguments = {"panels": {"a": np.zeros((2, 8, 8))}, "path": "film.mp4"} | change
    panels, path = arguments.pop("panels"), tmp_path / arguments.pop("path")
    with pytest.raises(UserError, match=words) as caught:
        save_film(panels, path, **arguments)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
