"""Which memories an eidetic recall looks at, as a table in colours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stpredict.errors import UserError
from stpredict.files import whole_file
from stpredict.render.curves import png_path

_WRITTEN_UP_TO = 12


def save_recall(tables: Mapping[str, NDArray[np.float64]], path: str | Path, title: str, context: int) -> Path:
    """Draw shares of attention to a PNG file: a table for each layer, its rows the steps, its columns the memories.

    Args:
        tables: layer -> ``(S, S)``: column 0 is the memory before the first frame, column k that which step k - 1 made; NaN is left blank.
        path: a ``.png`` file, written whole or not at all.
        title: stands above.
        context: observed frames; a line parts what was made of them from what was made of forecasts.

    Returns:
        The path.

    Raises:
        UserError: there is no table, the suffix is not ``.png``, or the folder does not exist.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    path = png_path(path)
    if not tables:
        raise UserError(f"There is no recall to draw in '{path}'")
    steps = len(next(iter(tables.values())))
    side = min(max(3.2, 0.42 * steps), 7.0)
    figure = Figure(figsize=(side * len(tables) + 1.6, side + 0.9), dpi=120, layout="constrained")
    axes = figure.subplots(1, len(tables), squeeze=False, sharey=True)[0]
    highest = max(float(np.nanmax(table)) for table in tables.values())
    for axis, (layer, table) in zip(axes, tables.items(), strict=True):
        image = axis.imshow(table, cmap=colormaps["viridis"], vmin=0.0, vmax=highest, interpolation="nearest")
        for row, column in np.argwhere(np.isfinite(table)) if steps <= _WRITTEN_UP_TO else ():
            share = float(table[row, column])
            ink = "black" if share > 0.6 * highest else "white"
            axis.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=8, color=ink)
        axis.axhline(context - 0.5, color="#d55e00", linewidth=1.4)
        axis.axvline(context + 0.5, color="#d55e00", linewidth=1.4)
        for words, side_of, shift in (("observed", "right", -0.15), ("forecast", "left", 0.15)):
            place = (context + 0.5 + shift, 1.01)
            axis.text(*place, words, transform=axis.get_xaxis_transform(), ha=side_of, va="bottom", fontsize=9, color="#666666")
        axis.set_title(layer, fontsize=10, pad=18)
        axis.set_xlabel("memory made at frame", fontsize=9)
        for ticks in (axis.xaxis, axis.yaxis):
            ticks.set_major_locator(MaxNLocator(nbins=min(steps, 10), integer=True))
        axis.xaxis.set_major_formatter(lambda value, _: "before" if value == 0 else f"{value:g}")
        axis.yaxis.set_major_formatter(lambda value, _: f"{value + 1:g}")
        axis.tick_params(labelsize=9, length=2)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("looked at when fed frame", fontsize=9)
    bar = figure.colorbar(image, ax=list(axes), shrink=0.8, format=lambda value, _: f"{100 * value:.0f} %")
    bar.set_label("share of attention", fontsize=9)
    bar.ax.tick_params(labelsize=9)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")
    return path
