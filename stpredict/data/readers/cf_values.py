"""What the numbers of a CF variable mean: units, packing, missing values.

Sources: CF conventions 1.11, sections 2.5.1 (missing data), 3.1 (units), 8.1 (packed data); NetCDF User's Guide, attribute conventions
(``valid_range``, ``_Unsigned``, default fill values).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpredict.data.readers.scaling import is_sound
from stpredict.errors import UserError
from stpredict.frames import Packing

FILL = 2.0**122 * 1.875  # NetCDF's own fill value of floating-point data, 9.97e36: exact in float32, and no physical value
_DEFAULT_FILLS = {"i2": -32767.0, "u2": 65535.0, "i4": -2147483647.0, "u4": 4294967295.0, "f4": FILL, "f8": FILL}

# Spellings of units: what they are called here, and how many of those one of them is.
_RATES = {
    **dict.fromkeys(("mm/h", "mm h-1", "mm h^-1", "mm h**-1", "mm/hr", "mm hr-1", "mm hr^-1", "mm/hour", "mm hour-1"), 1.0),
    **dict.fromkeys(("kg m-2 h-1", "kg m-2 hr-1", "kg/m2/h", "kg m**-2 h**-1", "kg m^-2 h^-1"), 1.0),
    **dict.fromkeys(("mm s-1", "mm/s", "mm s**-1", "mm s^-1"), 3600.0),
    **dict.fromkeys(("kg m-2 s-1", "kg/m2/s", "kg m**-2 s**-1", "kg m^-2 s^-1"), 3600.0),
    **dict.fromkeys(("m s-1", "m/s", "m s**-1", "m s^-1"), 3.6e6),
}
_DEPTHS = {
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre", "millimetres"), 1.0),
    **dict.fromkeys(("kg m-2", "kg/m2", "kg m**-2", "kg m^-2", "kg/m^2", "kg/m**2"), 1.0),  # of water
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 10.0),
    **dict.fromkeys(("m", "meter", "metre", "m of water equivalent"), 1000.0),
}
_PER_AREA = ("kg m-2", "kg/m2", "kg m**-2", "kg m^-2", "kg/m^2", "kg/m**2")


def convert_units(place: Path, told: str, wanted: str | None, period: float | None) -> tuple[str, float]:
    """Return the units of frames, and the factor that turns the file's numbers into them.

    Args:
        place: for messages.
        told: units of the file.
        wanted: units that the card asks for, or None: those of the file, in one spelling.
        period: seconds over which an accumulation was gathered, or None.

    Raises:
        UserError: one cannot be turned into the other, or an accumulation has no period.
    """
    known = _one_spelling(told)
    if wanted is None or _one_spelling(wanted) == known:
        return known if wanted is None else wanted, 1.0
    rate, depth, target = _RATES.get(_squeeze(told)), _DEPTHS.get(_squeeze(told)), _one_spelling(wanted)
    if target == "mm/h" and rate is not None:
        return wanted, rate
    if target == "mm" and depth is not None:
        return wanted, depth
    if target == "mm/h" and depth is not None:
        if period is None:
            raise UserError(
                f"'{place}' holds accumulations in {told} but does not say over which time: give the reader's setting period (seconds)"
            )
        return wanted, depth * 3600 / period
    raise UserError(f"'{place}' is in {told}, which cannot be turned into {wanted}: leave the setting units out, or give file_units")


def _one_spelling(units: str) -> str:
    units = _squeeze(units)
    if _RATES.get(units) == 1.0:
        return "mm/h"
    if units in _PER_AREA:
        return "kg/m2"
    if _DEPTHS.get(units) == 1.0:
        return "mm"
    return "dBZ" if units.lower() == "dbz" else units


def _squeeze(units: str) -> str:
    return " ".join(units.split())


@dataclass(frozen=True)
class Encoding:
    """How the stored numbers of one variable become frames.

    Integers of 8 and 16 bits stay as they are; other numbers become float32. What is declared missing gets one code, so that NaN which
    nobody declared can still be told from it.

    Attributes:
        dtype: of the stored numbers, in this machine's byte order.
        scale: physical units of the file per stored unit.
        offset: the physical value of a stored zero.
        missing: stored codes that mean missing, NaN among them where the file declares it.
        low: stored numbers below are missing.
        high: stored numbers above are missing.
    """

    dtype: str
    scale: float
    offset: float
    missing: tuple[float, ...]
    low: float
    high: float

    @property
    def is_packed(self) -> bool:
        """Whether frames are the stored integers themselves."""
        return self.dtype[0] in "iu" and np.dtype(self.dtype).itemsize <= 2

    @property
    def _code(self) -> float:
        """Return the code that stands for all that is missing."""
        if not self.is_packed:
            return FILL
        limits = np.iinfo(np.dtype(self.dtype))
        codes = [code for code in self.missing if limits.min <= code <= limits.max]
        return codes[0] if codes else float(limits.max) if self.high < limits.max else float(limits.min)

    def packing(self, factor: float) -> Packing:
        """Return how frames become physical; ``factor`` is units of the frames per unit of the file."""
        if not self.is_packed:
            return Packing(factor, 0.0, (FILL,))
        limits = np.iinfo(np.dtype(self.dtype))
        bounded = self.low > limits.min or self.high < limits.max
        missing = {code for code in self.missing if limits.min <= code <= limits.max} | ({self._code} if bounded else set())
        return Packing(self.scale * factor, self.offset * factor, tuple(sorted(missing)))

    def pack(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Return frames for stored numbers."""
        stored = np.ascontiguousarray(stored)
        if stored.dtype.byteorder not in "=|" and not stored.dtype.isnative:
            stored = stored.astype(stored.dtype.newbyteorder("="))
        if stored.dtype != self.dtype:
            stored = stored.view(self.dtype)  # _Unsigned: the same bits
        bounded = math.isfinite(self.low) or math.isfinite(self.high)
        outside = (stored < self.low) | (stored > self.high) if bounded else np.zeros(stored.shape, dtype=bool)
        if self.is_packed:
            return np.where(outside, np.asarray(self._code, dtype=stored.dtype), stored) if outside.any() else stored
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is infinite, and is refused by whoever asked for frames
            for code in self.missing:
                outside |= np.isnan(stored) if math.isnan(code) else stored == np.asarray(code).astype(stored.dtype)
            values = stored if (self.scale, self.offset) == (1.0, 0.0) else stored * np.float64(self.scale) + self.offset
            return np.where(outside, np.float32(FILL), values.astype(np.float32))


def read_encoding(place: Path, name: str, dtype: np.dtype[Any], attributes: Mapping[str, Any], *, has_default_fill: bool) -> Encoding:
    """Read how a variable's numbers are packed and which of them mean missing.

    Args:
        place: for messages.
        name: of the variable, for messages.
        dtype: of the stored numbers.
        attributes: of the variable, undecoded.
        has_default_fill: NetCDF's rule for variables without ``_FillValue``, that its own fill value means missing, holds.

    Raises:
        UserError: the numbers are of a type that frames cannot have, or an attribute is no number.
    """
    if dtype.kind not in "iuf":
        raise UserError(f"'{place}': '{name}' holds {dtype}, not numbers; objects are never read")
    unsigned = str(attributes.get("_Unsigned", "false")).lower()
    kind = {("i", "true"): "u", ("u", "false"): "i"}.get((dtype.kind, unsigned), dtype.kind) if "_Unsigned" in attributes else dtype.kind
    code = f"{kind}{dtype.itemsize}"

    def numbers(attribute: str) -> list[float]:
        values = np.asarray(attributes.get(attribute, []))
        try:
            return [float(value) for value in values.reshape(-1)]
        except (TypeError, ValueError):
            raise UserError(f"'{place}': the attribute {attribute} of '{name}' is no number but {attributes[attribute]!r}") from None

    def stored(values: list[float]) -> list[float]:
        return [value + 2.0 ** (8 * dtype.itemsize) if kind == "u" and value < 0 else value for value in values]

    scale, offset = (numbers("scale_factor") or [1.0])[0], (numbers("add_offset") or [0.0])[0]
    if not is_sound(scale, offset, np.dtype(code)):
        raise UserError(f"'{place}': '{name}' has scale_factor {scale:g} and add_offset {offset:g}, from which no value follows")
    low, high = [*numbers("valid_range"), -math.inf, math.inf][:2] if len(numbers("valid_range")) == 2 else (-math.inf, math.inf)
    low, high = (numbers("valid_min") or [low])[0], (numbers("valid_max") or [high])[0]
    written = [np.asarray(attributes[word]).dtype.kind for word in ("valid_range", "valid_min", "valid_max") if word in attributes]
    if "f" in written and dtype.kind != "f":  # of unpacked numbers; a negative scale turns them round
        low, high = sorted(((low - offset) / scale, (high - offset) / scale))
        low, high = low - 1e-6, high + 1e-6  # the division may be off by a rounding
    else:
        low, high = stored([low, high]) if kind == "u" and math.isfinite(low) else (low, high)
    missing = stored(numbers("_FillValue") + numbers("missing_value"))
    if has_default_fill and "_FillValue" not in attributes and (low, high) == (-math.inf, math.inf) and code in _DEFAULT_FILLS:
        missing.append(_DEFAULT_FILLS[code])
    unique = {repr(value): value for value in missing}  # NaN differs from itself
    return Encoding(code, scale, offset, tuple(unique.values()), low, high)
