"""Products to write: grids such as weather services use, rows from the north and from the south."""

from __future__ import annotations

import numpy as np
import pytest

from stpredict.frames import FrameSpec, Grid
from stpredict.products import Nowcast

HEIGHT, WIDTH = 20, 16

GRIDS = {
    "KNMI, in km": Grid("+proj=stere +lat_0=90 +lon_0=0 +lat_ts=60 +a=6378.137 +b=6356.752 +x_0=0 +y_0=0", (0, -4415, 700, -3650)),
    "MeteoSwiss": Grid(
        "+proj=somerc +lon_0=7.439583333333333 +lat_0=46.952405555555565 +k_0=1 +x_0=600000 +y_0=200000 +ellps=bessel +units=m",
        (255000, -160000, 965000, 480000),
    ),
    "MeteoSwiss, with its datum, in km": Grid(
        "+proj=somerc +lon_0=7.43958333333333 +lat_0=46.9524055555556 +k_0=1 +x_0=600000 +y_0=200000 +ellps=bessel "
        "+towgs84=674.374,15.056,405.346,0,0,0,0 +units=km",
        (255, -160, 965, 480),
    ),
    "MeteoSwiss, by number": Grid("EPSG:21781", (255000, -160000, 965000, 480000)),
    "OPERA": Grid("+proj=laea +lat_0=55 +lon_0=10 +x_0=1950000 +y_0=-2100000 +units=m +ellps=WGS84", (0, -4400000, 3800000, 0)),
    "OPERA, in km": Grid("+proj=laea +lat_0=55 +lon_0=10 +x_0=1950000 +y_0=-2100000 +units=km +ellps=WGS84", (0, -4400, 3800, 0)),
    "SEVIR": Grid("+proj=laea +lat_0=38 +lon_0=-98 +units=m +a=6370997 +ellps=sphere", (-1e5, -1e5, 284000, 284000), "south"),
    "BoM": Grid("+proj=aea +lat_0=-32.2 +lon_0=150.5 +lat_1=-18 +lat_2=-36 +ellps=GRS80", (-128000, -128000, 128000, 128000), "south"),
    "longitude and latitude": Grid("+proj=longlat +datum=WGS84", (-5, 46, 3, 51)),
    "EPSG:4326": Grid("EPSG:4326", (-5, 46, 3, 51), "south"),
}


def make_nowcast(grid: Grid | None, units: str = "mm/h", channels: int = 1, horizon: int = 3) -> Nowcast:
    """Return a forecast of three leads after two frames, with a corner that is missing and one without rain."""
    random = np.random.default_rng(0)
    frames = random.uniform(0.5, 40, (2 + horizon, channels, HEIGHT, WIDTH)).astype(np.float32)
    frames[..., :3, :3], frames[..., -3:, -3:] = np.nan, 0.0
    times = np.datetime64("2020-02-28T23:50", "s") + np.timedelta64(300, "s") * np.arange(2 + horizon)
    spec = FrameSpec(channels, HEIGHT, WIDTH, units, minimum=0.0, time_step=300.0, grid=grid)
    return Nowcast("mine", spec, frames[:2], frames[2:], times, "radar", "radar", (False, False), facts={"hashes": {"mine": "abc"}})


@pytest.fixture(params=list(GRIDS))
def nowcast(request: pytest.FixtureRequest) -> Nowcast:
    return make_nowcast(GRIDS[request.param])


@pytest.fixture
def swiss() -> Nowcast:
    return make_nowcast(GRIDS["MeteoSwiss"])


@pytest.fixture
def nowhere() -> Nowcast:
    return make_nowcast(None)


@pytest.fixture
def colour() -> Nowcast:
    return make_nowcast(GRIDS["SEVIR"], units="1", channels=3)


class Truth:
    """Where a pixel lies by the grid as it was given: by PROJ, with no code of ours."""

    pixels = ((0, 0), (HEIGHT - 1, WIDTH - 1), (5, 11))

    @staticmethod
    def degrees(grid: Grid, row: int, column: int) -> tuple[float, float]:
        """Return longitude and latitude of the middle of a pixel."""
        import pyproj

        left, bottom, right, top = grid.corners
        x = left + (column + 0.5) / WIDTH * (right - left)
        y = top - (row + 0.5) / HEIGHT * (top - bottom) if grid.row_origin == "north" else bottom + (row + 0.5) / HEIGHT * (top - bottom)
        if "longlat" in grid.projection or "4326" in grid.projection:
            return x, y
        longitude, latitude = pyproj.Proj(grid.projection)(x, y, inverse=True)
        return longitude, latitude

    @classmethod
    def distance(cls, grid: Grid, row: int, column: int, longitude: float, latitude: float) -> float:
        """Return the distance in metres, on a sphere, between a pixel and where a file says that it is."""
        here, there = np.radians(cls.degrees(grid, row, column)), np.radians((longitude, latitude))
        half = np.sin((there[1] - here[1]) / 2) ** 2 + np.cos(here[1]) * np.cos(there[1]) * np.sin((there[0] - here[0]) / 2) ** 2
        return float(2 * 6371000 * np.arcsin(np.sqrt(half)))


@pytest.fixture(scope="session")
def truth() -> type[Truth]:
    return Truth
