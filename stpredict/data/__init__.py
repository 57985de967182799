"""Data sets: cards describe them, readers read them, clips come out."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stpredict.configuration import build
from stpredict.data.card import Card, Source, make_clips, need_root, open_reader, read_card
from stpredict.data.choosing import Rain
from stpredict.data.clips import ClipSet
from stpredict.data.spatial import Spatial
from stpredict.data.splits import Splits
from stpredict.data.together import Together
from stpredict.data.windows import Windows
from stpredict.errors import UserError

__all__ = ["load_data"]


def load_data(
    card: str | Path | Card,
    root: str | Path | None = None,
    split: str = "train",
    *,
    context: int | None = None,
    horizon: int | None = None,
    stride: int | None = None,
    every: int | None = None,
    crop: Sequence[int] | None = None,
    resize: Sequence[int] | None = None,
    rain: Rain | Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> ClipSet:
    """Return the clips of one split of a data set. What is left out is as its card says.

    Args:
        card: a shipped name such as ``knmi``, the path of a card, or a card.
        root: the folder of the files (or one file), where the data set has files.
        split: one of the card's splits.
        context: observed frames of a clip.
        horizon: frames to forecast.
        stride: frames from the start of one clip to the start of the next.
        every: a clip takes every so many-th frame.
        crop: top row, left column, height and width that are kept of every frame.
        resize: height and width that every frame gets after the crop.
        rain: which clips have rain enough, such as ``{"threshold": 0.1, "fraction": 0.05}``.
        settings: of the reader, or of the class that makes the clips; those of the card are replaced one by one.
        seed: of clips that are made, and of the draw of ``rain``'s ``importance``; other clips do not depend on it.

    Raises:
        UserError: there is no such card or split, no root is given though files are needed, a file cannot be used, a value
            is impossible, or the split holds no clip.
    """
    chosen = override(read_card(card), context, horizon, stride, every, crop, resize, rain, settings)
    clips = _open(chosen, root, split, seed)
    clips.training_split = functools.partial(_open, chosen, root, "train", seed)
    given = {"every": every, "crop": crop, "resize": resize, "settings": settings}
    clips.changes = {name: value for name, value in given.items() if value is not None}
    return clips


def _open(card: Card, root: str | Path | None, split: str, seed: int) -> ClipSet:
    if card.sources:
        chosen = [source for source in card.sources if split in source.splits]
        return Together(card.name, split, [_open_source(card, source, root, split, seed) for source in chosen])
    if card.reader is None:
        return make_clips(card, root, split, seed)
    assert isinstance(card.splits, Splits)
    card.splits.refuse_unknown(split)
    return Windows(card, open_reader(card, root), split, root=root, seed=seed)


def _open_source(card: Card, source: Source, root: str | Path | None, split: str, seed: int) -> ClipSet:
    return _open(card_of_source(card, source), need_root(card, root) / source.root, source.splits[split], seed)


def card_of_source(card: Card, source: Source) -> Card:
    """Return the card of a source, changed as the card that joins it says.

    Raises:
        UserError: there is no such card, or it has no reader.
    """
    own = override(read_card(source.card), crop=source.crop, resize=source.resize, settings=source.settings)
    if own.reader is None:
        raise UserError(f"The card '{card.name}' joins data sets that have a reader, and '{own.name}' has none")
    return dataclasses.replace(own, window=card.window, frames=card.frames or own.frames, time=card.time or own.time)


def override(
    card: Card,
    context: int | None = None,
    horizon: int | None = None,
    stride: int | None = None,
    every: int | None = None,
    crop: Sequence[int] | None = None,
    resize: Sequence[int] | None = None,
    rain: Rain | Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Card:
    """Return the card with what is given in place of what it says; arguments as in :func:`load_data`.

    Raises:
        UserError: a value is impossible.
    """
    asked = {"context": context, "horizon": horizon, "stride": stride, "every": every}
    window: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    if rain is not None:
        window["rain"] = rain if isinstance(rain, Rain) else build(Rain, rain, "rain")
    changes: dict[str, Any] = {"window": dataclasses.replace(card.window, **window), "settings": {**card.settings, **(settings or {})}}
    if crop is not None or resize is not None:
        changes["spatial"] = _spatial(card, crop, resize)
    return dataclasses.replace(card, **changes)


def _spatial(card: Card, crop: Sequence[int] | None, resize: Sequence[int] | None) -> Spatial:
    old = card.spatial or Spatial()
    if crop is not None and len(crop) != 4:
        raise UserError(f"A crop is [top, left, height, width], not {list(crop)}")
    if resize is not None and len(resize) != 2:
        raise UserError(f"Frames are resized to [height, width], not {list(resize)}")
    top_left_height_width = tuple(crop) if crop is not None else old.crop
    return Spatial(top_left_height_width, tuple(resize) if resize is not None else old.resize)  # type: ignore[arg-type]  # lengths checked
