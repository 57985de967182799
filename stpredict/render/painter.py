"""From one frame of a panel to a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stpredict.render.colours import ColourMap, error_colours, round_up, value_colours
from stpredict.render.geography import draw_lines
from stpredict.render.panels import Panel, evenly, in_rows
from stpredict.render.paper import DARK, UNCOVERED, Theme, bar_height, hatch, legend, line_height, text_size, text_width, write

_LINE = (226, 229, 233)


@dataclass(frozen=True, eq=False)
class Painter:
    """Draws frames by colour maps, enlarged without blur.

    Attributes:
        values: the colours of values.
        errors: the colours of errors.
        levels: the levels of red, green and blue.
        scale: pixels of a picture for one pixel of a frame, in each direction.
        flip: whether row 0 of a frame is shown at the bottom.
        covered: ``(H, W)``, in the order of a frame's rows: False where nothing is ever seen.
        lines: coast lines and the like, in pixels of a frame as it is shown.
    """

    values: ColourMap
    errors: ColourMap
    levels: ColourMap
    scale: int
    flip: bool
    covered: NDArray[np.bool_]
    lines: tuple[NDArray[np.float64], ...] = ()

    def paint(self, panel: Panel, time: int) -> NDArray[np.uint8]:
        """Return frame ``time`` of a panel as a picture ``(H * scale, W * scale, 3)``."""
        frame = panel.frames[time, :, ::-1] if self.flip else panel.frames[time]
        missing = np.asarray(np.isnan(frame).any(axis=0))
        if missing.all():
            # Not hatched: what a predictor was not asked for is not missing.
            return _empty_picture(missing.shape[0] * self.scale, missing.shape[1] * self.scale)
        if panel.kind == "error":
            colours = self.errors.paint(frame[0])
        elif len(frame) == 1:
            colours = self.values.paint(frame[0])
        else:
            colours = self.levels.classes(frame).astype(np.uint8).transpose(1, 2, 0)
        covered = self.covered[::-1] if self.flip else self.covered
        gaps = missing.any()
        if gaps:
            colours[missing & ~covered] = UNCOVERED
        picture = self._enlarge(colours)
        if gaps:
            where = self._enlarge((missing & covered).astype(np.uint8))
            cv2.copyTo(hatch(*picture.shape[:2]), where, picture)
        if self.lines:
            picture[self._drawn] = _LINE
        return picture

    @cached_property
    def _drawn(self) -> NDArray[np.bool_]:
        """Which pixels of a picture have a line."""
        height, width = self.covered.shape
        return draw_lines(self.lines, height, width, self.scale)

    def _enlarge(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        # Columns first: whole rows are copied faster than single pixels.
        return picture.repeat(self.scale, axis=1).repeat(self.scale, axis=0)


def make_painter(
    panels: Sequence[Panel],
    units: str,
    value_range: tuple[float, float],
    colours: str,
    scale: int,
    row_origin: str,
    lines: tuple[NDArray[np.float64], ...] = (),
) -> Painter:
    """Return the painter of these panels; all panels of errors share one range, so that they can be compared.

    That range is the span of the values; where these have steps of their own, it is the 99.5th percentile of the errors.
    """
    values = value_colours(colours, units, value_range)
    extent = _error_extent(panels, values.ticks[0][0]) if values.stepped else value_range[1] - value_range[0]
    levels = value_colours("gray", "1", value_range)
    return Painter(values, error_colours(extent), levels, scale, row_origin == "south", _covered(panels), lines)


def draw_legends(painter: Painter, panels: Sequence[Panel], units: str, size: int, height: int, theme: Theme) -> dict[str, Image.Image]:
    """Return the legends that these panels need, by their headings: of values unless their units are 1, and of errors.

    Their bars are ``height`` pixels high, or more where that is too little for their ticks.
    """
    errors = any(panel.kind == "error" for panel in panels)
    values = units != "1" and any(panel.kind == "value" and panel.frames.shape[1] == 1 for panel in panels)
    missing = any((gap & painter.covered).any() for panel in panels for gap in _gaps(panel))
    keys = [*(["missing"] if missing else []), *([] if painter.covered.all() else ["no coverage"])]
    height = max(height, 6 * line_height(size), bar_height(len(painter.values.ticks), len(keys), size) if values else 0)
    legends = {}
    if values:
        legends[units] = legend(units, painter.values, size, height, theme, keys)
    if errors:
        heading = "error" if units == "1" else f"error {units}"
        legends[heading] = legend(heading, painter.errors, size, height, theme, [] if values else keys)
    return legends


def _error_extent(panels: Sequence[Panel], least: float) -> float:
    """Return a round number above nearly all errors of some frames, not below ``least``."""
    errors = [panel.frames[evenly(len(panel.frames), 32)] for panel in panels if panel.kind == "error"]
    sizes = np.abs(np.concatenate([frames[np.isfinite(frames)] for frames in errors])) if errors else np.zeros(0)
    return round_up(max(least, float(np.percentile(sizes, 99.5)) if sizes.size else 0.0))


def _gaps(panel: Panel) -> Iterator[NDArray[np.bool_]]:
    """Yield what is missing of each frame of which a part is, ``(H, W)``."""
    for frame in panel.frames:
        missing = np.asarray(np.isnan(frame).any(axis=0))
        if missing.any() and not missing.all():
            yield missing


def _covered(panels: Sequence[Panel]) -> NDArray[np.bool_]:
    """Return where something is seen at some time, ``(H, W)``: what is missing in every frame with a gap lies outside of the radar's reach.

    The first panel of each row tells it, since what was observed stands there; one such frame tells nothing.
    """
    never, count = np.ones(panels[0].frames.shape[2:], dtype=np.bool_), 0
    for first, *_ in in_rows(panels).values():
        for gap in _gaps(first) if first.kind == "value" else ():
            never &= gap
            count += 1
    return ~never if count > 1 else np.ones_like(never)


@cache
def _empty_picture(height: int, width: int) -> NDArray[np.uint8]:
    """Return what is shown where a panel has no frame at all."""
    image = Image.new("RGB", (width, height), UNCOVERED)
    words, size = "no frame", text_size(height, width)
    line, length = line_height(size), min(width, text_width(words, size) + size)
    left, top = (width - length) // 2, (height - line) // 2
    image.paste(DARK.paper, (left, top - size // 4, left + length, top + line + size // 4))
    write(image, (left, top), words, size, DARK.text, length, "centre")
    return np.asarray(image)
