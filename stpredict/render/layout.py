"""Where things stand in a frame of a film."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from stpredict.render.painter import Painter, draw_legends
from stpredict.render.panels import Panel, in_rows
from stpredict.render.paper import DARK, Theme, line_height, text_size, text_width, write, write_scale

_BORDER = 4
TAGS = ("observed", "forecast")


@dataclass(frozen=True)
class _Row:
    """Panels side by side: where the words above them begin, and where the pictures do, in pixels from above."""

    name: str
    panels: Sequence[Panel]
    titled: bool
    head: int
    top: int


class FilmLayout:
    """The frames of a film: rows of panels side by side, each under its title, a caption below, legends at the right.

    Pictures begin at even pixels and the whole has even sides, since video codecs store one colour for four pixels.

    Attributes:
        width: of a frame of the film, in pixels.
        height: of a frame of the film, in pixels.
        places: left and top of each panel's picture.
    """

    def __init__(
        self,
        panels: Sequence[Panel],
        painter: Painter,
        units: str,
        context: int,
        captions: Sequence[str],
        pixel_km: float | None = None,
        theme: Theme = DARK,
    ) -> None:
        """Draw once what all frames share; a bar tells the scale where ``pixel_km``, what a pixel of a frame is across, is known."""
        self._panels, self._painter, self._context, self._captions, self._theme = panels, painter, context, captions, theme
        _, _, rows, columns = panels[0].frames.shape
        self._picture = height, width = rows * painter.scale, columns * painter.scale
        self._size = size = text_size(height, width)
        line, margin = line_height(size), 2 * round(0.6 * size)
        # Wide enough for a few letters of a title, however small the pictures.
        step = _even(max(width + 2 * _BORDER, 6 * size) + margin)
        self._column = step - margin
        noted = line if any(panel.notes for panel in panels) else 0
        beneath = height + _BORDER + noted
        grid = list(_place_rows(panels, margin, line, _even(beneath)))
        lefts = [margin + _BORDER + step * index for index in range(max(len(row.panels) for row in grid))]
        self.places = [(left, row.top) for row in grid for left, _ in zip(lefts, row.panels, strict=False)]
        legends = list(draw_legends(painter, panels, units, size, height, theme).values())
        legend_top = grid[0].top - line
        body = max([grid[-1].top + beneath, *(legend_top + image.height for image in legends)])
        scale_top = body + margin // 2
        self._caption_top = scale_top + (0 if pixel_km is None else line)
        tag_width = max(text_width(tag, size) for tag in TAGS) + size if context else 0
        self._caption_left = lefts[0] + tag_width
        right = margin + step * len(lefts)
        longest = max(text_width(words, size) for words in {"", *captions})
        room = min(max(longest, 12 * size), 30 * size) + lefts[0]
        self.width = _even(max(right + sum(image.width + margin for image in legends), self._caption_left + room))
        self.height = _even(self._caption_top + line + margin // 2)

        page = Image.new("RGB", (self.width, self.height), theme.paper)
        for row in grid:
            if row.name:
                write(page, (lefts[0], row.head), row.name, size, theme.text, right - lefts[0])
            if row.titled:
                for panel, left in zip(row.panels, lefts, strict=False):
                    write(page, (left, row.top - 2 * _BORDER - line), panel.title, size, theme.text, self._column)
        for image in legends:
            page.paste(image, (right, legend_top))
            right += image.width + margin
        if pixel_km is not None:
            write_scale(page, (lefts[0], scale_top), pixel_km / painter.scale, width, size, theme.text)
        tags = zip(TAGS, (theme.observed, theme.forecast), strict=True) if context else [("", theme.line)]
        self._pages = [self._with_borders(page, tag, colour) for tag, colour in tags]

    def picture(self, time: int) -> NDArray[np.uint8]:
        """Return frame ``time`` of the film, ``(height, width, 3)``."""
        frame = self._pages[time >= self._context if self._context else 0].copy()
        height, width = self._picture
        for panel, (left, top) in zip(self._panels, self.places, strict=True):
            frame[top : top + height, left : left + width] = self._painter.paint(panel, time)
            if panel.notes and panel.notes[time]:
                self._write(frame, (left, top + height + _BORDER), panel.notes[time], self._column)
        self._write(
            frame, (self._caption_left, self._caption_top), self._captions[time], self.width - self._caption_left - self.places[0][0]
        )
        return frame

    def _write(self, frame: NDArray[np.uint8], corner: tuple[int, int], words: str, width: int) -> None:
        """Write a line of text onto a frame of the film."""
        (left, top), line = corner, line_height(self._size)
        image = Image.new("RGB", (width, line), self._theme.paper)
        write(image, (0, 0), words, self._size, self._theme.text, width)
        frame[top : top + line, left : left + width] = np.asarray(image)

    def _with_borders(self, page: Image.Image, tag: str, colour: str) -> NDArray[np.uint8]:
        """Return the page with borders of one colour, and the word that says what this colour means."""
        page, (height, width) = page.copy(), self._picture
        draw = ImageDraw.Draw(page)
        for left, top in self.places:
            draw.rectangle((left - _BORDER, top - _BORDER, left + width + _BORDER - 1, top + height + _BORDER - 1), fill=colour)
        write(page, (self.places[0][0], self._caption_top), tag, self._size, colour, self.width)
        return np.asarray(page)


def _place_rows(panels: Sequence[Panel], margin: int, line: int, beneath: int) -> Iterator[_Row]:
    """Yield the rows from above; titles that are those of the row above are not repeated."""
    head, above = margin, None
    for name, row in in_rows(panels).items():
        titles = [panel.title for panel in row]
        top = head + (line if name else 0) + (line if titles != above else 0) + 2 * _BORDER
        yield _Row(name, row, titles != above, head, top)
        head, above = top + beneath + margin // 2 * 2, titles


def _even(number: int) -> int:
    return number + number % 2
