"""Projections as radar files write them, brought to metres.

Some files give the axes of the Earth, or coordinates, in km; a :class:`stpredict.frames.Grid` is in metres.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache
from types import ModuleType
from typing import Any

from stpredict.errors import UserError, import_optional

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,2})?"
_AXIS = re.compile(rf"\+?\b(?:a|b|R)=({_NUMBER})(?=\s|$)", re.ASCII)
_LENGTH = re.compile(rf"(\+?\b(?:a|b|R|x_0|y_0)=)({_NUMBER})(?=\s|$)", re.ASCII)
_UNIT = re.compile(r"\s*\+?\b(?:units=(?!m\b)|to_meter=)\S+", re.ASCII)
_HARMLESS = re.compile(r"\+?proj=[a-z_]+(?:\s+\+?[A-Za-z_0-9]+(?:=[\w.,+-]*)?)*|EPSG:\d{4,6}", re.ASCII)
_OPENS_FILES = re.compile(r"\b(?:\w*grids|init|file|catalog|pipeline)\b", re.ASCII)

_LEAST_AXIS = 1e6  # metres; no axis of the Earth is shorter, and in km none is longer


def in_metres(projection: str) -> str:
    """Return a PROJ string whose coordinates are metres: axes and false origins in km are scaled, a unit of length is replaced.

    Degrees stay degrees.
    """
    if not projection.strip().lstrip("+").startswith("proj="):
        return projection.strip()
    axis = _AXIS.search(projection)
    if axis is not None and float(axis[1]) < _LEAST_AXIS:
        projection = _LENGTH.sub(lambda length: f"{length[1]}{_plain(Decimal(length[2]) * 1000)}", projection)
    scaled, replaced = _UNIT.subn("", projection.strip())
    return f"{scaled} +units=m" if replaced else scaled


def _plain(number: Decimal) -> str:
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def find_pyproj() -> ModuleType | None:
    """Return the library pyproj, or None where it is not installed."""
    try:
        return import_optional("pyproj", "radar")
    except UserError:
        return None


def project(pyproj: ModuleType, projection: str, points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the coordinates of points given by longitude and latitude in degrees.

    Raises:
        UserError: the projection is none, would have PROJ open files, or does not reach the points.
    """
    transform = _transform(pyproj, projection)
    reached = [tuple(float(number) for number in transform(*point)) for point in points]
    if not all(math.isfinite(number) for point in reached for number in point):
        raise UserError(f"the projection '{projection}' does not reach the corners {list(points)}")
    return [(x, y) for x, y in reached]


def geographic(pyproj: ModuleType, projection: str, points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return longitude and latitude in degrees of points given by their coordinates.

    Raises:
        UserError: as :func:`project`.
    """
    transform = _transform(pyproj, projection)
    reached = [transform(x, y, inverse=True) for x, y in points]
    if not all(math.isfinite(number) for point in reached for number in point):
        raise UserError(f"the projection '{projection}' does not reach the corners {list(points)}")
    return [(float(longitude), float(latitude)) for longitude, latitude in reached]


@lru_cache(maxsize=16)  # an archive has one projection, and PROJ takes a while to understand it
def _transform(pyproj: ModuleType, projection: str) -> Any:
    if len(projection) > 1000 or not _HARMLESS.fullmatch(projection.strip()) or _OPENS_FILES.search(projection):
        raise UserError(f"'{projection[:200]}' is no PROJ string such as +proj=laea +lat_0=55 +lon_0=10 +ellps=WGS84")
    try:
        return pyproj.Proj(projection)
    except pyproj.exceptions.CRSError as error:
        raise UserError(f"'{projection}' is no projection: {' '.join(str(error).split())}") from None
