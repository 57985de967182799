"""Films in a real browser, as a notebook shows them: they play by themselves, and their frames are those that were painted."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence

from stpredict.render import Film, Panel, save_film

COUNT, CONTEXT, RATE, HELD = 6, 3, 5.0, 5

PICTURE = """
(video, time) => new Promise((resolve, reject) => {
  video.onerror = () => reject(video.error.message);
  video.onseeked = () => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    canvas.getContext("2d").drawImage(video, 0, 0);
    resolve(canvas.toDataURL("image/png").split(",")[1]);
  };
  video.pause();
  video.currentTime = time;
})
"""


@pytest.fixture(scope="module")
def page(chromium: Any) -> Iterator[Any]:
    page = chromium.new_page()
    page.set_default_timeout(20_000)
    yield page
    page.close()


def film(path: Path) -> Film:
    """Write showers that move, with a forecast, its error and a stand before it."""
    rows, columns = np.mgrid[:48, :48]
    rain = np.stack([40 * np.exp(-((rows - 24) ** 2 + (columns - 8 - 6 * time) ** 2) / 60) for time in range(COUNT)]).astype(np.float32)
    forecast = np.where(np.arange(COUNT)[:, None, None] < CONTEXT, np.nan, np.roll(rain, 4, axis=1)).astype(np.float32)
    panels = [
        Panel("true", rain[:, None]),
        Panel("forecast", forecast[:, None], notes=[f"mse {time}" for time in range(COUNT)]),
        Panel("error", (forecast - rain)[:, None], "error"),
    ]
    settings: dict[str, Any] = {"units": "mm/h", "value_range": (0.0, 60.0), "context": CONTEXT, "scale": 4}
    return save_film(panels, path, frames_per_second=RATE, hold=HELD / RATE, **settings)


def put(page: Any, film: Film, tag: str) -> Any:
    """Return the element that a notebook would show."""
    shown = film._repr_html_()
    assert shown is not None
    page.set_content(shown)
    return page.query_selector(tag)


@pytest.mark.parametrize("suffix", ["mp4", "webm"])
def test_a_film_plays_and_shows_what_was_painted(tmp_path: Path, page: Any, suffix: str) -> None:
    made = film(tmp_path / f"film.{suffix}")
    with Image.open(film(tmp_path / "film.webp")) as lossless:  # the last observed frame stands as one there
        painted = [np.asarray(frame.convert("RGB"), dtype=int) for frame in ImageSequence.Iterator(lossless)]
    assert len(painted) == COUNT
    video = put(page, made, "video")
    page.wait_for_function("video => video.readyState === 4 && video.currentTime > 0 && !video.paused", arg=video)
    assert video.evaluate("video => [video.videoWidth, video.videoHeight]") == [made.width, made.height]
    assert video.evaluate("video => video.duration") == pytest.approx(made.frames / RATE, abs=0.01) and made.frames == COUNT + HELD
    for number, frame in {0: 0, 3: 2, 7: 2, 8: 3, made.frames - 1: COUNT - 1}.items():
        shot = base64.b64decode(video.evaluate(PICTURE, (number + 0.5) / RATE))
        with Image.open(io.BytesIO(shot)) as image:
            off = np.abs(np.asarray(image.convert("RGB"), dtype=int) - painted[frame])
        others = [np.abs(painted[frame] - other).mean() for place, other in enumerate(painted) if place != frame]
        assert off.mean() < 3 and 2.5 * off.mean() < min(others), (number, off.mean(), min(others))
        assert np.percentile(off, 99) < 40, "edges alone are blurred, by half the colour"


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_a_picture_is_shown_in_its_size(tmp_path: Path, page: Any, suffix: str) -> None:
    made = film(tmp_path / f"film.{suffix}")
    image = put(page, made, "img")
    page.wait_for_function("image => image.complete", arg=image)
    assert image.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [made.width, made.height]
