"""From one frame of a panel to a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stpredict.render.colours import ColourMap, error_colours, round_up, value_colours
from stpredict.render.page import DARK, Theme, hatch, legend, line_height, text_size, text_width, write
from stpredict.render.panels import Panel, evenly


@dataclass(frozen=True, eq=False)
class Painter:
    """Draws frames by colour maps, enlarged without blur.

    Attributes:
        values: the colours of values.
        errors: the colours of errors.
        levels: the levels of red, green and blue.
        scale: pixels of a picture for one pixel of a frame, in each direction.
        flip: whether row 0 of a frame is shown at the bottom.
    """

    values: ColourMap
    errors: ColourMap
    levels: ColourMap
    scale: int
    flip: bool

    def paint(self, panel: Panel, time: int) -> NDArray[np.uint8]:
        """Return frame ``time`` of a panel as a picture ``(H * scale, W * scale, 3)``."""
        frame = panel.frames[time, :, ::-1] if self.flip else panel.frames[time]
        missing = np.asarray(np.isnan(frame).any(axis=0))
        if missing.all():
            return _empty_picture(missing.shape[0] * self.scale, missing.shape[1] * self.scale)
        if panel.kind == "error":
            colours = self.errors.paint(frame[0])
        elif len(frame) == 1:
            colours = self.values.paint(frame[0])
        else:
            colours = self.levels.classes(frame).astype(np.uint8).transpose(1, 2, 0)
        picture = self._enlarge(colours)
        if missing.any():
            where = self._enlarge(missing.astype(np.uint8)).view(np.bool_)
            picture[where] = hatch(*picture.shape[:2])[where]
        return picture

    def _enlarge(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return picture.repeat(self.scale, axis=0).repeat(self.scale, axis=1)


def make_painter(
    panels: Sequence[Panel], units: str, value_range: tuple[float, float], colours: str, scale: int, row_origin: str
) -> Painter:
    """Return the painter of these panels; all panels of errors share one range, so that they can be compared.

    That range is the span of the values; where these have steps of their own, it is the 99.5th percentile of the errors.
    """
    values = value_colours(colours, units, value_range)
    extent = _error_extent(panels, values.ticks[0][0]) if values.stepped else value_range[1] - value_range[0]
    return Painter(values, error_colours(extent), value_colours("gray", "1", value_range), scale, row_origin == "south")


def draw_legends(painter: Painter, panels: Sequence[Panel], units: str, size: int, height: int, theme: Theme) -> list[Image.Image]:
    """Return the legends that these panels need: of values unless their units are 1, and of errors.

    Their bars are ``height`` pixels high, or more where that is too little for their ticks.
    """
    height = max(height, 6 * line_height(size))
    errors = any(panel.kind == "error" for panel in panels)
    values = units != "1" and any(panel.kind == "value" and panel.frames.shape[1] == 1 for panel in panels)
    missing = any(_has_gaps(panel) for panel in panels)
    legends = []
    if values:
        legends.append(legend(units, painter.values, size, height, theme, missing))
    if errors:
        heading = "error" if units == "1" else f"error {units}"
        legends.append(legend(heading, painter.errors, size, height, theme, missing and not values))
    return legends


def _error_extent(panels: Sequence[Panel], least: float) -> float:
    """Return a round number above nearly all errors of some frames, not below ``least``."""
    errors = [panel.frames[evenly(len(panel.frames), 32)] for panel in panels if panel.kind == "error"]
    sizes = np.abs(np.concatenate([frames[np.isfinite(frames)] for frames in errors])) if errors else np.zeros(0)
    return round_up(max(least, float(np.percentile(sizes, 99.5)) if sizes.size else 0.0))


def _has_gaps(panel: Panel) -> bool:
    """Return whether a frame of the panel is missing in part."""
    shares = np.isnan(panel.frames).any(axis=1).mean(axis=(1, 2))
    return bool(((shares > 0) & (shares < 1)).any())


@cache
def _empty_picture(height: int, width: int) -> NDArray[np.uint8]:
    """Return what is shown where a panel has no frame at all."""
    image = Image.fromarray(hatch(height, width))
    words, size = "no frame", text_size(height, width)
    line, length = line_height(size), min(width, text_width(words, size) + size)
    left, top = (width - length) // 2, (height - line) // 2
    image.paste(DARK.paper, (left, top - size // 4, left + length, top + line + size // 4))
    write(image, (left, top), words, size, DARK.text, length, "centre")
    return np.asarray(image)
