"""Plots of figures: a roofline, and costs against sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle, product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.scaling import COSTS
from benchmarks.timing import Row
from stpredict.files import whole_file
from stpredict.render.curves import COLOURS, png_path, tidy

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = "osD^vPX*<>hd"
_CROWD = 6
"""From so many series on, exponents beside them would hide one another."""

_LABELS = {
    "frames": "frames of a clip",
    "pixels": "pixels of a frame",
    "clips": "clips at a time",
    "seconds": "seconds",
    "activation_mib": "activation memory, MiB",
}


def save_scaling(rows: Sequence[Row], path: str | Path, title: str) -> Path:
    """Draw the rows of ``scaling`` to a PNG file: costs against sizes, both logarithmic.

    Dashed beside each series lies the straight line nearest to it, and unless there are many, at its end stands the exponent.

    Args:
        rows: as the benchmark makes them; points that were not measured are left out.
        path: a ``.png`` file, written whole or not at all.
        title: stands above.

    Returns:
        The path.

    Raises:
        UserError: the suffix is not ``.png``, or the folder does not exist.
    """
    path = png_path(path)
    along = list(dict.fromkeys(row["along"] for row in rows))
    names = list(dict.fromkeys(_name_of(row, rows) for row in rows))
    figure = _figure(4.2 * len(along) + 2.4, 3.2 * len(COSTS) + 0.6)
    axes = figure.subplots(len(COSTS), len(along), squeeze=False)
    shown: dict[str, Artist] = {}
    for line, cost in zip(axes, COSTS, strict=True):
        for axis, size in zip(line, along, strict=True):
            for name, (marker, colour) in zip(names, cycle(product(_MARKERS, COLOURS)), strict=False):
                points = [row for row in rows if (row["along"], _name_of(row, rows)) == (size, name) and row[cost] is not None]
                if points:
                    shown[name] = _series(axis, points, cost, colour, marker)
                if points and len(names) < _CROWD and points[-1][f"{cost}_exponent"] is not None:
                    text, place = f"{points[-1][f'{cost}_exponent']:.2f}", (points[-1]["size"], points[-1][cost])
                    axis.annotate(text, place, xytext=(4, 0), textcoords="offset points", color=colour, fontsize=8)
            if axis.lines:
                _logarithmic(axis, _LABELS[size], _LABELS[cost])
            else:
                axis.set_axis_off()
    figure.legend(shown.values(), shown.keys(), loc="outside right upper", frameon=False, fontsize=9)
    return _save(figure, path, title)


def _series(axis: Axes, points: Sequence[Row], cost: str, colour: str, marker: str) -> Artist:
    """Draw the points of a series, and the line nearest to them if there is one; return the points."""
    sizes = [row["size"] for row in points]
    (drawn,) = axis.plot(sizes, [row[cost] for row in points], color=colour, marker=marker, markersize=4, linewidth=1.4)
    if points[-1][f"{cost}_line"] is not None:
        axis.plot(sizes, [row[f"{cost}_line"] for row in points], color=colour, linestyle="--", linewidth=1.0)
    return drawn


def _name_of(row: Row, rows: Sequence[Row], keys: Sequence[str] = ("work", "precision", "kernels", "recompute")) -> str:
    """Return what tells the series of a row from the others: its name, and whatever else differs between rows."""
    others = [key for key in keys if len({one.get(key) for one in rows}) > 1]
    return ", ".join(str(row[key]) for key in ("name", *others))


def save_roofline(rows: Sequence[Row], peaks: Mapping[str, float], bandwidth: float, path: str | Path, title: str) -> Path:
    """Draw the rows of ``step`` or ``inference`` to a PNG file: rates against intensity, below what the machine does at most.

    Colours tell precisions, marks all else; batch sizes of the same are joined.

    Args:
        rows: as the benchmark makes them; those without figures are left out.
        peaks: precision -> operations a second of large products.
        bandwidth: bytes a second of large copies.
        path: a ``.png`` file, written whole or not at all.
        title: stands above.

    Returns:
        The path.

    Raises:
        UserError: the suffix is not ``.png``, or the folder does not exist.
    """
    path = png_path(path)
    points = [row for row in rows if row["tflops"] is not None and row["intensity"] is not None]
    figure = _figure(8.6, 5.0)
    axis = figure.subplots()
    ridges = [peak / bandwidth for peak in peaks.values()]
    intensities = [*ridges, *(row["intensity"] for row in points)]
    reach = np.sort([min(intensities) / 4.0, *ridges, max(intensities) * 4.0])
    colours = dict(zip(peaks, cycle(COLOURS), strict=False))
    for precision, peak in peaks.items():
        roof = np.minimum(peak, reach * bandwidth) / 1e9
        axis.plot(reach, roof, color=colours[precision], linewidth=1.4, label=f"{precision}: {peak / 1e9:,.0f} GFLOP/s at most")
    kinds = list(dict.fromkeys(_name_of(row, rows, ("kernels", "recompute")) for row in points))
    markers = dict(zip(kinds, cycle(_MARKERS), strict=False))
    for name in dict.fromkeys(_name_of(row, rows) for row in points):
        series = [row for row in points if _name_of(row, rows) == name]
        places = [row["intensity"] for row in series], [row["tflops"] * 1e3 for row in series]
        colour, marker = colours[series[0]["precision"]], markers[_name_of(series[0], rows, ("kernels", "recompute"))]
        axis.plot(*places, label=name, color=colour, marker=marker, linewidth=0.8, linestyle=":", markersize=6)
    _logarithmic(axis, f"operations for each byte; slope: copies of {bandwidth / 1e9:,.0f} GB/s", "GFLOP/s")
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return _save(figure, path, title)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def _logarithmic(axis: Axes, across: str, upward: str) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_minor_formatter(NullFormatter())
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter(lambda value, _: f"{value:,g}")
    axis.set_xlabel(across, fontsize=9)
    axis.set_ylabel(upward, fontsize=9)
    tidy(axis)


def _save(figure: Figure, path: Path, title: str) -> Path:
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")
    return path
