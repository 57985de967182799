"""Reflectivity as rain rate, where a card asks for it: a table says which rate each number of a file stands for."""

from __future__ import annotations

import numpy as np
import torch

from stpredict.data.clips import Reader
from stpredict.errors import UserError
from stpredict.frames import Packing
from stpredict.rain import dbz_to_rain

_MOST_CODES = 1 << 16


def read_as_rain(reader: Reader, z_r: tuple[float, float] | None, card: str) -> None:
    """Let a reader of reflectivity in dBZ give rain rates in mm/h; what stands for the least reflectivity has no rain.

    Args:
        reader: its ``packing`` and ``facts`` are replaced.
        z_r: a and b of ``Z = a R^b``; None: what the files say.
        card: its name, for people.

    Raises:
        UserError: there is no Z-R pair, or the numbers of the files are not of 8 or 16 bits without a sign.
    """
    pair = z_r or reader.facts.get("z_r")
    if pair is None:
        raise UserError(f"The card '{card}' wants mm/h of files in dBZ, which takes a Z-R pair: add z_r, such as [200, 1.6], to its frames")
    dtype = reader.read(0, range(1)).dtype
    if dtype.kind != "u" or np.iinfo(dtype).max >= _MOST_CODES:
        raise UserError(f"The card '{card}' wants mm/h of files in dBZ, which is for numbers of 8 or 16 bits, not {dtype}: leave units out")
    dbz = reader.packing.unpack(torch.arange(np.iinfo(dtype).max + 1))
    least = float(dbz[~dbz.isnan()].min())
    reader.packing = Packing(table=tuple(dbz_to_rain(dbz, pair, floor=least).float().tolist()))
    reader.facts = {**reader.facts, "units": "mm/h", "z_r": pair}
