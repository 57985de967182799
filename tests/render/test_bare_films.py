"""Bare films: the picture alone, every frame a key frame, small."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from stpredict.errors import UserError
from stpredict.render import Geography, Panel, save_bare_films, writers
from stpredict.render.colours import value_colours
from stpredict.render.painter import make_painter

Array = NDArray[Any]


def decoded(path: Path) -> list[Array]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def rain(count: int = 8, side: int = 64, seed: int = 0) -> Array:
    """Return rain in mm/h that drifts; its corners are never seen, and once a stripe is not."""
    noise = np.random.default_rng(seed).standard_normal((side, side + count)).astype(np.float32)
    field = cv2.GaussianBlur(noise, (0, 0), side / 12)
    field = np.maximum(0, field / field.std()) ** 3 * 4
    film = np.stack([field[:, time : time + side] for time in range(count)])
    rows, columns = np.mgrid[:side, :side] - (side - 1) / 2
    film[:, np.hypot(rows, columns) > 0.6 * side] = np.nan
    film[2, :8] = np.nan
    return film[:, None]


def panels_of(count: int = 8, side: int = 64) -> list[Panel]:
    true, forecast = rain(count, side), rain(count, side, seed=1)
    error = forecast - true
    error[:3] = np.nan
    return [Panel("true", true), Panel("<script>", forecast), Panel("error", error, "error")]


@pytest.mark.parametrize("codec", ["h264", "vp9"])
def test_every_frame_is_a_key_frame_and_is_found_by_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str) -> None:
    if codec == "vp9":
        has = writers._has_encoder
        monkeypatch.setattr(writers, "_has_encoder", lambda name: name != "libx264" and has(name))
    films = save_bare_films(panels_of(), tmp_path, "clip-3", units="mm/h", frames_per_second=4.0)
    suffix = {"h264": ".mp4", "vp9": ".webm"}[codec]
    assert [path.name for path in films.files] == [f"clip-3-{number}{suffix}" for number in range(3)]
    assert (films.width, films.height) == (256, 256)
    for path in films.files:
        in_order = decoded(path)
        assert len(in_order) == 8 and all(frame.shape == (256, 256, 3) for frame in in_order)
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ({"h264": "h264", "vp9": "vp9"}[codec], "yuv420p")
            packets = [packet for packet in container.demux(stream) if packet.size]
            assert len(packets) == 8 and all(packet.is_keyframe for packet in packets)
            for time in (5, 0, 7, 2):
                assert stream.time_base is not None
                container.seek(round(Fraction(time, 4) / stream.time_base), stream=stream)
                frame = next(container.decode(stream))
                assert frame.time == pytest.approx(time / 4, abs=1e-3)
                np.testing.assert_array_equal(frame.to_ndarray(format="rgb24"), in_order[time])


def test_the_index_stands_before_the_pictures(tmp_path: Path) -> None:
    data = save_bare_films(panels_of(), tmp_path, "film").files[0].read_bytes()
    names, place = [], 0
    while place < len(data):
        length, name = struct.unpack(">I4s", data[place : place + 8])
        names.append(name)
        place += length
    assert names.index(b"moov") < names.index(b"mdat")


def test_a_decoded_film_shows_what_was_painted(tmp_path: Path) -> None:
    """Within the codec's tolerance: 5 levels in the mean, and every class of rain is still told from the others."""
    panels = panels_of()
    films = save_bare_films(panels, tmp_path, "film", units="mm/h")
    painter = make_painter(panels, "mm/h", (0.0, 1.0), "auto", 4, "north")
    colours = value_colours("auto", "mm/h", (0.0, 1.0))
    for panel, path in zip(panels, films.files, strict=True):
        for time, frame in enumerate(decoded(path)):
            painted = painter.paint(panel, time).astype(int)
            assert np.abs(frame - painted).mean() < 5
            if panel.kind == "value":
                seen = ~np.isnan(panel.frames[time, 0])
                middles = frame.reshape(64, 4, 64, 4, 3)[:, 1:3, :, 1:3].mean(axis=(1, 3))
                nearest = ((middles[:, :, None] - colours.colours) ** 2).sum(axis=-1).argmin(axis=-1)
                assert (nearest == colours.classes(panel.frames[time, 0]))[seen].mean() > 0.99


def test_frames_that_are_not_there_are_flat_with_a_word(tmp_path: Path) -> None:
    films = save_bare_films(panels_of(), tmp_path, "film", units="mm/h")
    frames = decoded(films.files[2])
    for time in range(3):
        flat = (np.abs(frames[time].astype(int) - (52, 55, 60)) < 8).all(axis=-1)
        assert 0.8 < flat.mean() < 0.99 and flat[:40].all() and not flat[112:144].all()
    assert not (np.abs(frames[3].astype(int) - (52, 55, 60)) < 8).all(axis=-1)[128].all()


def test_all_panels_share_colours_and_the_range_of_errors(tmp_path: Path) -> None:
    small, large = np.full((2, 8, 8), 0.5, np.float32), np.full((2, 8, 8), 6.0, np.float32)
    panels = [Panel("a", np.zeros((2, 8, 8), np.float32)), Panel("small", small, "error"), Panel("large", large, "error")]
    films = save_bare_films(panels, tmp_path, "film", units="mm/h")
    expected = make_painter([Panel("", large[:, None], "error")], "mm/h", (0.0, 1.0), "auto", 1, "north").errors
    for path, value in zip(films.files[1:], (0.5, 6.0), strict=True):
        colour = expected.paint(np.array([value], np.float32))[0]
        assert np.abs(decoded(path)[0].astype(int) - colour).max() < 8
    assert [heading for heading, _ in films.legends] == ["mm/h", "error mm/h"]
    for _, path in films.legends:
        with Image.open(path) as image:
            assert image.format == "PNG" and 40 < image.width < 200
    assert [heading for heading, _ in save_bare_films(panels[:1], tmp_path, "plain").legends] == []


@pytest.mark.parametrize(
    ("height", "width", "shown"),
    [(64, 64, (256, 256)), (100, 100, (200, 200)), (128, 120, (256, 240)), (33, 17, (264, 136)), (384, 384, (384, 384)),
     (765, 700, (382, 350)), (81, 81, (324, 324)), (301, 301, (302, 302)), (1201, 11, (300, 2)), (1, 1, (256, 256))],
)  # fmt: skip
def test_a_picture_has_even_sides_near_256(tmp_path: Path, height: int, width: int, shown: tuple[int, int]) -> None:
    films = save_bare_films([Panel("a", np.random.default_rng(0).random((2, height, width), np.float32))], tmp_path, "film")
    assert (films.height, films.width) == shown and films.height % 2 == films.width % 2 == 0
    assert [frame.shape for frame in decoded(films.files[0])] == [(*shown, 3)] * 2


def test_a_scale_is_kept_and_odd_sides_are_padded(tmp_path: Path) -> None:
    frames = np.zeros((2, 21, 27), np.float32)
    frames[:, :, -1] = 1.0
    films = save_bare_films([Panel("a", frames)], tmp_path, "film", scale=3)
    assert (films.height, films.width) == (64, 82)
    np.testing.assert_allclose(decoded(films.files[0])[1][:, -4:].mean(axis=(1, 2)), 255, atol=6)


def test_north_is_up_and_coasts_are_drawn(tmp_path: Path) -> None:
    frames = np.zeros((2, 1, 64, 64), np.float32)
    frames[:, :, :16] = 20.0
    line = np.array([[0.0, 40.5], [64.0, 40.5]])
    films = save_bare_films([Panel("a", frames)], tmp_path, "film", units="mm/h", row_origin="south", geography=Geography(1.0, (line,)))
    picture = decoded(films.files[0])[1].astype(int)
    wet = value_colours("auto", "mm/h", (0.0, 1.0)).paint(np.array([20.0], np.float32))[0].astype(int)
    assert np.abs(picture[200:] - wet).max() < 20 < np.abs(picture[:150] - wet).max(axis=-1).min()
    assert picture[162].mean() > picture[150].mean() + 100


def test_bytes_stay_small(tmp_path: Path) -> None:
    """About 4 kB a frame of 256 x 256 pixels of rain: ten predictors, twenty clips of 18 frames, are then less than 30 MB."""
    films = save_bare_films(panels_of(18), tmp_path, "film", units="mm/h")
    truth, forecast, error = (path.stat().st_size for path in films.files)
    assert 20 * (truth + 10 * (forecast + error)) < 30e6


def test_what_does_not_fit_is_refused_before_a_file_is_made(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="differ in size"):
        save_bare_films([Panel("a", np.zeros((2, 8, 8), np.float32)), Panel("b", np.zeros((2, 8, 9), np.float32))], tmp_path, "film")
    assert not list(tmp_path.iterdir())


def test_without_pyav_films_are_vp9_by_opencv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "_has_encoder", lambda name: False)
    (path,) = save_bare_films([Panel("a", rain(5))], tmp_path, "film", units="mm/h").files
    assert path.suffix == ".webm" and len(decoded(path)) == 5
