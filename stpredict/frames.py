"""What a film is made of and what its numbers mean: packing, transform, grid, frame spec, clip, batch.

A number passes through three forms:

* *packed*: as the file holds it, often a small integer, with codes for missing;
* *physical*: in the units of the frame spec, NaN = missing; what users give and get;
* *scaled*: about [0, 1], what networks see, with a mask ``valid`` beside it.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stpredict.devices import carry
from stpredict.errors import UserError


@dataclass(frozen=True)
class Packing:
    """How a file's numbers become physical: by ``packed * scale + offset``, or by a table; some codes have meanings of their own.

    Attributes:
        scale: physical units per packed unit.
        offset: the physical value of a packed zero.
        missing: packed codes that mean "no value here"; NaN stands for itself.
        codes: pairs of a packed code and the physical value that it stands for, such as "measured, and nothing found".
        table: the physical value of each packed integer from 0 on, NaN for missing, in place of scale and offset; what lies beyond its
            end is missing.
    """

    scale: float = 1.0
    offset: float = 0.0
    missing: tuple[float, ...] = ()
    codes: tuple[tuple[float, float], ...] = ()
    table: tuple[float, ...] = ()

    @property
    def is_linear(self) -> bool:
        """Whether the mean of packed numbers, but for missing ones, is the packed mean of physical ones."""
        return not self.codes and not self.table

    def unpack(self, packed: Tensor) -> Tensor:
        """Return float32 physical values, NaN where missing."""
        numbers = packed if packed.is_floating_point() else packed.to(torch.float32)  # GPUs compare no unsigned 16-bit integers
        if self.table:
            table = carry(torch.tensor([*self.table, math.nan], dtype=torch.float32), packed.device)
            beyond = (numbers < 0) | (numbers >= len(self.table)) | numbers.isnan()
            physical = table[torch.where(beyond, len(self.table), numbers).long()]
        else:
            physical = numbers.to(torch.float32) * self.scale + self.offset
        for code, value in self.codes:
            physical = torch.where(numbers == code, value, physical)
        for code in self.missing:
            if not math.isnan(code):
                physical = torch.where(numbers == code, math.nan, physical)
        return physical


@dataclass(frozen=True)
class Transform:
    """An invertible map from physical values to the scaled ones that a network sees; ``low`` goes to 0, ``high`` to 1.

    Attributes:
        name: ``linear``, ``sqrt`` (square root of the distance from ``low``), ``log`` (log(1 + distance / knee)) or ``dbz``
            (logarithm of a rain rate, so linear in reflectivity by whichever Z-R pair, which cancels; ``low``, above 0, and what lies
            below it count as no rain and come back as 0).
        low: the physical value that becomes 0.
        high: the physical value that becomes 1.
        knee: where ``log`` turns from linear to logarithmic, in physical units above ``low``.
        clip: cut off what would be scaled below 0 or above 1.
    """

    name: Literal["linear", "sqrt", "log", "dbz"] = "linear"
    low: float = 0.0
    high: float = 1.0
    knee: float = 1.0
    clip: bool = False

    def __post_init__(self) -> None:
        if self.name not in ("linear", "sqrt", "log", "dbz"):
            raise UserError(f"There is no transform '{self.name}'; known: dbz, linear, log, sqrt")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high and self.knee > 0):
            raise UserError(f"A transform needs low < high and knee > 0, not low {self.low}, high {self.high}, knee {self.knee}")
        if self.name == "dbz" and self.low <= 0:
            raise UserError(f"The transform dbz needs a rain rate above 0 as low, not {self.low}")

    def scale(self, physical: Tensor) -> Tensor:
        """Return scaled values; NaN stays NaN."""
        scaled = self._scale(physical)
        return torch.clamp(scaled, 0.0, 1.0) if self.clip else scaled

    def _scale(self, physical: Tensor) -> Tensor:
        distance = physical - self.low
        span = self.high - self.low
        if self.name == "linear":
            return distance / span
        if self.name == "sqrt":
            return torch.sqrt(torch.clamp(distance, min=0.0) / span)
        if self.name == "dbz":
            return torch.log(torch.clamp(physical, min=self.low) / self.low) / math.log(self.high / self.low)
        return torch.log1p(torch.clamp(distance, min=0.0) / self.knee) / math.log1p(span / self.knee)

    def unscale(self, scaled: Tensor) -> Tensor:
        """Return physical values: the inverse of :meth:`scale` where that is strictly increasing."""
        span = self.high - self.low
        if self.clip:
            scaled = torch.clamp(scaled, 0.0, 1.0)
        if self.name == "linear":
            return scaled * span + self.low
        if self.name == "sqrt":
            return torch.clamp(scaled, min=0.0) ** 2 * span + self.low
        if self.name == "dbz":
            rate = torch.exp(scaled * math.log(self.high / self.low)) * self.low
            return torch.where(scaled > 0, rate, torch.where(scaled.isnan(), scaled, 0.0))
        return torch.expm1(torch.clamp(scaled, min=0.0) * math.log1p(span / self.knee)) * self.knee + self.low


@dataclass(frozen=True)
class Grid:
    """Where the pixels lie on Earth.

    Attributes:
        projection: a PROJ string or WKT; its unit of length is the metre unless it says otherwise.
        corners: outer edges of the image in projection coordinates: left, bottom, right, top.
        row_origin: ``north`` when row 0 is the northernmost, else ``south``.
    """

    projection: str
    corners: tuple[float, float, float, float]
    row_origin: Literal["north", "south"] = "north"

    def crop(self, top: int, left: int, height: int, width: int, full_height: int, full_width: int) -> Grid:
        """Return the grid of a rectangle of pixels, ``top`` and ``left`` counted in rows and columns of the array."""
        x0, y0, x1, y1 = self.corners
        dx, dy = (x1 - x0) / full_width, (y1 - y0) / full_height
        rows_below = full_height - top - height if self.row_origin == "north" else top
        bottom = y0 + rows_below * dy
        return replace(self, corners=(x0 + left * dx, bottom, x0 + (left + width) * dx, bottom + height * dy))


@dataclass(frozen=True)
class FrameSpec:
    """What the numbers of a frame mean.

    Attributes:
        channels: number of channels C.
        height: rows H.
        width: columns W.
        units: of physical values, such as ``mm/h``; ``1`` for plain intensity in [0, 1].
        transform: physical to scaled.
        fill: the physical value that a network sees where one is missing (no rain, black).
        minimum: the least physical value there can be, or None; forecasts are raised to it.
        time_step: seconds from one frame to the next, or None where a film has no clock.
        grid: where the pixels lie on Earth, or None.
        z_r: a and b of ``Z = a R^b`` by which reflectivity Z (mm6/m3) and rain rate R (mm/h) of these frames belong together, or None.
        period: seconds over which a frame's rain was gathered, or None for what was seen at an instant.
        thresholds: the physical values at which forecasts of such frames are usually judged.
    """

    channels: int
    height: int
    width: int
    units: str = "1"
    transform: Transform = Transform()
    fill: float = 0.0
    minimum: float | None = None
    time_step: float | None = None
    grid: Grid | None = None
    z_r: tuple[float, float] | None = None
    period: float | None = None
    thresholds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if min(self.channels, self.height, self.width) < 1:
            raise UserError(f"A frame needs at least one channel, row and column, not {self.channels} x {self.height} x {self.width}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return ``(C, H, W)``."""
        return self.channels, self.height, self.width

    @property
    def scaled_fill(self) -> float:
        """Return the fill as a network sees it."""
        return float(self.transform.scale(torch.tensor(self.fill, dtype=torch.float64, device="cpu")))

    @property
    def value_range(self) -> float:
        """Return the physical span that becomes [0, 1]: the peak of PSNR and the range of SSIM."""
        return self.transform.high - self.transform.low

    def scale(self, physical: Tensor) -> tuple[Tensor, Tensor]:
        """Turn physical values, NaN = missing, into scaled values (missing filled) and their mask ``valid``."""
        valid = ~torch.isnan(physical)
        scaled = self.transform.scale(physical.to(torch.float32))
        return torch.where(valid, scaled, self.scaled_fill), valid

    def unscale(self, scaled: Tensor) -> Tensor:
        """Turn scaled values into physical ones, none of them below :attr:`minimum`."""
        physical = self.transform.unscale(scaled.to(torch.float32))
        return physical if self.minimum is None else torch.clamp(physical, min=self.minimum)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data from which :meth:`from_dict` makes an equal spec."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> FrameSpec:
        """Make a spec from plain data.

        Raises:
            UserError: a key is unknown or missing.
        """
        plain = dict(plain)
        try:
            if plain.get("grid"):
                grid = dict(plain["grid"])
                plain["grid"] = Grid(**{**grid, "corners": tuple(grid["corners"])})
            if "transform" in plain:
                plain["transform"] = Transform(**plain["transform"])
            if plain.get("z_r"):
                plain["z_r"] = tuple(plain["z_r"])
            if "thresholds" in plain:
                plain["thresholds"] = tuple(plain["thresholds"])
            return cls(**plain)
        except (TypeError, KeyError) as error:
            raise UserError(f"This is no frame spec: {error}") from None


@dataclass(frozen=True)
class Clip:
    """Consecutive frames of one film.

    Attributes:
        frames: packed numbers ``(T, C, H, W)``.
        valid: ``(T, C, H, W)`` bool, or None when the packing's codes alone say what is missing.
        known: ``(T, K, H, W)`` float32 inputs that are known for every step, future included, or None.
        times: ``(T,)`` datetime64[s], or None where a film has no clock.
        name: which clip this is, for people.
    """

    frames: NDArray[Any]
    valid: NDArray[np.bool_] | None = None
    known: NDArray[np.float32] | None = None
    times: NDArray[np.datetime64] | None = None
    name: str = ""


@dataclass(frozen=True)
class Batch:
    """Clips side by side, still packed.

    Attributes:
        frames: packed numbers ``(B, T, C, H, W)``.
        valid: ``(B, T, C, H, W)`` bool, or None.
        known: ``(B, T, K, H, W)`` float32, or None.
        indices: which clip of its set each row is.
        times: ``(B, T)`` int64, seconds since 1970 in UTC, or None where the films have no clock.
    """

    frames: Tensor
    valid: Tensor | None
    known: Tensor | None
    indices: tuple[int, ...]
    times: Tensor | None = None

    def physical(self, packing: Packing, device: torch.device | str) -> Tensor:
        """Return ``(B, T, C, H, W)`` float32 physical values on ``device``, NaN where missing."""
        physical = packing.unpack(carry(self.frames, device))
        if self.valid is not None:
            physical = torch.where(carry(self.valid, device), physical, math.nan)
        return physical
