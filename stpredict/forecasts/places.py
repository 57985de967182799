"""Which pixels of forecasts are those of the data, whatever their projections are called."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stpredict.errors import UserError, import_optional
from stpredict.frames import Grid

_TOLERANCE = 0.1
"""By how much of a pixel a corner or the middle may be off: coordinates are often float32, or rounded."""


@dataclass(frozen=True)
class Window:
    """Where the pixels of the data lie among those of forecasts.

    Attributes:
        top: the first row, as the forecasts' rows lie.
        left: the first column.
        size: rows and columns.
        turned: whether the rows of the data run the other way.
    """

    top: int
    left: int
    size: tuple[int, int]
    turned: bool = False

    def cut(self, frames: Tensor) -> Tensor:
        """Return the pixels of the data of forecasts ``(..., H, W)``, rows as those of the data lie."""
        height, width = self.size
        frames = frames[..., self.top : self.top + height, self.left : self.left + width]
        return frames.flip(-2) if self.turned else frames


@lru_cache(maxsize=256)  # an archive has few grids, and as many clips as it has nowcasts
def find_window(ours: Grid | None, our_size: tuple[int, int], theirs: Grid | None, size: tuple[int, int]) -> Window:
    """Find the pixels of the data among those of forecasts; without both grids, they are taken to be the same.

    Args:
        ours: where the forecasts lie.
        our_size: their rows and columns.
        theirs: where the data lie.
        size: their rows and columns.

    Raises:
        UserError: they are not among them, or a projection cannot be used; the sentence holds the corners of both.
    """
    if ours is None or theirs is None:
        if our_size != size:
            raise UserError(f"it has {our_size[0]} x {our_size[1]} pixels and the data {size[0]} x {size[1]}: crop or resize one of them")
        return Window(0, 0, size)
    (height, width), (left, bottom, right, top) = size, ours.corners
    x, y = _project(ours, _degrees(theirs))
    across, up = (x - left) / (right - left) * our_size[1], (y - bottom) / (top - bottom) * our_size[0]
    if np.isfinite(across).all() and np.isfinite(up).all():
        columns, rows = round(float(across[0])), round(float(up[0]))
        apart = np.abs(across - columns - np.array([0, width, width, 0, width / 2])).max()
        apart = max(apart, np.abs(up - rows - np.array([0, 0, height, height, height / 2])).max())
        if apart <= _TOLERANCE and 0 <= columns <= our_size[1] - width and 0 <= rows <= our_size[0] - height:
            first = rows if ours.row_origin == "south" else our_size[0] - rows - height
            return Window(first, columns, size, ours.row_origin != theirs.row_origin)
    raise UserError(
        f"it covers {_told(ours)} in {our_size[0]} x {our_size[1]} pixels and the data {_told(theirs)} in {height} x {width} (lower left "
        "and upper right corner, degrees east and north), which are none of its pixels: regrid one of them to the pixels of the other"
    )


def _degrees(grid: Grid) -> NDArray[np.float64]:
    """Return longitude and latitude ``(2, 5)`` on the projection's own globe: corners against the clock from the lower left, middle."""
    left, bottom, right, top = grid.corners
    x = np.array([left, right, right, left, (left + right) / 2], dtype=np.float64)
    y = np.array([bottom, bottom, top, top, (bottom + top) / 2], dtype=np.float64)
    return _transform(grid, x, y, inverse=True)


def _project(grid: Grid, degrees: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the coordinates ``(2, N)`` of points given by longitude and latitude."""
    return _transform(grid, degrees[0], degrees[1], inverse=False)


def _transform(grid: Grid, x: NDArray[np.float64], y: NDArray[np.float64], inverse: bool) -> NDArray[np.float64]:
    pyproj, crs = import_optional("pyproj", "radar"), _plain(grid.projection)
    if not crs.is_geographic:
        ends = (crs, crs.geodetic_crs) if inverse else (crs.geodetic_crs, crs)
        x, y = pyproj.Transformer.from_crs(*ends, always_xy=True).transform(x, y)
    return np.stack([x, y])


def _plain(projection: str) -> Any:
    """Return a ``pyproj.CRS`` without the shift of its datum."""
    pyproj = import_optional("pyproj", "radar")
    try:
        crs = pyproj.CRS.from_user_input(projection)
    except pyproj.exceptions.CRSError as error:
        raise UserError(f"its projection '{projection[:200]}' cannot be used: {' '.join(str(error).split())[:200]}") from None
    return crs.source_crs if crs.is_bound else crs


def _told(grid: Grid) -> str:
    longitudes, latitudes = _degrees(grid)
    return " to ".join(f"({longitudes[corner]:.3f}, {latitudes[corner]:.3f})" for corner in (0, 2))
