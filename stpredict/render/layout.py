"""Where things stand: in a frame of a film, and in a strip of pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from stpredict.render.page import DARK, LIGHT, line_height, text_size, text_width, wrapped, write, write_scale
from stpredict.render.painter import Painter, draw_legends
from stpredict.render.panels import Panel

_BORDER = 4
_TAGS = ("observed", "forecast")


class FilmLayout:
    """The frames of a film: panels side by side, each under its title, a caption below, legends at the right.

    Pictures begin at even pixels and the whole has even sides, since video codecs store one colour for four pixels.

    Attributes:
        width: of a frame of the film, in pixels.
        height: of a frame of the film, in pixels.
    """

    def __init__(
        self, panels: Sequence[Panel], painter: Painter, units: str, context: int, captions: Sequence[str], pixel_km: float | None = None
    ) -> None:
        """Draw once what all frames share; a bar tells the scale where ``pixel_km``, what a pixel of a frame is across, is known."""
        self._panels, self._painter, self._context, self._captions = panels, painter, context, captions
        _, _, rows, columns = panels[0].frames.shape
        height, width = rows * painter.scale, columns * painter.scale
        self._size = text_size(height, width)
        line, margin = line_height(self._size), 2 * round(0.6 * self._size)
        # Wide enough for a few letters of a title, however small the pictures.
        step = _even(max(width + 2 * _BORDER, 6 * self._size) + margin)
        self._lefts = [margin + _BORDER + step * index for index in range(len(panels))]
        self._top = margin + line + 2 * _BORDER
        legends = draw_legends(painter, panels, units, self._size, height, DARK)
        body = max([height + _BORDER, *(image.height - line for image in legends)])
        scale_top = self._top + body + margin // 2
        self._caption_top = scale_top + (0 if pixel_km is None else line)
        tag_width = max(text_width(tag, self._size) for tag in _TAGS) + self._size if context else 0
        self._caption_left = self._lefts[0] + tag_width
        right = margin + step * len(panels)
        longest = max(text_width(words, self._size) for words in {"", *captions})
        room = min(max(longest, 12 * self._size), 30 * self._size) + self._lefts[0]
        self.width = _even(max(right + sum(image.width + margin for image in legends), self._caption_left + room))
        self.height = _even(self._caption_top + line + margin // 2)

        page = Image.new("RGB", (self.width, self.height), DARK.paper)
        for panel, left in zip(panels, self._lefts, strict=True):
            write(page, (left, margin), panel.title, self._size, DARK.text, step - margin)
        for image in legends:
            page.paste(image, (right, self._top - line))
            right += image.width + margin
        if pixel_km is not None:
            write_scale(page, (self._lefts[0], scale_top), pixel_km / painter.scale, width, self._size, DARK.text)
        tags = zip(_TAGS, (DARK.observed, DARK.forecast), strict=True) if context else [("", DARK.line)]
        self._pages = [self._with_borders(page, height, width, tag, colour) for tag, colour in tags]

    def picture(self, time: int) -> NDArray[np.uint8]:
        """Return frame ``time`` of the film, ``(height, width, 3)``."""
        frame = self._pages[time >= self._context if self._context else 0].copy()
        for panel, left in zip(self._panels, self._lefts, strict=True):
            picture = self._painter.paint(panel, time)
            frame[self._top : self._top + len(picture), left : left + picture.shape[1]] = picture
        line, width = line_height(self._size), self.width - self._caption_left - self._lefts[0]
        caption = Image.new("RGB", (width, line), DARK.paper)
        write(caption, (0, 0), self._captions[time], self._size, DARK.text, width)
        frame[self._caption_top : self._caption_top + line, self._caption_left : self._caption_left + width] = np.asarray(caption)
        return frame

    def _with_borders(self, page: Image.Image, height: int, width: int, tag: str, colour: str) -> NDArray[np.uint8]:
        """Return the page with borders of one colour, and the word that says what this colour means."""
        page = page.copy()
        draw = ImageDraw.Draw(page)
        for left in self._lefts:
            corners = (left - _BORDER, self._top - _BORDER, left + width + _BORDER - 1, self._top + height + _BORDER - 1)
            draw.rectangle(corners, fill=colour)
        write(page, (self._lefts[0], self._caption_top), tag, self._size, colour, self.width)
        return np.asarray(page)


def draw_strip(
    panels: Sequence[Panel],
    painter: Painter,
    units: str,
    context: int,
    captions: Sequence[str],
    shown: Sequence[int],
    pixel_km: float | None = None,
) -> Image.Image:
    """Draw the ``shown`` frames: a row for each panel, a column for each frame, captions above, titles at the left.

    A bar over the columns tells the first ``context`` frames, the observed ones, from the forecast; one below them tells the scale where
    ``pixel_km``, what a pixel of a frame is across, is known.
    """
    _, _, rows, columns = panels[0].frames.shape
    height, width = rows * painter.scale, columns * painter.scale
    size = text_size(height, width)
    line, margin, gap = line_height(size), size, max(2, size // 4)
    notes = [[line for words in re.split(r"\s{2,}", captions[time].strip()) for line in wrapped(words, width - size)] for time in shown]
    title_width = min(max(text_width(panel.title, size) for panel in panels), max(width, 10 * size))
    left = margin + title_width + margin
    head = margin + (line + 2 * gap if context else 0)
    top = head + max(len(note) for note in notes) * line + gap
    grid_width, grid_height = len(shown) * (width + gap) - gap, len(panels) * (height + gap) - gap
    legends = draw_legends(painter, panels, units, size, min(grid_height, 24 * line), LIGHT)
    right = left + grid_width + margin
    page_width = right + sum(image.width + margin for image in legends)
    foot = 0 if pixel_km is None else gap + line
    page_height = max([top + grid_height + foot, *(top - line + image.height for image in legends)]) + margin
    page = Image.new("RGB", (page_width, page_height), LIGHT.paper)

    lefts = [left + index * (width + gap) for index in range(len(shown))]
    for time, note, x in zip(shown, notes, lefts, strict=True):
        for number, words in enumerate(reversed(note), start=1):
            write(page, (x, top - gap - number * line), words, size, LIGHT.text, width, "centre")
        for row, panel in enumerate(panels):
            page.paste(Image.fromarray(painter.paint(panel, time)), (x, top + row * (height + gap)))
    for row, panel in enumerate(panels):
        middle = top + row * (height + gap) + (height - line) // 2
        write(page, (margin, middle), panel.title, size, LIGHT.text, title_width, "right")
    if context:
        observed = [x for time, x in zip(shown, lefts, strict=True) if time < context]
        for tag, colour, group in zip(_TAGS, (LIGHT.observed, LIGHT.forecast), (observed, lefts[len(observed) :]), strict=True):
            if group:
                length = group[-1] + width - group[0]
                write(page, (group[0], margin), tag, size, LIGHT.text, length)
                ImageDraw.Draw(page).rectangle((group[0], margin + line, group[0] + length - 1, margin + line + gap - 1), fill=colour)
    if pixel_km is not None:
        write_scale(page, (left, top + grid_height + gap), pixel_km / painter.scale, width, size, LIGHT.text)
    for image in legends:
        page.paste(image, (right, top - line))
        right += image.width + margin
    return page


def _even(number: int) -> int:
    return number + number % 2
