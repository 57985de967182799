"""A film as a path that shows itself."""

from __future__ import annotations

import base64
import copy
import html.parser
import pickle
from pathlib import Path

import numpy as np
import pytest

from stpredict.render import Film, save_film, written

FRAMES = {"a": np.zeros((3, 8, 8), np.float32)}


class Elements(html.parser.HTMLParser):
    """The elements of a piece of HTML with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize(
    ("suffix", "tag", "kind"),
    [
        ("mp4", "video", "video/mp4"),
        ("webm", "video", "video/webm"),
        ("gif", "img", "image/gif"),
        ("webp", "img", "image/webp"),
        ("png", "img", "image/png"),
    ],
)
def test_a_film_shows_itself_whatever_it_is_called(tmp_path: Path, suffix: str, tag: str, kind: str) -> None:
    path = tmp_path / f"\"><script>alert('1')<|script>&amp;.{suffix}"
    film = save_film(FRAMES, path)
    shown = film._repr_html_()
    assert shown is not None
    ((found, attributes),) = Elements(shown).found
    assert found == tag
    source = attributes["src"] or ""
    assert source.startswith(f"data:{kind};base64,")
    assert base64.b64decode(source.partition(",")[2]) == path.read_bytes()
    assert attributes["title" if tag == "video" else "alt"] == str(path)
    assert (attributes["width"], attributes["height"]) == (str(film.width), str(film.height))


def test_it_is_a_path_that_knows_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "film.gif"
    film = save_film({"a": np.linspace(0, 1, 4 * 64).reshape(4, 8, 8)}, path, frames_per_second=4.0)
    assert isinstance(film, Path) and film == path and hash(film) == hash(path) and {path: 1}[film] == 1
    assert film.read_bytes() == path.read_bytes() and str(film) == str(path)
    assert (film.frames, film.frames_per_second) == (4, 4.0)
    for other in (copy.copy(film), pickle.loads(pickle.dumps(film))):
        assert isinstance(other, Film) and other == film
        assert (other.frames, other.width, other.height, other.frames_per_second) == (4, film.width, film.height, 4.0)
    strip = save_film(FRAMES, tmp_path / "strip.png")
    assert (strip.frames, strip.frames_per_second) == (3, 0.0)


def test_what_is_no_film_is_not_shown_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film = save_film(FRAMES, tmp_path / "<b>.mp4")
    assert getattr(film.parent, "frames", 0) == 0
    for other in (film.parent, film.with_suffix(".gif")):
        assert not isinstance(other, Film) or other._repr_html_() is None
    monkeypatch.setattr(written, "_SHOWN_AT_MOST", 10)
    large = Elements(film._repr_html_() or "")
    assert [tag for tag, _ in large.found] == ["p"]
    assert "<b>.mp4" in large.text and "too large" in large.text
    film.unlink()
    assert film._repr_html_() is None
