"""Makes tiny archives in the form of DWD's RADOLAN composites: header, ETX, and 16-bit pixels from the south-west on.

::

    python datasets/generators/radolan.py FOLDER

Composites have 900 x 900 pixels or more; these have as many, so that readers know where they lie.
"""

from __future__ import annotations

import bz2
import gzip
import sys
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

NO_DATA = 0x2000 | 2500  # the bit that says so, and the number that stands under it
CLUTTER = 0x8000
SIZES = {"RY": (900, 900), "RW": (900, 900), "YW": (1100, 900), "RV": (900, 900)}
DIGITS = {"RY": 2, "RW": 1, "YW": 2, "RV": 2}  # after the point, of millimetres
MINUTES = {"RY": 5, "RW": 60, "YW": 5, "RV": 5}


def write_sample(
    folder: Path, frames: int = 6, product: str = "RY", seed: int = 0, start: datetime = datetime(2021, 7, 14, 12), packing: str = ""
) -> list[Path]:
    """Write one file for each of ``frames`` accumulations that end an interval apart, the first at ``start``.

    Rain is a blob that drifts eastward over noise; pixels outside of a disc hold no data. ``packing``: ``.gz``, ``.bz2`` or none.
    """
    random = np.random.default_rng(seed)
    height, width = SIZES[product]
    rows, columns = np.mgrid[:height, :width]
    outside = np.hypot(rows - height / 2, columns - width / 2) > 0.49 * height
    paths = []
    for number in range(frames):
        distance = np.hypot(rows - height / 2, columns - width / 3 - 8 * number)
        rain = np.rint(120 * np.exp(-((distance / 60) ** 2)) + random.integers(0, 2, (height, width))).astype(np.uint16)
        end = start + timedelta(minutes=MINUTES[product] * number)
        paths.append(write_file(folder, np.where(outside, NO_DATA, rain).astype(np.uint16), end, product, packing))
    return paths


def write_file(folder: Path, pixels: np.ndarray, end: datetime, product: str = "RY", packing: str = "", version: int = 3) -> Path:
    """Write one composite of raw ``pixels``, row 0 in the south, that ends at ``end``, by a version of the format (5: on WGS 84)."""
    folder.mkdir(parents=True, exist_ok=True)
    radars = "<boo,ros,emd,hnr,umd,pro,ess,fld,drs,neu,nhb,oft,eis,tur,isn,fbg,mem>"
    height, width = pixels.shape
    ahead = "VV 000MF 00000000" if product == "RV" else ""
    rest = f"VS{version:2}SW   2.28.1PR E-{DIGITS[product]:02}INT{MINUTES[product]:4}GP{height:4}x{width:4}{ahead}MS{len(radars):3}{radars}"
    start = f"{product}{end:%d%H%M}10000{end:%m%y}BY"
    size = len(start) + 7 + len(rest) + 1 + pixels.size * 2
    content = f"{start}{size:7}{rest}".encode("ascii") + b"\x03" + pixels.astype("<u2").tobytes()
    path = folder / f"raa01-{product.lower()}_10000-{end:%y%m%d%H%M}-dwd---bin{packing}"
    packed = {"": bytes, ".gz": lambda plain: gzip.compress(plain, 1), ".bz2": bz2.compress}
    path.write_bytes(packed[packing](content))
    return path


if __name__ == "__main__":
    write_sample(Path(sys.argv[1]))
