"""Whether the numbers by which a file unpacks its pixels can be."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

_LARGEST = 1e30  # float32 holds more, but no quantity of the weather comes near


def is_sound(scale: float, offset: float, dtype: np.dtype[Any]) -> bool:
    """Return whether ``scale x packed + offset`` tells pixels of a type apart, and is a finite number for all of them."""
    largest = float(np.iinfo(dtype).max) if dtype.kind in "iu" else 1.0
    return scale != 0 and all(math.isfinite(number) and abs(number) < _LARGEST for number in (scale * largest, offset))
