"""Cards: YAML files that describe a data set. The dataclasses below are the schema.

::

    name: knmi
    title: Rain over the Netherlands
    reader: knmi                  # or `clips: moving_digits` for clips that are made, not read
    settings: {}                  # of the reader
    frames: {units: mm/h, transform: {name: sqrt, low: 0, high: 100}, fill: 0, minimum: 0}
    time: {step: 300, tolerance: 0}
    spatial: {crop: [0, 0, 256, 256], resize: [128, 128]}
    window: {context: 10, horizon: 10}       # and for instance rain: {threshold: 0.1, fraction: 0.05}
    splits: {by: time, fractions: {train: 0.7, validation: 0.1, test: 0.2}}
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stpredict import extensions
from stpredict.configuration import build, read_yaml
from stpredict.data.choosing import Rain
from stpredict.data.clips import ClipSet, Reader
from stpredict.data.rates import read_as_rain
from stpredict.data.readers import READERS
from stpredict.data.readers.store import Store, is_store
from stpredict.data.spatial import Spatial
from stpredict.data.splits import Splits
from stpredict.errors import UserError
from stpredict.files import find_yaml
from stpredict.frames import Transform


@dataclass(frozen=True)
class Frames:
    """What the numbers mean, where the files do not say it themselves.

    Attributes:
        units: of physical values; left out, those of the files, or ``1``. ``mm/h`` of files in dBZ turns these into rain rates, by ``z_r``.
        transform: physical to scaled.
        fill: the physical value that a network sees where one is missing.
        minimum: the least physical value there can be.
        nan_is_missing: NaN in floating-point data means missing; otherwise NaN is an error.
        z_r: a and b of ``Z = a R^b`` that belong to these radars, where the files do not say.
        thresholds: the physical values at which forecasts are usually judged.
    """

    units: str | None = None
    transform: Transform = field(default_factory=Transform)
    fill: float = 0.0
    minimum: float | None = None
    nan_is_missing: bool = False
    z_r: tuple[float, float] | None = None
    thresholds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.z_r is not None and min(self.z_r) <= 0:
            raise UserError(f"frames.z_r is a and b of Z = a R^b, both above 0, not {list(self.z_r)}")
        if not math.isfinite(self.fill) or not (self.minimum is None or math.isfinite(self.minimum)):
            raise UserError(f"frames need a finite fill and minimum, not {self.fill:g} and {self.minimum}")


@dataclass(frozen=True)
class Clock:
    """How frames follow one another in time.

    Attributes:
        step: seconds from one frame to the next.
        tolerance: by how many seconds a step may differ before it counts as a gap.
    """

    step: float
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        if self.step <= 0 or self.tolerance < 0:
            raise UserError(f"time needs step > 0 and tolerance >= 0, not {self.step:g} and {self.tolerance:g}")


@dataclass(frozen=True)
class Window:
    """Which frames make a clip.

    Attributes:
        context: observed frames.
        horizon: frames to forecast.
        stride: frames from the start of one clip to the start of the next.
        every: a clip takes every so many-th frame.
        rain: keep the clips in which it rains enough; left out, all.
    """

    context: int = 10
    horizon: int = 10
    stride: int = 1
    every: int = 1
    rain: Rain | None = None

    def __post_init__(self) -> None:
        for name in ("context", "horizon", "stride", "every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}")

    @property
    def length(self) -> int:
        """Return the number of frames of a clip."""
        return self.context + self.horizon

    @property
    def span(self) -> int:
        """Return how many frames of a film a clip reaches over, from its first to its last."""
        return (self.length - 1) * self.every + 1


@dataclass(frozen=True)
class Source:
    """One of several data sets that a card joins.

    Attributes:
        card: name or path of its card; its window and, where the joining card has them, its frames and clock are the joining card's.
        root: where its files are, below the root of the whole.
        crop: as in :class:`Spatial`; left out, as its card says.
        resize: as in :class:`Spatial`; left out, as its card says.
        settings: of its reader; those of its card are replaced one by one.
        splits: which of its splits each split of the whole has; one that is not named has none of it.
    """

    card: str
    splits: Mapping[str, str]
    root: str = "."
    crop: tuple[int, int, int, int] | None = None
    resize: tuple[int, int] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if Path(self.root).is_absolute() or ".." in Path(self.root).parts:
            raise UserError(f"sources.root '{self.root}' lies outside of the folder of the data: name a folder below it")


@dataclass(frozen=True)
class Card:
    """A data set: where it is from, which reader reads it, what its numbers mean, which clips and splits it has.

    Attributes:
        name: what it is called in commands and tables; left out, the name of the card's file.
        title: a line about it.
        source: where it is from.
        licence: what may be done with it.
        how_to_get: how one gets the files.
        reader: a reader's name or ``package.module:Class``; or else
        clips: the name or ``package.module:Class`` of a class that makes clips and fixes their splits itself; or else
        sources: data sets that have readers, joined.
        settings: keyword arguments of the reader or of the class of clips.
        needs_files: False where clips are made from nothing.
        frames: what the numbers mean.
        time: the clock; left out, the time step of the files, if they tell one.
        spatial: crop and change of size.
        known: inputs that are known for every frame, by name (:mod:`stpredict.data.known`).
        window: which frames make a clip.
        splits: which frames belong to which split; for clips that are made, the names of the splits.
    """

    name: str = ""
    title: str = ""
    source: str = ""
    licence: str = ""
    how_to_get: str = ""
    reader: str | None = None
    clips: str | None = None
    sources: tuple[Source, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    needs_files: bool = True
    frames: Frames | None = None
    time: Clock | None = None
    spatial: Spatial | None = None
    known: tuple[str, ...] = ()
    window: Window = field(default_factory=Window)
    splits: Splits | Sequence[str] | None = None

    def __post_init__(self) -> None:
        if (self.reader is not None) + (self.clips is not None) + bool(self.sources) != 1:
            raise UserError("a card names either a 'reader' or 'clips' or 'sources'")
        if self.sources and (self.splits is not None or self.settings or self.spatial is not None or self.known):
            raise UserError("a card with 'sources' has no splits, settings, spatial or known of its own: its sources have them")
        if self.reader is not None and not isinstance(self.splits, Splits):
            raise UserError("a card with a reader needs 'splits', such as {by: time, fractions: {train: 0.8, validation: 0.1, test: 0.1}}")
        if self.clips is not None and not isinstance(self.splits, list | tuple):
            raise UserError("a card with 'clips' lists the names of their splits, such as splits: [train, validation, test]")
        if self.reader is not None and not self.needs_files:
            raise UserError("a card with a reader needs files: leave 'needs_files' out")
        if self.clips is not None:
            unused = [name for name in ("frames", "time", "spatial", "known") if getattr(self, name)]
            unused += [name for name in ("stride", "every") if getattr(self.window, name) != 1]
            unused += ["rain"] if self.window.rain is not None else []
            if unused:
                raise UserError(f"clips that are made take settings, context and horizon, not {', '.join(unused)}")


def read_card(card: str | Path | Card) -> Card:
    """Read a card.

    Args:
        card: a shipped name such as ``knmi``, the path of a YAML file, or a card, which is returned as it is.

    Raises:
        UserError: there is no such card, or it is not as it should be; the sentence names the file and the key.
    """
    if isinstance(card, Card):
        return card
    path = find_yaml("datasets", card)
    try:
        made: Card = build(Card, read_yaml(path))
    except UserError as error:
        raise UserError(f"The card '{path}': {error}") from None
    return made if made.name else dataclasses.replace(made, name=path.stem)


def open_reader(card: Card, root: str | Path | None) -> Reader:
    """Open the reader that a card names, or, where the root is a prepared file of such an archive, the reader of that.

    Raises:
        UserError: no root is given, a setting is unknown, the files cannot be read, a prepared file is of another reader or settings, or
            reflectivity cannot become the rain rate that the card wants.
    """
    assert card.reader is not None
    place = need_root(card, root)
    if is_store(place):
        store = Store(place)
        if extensions.find("readers", card.reader, READERS) is not Store:
            store.refuse_other(card.name, card.reader, card.settings)
        store.refuse_beyond(card.name, card.spatial.crop if card.spatial is not None else None)
        reader: Reader = store
    else:
        reader = _make(card, card.reader, READERS, root=place)
        if not isinstance(reader, Reader):
            raise UserError(f"The card '{card.name}': '{card.reader}' is no stpredict.data.clips.Reader")
    if card.frames is not None and card.frames.units == "mm/h" and reader.facts.get("units") == "dBZ":
        read_as_rain(reader, card.frames.z_r, card.name)
    return reader


def make_clips(card: Card, root: str | Path | None, split: str, seed: int) -> ClipSet:
    """Make the clips of one split of a card without a reader.

    Raises:
        UserError: there is no such split, a setting is unknown, or files are needed and cannot be read.
    """
    # Imported late: the generators are needed for such cards only.
    from stpredict.data.generated import CLIPS

    assert card.clips is not None
    place = need_root(card, root) if card.needs_files else None
    window = {"context": card.window.context, "horizon": card.window.horizon}
    clips = _make(card, card.clips, CLIPS, root=place, split=split, **window, seed=seed)
    if not isinstance(clips, ClipSet):
        raise UserError(f"The card '{card.name}': '{card.clips}' makes no stpredict.data.clips.ClipSet")
    clips.card = card.name
    return clips


def _make(card: Card, name: str, ours: Mapping[str, str], **given: Any) -> Any:
    """Call the code that a card names with the card's settings, checked against its signature."""
    target = extensions.find("readers", name, ours)
    if not callable(target):
        raise UserError(f"The card '{card.name}': '{name}' is no class")
    return build(target, card.settings, f"{card.name}.settings", **given)


def need_root(card: Card, root: str | Path | None) -> Path:
    """Return the folder of the files of a card.

    Raises:
        UserError: none is given; the sentence says how to give it, and how to get the files.
    """
    if root is None:
        how = "--root FOLDER; in training --data.root FOLDER"
        raise UserError(f"The data set '{card.name}' needs the folder of its files ({how}). {card.how_to_get}".strip())
    return Path(root)
