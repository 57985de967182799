"""The one palette of an animation's frames, and pictures in its colours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stpredict.render.panels import evenly

_UNKNOWN = 256


class Palette:
    """Up to 256 colours, and for each colour met so far the nearest of them.

    Attributes:
        entries: the colours, three bytes each.
    """

    def __init__(self, entries: bytes) -> None:
        """Take the colours; no other has been met."""
        self.entries = entries
        self._colours = np.frombuffer(entries, dtype=np.uint8).reshape(-1, 3).astype(np.int32)
        self._nearest = np.full(1 << 24, _UNKNOWN, dtype=np.uint16)

    def image(self, picture: NDArray[np.uint8]) -> Image.Image:
        """Return a picture ``(H, W, 3)`` as an image of mode P; each pixel has the nearest colour, the first of equally near ones."""
        codes = picture[..., 0].astype(np.int32) << 16 | picture[..., 1].astype(np.int32) << 8 | picture[..., 2]
        numbers = self._nearest[codes]
        met = np.unique(codes[numbers == _UNKNOWN])
        if len(met):
            self._meet(met)
            numbers = self._nearest[codes]
        image = Image.fromarray(numbers.astype(np.uint8), "P")
        image.putpalette(self.entries)
        return image

    def _meet(self, codes: NDArray[np.int32]) -> None:
        for some in np.array_split(codes, -(-len(codes) // 4096)):
            colours = np.stack([some >> 16, some >> 8 & 255, some & 255], axis=1)
            squares = ((colours[:, None] - self._colours) ** 2).sum(axis=2)
            self._nearest[some] = squares.argmin(axis=1)


def common_palette(picture: Callable[[int], NDArray[np.uint8]], times: Sequence[int], at_most: int = 16) -> bytes:
    """Return up to 256 colours, three bytes each, for all frames, made from up to ``at_most`` of them.

    Half of it goes to the commonest colours as they are, so that neither the paper nor a step of a colour map (its legend makes it
    common, however few pixels a storm's core has) becomes another; the rest of the colours share what is left.
    """
    numbers: Counter[Any] = Counter()
    for place in evenly(len(times), at_most):
        image = Image.fromarray(picture(times[place]))
        numbers.update({colour: number for number, colour in image.getcolors(image.width * image.height) or ()})
    colours = np.array([colour for colour, _ in numbers.most_common()], dtype=np.uint8)
    kept, shared = (colours, colours[:0]) if len(colours) <= 256 else (colours[:128], colours[128:])
    entries = kept.tobytes()
    if len(shared):
        entries += bytes(Image.fromarray(shared[None]).quantize(256 - len(kept), Image.Quantize.MEDIANCUT).getpalette() or ())
    return entries
