"""Where the pixels of a product lie: a grid in metres or degrees, whatever unit of length its projection has."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpredict.errors import UserError, import_optional
from stpredict.frames import Grid

_SMALLEST_GLOBE = 1e5
"""Metres: axes below this are kilometres, written as if they were metres, as those of KNMI's files are."""


@dataclass(frozen=True)
class Places:
    """The places of the pixels.

    Attributes:
        crs: a ``pyproj.CRS`` in metres, or in degrees where it is geographic; with the shift of its datum, if the grid tells one.
        corners: outer edges: left, bottom, right, top; in metres or degrees.
        x: ``(W,)`` middles of the columns.
        y: ``(H,)`` middles of the rows, in the order of the rows.
    """

    crs: Any
    corners: tuple[float, float, float, float]
    x: NDArray[np.float64]
    y: NDArray[np.float64]

    @property
    def geographic(self) -> bool:
        """Whether x and y are longitude and latitude."""
        return bool(self.crs.is_geographic)

    @property
    def proj4(self) -> str:
        """Return the projection as a PROJ string, which lacks what only well-known text can say, such as names."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return str(self.crs.to_proj4()).replace(" +type=crs", "").replace(" +no_defs", "")

    def degrees(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return longitude and latitude ``(H, W)`` of the middles."""
        across, up = np.meshgrid(self.x, self.y)
        if self.geographic:
            return across, up
        longitude, latitude = self.to_degrees(across, up)
        return longitude, latitude

    def to_degrees(self, x: Any, y: Any) -> tuple[Any, Any]:
        """Return longitude and latitude of points: of the projection's own globe, or where its datum is shifted of that shifted to."""
        pyproj = import_optional("pyproj", "radar")
        globe = self.crs.target_crs if self.crs.is_bound else self.crs.geodetic_crs
        longitude, latitude = pyproj.Transformer.from_crs(self.crs, globe, always_xy=True).transform(x, y)
        return longitude, latitude


def places_of(grid: Grid, height: int, width: int) -> Places:
    """Return where the pixels of a grid lie.

    Raises:
        UserError: the projection is none that pyproj knows.
    """
    pyproj = import_optional("pyproj", "radar")
    try:
        crs = pyproj.CRS.from_user_input(grid.projection)
    except pyproj.exceptions.CRSError as error:
        raise UserError(f"The grid's projection '{grid.projection}' cannot be used: {str(error).splitlines()[0]}") from None
    if crs.is_derived and crs.is_geographic:
        raise UserError(f"The grid's projection '{grid.projection}' turns the pole, which no product can say: write .npz or .h5")
    crs, metres = (crs, 1.0) if crs.is_geographic else _in_metres(crs)
    left, bottom, right, top = (edge * metres for edge in grid.corners)
    x = left + (np.arange(width) + 0.5) * (right - left) / width
    y = bottom + (np.arange(height) + 0.5) * (top - bottom) / height
    return Places(crs, (left, bottom, right, top), x, y if grid.row_origin == "south" else y[::-1].copy())


def _in_metres(crs: Any) -> tuple[Any, float]:
    """Return the same projection in metres, and how many metres its unit of length is."""
    pyproj = import_optional("pyproj", "radar")
    if crs.ellipsoid.semi_major_metre < _SMALLEST_GLOBE:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a PROJ string loses nothing when it becomes one
            plain = crs.to_dict()
        lengths = {name: float(plain[name]) * 1000 for name in ("a", "b", "R", "x_0", "y_0") if name in plain}
        return pyproj.CRS.from_dict({**plain, **lengths, "units": "m"}), 1000.0
    metres = float((crs.source_crs if crs.is_bound else crs).axis_info[0].unit_conversion_factor)
    if metres == 1.0:
        return crs, metres
    whole = crs.to_json_dict()
    plain = whole["source_crs"] if crs.is_bound else whole
    for axis in plain["coordinate_system"]["axis"]:
        axis["unit"] = "metre"
    for parameter in plain["conversion"]["parameters"]:
        unit = parameter.get("unit")
        if isinstance(unit, dict) and unit.get("type") == "LinearUnit":
            parameter |= {"value": parameter["value"] * unit["conversion_factor"], "unit": "metre"}
    plain.pop("id", None)
    return pyproj.CRS.from_json_dict(whole), metres
