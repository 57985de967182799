"""Films as folders of images, a frame each; an animated image is a film of its own."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stpredict.data.clips import Film, Reader
from stpredict.data.readers.finding import find_files, inspect_each, name_below, naming, natural_key
from stpredict.errors import UserError
from stpredict.frames import Packing

_PATTERNS = ("*.png", "*.jpg", "*.jpeg", "*.pgm", "*.gif", "*.bmp", "*.tif", "*.tiff", "*.webp")
_MAY_MOVE = (".gif", ".webp", ".tif", ".tiff")
_DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N")
# Pillow's decoders let all of these through.
_DAMAGE = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, struct.error, Image.DecompressionBombError)


@dataclass(frozen=True)
class _Source:
    """Where a film's frames are: a file each, or the ``count`` pictures of one animated file."""

    name: str
    paths: tuple[Path, ...]
    count: int


class Folders(Reader):
    """Reads films from folders of images (png, jpg, pgm, gif, bmp, tif, webp).

    Every folder below the root that holds images, the root too, is a film: its images in natural order (2 before 10).
    Gray images of 16 bits stay uint16.

    Args:
        root: the folder, or one animated image.
        colour: red, green and blue (C = 3) instead of gray (C = 1).
        leave_out: patterns of paths below the root that are not read.

    Raises:
        UserError: there is no such folder or no image in it, or an image is damaged.
    """

    def __init__(self, root: Path, *, colour: bool = False, leave_out: Sequence[str] = ()) -> None:
        self.colour = colour
        paths = sorted(find_files(root, _PATTERNS, leave_out), key=lambda path: (natural_key(str(path.parent)), natural_key(path.name)))
        counts = inspect_each(root, paths, _picture_count)
        self._sources: list[_Source] = []
        for folder, numbered in groupby(zip(paths, counts, strict=True), key=lambda pair: pair[0].parent):
            members = list(numbered)
            still = tuple(path for path, count in members if count == 1)
            if still:
                self._sources.append(_Source(name_below(root, folder if root.is_dir() else root), still, len(still)))
            self._sources += [_Source(name_below(root, path), (path,), count) for path, count in members if count > 1]
        self._first = self._sources[0].paths[0]
        with naming(self._first, "image", *_DAMAGE), Image.open(self._first) as image:
            self.height, self.width = image.height, image.width
        self.channels = 3 if colour else 1
        self._dtype: np.dtype[Any] | None = None
        self._dtype = self._read_pictures(self._first, [0])[0].dtype
        self.films = [Film(source.name, source.count) for source in self._sources]
        self.packing = Packing(scale=1 / 65535 if self._dtype == np.uint16 else 1 / 255)
        self.facts = {}

    def read(self, film: int, positions: range) -> NDArray[Any]:
        """Return packed frames ``(T, C, H, W)``, uint8 or uint16."""
        paths = self._sources[film].paths
        if len(paths) == 1:
            return np.stack(self._read_pictures(paths[0], positions))
        return np.stack([self._read_pictures(paths[position], [0])[0] for position in positions])

    def _read_pictures(self, path: Path, numbers: Sequence[int]) -> list[NDArray[Any]]:
        with naming(path, "image", *_DAMAGE), Image.open(path) as image:
            self._refuse_other_size(path, image.height, image.width)  # before it is decoded: a wrong header takes no memory
            pictures = []
            for number in numbers:
                image.seek(number)
                picture = self._to_array(path, image)
                self._refuse_other_size(path, *picture.shape[1:])
                if self._dtype is not None and picture.dtype != self._dtype:
                    bits, first_bits = 8 * picture.itemsize, 8 * self._dtype.itemsize
                    raise UserError(f"'{path}' has {bits} bits a pixel, but '{self._first}' has {first_bits}")
                pictures.append(picture)
        return pictures

    def _refuse_other_size(self, path: Path, height: int, width: int) -> None:
        if (height, width) != (self.height, self.width):
            raise UserError(
                f"'{path}' is {height} x {width} pixels, but '{self._first}' is {self.height} x {self.width}; "
                "the frames of an archive have one size"
            )

    def _to_array(self, path: Path, image: Image.Image) -> NDArray[Any]:
        if image.mode == "F":
            raise UserError(f"'{path}' holds floating-point pixels; keep such frames in arrays (reader: arrays)")
        if image.mode in _DEEP:
            values = np.asarray(image)
            if self.colour or values.min() < 0 or values.max() > 65535:
                raise UserError(f"'{path}' is gray with more than 8 bits: read it with colour: false, in 16 bits")
            return values.astype(np.uint16)[np.newaxis]
        if self.colour:
            return np.ascontiguousarray(np.asarray(image.convert("RGB")).transpose(2, 0, 1))
        return np.asarray(image.convert("L"))[np.newaxis]


def _picture_count(path: Path) -> int:
    if path.suffix.lower() not in _MAY_MOVE:
        return 1
    with naming(path, "image", *_DAMAGE), Image.open(path) as image:
        return int(getattr(image, "n_frames", 1))
