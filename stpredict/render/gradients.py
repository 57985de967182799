"""Curves of gradients back through time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from stpredict.errors import UserError
from stpredict.files import whole_file
from stpredict.render.curves import COLOURS, png_path, tidy

_LINES, _MARKERS = ("-", "--", ":", "-."), "osD^vPX"


def save_gradients(
    curves: Mapping[tuple[str, str], Sequence[float]], path: str | Path, title: str, horizon: int | None = None, *, relative: bool = False
) -> Path:
    """Draw norms of gradients against the lag to a PNG file, on a logarithmic axis.

    Args:
        curves: (predictor, layer) -> norm at lag 0, 1, ...; values that are not finite, or zero, leave a gap. The layer is empty where
            a curve is of all. A predictor has a colour and a layer a kind of line; layers of a single predictor differ in colour too.
        path: a ``.png`` file, written whole or not at all.
        title: stands above.
        horizon: forecast frames; steps at lags from there on are told apart as those of the context.
        relative: draw each value as a share of the first of its curve that is there.

    Returns:
        The path.

    Raises:
        UserError: no value can be drawn, the suffix is not ``.png``, or the folder does not exist.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    path = png_path(path)
    shown = {name: _drawable(values, relative) for name, values in curves.items()}
    shown = {name: values for name, values in shown.items() if not all(map(math.isnan, values))}
    if not shown:
        raise UserError(f"There is no gradient to draw in '{path}': all are zero or not finite")

    figure = Figure(figsize=(9, 4.8), dpi=120, layout="constrained")
    axis = figure.subplots()
    predictors = list(dict.fromkeys(predictor for predictor, _ in shown))
    layers = sorted({layer for _, layer in shown})
    for predictor, layer in shown:
        number = layers.index(layer)
        axis.plot(
            range(len(shown[predictor, layer])),
            shown[predictor, layer],
            linestyle=_LINES[number % len(_LINES)],
            marker=_MARKERS[number % len(_MARKERS)],
            color=COLOURS[(predictors.index(predictor) if len(predictors) > 1 else number) % len(COLOURS)],
            label=f"{predictor} {layer}".strip(),
            linewidth=1.6,
            markersize=4,
        )
    longest = max(map(len, shown.values()))
    if horizon is not None and 0 < horizon < longest:
        axis.axvspan(horizon - 0.5, longest - 0.5, color="#f3f3f3", linewidth=0, zorder=0)
        for words, side, shift in (("steps of the context", "left", 0.1), ("steps of the forecast", "right", -0.1)):
            place = (horizon - 0.5 + shift, 1.01)
            axis.text(*place, words, transform=axis.get_xaxis_transform(), ha=side, va="bottom", fontsize=9, color="#666666")
    axis.set_xlim(-0.5, longest - 0.5)
    axis.set_yscale("log")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_title(title, loc="left", fontsize=11, pad=20)
    axis.set_xlabel("lag: steps back from the one that makes the last frame", fontsize=9)
    axis.set_ylabel("norm of d loss / d h" + (", as a share of its first" if relative else ""), fontsize=9)
    tidy(axis)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")
    return path


def _drawable(values: Sequence[float], relative: bool) -> list[float]:
    """Return the values, or shares of the first of them, with NaN for what a logarithmic axis cannot show."""
    positive = [value if math.isfinite(value) and value > 0 else math.nan for value in values]
    first = next((value for value in positive if not math.isnan(value)), math.nan)
    return [value / first for value in positive] if relative else positive
