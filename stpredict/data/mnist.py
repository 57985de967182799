"""The MNIST images from their idx files, plain or gzipped.

Format: big-endian; magic 0x00000803 (unsigned byte, three dimensions), count, rows, columns, then the pixels.
Source: LeCun, Cortes and Burges, The MNIST database of handwritten digits.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stpredict.errors import UserError

_FILES = {"train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}
_LARGEST = 1 << 20
"""More images than any MNIST-like file has: a header that claims more is damaged."""


def read_mnist(root: Path, part: str) -> NDArray[np.uint8]:
    """Return the images ``(N, 28, 28)`` of ``part``, ``train`` or ``test``.

    Looks in ``root``, ``root/raw`` and ``root/MNIST/raw`` (where torchvision puts them) for the idx file, plain or ``.gz``. Where
    there is none, torchvision is asked to fetch it into ``root``, if it is installed.

    Raises:
        UserError: there is no such file and none could be fetched, or it is damaged.
    """
    path = _find(root, part)
    if path is None and _fetch(root):
        path = _find(root, part)
    if path is None:
        raise UserError(
            f"{root} does not hold {_FILES[part]} or {_FILES[part]}.gz; put the MNIST files there, "
            "or pip install 'stpredict[vision]' and let torchvision fetch them"
        )
    return read_idx_images(path)


def read_idx_images(path: Path) -> NDArray[np.uint8]:
    """Return the images ``(N, rows, columns)`` of one idx file.

    Raises:
        UserError: the file is no idx file of images, or is cut off.
    """
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        try:
            header = file.read(16)
            if len(header) < 16:
                raise UserError(f"{path} is cut off: an idx file starts with 16 bytes, this has {len(header)}")
            magic, count, rows, columns = struct.unpack(">4I", header)
            if magic != 0x803:
                raise UserError(f"{path} is no idx file of images: its magic number is 0x{magic:08x}, not 0x00000803")
            if count > _LARGEST or (rows, columns) != (28, 28):
                raise UserError(f"{path} claims {count} images of {rows} x {columns}; MNIST images are 28 x 28: the header is damaged")
            pixels = file.read(count * rows * columns + 1)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UserError(f"{path} is damaged or cut off ({error}); fetch it again") from None
    if len(pixels) != count * rows * columns:
        raise UserError(f"{path} should hold {count} images of {rows} x {columns} and holds {len(pixels)} bytes of pixels; fetch it again")
    return np.frombuffer(pixels, dtype=np.uint8).reshape(count, rows, columns)


def _find(root: Path, part: str) -> Path | None:
    for folder in (root, root / "raw", root / "MNIST" / "raw"):
        for name in (_FILES[part], _FILES[part] + ".gz"):
            if (folder / name).is_file():
                return folder / name
    return None


def _fetch(root: Path) -> bool:
    """Let torchvision download MNIST into ``root``; False where it is not installed or does not fit the installed torch."""
    try:
        from torchvision.datasets import MNIST
    except (ImportError, RuntimeError):
        return False
    try:
        MNIST(str(root), download=True)
    except (RuntimeError, OSError) as error:
        raise UserError(f"torchvision could not fetch MNIST into {root}: {error}") from None
    return True
