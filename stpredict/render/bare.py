"""Pictures without anything around them, each panel a film of its own, for pages that set titles and controls themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stpredict.files import whole_file
from stpredict.render.geography import Geography
from stpredict.render.painter import Painter, draw_legends, make_painter
from stpredict.render.panels import Panel, check_panels
from stpredict.render.paper import DARK, text_size
from stpredict.render.writers import keys_only_suffix, write_keys_only

_SHORTER_SIDE = 256
_LONGEST_SIDE = 400
_MARGIN = 8


@dataclass(frozen=True)
class BareFilms:
    """What :func:`save_bare_films` wrote.

    Attributes:
        files: a film for each panel.
        legends: a heading and a picture for each colour map that was used.
        width: of each film, in pixels.
        height: of each film, in pixels.
    """

    files: tuple[Path, ...]
    legends: tuple[tuple[str, Path], ...]
    width: int
    height: int


def save_bare_films(
    panels: Sequence[Panel],
    folder: Path,
    stem: str,
    *,
    units: str = "1",
    value_range: tuple[float, float] = (0.0, 1.0),
    colours: str = "auto",
    scale: int | None = None,
    frames_per_second: float = 5.0,
    row_origin: str = "north",
    geography: Geography | None = None,
) -> BareFilms:
    """Write each panel's pictures alone as a film, and legends as PNG: ``STEM-0.mp4``, ``STEM-1.mp4``, ..., ``STEM-legend-0.png``, ...

    All panels share their colours and the range of their errors. Every frame is a key frame, frame k is shown during
    ``[k, k + 1) / frames_per_second`` seconds, sides are even. The films are H.264, or VP9 (``.webm``) where there is no encoder of that.

    Args:
        panels: of equal T, H and W; physical values, NaN = missing.
        folder: where to write; it must exist.
        stem: how the names of all files begin.
        units: of the values; a legend of these is drawn unless they are ``1``.
        value_range: as :func:`stpredict.save_film` has it, like ``colours``, ``row_origin`` and ``geography``; its lines are shown.
        colours: of values.
        scale: how many pixels wide and high a pixel of a frame becomes; None: 1, 2, 4, ..., so that the shorter side becomes about 256
            pixels; a picture whose longer side is then above 400 is made smaller by a whole factor.
        frames_per_second: of the films.
        row_origin: which way the frames lie.
        geography: where they lie.

    Raises:
        UserError: the panels do not fit together.
        OSError: a file could not be written whole.
    """
    films = check_panels(panels)
    count, _, height, width = films[0].frames.shape
    # Codecs work on blocks of 4 x 4 pixels: a frame enlarged 3 times takes more bytes than one enlarged 4 times.
    doublings = min(round(math.log2(_SHORTER_SIDE / min(height, width))), math.floor(math.log2(_LONGEST_SIDE / max(height, width))))
    larger = 2 ** max(0, doublings) if scale is None else scale
    smaller = -(-max(height, width) // _LONGEST_SIDE) if scale is None else 1
    painter = make_painter(films, units, value_range, colours, larger, row_origin, geography.lines if geography else ())
    suffix, files = keys_only_suffix(), []
    for number, panel in enumerate(films):
        files.append(folder / f"{stem}-{number}{suffix}")
        with whole_file(files[-1]) as temporary:
            write_keys_only(temporary, partial(_picture, painter, panel, smaller), range(count), frames_per_second)
    shown = _picture(painter, films[0], smaller, 0).shape
    size = text_size(*shown[:2])
    legends: list[tuple[str, Path]] = []
    for heading, image in draw_legends(painter, films, units, size, min(shown[0], 24 * size), DARK).items():
        legends.append((heading, folder / f"{stem}-legend-{len(legends)}.png"))
        page = Image.new("RGB", (image.width + 2 * _MARGIN, image.height + 2 * _MARGIN), DARK.paper)
        page.paste(image, (_MARGIN, _MARGIN))
        with whole_file(legends[-1][1]) as temporary:
            page.save(temporary)
    return BareFilms(tuple(files), tuple(legends), shown[1], shown[0])


def _picture(painter: Painter, panel: Panel, smaller: int, time: int) -> NDArray[np.uint8]:
    """Return a frame's picture with even sides; what is added to make them so repeats the last row and column."""
    picture = painter.paint(panel, time)
    if smaller > 1:
        height, width, _ = picture.shape
        size = (max(1, width // smaller), max(1, height // smaller))
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    height, width, _ = picture.shape
    return np.asarray(cv2.copyMakeBorder(picture, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE), dtype=np.uint8)
