"""What goes on inside a network, to look at: maps beside the frames, and their means over time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stpredict.errors import UserError
from stpredict.files import whole_file
from stpredict.render.colours import error_colours, value_colours
from stpredict.render.curves import COLOURS, png_path, tidy
from stpredict.render.panels import Panel

_MARKERS = "osD^vPX"


def map_panel(
    title: str, maps: NDArray[np.float64], value_range: tuple[float, float], *, bounded: bool, row: str = "", notes: tuple[str, ...] = ()
) -> Panel:
    """Return a panel of maps in colours of their own, which its title explains, to stand beside panels of frames.

    Values from 0 up are shown in viridis, values on both sides of 0 in the colours of errors.

    Args:
        title: what stands above it; the ends of the colours are added.
        maps: ``(S, H, W)``; a map that is NaN all over is shown as no frame.
        value_range: that of the panels of frames, in which red, green and blue are given.
        bounded: the colours end at 1, as gates do; otherwise at the greatest value, rounded up to two digits.
        row: as a :class:`Panel` has it.
        notes: as a :class:`Panel` has them.
    """
    finite = maps[np.isfinite(maps)]
    greatest = float(np.abs(finite).max()) if finite.size else 0.0
    end = 1.0 if bounded or greatest == 0.0 else _two_digits(greatest)
    signed = bool(finite.size) and float(finite.min()) < 0.0
    colours = error_colours(end) if signed else value_colours("viridis", "1", (0.0, end))
    low, high = value_range
    painted = low + (high - low) / 255 * colours.paint(maps.astype(np.float32)).astype(np.float32)
    painted[np.isnan(maps)] = np.nan
    return Panel(f"{title} {-end if signed else 0:g}..{end:g}", painted.transpose(0, 3, 1, 2).astype(np.float32), row=row, notes=notes)


def _two_digits(value: float) -> float:
    """Return the least number of two digits that is not below a positive value."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / unit - 1e-9) * unit:.2g}")


def save_inside_curves(
    curves: Mapping[str, Mapping[str, Sequence[float]]], path: str | Path, title: str, context: int, *, label: str, first: int = 1
) -> Path:
    """Draw means over time to a PNG file: an axis for each layer, on it a curve for each name.

    Args:
        curves: layer -> name -> a value for each step; NaN leaves a gap.
        path: a ``.png`` file, written whole or not at all.
        title: stands above.
        context: observed frames, which the first steps are fed; the steps after them are told apart.
        label: what the values are.
        first: the number of the first step.

    Returns:
        The path.

    Raises:
        UserError: there is no curve, the suffix is not ``.png``, or the folder does not exist.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    path = png_path(path)
    if not curves:
        raise UserError(f"There is no curve to draw in '{path}'")
    across = 2 if len(curves) == 4 else min(len(curves), 3)
    down = -(-len(curves) // across)
    figure = Figure(figsize=(4.2 * across + 1.6, 2.6 * down + 0.9), dpi=120, layout="constrained")
    axes = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    names = list(dict.fromkeys(name for named in curves.values() for name in named))
    handles = {}
    for place, (axis, (layer, named)) in enumerate(zip(axes.flat, curves.items(), strict=False)):
        for name, values in named.items():
            number = names.index(name)
            steps = range(first, first + len(values))
            look = {"color": COLOURS[number % len(COLOURS)], "marker": _MARKERS[number % len(_MARKERS)]}
            (handles[name],) = axis.plot(steps, values, label=name, linewidth=1.5, markersize=3.5, **look)
            axis.axvspan(first + context - 0.5, first + len(values) - 0.5, color="#f3f3f3", linewidth=0, zorder=0)
            axis.set_xlim(first - 0.5, first + len(values) - 0.5)
        axis.set_title(layer, fontsize=10, loc="left")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        tidy(axis)
        if place + across >= len(curves):  # nothing stands below it
            axis.set_xlabel("step; shaded: forecast", fontsize=9)
            axis.tick_params(labelbottom=True)
    for axis in axes.flat[len(curves) :]:
        axis.set_visible(False)
    for row in axes:
        row[0].set_ylabel(label, fontsize=9)
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")
    return path
