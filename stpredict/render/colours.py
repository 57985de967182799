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

_NAMES = ("accumulation", "auto", "gray", "pysteps", "rain", "reflectivity", "safe", "vil", "vil_pixels", "viridis")

_BY_UNITS = {
    "1": "gray",
    **dict.fromkeys(("mm/h", "mm h-1", "mm h**-1"), "rain"),
    "dBZ": "reflectivity",
    "mm": "accumulation",
    **dict.fromkeys(("kg/m2", "kg m-2", "kg m**-2"), "vil"),
    "VIL, pixel value": "vil_pixels",
}

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

# The classes that pysteps draws rain rates by.
PYSTEPS_STEPS = (0.08, 0.16, 0.25, 0.4, 0.63, 1.0, 1.6, 2.5, 4.0, 6.3, 10.0, 16.0, 25.0, 40.0, 63.0, 100.0, 160.0)
_PYSTEPS = (
    "#9c7e94", "#640064", "#af00af", "#dc00dc", "#3232c8", "#0064ff", "#009696", "#00c832", "#64ff00", "#96ff00",
    "#c8ff00", "#ffff00", "#ffc800", "#ffa000", "#ff7d00", "#e11900", "#8b0000",
)  # fmt: skip

# Sums in mm: the table of the National Weather Service's precipitation maps from 1 to 100 mm, and below it, half as bright as its first
# colour, what an hour of drizzle gives; the colours of greater sums are too dark for a dark ground.
ACCUMULATION_STEPS = (0.1, 1.0, 2.5, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 70.0, 100.0)
_ACCUMULATION = (
    "#286868", "#50d0d0", "#00ffff", "#00e080", "#00c000", "#80e000", "#ffff00", "#ffa000", "#ff0000", "#ff2080",
    "#f040ff", "#8020ff", "#4040ff",
)  # fmt: skip

# SEVIR's own classes of vertically integrated liquid, in its pixel values, and what these are in kg/m2, rounded; the scores of that
# data set are taken at six of them (M. Veillette, S. Samsi and C. Mattioli, NeurIPS 2020).
VIL_PIXEL_STEPS = (16.0, 31.0, 59.0, 74.0, 100.0, 133.0, 160.0, 181.0, 219.0)
VIL_STEPS = (0.15, 0.26, 0.53, 0.78, 1.5, 3.5, 7.1, 12.0, 32.0)
_VIL = ("#28be28", "#199619", "#0a690a", "#0a4b0a", "#f5f500", "#edac00", "#f06e00", "#a00000", "#e700ff")

_STEPPED = {
    "rain": (RAIN_STEPS, _RAIN),
    "pysteps": (PYSTEPS_STEPS, _PYSTEPS),
    "reflectivity": (REFLECTIVITY_STEPS, _REFLECTIVITY),
    "accumulation": (ACCUMULATION_STEPS, _ACCUMULATION),
    "vil": (VIL_STEPS, _VIL),
    "vil_pixels": (VIL_PIXEL_STEPS, _VIL),
}

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
        if self.stepped:
            return np.searchsorted(self.edges, values, side="right")
        # The edges are evenly spaced, so that a class is worked out, many times as fast as it is found.
        last = len(self.edges)
        with np.errstate(over="ignore", invalid="ignore"):  # a network that went wild, or a file's own NaN
            places: NDArray[np.float32] = np.asarray(values - self.edges[0])
            places *= (last - 1) / (self.edges[-1] - self.edges[0])
            places += 1
            np.fmin(places, last, out=places)
            np.maximum(places, 0, out=places)
        return places.astype(np.intp)

    def paint(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return the colours ``(..., 3)`` of values of any shape."""
        return self.colours.take(self.classes(values), axis=0)

    def height_of(self, value: float) -> float:
        """Return where a value stands on a bar of equally high classes: 0 at its foot, 1 at its top."""
        count = len(self.colours)
        return float(np.interp(value, self.edges, np.arange(1, count) / count))


def value_colours(name: str, units: str, value_range: tuple[float, float]) -> ColourMap:
    """Return the colour map of a panel of values.

    Args:
        name: ``gray`` or ``viridis``; by classes ``rain`` or ``pysteps`` (mm/h), ``reflectivity`` (dBZ), ``accumulation`` (mm), ``vil``
            (kg/m2) or ``vil_pixels`` (SEVIR's pixel values); ``auto``: by the units, ``1`` gray, unknown ones viridis; or ``safe``: the
            classes of the units in colours of even steps of lightness, which the colour-blind can tell apart as well.
        units: of the values.
        value_range: where ``gray`` and ``viridis`` begin and end; classes have bounds of their own.

    Raises:
        UserError: there is no such colour map.
    """
    if name not in _NAMES:
        raise UserError(f"There is no colour map '{name}'{nearest(name, _NAMES)}")
    safe = name == "safe"
    if name in ("auto", "safe"):
        name = _BY_UNITS.get(units, "viridis")
    if name in _STEPPED:
        steps, colours = _STEPPED[name]
        # The foot of viridis is as dark as the ground.
        return _stepped(steps, _viridis(np.linspace(64, 255, len(steps)).round().astype(np.uint8)) if safe else _rgb(colours))
    levels = np.arange(256, dtype=np.uint8)
    if name == "gray":
        return _even(value_range, np.repeat(levels[:, None], 3, axis=1), _even_ticks(*value_range))
    return _even(value_range, _viridis(levels), _even_ticks(*value_range))


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


def _stepped(steps: tuple[float, ...], colours: NDArray[np.uint8]) -> ColourMap:
    ticks = tuple((step, f"{step:g}") for step in steps)
    return ColourMap(np.array(steps, dtype=np.float32), np.concatenate([_rgb((_GROUND,)), colours]), ticks, True)


def _viridis(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the colours ``(N, 3)`` of levels 0 to 255."""
    return cv2.applyColorMap(levels[:, None], cv2.COLORMAP_VIRIDIS)[:, 0, ::-1].astype(np.uint8)


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
