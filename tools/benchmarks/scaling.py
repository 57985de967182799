"""How the cost of a training step, and of a forecast, grows with the number of frames, their size and the number of clips."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks import cases
from benchmarks.figures import Measure, complete_row
from benchmarks.forecasting import measure_forecast
from benchmarks.timing import Row
from benchmarks.training_step import measure_step
from stpredict.errors import UserError
from stpredict.training.settings import DataSettings, Settings

TOLERANCE = 0.1
"""By how much an exponent may exceed 1 and still be called no worse than linear: what measuring leaves uncertain."""

_FEWEST = 3
"""Points through which there is always a straight line are fewer than these."""

COSTS = ("seconds", "activation_mib")

_MEASURES: dict[str, Measure] = {"step": measure_step, "forecast": measure_forecast}


@dataclass(frozen=True)
class Growth:
    """How a cost grows with a size.

    Attributes:
        exponent: p of the power law ``cost = c size**p`` nearest to the points, by least squares of the logarithms.
        line: the cost at each size along the line ``a + b size`` nearest to the points, by least squares of the relative error; ``a`` is
            not below 0, a cost that is there at any size.
    """

    exponent: float
    line: tuple[float, ...]

    @property
    def is_linear(self) -> bool:
        """Whether the cost grows no faster than the size, but for the tolerance."""
        return self.exponent <= 1.0 + TOLERANCE


def fit_growth(sizes: Sequence[float], costs: Sequence[float]) -> Growth:
    """Return how costs, above 0, grow with sizes, above 0, at two of them or more."""
    x, y = np.asarray(sizes, dtype=np.float64), np.asarray(costs, dtype=np.float64)
    assert len(x) == len(y) >= 2 and x.min() > 0 and y.min() > 0
    exponent = float(np.polyfit(np.log(x), np.log(y), 1)[0])
    (start, slope), *_ = np.linalg.lstsq(np.stack([1.0 / y, x / y], axis=1), np.ones_like(y), rcond=None)
    if start < 0.0:
        start, slope = 0.0, (x / y).sum() / ((x / y) ** 2).sum()
    return Growth(exponent, tuple(float(value) for value in start + slope * x))


def scaling(options: argparse.Namespace) -> list[Row]:
    """How the cost of a training step and of a forecast grows with frames, their size and clips, each doubled time and again.

    The first point is what the options say; from it one size is doubled at a time, the others stay: ``frames`` of a clip, observed and
    forecast ones alike; ``pixels`` of a frame, its width and its height in turn; ``clips`` at a time.
    ``..._exponent`` is the power of the size that the cost grows with, ``..._line`` what a straight line nearest to all points has there,
    ``..._linear`` whether the exponent is no more than 1, give or take a tenth; all as in :class:`Growth`.

    Raises:
        UserError: there are too few points to fit.
    """
    if options.points < _FEWEST:
        raise UserError(f"A straight line through {options.points} points says nothing: give at least --points {_FEWEST}")
    rows = []
    for settings in cases.asked(options):
        for work in options.work:
            start = _point(settings, work, options.repeats)
            for along in options.along:
                grown = [settings] * options.points
                for number in range(1, options.points):
                    grown[number] = replace(settings, data=_AXES[along].doubled(settings.data, number))
                points = [start, *(_point(larger, work, options.repeats) for larger in grown[1:])]
                rows += _fitted(points, along, [_AXES[along].size(larger.data) for larger in grown])
    return rows


def _point(settings: Settings, work: str, repeats: int) -> Row:
    """Return the row of one point, without its growth."""
    return complete_row({"work": work, **cases.describe(settings)}, settings, _MEASURES[work], repeats)


def _fitted(points: list[Row], along: str, sizes: list[int]) -> list[Row]:
    """Return the rows of a series of points, with how their costs grow if enough of them were measured."""
    rows = []
    for point, size in zip(points, sizes, strict=True):
        said = {key: point[key] for key in ("name", "work", "precision", "kernels", "batch_size", "frames", "frame")}
        rows.append({**said, "along": along, "size": size})
    for cost in COSTS:
        measured = {size: point[cost] for size, point in zip(sizes, points, strict=True) if point[cost] is not None and point[cost] > 0}
        growth = fit_growth(list(measured), list(measured.values())) if len(measured) >= _FEWEST else None
        lines = {} if growth is None else dict(zip(measured, growth.line, strict=True))
        for row in rows:
            row[cost] = measured.get(row["size"])
            row[f"{cost}_exponent"] = None if growth is None else growth.exponent
            row[f"{cost}_line"] = lines.get(row["size"])
            row[f"{cost}_linear"] = None if growth is None else growth.is_linear
    return rows


@dataclass(frozen=True)
class _Axis:
    """A size that grows.

    Attributes:
        size: as the clips have it.
        doubled: the clips, with it doubled so many times.
    """

    size: Callable[[DataSettings], int]
    doubled: Callable[[DataSettings, int], DataSettings]


def _frames(data: DataSettings) -> int:
    assert data.context is not None and data.horizon is not None, "noise says how long its clips are"
    return data.context + data.horizon


def _more_frames(data: DataSettings, times: int) -> DataSettings:
    assert data.context is not None and data.horizon is not None, "noise says how long its clips are"
    return replace(data, context=data.context * 2**times, horizon=data.horizon * 2**times)


def _more_pixels(data: DataSettings, times: int) -> DataSettings:
    height, width = data.settings["height"] * 2 ** (times // 2), data.settings["width"] * 2 ** ((times + 1) // 2)
    return replace(data, settings={**data.settings, "height": height, "width": width})


_AXES = {
    "frames": _Axis(_frames, _more_frames),
    "pixels": _Axis(lambda data: int(data.settings["height"] * data.settings["width"]), _more_pixels),
    "clips": _Axis(lambda data: data.batch_size, lambda data, times: replace(data, batch_size=data.batch_size * 2**times)),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what only ``scaling`` takes."""
    parser.add_argument("--work", nargs="+", choices=tuple(_MEASURES), default=list(_MEASURES), help="default: both")
    parser.add_argument("--along", nargs="+", choices=tuple(_AXES), default=list(_AXES), help="what grows (default: each)")
    parser.add_argument("--points", type=int, default=4, metavar="N", help="sizes, each twice the one before (default: 4)")
