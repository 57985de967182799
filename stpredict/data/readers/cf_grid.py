"""Where the pixels of a CF variable lie on Earth.

Sources: CF conventions 1.11, section 5.6 (grid mappings) and appendix F (their parameters), as PROJ reads them.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpredict.errors import UserError, import_optional
from stpredict.frames import Grid

_LONGITUDE_LATITUDE = "+proj=longlat +datum=WGS84 +no_defs"
TEXTS = ("crs_wkt", "spatial_ref", "proj4", "proj4_params", "proj4_string", "proj4text", "proj_params", "projection")
"""Attributes of a grid mapping that write the projection out, WKT or a PROJ string."""

_METRES = {
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1.0),
    **dict.fromkeys(("km", "kilometer", "kilometers", "kilometre", "kilometres"), 1000.0),
}
_DEGREES = (
    "degree",
    "degrees",
    "degrees_north",
    "degrees_east",
    "degree_north",
    "degree_east",
    "degrees_N",
    "degrees_E",
    "degree_N",
    "degree_E",
)


def find_grid(
    place: Path,
    mapping: Mapping[str, Any] | None,
    projection: str | None,
    x: tuple[NDArray[np.float64], str | None] | None,
    y: tuple[NDArray[np.float64], str | None] | None,
) -> Grid | None:
    """Return the grid, or None where nothing says how coordinates lie on Earth.

    Args:
        place: for messages.
        mapping: attributes of the grid mapping variable, or None.
        projection: a PROJ string, WKT or EPSG code that the card gives instead; ``none``: no grid.
        x: pixel centres of the columns and their units, or None.
        y: pixel centres of the rows and their units, or None.

    Raises:
        UserError: there is a projection that cannot be understood, or coordinates that it does not fit.
    """
    if x is None or y is None or min(len(x[0]), len(y[0])) < 2 or projection == "none":
        return None
    in_degrees = [axis[1] is not None and axis[1] in _DEGREES for axis in (x, y)]
    text = projection or _text(mapping or {})
    if text is None and not mapping:
        text = _LONGITUDE_LATITUDE if all(in_degrees) else None
        if text is None:
            return None
    import_optional("pyproj", "radar")
    try:
        parsed = _parse(text, "" if text is not None else json.dumps(dict(mapping or {}), default=_plain, sort_keys=True))
    except (ValueError, KeyError, TypeError, IndexError) as error:
        reason = " ".join(str(error).split())[:200]
        way_out = "give the reader's setting projection (a PROJ string, or none to do without)"
        raise UserError(f"'{place}' has a grid mapping that cannot be understood ({reason}): {way_out}") from None
    edges = []
    for name, (centres, units) in (("x", x), ("y", y)):
        if units in _METRES and not parsed.is_geographic:
            factor = _METRES[units] / parsed.unit
        elif units is None or units == "1" or (units in _DEGREES and parsed.is_geographic):
            factor = 1.0  # coordinates without units are in those of the projection
        else:
            raise UserError(f"'{place}': {name} is in {units}, which does not fit its projection: give the setting projection, or none")
        edges.append(_outer_edges(place, name, centres * factor))
    (left, right), (first, last) = edges
    if right < left:
        raise UserError(f"'{place}': x runs from east to west, which no grid here can say: give the setting projection: none")
    return Grid(parsed.text, (left, min(first, last), right, max(first, last)), "north" if first > last else "south")


@dataclass(frozen=True)
class _Projection:
    """A projection as text, what its unit of length is in metres, and whether its coordinates are longitude and latitude."""

    text: str
    unit: float
    is_geographic: bool


@functools.lru_cache(maxsize=64)  # PROJ takes half a second for a datum without a name, and an archive has many files
def _parse(text: str | None, parameters: str) -> _Projection:
    """Understand a projection: its text, or the parameters of a grid mapping as JSON. What cannot be understood is a ValueError."""
    import pyproj

    try:
        crs = pyproj.CRS.from_user_input(text) if text is not None else pyproj.CRS.from_cf(json.loads(parameters))
    except pyproj.exceptions.ProjError as error:
        raise ValueError(str(error)) from None
    unit = float(crs.axis_info[0].unit_conversion_factor) if crs.axis_info else 1.0
    if crs.ellipsoid is not None and crs.ellipsoid.semi_major_metre < 1e5:  # an Earth of 6378: its metres are kilometres
        unit *= 1000
    return _Projection(text or crs.to_wkt(), unit, bool(crs.is_geographic))


def _plain(value: Any) -> Any:
    """Return numbers and arrays of an attribute as JSON has them."""
    return np.asarray(value).tolist()


def _text(mapping: Mapping[str, Any]) -> str | None:
    """Return the projection as the file writes it out, or None where it has parameters alone."""
    for name in TEXTS:
        text = mapping.get(name)
        if isinstance(text, str) and text.strip():
            return text.strip()
    return None


def _outer_edges(place: Path, name: str, centres: NDArray[np.float64]) -> tuple[float, float]:
    """Return the outer edges of the first and the last of evenly spaced pixels."""
    step = (centres[-1] - centres[0]) / (len(centres) - 1)
    expected = centres[0] + step * np.arange(len(centres))
    # Coordinates are often float32; that rounds them by a share of their size, not of their step.
    allowed = 1e-3 * abs(step) + 2e-7 * float(np.abs(centres).max())
    if not np.isfinite(centres).all() or step == 0 or float(np.abs(centres - expected).max()) > min(allowed, 0.25 * abs(step)):
        raise UserError(f"'{place}': the pixels are not evenly spaced along {name}: give the reader's setting projection: none")
    return _tidy(centres[0] - step / 2, step), _tidy(centres[-1] + step / 2, step)


def _tidy(edge: float, step: float) -> float:
    """Drop digits that are a millionth of a pixel, so that files of one archive agree."""
    digits = 6 - int(np.floor(np.log10(abs(step))))
    return round(float(edge), digits)


def mapping_name(attribute: str, dimensions: Sequence[str]) -> str:
    """Return which variable a ``grid_mapping`` attribute names for these dimensions.

    It is ``crs``, or ``crs: x y other: lat lon``.
    """
    words = attribute.split()
    names = [word[:-1] for word in words if word.endswith(":")]
    if not names:
        return words[0] if words else ""
    for name in names:
        after = words[words.index(f"{name}:") + 1 :]
        own = after[: next((number for number, word in enumerate(after) if word.endswith(":")), len(after))]
        if set(own) & set(dimensions):
            return name
    return names[0]
