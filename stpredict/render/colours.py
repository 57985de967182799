"""Which colour a value has.

Every map has a dark ground, the colour of nothing (black, no rain, no error), so that panels of all kinds stand side by side
and what happens in them lights up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from stpredict.errors import UserError, nearest

_NAMES = ("auto", "gray", "rain", "reflectivity", "viridis")

_GROUND = "#12151a"

# Thresholds in mm/h, each twice the last, as weather services use them. The colours are nine even samples (0.08 to 0.93) of Turbo,
# a rainbow of smooth lightness (A. Mikhailov, "Turbo, an improved rainbow colormap for visualization", Google AI blog, 2019);
# the last class is radar's customary magenta.
RAIN_STEPS = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
_RAIN = ("#424bb5", "#4391fe", "#1ad2d2", "#46f884", "#a7fc3a", "#e7d739", "#fe992c", "#e84b0c", "#af1801", "#e832c8")

# The palette of the United States National Weather Service, a colour every 5 dBZ, as in MetPy's table NWSReflectivity;
# the last class is white, as on the service's own displays, since black means nothing here.
REFLECTIVITY_STEPS = tuple(float(step) for step in range(5, 80, 5))
_REFLECTIVITY = (
    "#00ecec", "#01a0f6", "#0000f6", "#00ff00", "#00c800", "#009000", "#ffff00", "#e7c000",
    "#ff9000", "#ff0000", "#d60000", "#c00000", "#ff00ff", "#9955c9", "#ffffff",
)  # fmt: skip

# Blue and red of the same lightness on both sides, L* rising evenly from the ground (7) over 28, 50 and 71 to 90 in CIELAB.
_DIVERGING = ("#c4e7fe", "#0fb9ff", "#0f7eb6", "#04466b", _GROUND, "#792519", "#cd4d2d", "#ff915e", "#fedcc7")


@dataclass(frozen=True, eq=False)
class ColourMap:
    """A lookup table from values to colours: ``colours[k]`` holds from ``edges[k-1]`` (included) to ``edges[k]`` (excluded).

    Attributes:
        edges: ``(N-1,)`` float32, increasing, in the units of the values.
        colours: ``(N, 3)`` uint8, red, green, blue.
        ticks: the values that a legend marks, each with its label.
        stepped: whether the classes are steps that matter in themselves, each a tick, not an even division of a range.
    """

    edges: NDArray[np.float32]
    colours: NDArray[np.uint8]
    ticks: tuple[tuple[float, str], ...]
    stepped: bool

    def classes(self, values: NDArray[np.float32]) -> NDArray[np.intp]:
        """Return the row of :attr:`colours` for each value; NaN counts as the highest."""
        return np.searchsorted(self.edges, values, side="right")

    def paint(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return the colours ``(..., 3)`` of values of any shape."""
        return self.colours[self.classes(values)]

    def height_of(self, value: float) -> float:
        """Return where a value stands on a bar of equally high classes: 0 at its foot, 1 at its top."""
        count = len(self.colours)
        return float(np.interp(value, self.edges, np.arange(1, count) / count))


def value_colours(name: str, units: str, value_range: tuple[float, float]) -> ColourMap:
    """Return the colour map of a panel of values.

    Args:
        name: ``gray``, ``rain``, ``reflectivity``, ``viridis``, or ``auto``: by the units (``1``, ``mm/h``, ``dBZ``, any other).
        units: of the values.
        value_range: where ``gray`` and ``viridis`` begin and end; ``rain`` and ``reflectivity`` have steps of their own.

    Raises:
        UserError: there is no such colour map.
    """
    if name not in _NAMES:
        raise UserError(f"There is no colour map '{name}'{nearest(name, _NAMES)}")
    if name == "auto":
        name = {"1": "gray", "mm/h": "rain", "mm h-1": "rain", "dBZ": "reflectivity"}.get(units, "viridis")
    if name == "rain":
        return _stepped(RAIN_STEPS, _RAIN)
    if name == "reflectivity":
        return _stepped(REFLECTIVITY_STEPS, _REFLECTIVITY)
    levels = np.arange(256, dtype=np.uint8)
    if name == "gray":
        return _even(value_range, np.repeat(levels[:, None], 3, axis=1), _even_ticks(*value_range))
    viridis: NDArray[np.uint8] = cv2.applyColorMap(levels[:, None], cv2.COLORMAP_VIRIDIS)[:, 0, ::-1].astype(np.uint8)
    return _even(value_range, viridis, _even_ticks(*value_range))


def error_colours(extent: float) -> ColourMap:
    """Return the diverging colour map over ``-extent .. extent``: blue too little, red too much, dark none."""
    anchors = _rgb(_DIVERGING).astype(np.float64)
    places = np.linspace(0, len(anchors) - 1, 257)
    colours = np.stack([np.interp(places, np.arange(len(anchors)), anchors[:, channel]) for channel in range(3)], axis=1)
    ticks = tuple((share * extent, f"{share * extent:+g}" if share else "0") for share in (-1.0, -0.5, 0.0, 0.5, 1.0))
    return _even((-extent, extent), colours.round().astype(np.uint8), ticks)


def round_up(value: float) -> float:
    """Return the least of 1, 2, 5, 10, 20, 50, ... and their tenths that is not below a positive value."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= value * (1 - 1e-9))


def _stepped(steps: tuple[float, ...], colours: tuple[str, ...]) -> ColourMap:
    return ColourMap(np.array(steps, dtype=np.float32), _rgb((_GROUND, *colours)), tuple((step, f"{step:g}") for step in steps), True)


def _even(value_range: tuple[float, float], colours: NDArray[np.uint8], ticks: tuple[tuple[float, str], ...]) -> ColourMap:
    """Return a map that gives each value the nearest of evenly spaced levels, the first and last at the ends of the range."""
    low, high = value_range
    last = len(colours) - 1
    edges = low + (np.arange(last) + 0.5) / last * (high - low)
    return ColourMap(edges.astype(np.float32), colours, ticks, False)


def _even_ticks(low: float, high: float) -> tuple[tuple[float, str], ...]:
    """Return up to six round values of a range with their labels."""
    step = round_up((high - low) / 5)
    values = (multiple * step for multiple in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1))
    return tuple((value, f"{value:g}") for value in values)


def _rgb(colours: tuple[str, ...]) -> NDArray[np.uint8]:
    return np.array([list(bytes.fromhex(colour.removeprefix("#"))) for colour in colours], dtype=np.uint8)
