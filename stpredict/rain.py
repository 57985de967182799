"""Rain in its three units: rate in mm/h, depth in mm gathered over a period, and radar reflectivity in dBZ.

Reflectivity Z (mm6/m3) and rain rate R (mm/h) belong together by ``Z = a R^b``, and dBZ is ``10 log10 Z``. No rain has a reflectivity
of minus infinity, so a floor stands for it: what has no rain becomes the floor, and what lies at or below it has no rain.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from stpredict.errors import UserError
from stpredict.frames import FrameSpec, Transform

UNITS = ("mm/h", "mm", "dBZ")
"""The units between which rain can be converted."""

NO_RAIN_DBZ = -10.0
"""The reflectivity that stands for no rain where nothing else is said, in dBZ: well below what a drizzle has."""


def rain_to_dbz(rate: Tensor, z_r: tuple[float, float], floor: float = NO_RAIN_DBZ) -> Tensor:
    """Return the reflectivity in dBZ, float64, of rain rates in mm/h, none below ``floor``; NaN stays NaN."""
    a, b = z_r
    dbz = 10.0 * (math.log10(a) + b * torch.log10(torch.clamp(rate.double(), min=0.0)))
    return torch.clamp(dbz, min=floor)


def dbz_to_rain(dbz: Tensor, z_r: tuple[float, float], floor: float | None = None) -> Tensor:
    """Return the rain rates in mm/h, float64, of reflectivities in dBZ: 0 at and below ``floor``; NaN stays NaN."""
    a, b = z_r
    rate = 10.0 ** ((dbz.double() / 10.0 - math.log10(a)) / b)
    return rate if floor is None else torch.where(dbz <= floor, 0.0, rate)


def in_units(values: Tensor, spec: FrameSpec, units: str) -> Tensor:
    """Return physical values of ``spec`` in other units.

    Args:
        values: any shape, in ``spec.units``; NaN = missing, which stays so.
        spec: its ``z_r`` joins dBZ with mm/h, its ``period`` mm with mm/h, and its ``minimum`` is the dBZ of no rain.
        units: ``mm/h``, ``mm`` or ``dBZ``.

    Returns:
        float32, the same shape. What is computed is float64 before it is rounded, so that a value that equals a threshold
        equals the threshold in the other units too.

    Raises:
        UserError: there is no way between these units, or the spec lacks what it takes.
    """
    if units == spec.units:
        return values
    if units not in UNITS or spec.units not in UNITS:
        raise UserError(f"Values in {spec.units} cannot be turned into {units}: only {', '.join(UNITS)} can be turned into one another")
    if spec.units == "dBZ":
        rate = dbz_to_rain(values, _z_r(spec, units), spec.minimum)
    else:
        rate = values.double() * (3600.0 / _period(spec, units) if spec.units == "mm" else 1.0)
    if units == "dBZ":
        return rain_to_dbz(rate, _z_r(spec, units)).float()
    return (rate * _period(spec, units) / 3600.0 if units == "mm" else rate).float()


def spec_in_units(spec: FrameSpec, units: str) -> FrameSpec:
    """Return the spec of the same frames in other units: fill, minimum, thresholds and the range of values are converted.

    The range stays, the transform does not: such a spec is for scoring, not for a network.

    Raises:
        UserError: as :func:`in_units`.
    """
    if units == spec.units:
        return spec

    def converted(value: float) -> float:
        return float(in_units(torch.tensor(value, dtype=torch.float64), spec, units))

    return replace(
        spec,
        units=units,
        transform=Transform(low=converted(spec.transform.low), high=converted(spec.transform.high)),
        fill=converted(spec.fill),
        minimum=None if spec.minimum is None else converted(spec.minimum),
        thresholds=tuple(converted(threshold) for threshold in spec.thresholds),
    )


def _z_r(spec: FrameSpec, units: str) -> tuple[float, float]:
    if spec.z_r is None:
        raise UserError(f"To turn {spec.units} into {units} takes a and b of Z = a R^b: give the card frames: {{z_r: [a, b]}}")
    return spec.z_r


def _period(spec: FrameSpec, units: str) -> float:
    if spec.period is None:
        raise UserError(f"To turn {spec.units} into {units} takes the seconds over which the rain was gathered, which the files do not say")
    return spec.period
