"""Makes tiny archives in the form of FMI's PGM images packed by gzip: header and names as in real ones, with a blob for rain.

::

    python datasets/generators/fmi.py FOLDER
"""

from __future__ import annotations

import gzip
import sys
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

MISSING = 255
HEADER = """P5
# composite_area FIN
# projection_name SUOMI1
# radar KOR 1 21.6460 60.1280
# radar VAN 1 24.8730 60.2710
# obstime {time:%Y%m%d%H%M}
# producttype CAPPI
# productname LOWEST
# param CorrectedReflectivity
# metersperpixel_x {across:.6f}
# metersperpixel_y {down:.6f}
# projection radar {{
# type stereographic
# centrallongitude 25
# centrallatitude 90
# truelatitude 60
# bottomleft 18.600000 57.930000
# topright 34.903000 69.005000
# }}
{width} {height}
255
"""
WIDTH_METRES, HEIGHT_METRES = 759_752.28, 1_225_544.65


def write_sample(
    folder: Path, frames: int = 40, height: int = 49, width: int = 30, start: datetime = datetime(2017, 5, 9, 10, 45)
) -> list[Path]:
    """Write ``frames`` composites 5 minutes apart: a blob that drifts eastward, beyond the reach of the radars missing."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[:height, :width]
    unseen = np.hypot((rows - height / 2) / height, (columns - width / 2) / width) > 0.55
    paths = []
    for number in range(frames):
        distance = np.hypot(rows - height / 2, (columns - number) % width - width / 2)
        pixels = np.where(distance < 12, 160 - 8 * distance, 0).astype(np.uint8)
        pixels[unseen] = MISSING
        paths.append(write_file(folder, pixels, start + timedelta(minutes=5 * number)))
    return paths


def write_file(folder: Path, pixels: np.ndarray, time: datetime) -> Path:
    """Write a composite, in half dBZ above -32 dBZ."""
    path = folder / f"{time:%Y%m%d%H%M}_fmi.radar.composite.lowest_FIN_SUOMI1.pgm.gz"
    height, width = pixels.shape
    header = HEADER.format(time=time, across=WIDTH_METRES / width, down=HEIGHT_METRES / height, width=width, height=height)
    path.write_bytes(gzip.compress(header.encode() + pixels.astype(np.uint8).tobytes(), mtime=0))
    return path


if __name__ == "__main__":
    write_sample(Path(sys.argv[1]))
