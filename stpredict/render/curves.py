"""Curves of training: losses against the step, the learning rate below."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from stpredict.errors import UserError
from stpredict.files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")


def save_curves(columns: Mapping[str, Sequence[tuple[int, float]]], path: str | Path, title: str) -> Path:
    """Draw a curve for each column to a PNG file.

    Args:
        columns: name -> (step, value) pairs. ``learning_rate`` is drawn below, all others together; the axis of these is logarithmic
            where all of their values are positive. Values that are not finite leave a gap.
        path: a ``.png`` file, written whole or not at all.
        title: stands above.

    Returns:
        The path.

    Raises:
        UserError: there is nothing to draw, the suffix is not ``.png``, or the folder does not exist.
    """
    from matplotlib.figure import Figure

    path = png_path(path)
    curves = {name: points for name, points in columns.items() if points and name != "learning_rate"}
    rates = columns.get("learning_rate")
    if not curves:
        raise UserError(f"There is no curve to draw in '{path}': no column has a value")

    figure = Figure(figsize=(8, 5.5 if rates else 4.5), dpi=120, layout="constrained")
    ratios = [3.5, 1] if rates else [1]
    axes = figure.subplots(len(ratios), 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
    for (name, points), colour in zip(curves.items(), cycle(COLOURS), strict=False):
        steps, values = zip(*points, strict=True)
        few = len(points) < 40
        axes[0].plot(steps, values, label=name.replace("_", " "), color=colour, linewidth=1.4, marker="o" if few else None, markersize=3)
    finite = [value for points in curves.values() for _, value in points if math.isfinite(value)]
    if finite and min(finite) > 0:
        axes[0].set_yscale("log")
    axes[0].set_title(title, loc="left", fontsize=11)
    axes[0].legend(frameon=False, fontsize=9)
    if rates:
        axes[1].plot(*zip(*rates, strict=True), color="#555555", linewidth=1.2)
        axes[1].set_ylabel("learning rate", fontsize=9)
    for axis in axes:
        tidy(axis)
    axes[-1].set_xlabel("step", fontsize=9)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")
    return path


def png_path(path: str | Path) -> Path:
    """Return the path of a picture of curves.

    Raises:
        UserError: the suffix is not ``.png``, or the folder does not exist.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise UserError(f"Curves are drawn to a .png file, not to '{path}'")
    if not path.parent.is_dir():
        raise UserError(f"There is no folder '{path.parent}' to write '{path.name}' in; make it first")
    return path


def tidy(axis: Axes) -> None:
    """Give an axis thin lines to read values by, and take away what is not needed."""
    axis.grid(True, which="major", color="#dddddd", linewidth=0.6)
    axis.tick_params(which="both", labelsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_axisbelow(True)
