"""Strips of pictures for papers: a row for each panel, a column for each of some frames; of several clips a contact sheet."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from stpredict.render.layout import TAGS
from stpredict.render.painter import Painter, draw_legends
from stpredict.render.panels import Panel, in_rows
from stpredict.render.paper import Theme, line_height, text_size, text_width, wrapped, write, write_scale


def draw_strip(
    panels: Sequence[Panel],
    painter: Painter,
    units: str,
    context: int,
    captions: Sequence[str],
    shown: Sequence[int],
    pixel_km: float | None,
    theme: Theme,
) -> Image.Image:
    """Draw the ``shown`` frames: a row for each panel, a column for each frame, captions above, titles at the left.

    What a film shows in one row stands together under the name of that row. A bar over the columns tells the first ``context`` frames,
    the observed ones, from the forecast; one below them tells the scale where ``pixel_km``, what a pixel of a frame is across, is known.
    """
    _, _, rows, columns = panels[0].frames.shape
    height, width = rows * painter.scale, columns * painter.scale
    size = text_size(height, width)
    line, margin, gap = line_height(size), size, max(2, size // 4)
    heads = [[line for words in re.split(r"\s{2,}", captions[time].strip()) for line in wrapped(words, width - size)] for time in shown]
    title_width = min(max(text_width(panel.title, size) for panel in panels), max(width, 10 * size))
    left = margin + title_width + margin
    head = margin + (line + 2 * gap if context else 0)
    top = head + max(len(words) for words in heads) * line + gap
    tops: list[int] = []
    names: list[tuple[str, int]] = []
    bottom = top
    for name, row in in_rows(panels).items():
        if name:
            names.append((name, bottom + (gap if names else 0)))
            bottom = names[-1][1] + line + gap
        for panel in row:
            tops.append(bottom)
            bottom += height + gap + (line if panel.notes else 0)
    bottom -= gap
    legends = list(draw_legends(painter, panels, units, size, min(bottom - top, 24 * line), theme).values())
    grid_width = len(shown) * (width + gap) - gap
    right = left + grid_width + margin
    page_width = right + sum(image.width + margin for image in legends)
    foot = 0 if pixel_km is None else gap + line
    page_height = max([bottom + foot, *(top - line + image.height for image in legends)]) + margin
    page = Image.new("RGB", (page_width, page_height), theme.paper)

    lefts = [left + index * (width + gap) for index in range(len(shown))]
    for words, x in zip(heads, lefts, strict=True):
        for number, text in enumerate(reversed(words), start=1):
            write(page, (x, top - gap - number * line), text, size, theme.text, width, "centre")
    for name, y in names:
        write(page, (left, y), name, size, theme.text, grid_width)
    for panel, y in zip(panels, tops, strict=True):
        title = _title_lines(panel.title, title_width, size, max(1, height // line))
        for number, text in enumerate(title):
            write(page, (margin, y + (height - len(title) * line) // 2 + number * line), text, size, theme.text, title_width, "right")
        for time, x in zip(shown, lefts, strict=True):
            if time >= context or not np.isnan(panel.frames[time]).all():  # nobody expects a forecast of what was observed
                page.paste(Image.fromarray(painter.paint(panel, time)), (x, y))
            if panel.notes:
                write(page, (x, y + height), panel.notes[time], size, theme.text, width, "centre")
    if context:
        observed = [x for time, x in zip(shown, lefts, strict=True) if time < context]
        for tag, colour, group in zip(TAGS, (theme.observed, theme.forecast), (observed, lefts[len(observed) :]), strict=True):
            if group:
                length = group[-1] + width - group[0]
                write(page, (group[0], margin), tag, size, theme.text, length)
                ImageDraw.Draw(page).rectangle((group[0], margin + line, group[0] + length - 1, margin + line + gap - 1), fill=colour)
    if pixel_km is not None:
        write_scale(page, (left, bottom + gap), pixel_km / painter.scale, width, size, theme.text)
    for image in legends:
        page.paste(image, (right, top - line))
        right += image.width + margin
    return page


def _title_lines(title: str, width: int, size: int, at_most: int) -> list[str]:
    """Return the lines of a title, the last of which holds all that there is no room for."""
    lines = wrapped(title, width, size)
    return lines if len(lines) <= at_most else [*lines[: at_most - 1], " ".join(lines[at_most - 1 :])]
