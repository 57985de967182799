"""How frames are shown that have a frame spec: units, colours, captions; maps north up, with a scale and coasts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpredict.data.readers.projections import find_pyproj, geographic
from stpredict.errors import UserError
from stpredict.frames import FrameSpec, Grid
from stpredict.render import Film, Geography, Panel, save_film
from stpredict.render.geography import coast_lines, lines_in_pixels

_SEVIR_THRESHOLDS = (16.0, 74.0, 133.0, 160.0, 181.0, 219.0)
"""At which forecasts of SEVIR's pixel values, which have no units, are judged: they tell what these values are."""


def show_panels(
    panels: Sequence[Panel],
    spec: FrameSpec,
    out: str | Path,
    *,
    context: int,
    times: NDArray[np.datetime64] | None,
    grid: Grid | None = None,
    lines: bool = True,
    **settings: Any,
) -> Film:
    """Write panels as their frame spec says: units, colours, captions with lead and time; maps north up, with scale and coasts.

    Args:
        panels: what is shown; of frames of other than one or three channels the first channel.
        spec: what their numbers mean.
        out: the file, as :func:`stpredict.save_film` has it.
        context: observed frames.
        times: of the frames, or None.
        grid: stands in for the spec's where that has none.
        lines: whether coasts are drawn; not so where they are not the same in all panels.
        settings: further arguments of :func:`stpredict.save_film`.
    """
    length = len(panels[0].frames)
    words = [caption(step - context + 1, spec.time_step, None if times is None else times[step]) for step in range(length)]
    shown = [viewable(panel) for panel in panels]
    return save_film(shown, out, context=context, captions=words, **picture_settings(spec, grid, lines), **settings)


def viewable(panel: Panel) -> Panel:
    """Return a panel of frames that a picture can hold: of other than one or three channels the first, as its title then says."""
    channels = panel.frames.shape[1]
    if channels in (1, 3):
        return panel
    return replace(panel, title=f"{panel.title} (channel 1 of {channels})", frames=panel.frames[:, :1])


def picture_settings(spec: FrameSpec, grid: Grid | None, lines: bool = True) -> dict[str, Any]:
    """Return the arguments of :func:`stpredict.save_film` that say what the numbers of frames mean and where they lie."""
    grid = spec.grid or grid
    geography = find_geography(grid, spec.height, spec.width) if grid else None
    return {
        "units": "VIL, pixel value" if (spec.units, spec.thresholds) == ("1", _SEVIR_THRESHOLDS) else spec.units,
        "value_range": (spec.transform.low, spec.transform.high),
        "row_origin": grid.row_origin if grid else "north",
        "geography": geography if geography is None or lines else Geography(geography.pixel_km),
    }


def find_geography(grid: Grid, height: int, width: int) -> Geography:
    """Return how long a kilometre is in the middle of a grid of pixels, on the ground, and where its coasts and borders run.

    Where pyproj is not installed, or the projection is none that it may use, a metre of the projection counts as one on the ground, and
    there are no lines.
    """
    left, bottom, right, top = grid.corners
    across, middle, level = (right - left) / width, (left + right) / 2, (bottom + top) / 2
    pyproj = find_pyproj()
    try:
        ends = geographic(pyproj, grid.projection, [(middle - across / 2, level), (middle + across / 2, level)]) if pyproj else []
    except UserError:
        ends = []
    if pyproj is None or not ends:
        degrees = max(abs(edge) for edge in grid.corners) <= 360
        return Geography(None if degrees else across / 1000)
    *_, metres = pyproj.Geod(ellps="WGS84").inv(*ends[0], *ends[1])
    lines = lines_in_pixels(coast_lines(), grid, height, width, pyproj.Proj(grid.projection))
    return Geography(metres / 1000 if metres > 0 else None, lines)


def caption(lead: int, time_step: float | None, time: np.datetime64 | None) -> str:
    """Say which frame this is: its lead, with the lead time where frames have a clock, and its time where it has one.

    An observed frame has no lead, and the film says by itself that it is observed.
    """
    words = [f"lead {lead}"] if lead >= 1 else []
    if time_step is not None and lead >= 1:
        words.append(f"+{span(lead * time_step)}")
    if time is not None:
        words.append(str(time.astype("datetime64[m]")).replace("T", " ") + " UTC")
    return "  ".join(words)


def span(seconds: float) -> str:
    """Return a length of time in words."""
    return f"{round(seconds, 3):g} s" if seconds < 60 else f"{round(seconds / 60, 3):g} min"
