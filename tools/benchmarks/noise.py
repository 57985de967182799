"""Clips of noise, in the place of those whose files need not be there, and how large these would be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from stpredict import draws, extensions
from stpredict.configuration import settings_of
from stpredict.data import override
from stpredict.data.card import Card, read_card
from stpredict.data.clips import ClipSet
from stpredict.data.generated import CLIPS
from stpredict.errors import UserError
from stpredict.frames import Clip, FrameSpec, Packing
from stpredict.training.settings import DataSettings

_CARD = Path(__file__).with_name("noise.yaml")


class Noise(ClipSet):
    """Endless clips of uniform noise."""

    endless = True

    def __init__(
        self, root: Path | None, split: str, *, context: int, horizon: int, channels: int, height: int, width: int, seed: int = 0
    ) -> None:
        self.root, self.split, self.context, self.horizon, self.seed = root, split, context, horizon, seed
        self.spec = FrameSpec(channels, height, width)
        self.packing = Packing(scale=1.0 / 255.0)

    def __len__(self) -> int:
        return 10000

    def __getitem__(self, index: int) -> Clip:
        shape = (self.context + self.horizon, *self.spec.shape)
        numbers = draws.uniform(self.seed, f"noise {self.split}", 0, index, int(np.prod(shape)))
        return Clip((numbers * 256).astype(np.uint8).reshape(shape), name=f"{self.split} {index}")


def with_noise(data: DataSettings, size: int | None = None) -> DataSettings:
    """Return a config's data section with noise in the place of its clips: as many frames, of the same shape.

    Args:
        data: the section.
        size: height and width, in place of the section's.

    Raises:
        UserError: the size of the frames stands in the files alone, and none is given.
    """
    card = override(read_card(data.card), **data.window())
    height, width = (size, size) if size is not None else data.random_crop or _frame_size(card)
    channels = 3 if card.settings.get("colour") is True else 1
    return replace(
        data,
        card=str(_CARD),
        root=None,
        context=card.window.context,
        horizon=card.window.horizon,
        workers=0,
        stride=None,
        every=None,
        crop=None,
        resize=None,
        rain=None,
        random_crop=None,
        settings={"channels": channels, "height": height, "width": width},
    )


def _frame_size(card: Card) -> tuple[int, int]:
    """Return height and width of a card's frames, as far as the card and the signature of its clips tell it."""
    if card.spatial is not None and card.spatial.resize is not None:
        return card.spatial.resize
    if card.spatial is not None and card.spatial.crop is not None:
        return card.spatial.crop[2:]
    if card.clips is not None:
        known, _ = settings_of(extensions.find("readers", card.clips, CLIPS))
        size = {**known, **card.settings}.get("size")
        if isinstance(size, int):
            return size, size
    raise UserError(f"The card '{card.name}' does not say how large its frames are: give their height and width with --size N")
