"""Writing films: what a user gives is checked, drawn and encoded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from stpredict.errors import UserError, nearest
from stpredict.files import whole_file
from stpredict.render.colours import value_colours
from stpredict.render.geography import Geography
from stpredict.render.layout import FilmLayout
from stpredict.render.painter import make_painter
from stpredict.render.panels import Panel, check_panels, evenly, in_rows, one_line
from stpredict.render.paper import THEMES
from stpredict.render.strip import draw_strip
from stpredict.render.writers import WRITERS
from stpredict.render.written import Film

_STRIP_COLUMNS = 12
_SHORTER_SIDE = 256
_USUAL_WIDTH, _USUAL_HEIGHT = 1600, 1000
_GREATEST_SIDE = 15000


def save_film(
    panels: Sequence[Panel] | Mapping[str, Any],
    path: str | Path,
    *,
    units: str = "1",
    value_range: tuple[float, float] = (0.0, 1.0),
    context: int = 0,
    captions: Sequence[str] | None = None,
    notes: Mapping[str, Sequence[str]] | None = None,
    colours: str = "auto",
    scale: int | None = None,
    frames_per_second: float = 5.0,
    hold: float = 0.0,
    theme: Literal["dark", "light"] | None = None,
    row_origin: Literal["north", "south"] = "north",
    geography: Geography | None = None,
) -> Film:
    """Write a film, or a strip of pictures, that shows panels side by side.

    The suffix of ``path`` says what is written: ``.mp4`` (H.264 that browsers play), ``.webm`` (VP9), ``.gif``, ``.webp``, or
    ``.png``: a strip for papers with a row for each panel and a column for each of at most 12 frames.

    Args:
        panels: panels of equal T, H and W, or title -> array ``(T, C, H, W)`` or ``(T, H, W)``, or, for several rows such as those of
            several clips, row -> title -> array; physical values, NaN = missing.
        path: the file to write; its folder must exist. It is written whole or not at all.
        units: of the values; a legend is drawn unless they are ``1``.
        value_range: the values of the first and last colour of ``gray``, ``viridis`` and of red, green and blue. Errors are shown
            over the span of it on both sides of 0.
        context: how many frames are observed; a border tells them from forecast ones. 0: no border tells anything.
        captions: a line for each frame; in a strip it is broken where it has two or more spaces.
        notes: title -> a line for each frame, such as its score, which is written under the frames of panels of that title.
        colours: ``gray`` or ``viridis``; by classes ``rain`` or ``pysteps`` (mm/h), ``reflectivity`` (dBZ), ``accumulation`` (mm), ``vil``
            (kg/m2) or ``vil_pixels`` (SEVIR's pixel values); ``auto``: by the units; ``safe``: the classes of the units, in colours
            that the colour-blind can tell apart as well.
        scale: how many pixels wide and high a pixel of a frame becomes; by default whatever suits a screen.
        frames_per_second: speed of the film; 1 or 2 are slow motion.
        hold: seconds for which the last observed frame stands before the forecast begins.
        theme: ``dark`` or ``light`` paper; None: dark for a film, light for a strip.
        row_origin: ``south`` where row 0 is the southernmost; such frames are turned over for display.
        geography: where the pixels lie: a bar tells the scale, and lines are drawn over the pictures.

    Returns:
        The path, which knows how large and long the film is, and shows it in a notebook.

    Raises:
        UserError: the panels do not fit together, an argument has an impossible value, the suffix is unknown, the folder does not
            exist, or a library that the format needs is not installed.
        OSError: the file could not be written whole.
    """
    path = Path(path)
    check_settings(path, colours=colours, frames_per_second=frames_per_second, hold=hold, theme=theme)
    films = check_panels(panels if notes is None else _with_notes(check_panels(panels), notes))
    count, _, height, width = films[0].frames.shape
    if not (math.isfinite(value_range[0]) and math.isfinite(value_range[1]) and value_range[0] < value_range[1]):
        raise UserError(f"value_range needs a finite low < high, not {value_range[0]} and {value_range[1]}")
    if not 0 <= context <= count:
        raise UserError(f"context is {context}, but the film has {count} frames; it must lie in 0 to {count}")
    if captions is not None and len(captions) != count:
        raise UserError(f"There are {len(captions)} captions for {count} frames; give one for each frame")
    if row_origin not in ("north", "south"):
        raise UserError(f"row_origin must be 'north' or 'south', not '{row_origin}'")
    suffix = path.suffix.lower()
    strip = suffix == ".png"
    theme = theme or ("light" if strip else "dark")

    shown = evenly(count, _STRIP_COLUMNS)
    rows = in_rows(films).values()
    across, down = (len(shown), len(films)) if strip else (max(map(len, rows)), len(rows))
    if scale is None:
        room = _USUAL_WIDTH // (across * width)
        room = room if strip or down == 1 else min(room, _USUAL_HEIGHT // (down * height))
        scale = max(1, min(-(-_SHORTER_SIDE // min(height, width)), room))
    if scale < 1 or max(across * width, down * height) * scale > _GREATEST_SIDE:
        raise UserError(
            f"{across} x {down} pictures of {width} x {height} pixels, enlarged {scale} times, give no picture of 1 to {_GREATEST_SIDE} "
            "pixels a side; choose another scale or fewer panels"
        )
    lines, pixel_km = (geography.lines, geography.pixel_km) if geography else ((), None)
    painter = make_painter(films, units, value_range, colours, scale, row_origin, lines)
    words = _plain_captions(count, context) if captions is None else [one_line(caption) for caption in captions]
    with whole_file(path) as temporary:
        # An unwritable folder is found before anything is drawn.
        temporary.touch()
        if strip:
            image = draw_strip(films, painter, units, context, words, shown, pixel_km, THEMES[theme])
            image.save(temporary)
            return Film.of(path, len(shown), image.width, image.height, 0.0)
        layout = FilmLayout(films, painter, units, context, words, pixel_km, THEMES[theme])
        times = _order(count, context, round(hold * frames_per_second))
        WRITERS[suffix](temporary, layout.picture, times, frames_per_second)
        return Film.of(path, len(times), layout.width, layout.height, frames_per_second)


def check_settings(path: Path, *, colours: str, frames_per_second: float, hold: float, theme: str | None) -> None:
    """Refuse what :func:`save_film` would refuse whatever the panels are, before hours are spent on these.

    Raises:
        UserError: a value is impossible, the suffix is unknown, or the folder does not exist.
    """
    if path.suffix.lower() not in (*WRITERS, ".png"):
        raise UserError(f"'{path}' names no known format; give it one of the suffixes {', '.join(sorted((*WRITERS, '.png')))}")
    if not path.parent.is_dir():
        raise UserError(f"There is no folder '{path.parent}' to write '{path.name}' in; make it first")
    value_colours(colours, "1", (0.0, 1.0))
    if not 0.01 <= frames_per_second <= 1000:
        raise UserError(f"frames_per_second must lie in 0.01 to 1000, not {frames_per_second}")
    if not 0 <= hold <= 60:
        raise UserError(f"hold must lie in 0 to 60 seconds, not {hold}")
    if theme is not None and theme not in THEMES:
        raise UserError(f"There is no theme '{theme}'{nearest(theme, THEMES)}")


def _with_notes(panels: Sequence[Panel], notes: Mapping[str, Sequence[str]]) -> list[Panel]:
    titles = [panel.title for panel in panels]
    unknown = next((title for title in notes if title not in titles), None)
    if unknown is not None:
        raise UserError(f"There are notes for '{unknown}', but no such panel{nearest(unknown, titles)}")
    return [replace(panel, notes=notes.get(panel.title, panel.notes)) for panel in panels]


def _order(count: int, context: int, held: int) -> list[int]:
    """Return which frame is shown at each moment: the last observed one ``held`` times more, if a forecast follows it."""
    boundary = context if 0 < context < count else 0
    return [*range(boundary), *[boundary - 1] * (held if boundary else 0), *range(boundary, count)]


def _plain_captions(count: int, context: int) -> list[str]:
    return [f"lead {time - context + 1}" if 0 < context <= time else f"frame {time + 1} of {count}" for time in range(count)]
