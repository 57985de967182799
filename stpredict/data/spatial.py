"""Crop and resize packed frames, the grid kept in step.

Missing pixels are never blended into values. A frame that may miss some is resized as the mean of its valid pixels, and is
float32 with NaN afterwards: missing where less than half of a new pixel's area was valid. A frame that misses none keeps
its own type. Packed numbers whose mean is not the mean of what they stand for become physical first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from stpredict.errors import UserError
from stpredict.frames import Grid, Packing


@dataclass(frozen=True)
class Spatial:
    """What happens to every frame after it is read: first the crop, then the change of size.

    Attributes:
        crop: top row, left column, height and width of the rectangle that is kept, in pixels of the file.
        resize: height and width of the result.
    """

    crop: tuple[int, int, int, int] | None = None
    resize: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.crop is not None and (min(self.crop[:2]) < 0 or min(self.crop[2:]) < 1):
            raise UserError(f"A crop is [top, left, height, width] with top, left >= 0 and height, width >= 1, not {list(self.crop)}")
        if self.resize is not None and min(self.resize) < 1:
            raise UserError(f"Frames are resized to [height, width] of at least 1 pixel, not {list(self.resize)}")

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the result for frames of the given size.

        Raises:
            UserError: the crop reaches beyond the frame.
        """
        if self.crop is not None:
            top, left, rows, columns = self.crop
            if top + rows > height or left + columns > width:
                raise UserError(f"The crop {list(self.crop)} (top, left, height, width) reaches beyond the {height} x {width} frames")
            height, width = rows, columns
        return self.resize if self.resize is not None else (height, width)

    def grid(self, grid: Grid, height: int, width: int) -> Grid:
        """Return where the pixels of the result lie; resizing moves no outer edge."""
        if self.crop is None:
            return grid
        top, left, rows, columns = self.crop
        return grid.crop(top, left, rows, columns, height, width)

    def packing(self, packing: Packing) -> Packing:
        """Return how the result's numbers become physical: resized frames mark missing by NaN, not by codes."""
        if self.resize is None:
            return packing
        return replace(packing, missing=()) if packing.is_linear else Packing()

    def apply(self, frames: NDArray[Any], packing: Packing) -> NDArray[Any]:
        """Crop and resize packed frames ``(T, C, H, W)``."""
        if self.crop is not None:
            top, left, rows, columns = self.crop
            frames = np.ascontiguousarray(frames[..., top : top + rows, left : left + columns])
        if self.resize is None:
            return frames
        if not packing.is_linear:
            return _resize_valid(packing.unpack(torch.from_numpy(frames)).numpy(), Packing(), *self.resize)
        if packing.missing or frames.dtype.kind == "f":
            return _resize_valid(frames, packing, *self.resize)
        return _resize(frames, *self.resize)


def _resize_valid(frames: NDArray[Any], packing: Packing, height: int, width: int) -> NDArray[np.float32]:
    valid = ~np.isnan(frames) if frames.dtype.kind == "f" else np.ones(frames.shape, dtype=bool)
    for code in packing.missing:
        if not math.isnan(code):
            valid &= frames != code
    area = _resize(valid.astype(np.float64), height, width)
    total = _resize(np.where(valid, frames, 0).astype(np.float64), height, width)
    enough = area >= 0.5
    return np.where(enough, total / np.where(enough, area, 1.0), np.nan).astype(np.float32)


def _resize(frames: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    resized = np.empty((*frames.shape[:2], height, width), dtype=frames.dtype)
    for time, frame in enumerate(frames):
        for channel, plane in enumerate(frame):
            resized[time, channel] = _resize_plane(plane, height, width)
    return resized


def _resize_plane(plane: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    rows, columns = min(height, plane.shape[0]), min(width, plane.shape[1])
    if plane.shape != (rows, columns):
        plane = np.asarray(cv2.resize(plane, (columns, rows), interpolation=cv2.INTER_AREA))
    if plane.shape != (height, width):
        plane = np.asarray(cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR))
    return plane
