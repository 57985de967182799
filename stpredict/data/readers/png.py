"""Gray PNG files of 8 bits that nobody vouches for: sizes are looked at before they are decoded, and checksums are compared.

Source: W3C, Portable Network Graphics (PNG) Specification, second edition.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stpredict.data.readers.finding import naming
from stpredict.data.readers.hdf5 import DEFLATE_LIMIT
from stpredict.errors import UserError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct(">8sI4sIIBB")
_CHUNK = struct.Struct(">I4s")
# Pillow's decoder lets all of these through.
_DAMAGE = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def picture_size(path: Path) -> tuple[int, int]:
    """Return height and width by the header alone.

    Raises:
        UserError: the file is no PNG of 8 bits, or tells of more pixels than it can hold.
    """
    with naming(path, "PNG file", *_DAMAGE), path.open("rb") as file:
        return _size(path, file.read(_HEADER.size), path.stat().st_size)


def read_gray(path: Path, height: int, width: int) -> NDArray[np.uint8]:
    """Return the pixels ``(H, W)``.

    Raises:
        UserError: the file is damaged, of another size, or coloured.
    """
    with naming(path, "PNG file", *_DAMAGE):
        content = path.read_bytes()
        found = _size(path, content[: _HEADER.size], len(content))
        if found != (height, width):
            raise UserError(f"'{path}' is {found[0]} x {found[1]} pixels, but the archive's frames are {height} x {width}")
        _compare_checksums(content)
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if image.mode == "L":
                return np.array(image)
            colours = np.asarray(image.convert("RGB"))
        if (colours != colours[:, :, :1]).any():
            raise UserError(f"'{path}' is coloured; frames are gray")
        return np.ascontiguousarray(colours[:, :, 0])


def _size(path: Path, header: bytes, stored: int) -> tuple[int, int]:
    signature, _, kind, width, height, bits, _ = _HEADER.unpack(header)
    if signature != _SIGNATURE or kind != b"IHDR":
        raise ValueError("it does not begin as one")
    if bits != 8:
        raise UserError(f"'{path}' has {bits} bits a pixel, not 8")
    if min(height, width) < 1 or height * width > stored * DEFLATE_LIMIT:
        raise UserError(f"'{path}' tells of {height} x {width} pixels, which its {stored} bytes cannot hold; get it again or leave it out")
    return height, width


def _compare_checksums(content: bytes) -> None:
    """Pillow compares none of the checksums of the pixels."""
    position, kind = len(_SIGNATURE), b""
    while kind != b"IEND":
        length, kind = _CHUNK.unpack_from(content, position)
        end = position + _CHUNK.size + length
        (told,) = struct.unpack_from(">I", content, end)
        if zlib.crc32(content[position + 4 : end]) != told:
            raise ValueError(f"the checksum of its part {kind.decode('ascii', 'replace')} is wrong")
        position = end + 4
