"""What stands around the pictures of a film or strip: its colours, text and legends."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from stpredict.render.colours import ColourMap
from stpredict.render.geography import scale_bar

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_HATCH = np.array([[70, 73, 78], [138, 141, 146]], dtype=np.uint8)
_SMALLEST = 11
UNCOVERED = (52, 55, 60)
"""The gray of what is never seen."""


@dataclass(frozen=True)
class Theme:
    """The colours of a page: of its paper, its text, and of what tells observed from forecast frames.

    ``observed`` and ``forecast`` are a blue and an orange that the colour-blind can tell apart as well, on dark paper the lighter ones
    of two such pairs (M. Okabe and K. Ito, Color universal design, 2008).
    """

    paper: str
    text: str
    line: str
    observed: str
    forecast: str


DARK = Theme(paper="#24272c", text="#e8eaed", line="#5b6068", observed="#56b4e9", forecast="#e69f00")
LIGHT = Theme(paper="#ffffff", text="#1b1d21", line="#a4a8ae", observed="#0072b2", forecast="#d55e00")
THEMES = {"dark": DARK, "light": LIGHT}


def text_size(height: int, width: int) -> int:
    """Return the size of type, in pixels, that suits panels of a shown height and width."""
    return max(13, min(32, min(height, width) // 16))


def line_height(size: int) -> int:
    """Return the height of a line of text, an even number of pixels."""
    return 2 * round(0.75 * size)


@lru_cache(maxsize=4096)
def text_width(text: str, size: int) -> int:
    """Return the width of a text in pixels."""
    return int(np.ceil(_font(size).getlength(text)))


def write(image: Image.Image, corner: tuple[int, int], text: str, size: int, colour: str, width: int, align: str = "left") -> None:
    """Write a line of text into a box: its ``corner`` is left and top, it is ``width`` wide and a line high.

    Text that is too long is set smaller, then cut.
    """
    while size > _SMALLEST and text_width(text, size) > width:
        size -= 1
    if text_width(text, size) > width:
        while text and text_width(text + "...", size) > width:
            text = text[:-1]
        text += "..."
    left, top = corner
    free = width - text_width(text, size)
    left += {"left": 0, "centre": free // 2, "right": free}[align]
    ImageDraw.Draw(image).text((left, top), text, fill=colour, font=_font(size))


def wrapped(text: str, width: int, size: int = _SMALLEST) -> list[str]:
    """Return the lines that a text needs to be no wider than ``width``, as far as its words allow; by default at the smallest size."""
    lines: list[str] = []
    for word in text.split(" "):
        if lines and text_width(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


@cache
def hatch(height: int, width: int) -> NDArray[np.uint8]:
    """Return the pattern ``(height, width, 3)`` that stands for missing values: light lines on gray, colours that no map has."""
    rows, columns = np.ogrid[:height, :width]
    line = max(2, min(height, width) // 160)
    stripes: NDArray[np.uint8] = _HATCH[((rows + columns) % (3 * line) < line).astype(np.intp)]
    return stripes


def bar_height(ticks: int, keys: int, size: int) -> int:
    """Return how high a :func:`legend` must be at least to have all its ticks."""
    return ticks * (_small(size) + 3) + keys * _key_step(size)


def legend(heading: str, colours: ColourMap, size: int, height: int, theme: Theme, keys: Sequence[str]) -> Image.Image:
    """Draw a colour bar with ticks under a heading.

    Args:
        heading: the units, say.
        colours: what the bar shows.
        size: of the heading's type; the ticks are set a little smaller.
        height: of the bar, and of the keys below it.
        theme: colours of the page.
        keys: what else is explained: ``missing``, ``no coverage``.

    Returns:
        An image of a line of text and ``height`` pixels below it, no wider than needed.
    """
    small = _small(size)
    bar = size + 2
    labels = [label for _, label in colours.ticks]
    width = max(text_width(heading, size), bar + small // 2 + max(text_width(word, small) for word in (*labels, *keys))) + 2
    top = line_height(size)
    image = Image.new("RGB", (width, top + height), theme.paper)
    write(image, (0, 0), heading, size, theme.text, width)
    draw = ImageDraw.Draw(image)
    height -= len(keys) * _key_step(size)
    for number, key in enumerate(keys):
        y = top + height + number * _key_step(size) + _key_step(size) - bar
        image.paste(Image.fromarray(hatch(bar, bar)) if key == "missing" else UNCOVERED, (0, y, bar, y + bar))
        draw.rectangle((0, y, bar - 1, y + bar - 1), outline=theme.line)
        draw.text((bar + small // 2, y + bar // 2), key, fill=theme.text, font=_font(small), anchor="lm")
    count = len(colours.colours)
    rows = count - 1 - np.arange(height) * count // height
    image.paste(Image.fromarray(np.repeat(colours.colours[rows][:, None], bar, axis=1)), (0, top))
    draw.rectangle((0, top, bar - 1, top + height - 1), outline=theme.line)
    every = -(-len(labels) * (small + 3) // height)
    for value, label in colours.ticks[::every]:
        y = top + round((1 - colours.height_of(value)) * (height - 1))
        draw.line((bar, y, bar + small // 4, y), fill=theme.line)
        y = min(max(y, top + small // 2), top + height - small // 2)
        draw.text((bar + small // 2, y), label, fill=theme.text, font=_font(small), anchor="lm")
    return image


def write_scale(image: Image.Image, corner: tuple[int, int], pixel_km: float, width: int, size: int, colour: str) -> None:
    """Draw a bar as long as a round number of km, with that number, under a picture.

    Args:
        image: what is drawn on.
        corner: left and top of a line of text that it takes.
        pixel_km: what a pixel of the image is across, in km.
        width: of the picture.
        size: of the type.
        colour: of bar and type.
    """
    kilometres, length = scale_bar(pixel_km, width / 2)
    left, middle, draw = corner[0], corner[1] + line_height(size) // 2, ImageDraw.Draw(image)
    half = max(1, size // 16)
    draw.rectangle((left, middle - half, left + length - 1, middle + half - 1), fill=colour)
    for x in (left, left + length - 2 * half):
        draw.rectangle((x, middle - size // 3, x + 2 * half - 1, middle + size // 3 - 1), fill=colour)
    label = f"{kilometres:g} km" if kilometres >= 1 else f"{kilometres * 1000:g} m"
    draw.text((left + length + size // 2, middle), label, fill=colour, font=_font(size), anchor="lm")


def _small(size: int) -> int:
    return max(_SMALLEST, size - 3)


def _key_step(size: int) -> int:
    return size + 2 + size // 2


@cache
def _font(size: int) -> Font:
    """Return DejaVu Sans as matplotlib brings it, which has Greek, Cyrillic and the signs of units; else Pillow's own, plain Latin."""
    matplotlib = importlib.util.find_spec("matplotlib")
    if matplotlib is not None and matplotlib.origin is not None:
        path = Path(matplotlib.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf"
        if path.is_file():
            return ImageFont.truetype(str(path), size)
    return ImageFont.load_default(size)
