"""What stands around the pictures of a film or strip: its colours, text and legends."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from stpredict.render.colours import ColourMap

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_HATCH = np.array([[62, 65, 70], [76, 79, 84]], dtype=np.uint8)


@dataclass(frozen=True)
class Theme:
    """The colours of a page: of its paper, its text, and of what tells observed from forecast frames.

    ``observed`` and ``forecast`` are the sky blue and the orange that the colour-blind can tell apart as well
    (M. Okabe and K. Ito, Color universal design, 2008).
    """

    paper: str
    text: str
    line: str
    observed: str = "#56b4e9"
    forecast: str = "#e69f00"


DARK = Theme(paper="#24272c", text="#e8eaed", line="#5b6068")
LIGHT = Theme(paper="#ffffff", text="#1b1d21", line="#a4a8ae")


def text_size(height: int, width: int) -> int:
    """Return the size of type, in pixels, that suits panels of a shown height and width."""
    return max(13, min(32, min(height, width) // 16))


def line_height(size: int) -> int:
    """Return the height of a line of text, an even number of pixels."""
    return 2 * round(0.75 * size)


def text_width(text: str, size: int) -> int:
    """Return the width of a text in pixels."""
    return int(np.ceil(_font(size).getlength(text)))


def write(image: Image.Image, corner: tuple[int, int], text: str, size: int, colour: str, width: int, align: str = "left") -> None:
    """Write a line of text into a box: its ``corner`` is left and top, it is ``width`` wide and a line high.

    Text that is too long is set smaller, then cut.
    """
    while size > 11 and text_width(text, size) > width:
        size -= 1
    if text_width(text, size) > width:
        while text and text_width(text + "...", size) > width:
            text = text[:-1]
        text += "..."
    left, top = corner
    free = width - text_width(text, size)
    left += {"left": 0, "centre": free // 2, "right": free}[align]
    ImageDraw.Draw(image).text((left, top), text, fill=colour, font=_font(size))


@cache
def hatch(height: int, width: int) -> NDArray[np.uint8]:
    """Return the pattern ``(height, width, 3)`` that stands for missing values: gray stripes, which no colour map has."""
    rows, columns = np.ogrid[:height, :width]
    stripes: NDArray[np.uint8] = _HATCH[(rows + columns) // 4 % 2]
    return stripes


def legend(heading: str, colours: ColourMap, size: int, height: int, theme: Theme, missing: bool) -> Image.Image:
    """Draw a colour bar with ticks under a heading.

    Args:
        heading: the units, say.
        colours: what the bar shows.
        size: of the heading's type; the ticks are set a little smaller.
        height: of the bar, and of the key for missing values below it.
        theme: colours of the page.
        missing: whether the key for missing values is wanted.

    Returns:
        An image of a line of text and ``height`` pixels below it, no wider than needed.
    """
    small = max(11, size - 3)
    bar = size + 2
    labels = [label for _, label in colours.ticks]
    words = [*labels, "missing"] if missing else labels
    width = max(text_width(heading, size), bar + small // 2 + max(text_width(word, small) for word in words)) + 2
    top = line_height(size)
    image = Image.new("RGB", (width, top + height), theme.paper)
    write(image, (0, 0), heading, size, theme.text, width)
    draw = ImageDraw.Draw(image)
    if missing:
        height -= 2 * bar
        image.paste(Image.fromarray(hatch(bar, bar)), (0, top + height + bar))
        write(image, (bar + small // 2, top + height + bar), "missing", small, theme.text, width)
    count = len(colours.colours)
    rows = count - 1 - np.arange(height) * count // height
    image.paste(Image.fromarray(np.repeat(colours.colours[rows][:, None], bar, axis=1)), (0, top))
    draw.rectangle((0, top, bar - 1, top + height - 1), outline=theme.line)
    every = -(-len(labels) * line_height(small) // height)
    for value, label in colours.ticks[::every]:
        y = top + round((1 - colours.height_of(value)) * (height - 1))
        draw.line((bar, y, bar + small // 4, y), fill=theme.line)
        y = min(max(y, top + small // 2), top + height - small // 2)
        draw.text((bar + small // 2, y), label, fill=theme.text, font=_font(small), anchor="lm")
    return image


@cache
def _font(size: int) -> Font:
    """Return DejaVu Sans as matplotlib brings it, which has Greek, Cyrillic and the signs of units; else Pillow's own, plain Latin."""
    matplotlib = importlib.util.find_spec("matplotlib")
    if matplotlib is not None and matplotlib.origin is not None:
        path = Path(matplotlib.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf"
        if path.is_file():
            return ImageFont.truetype(str(path), size)
    return ImageFont.load_default(size)
