"""What every data set gives: clips by number; and what every reader gives: films whose frames can be read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpredict.frames import Clip, FrameSpec, Grid, Packing


class ClipSet(ABC):
    """The clips of one split of one card, each read or made when it is asked for.

    A set holds no open file and no state that reading changes, so it can be sent to worker processes.

    Attributes:
        card: the name of the card.
        split: the name of the split.
        spec: what a frame's numbers mean.
        packing: how packed numbers become physical.
        context: observed frames of a clip.
        horizon: frames to forecast.
        training_split: gives the training split of the same card, files and window; None where it is not known.
        known_channels: K, how many inputs of each pixel are known for every frame.
        tolerance: by how many seconds the times of frames may be off.
        changes: what was given in place of what the card says of frames (every, crop, resize, settings).
        endless: True when any index from 0 up gives a clip (made on the fly); ``len`` is then what one epoch counts.
    """

    card: str
    split: str
    spec: FrameSpec
    packing: Packing
    context: int
    horizon: int
    known_channels: int = 0
    tolerance: float = 0.0
    changes: Mapping[str, Any] = MappingProxyType({})
    endless: bool = False
    training_split: Callable[[], ClipSet] | None = None

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of clips."""

    @abstractmethod
    def __getitem__(self, index: int) -> Clip:
        """Return clip ``index``: ``context + horizon`` frames."""

    def grid(self, index: int) -> Grid | None:
        """Return where the pixels of clip ``index`` lie, or None: as the frame spec says, if it says so for all of them."""
        return self.spec.grid


@dataclass(frozen=True)
class Film:
    """One film of an archive: frames in order.

    Attributes:
        name: what people call it: a file, or the folder of its frames.
        length: number of frames.
        times: ``(length,)`` datetime64[s], increasing, or None where a film has no clock.
        moment: datetime64[s], when it counts as happening where films are split by moments; None: when it begins.
    """

    name: str
    length: int
    times: NDArray[np.datetime64] | None = None
    moment: np.datetime64 | None = None


class Reader(ABC):
    """Reads the films of one archive. Made as ``Reader(root, **settings)`` with the settings of a card.

    A reader holds no open file: it opens what it reads, lazily in each process, so that it can be pickled.

    Attributes:
        films: the films found, in natural order.
        channels: C of every frame.
        height: H of every frame.
        width: W of every frame.
        packing: how packed numbers become physical.
        facts: what the files themselves say for the frame spec (``units``, ``time_step``, ``grid``, ``z_r``, ``period``); a card may
            add to it.
    """

    films: Sequence[Film]
    channels: int
    height: int
    width: int
    packing: Packing
    facts: dict[str, Any]

    def grid(self, film: int) -> Grid | None:
        """Return where the pixels of one film lie, or None; where all lie alike, ``facts`` says it.

        Raises:
            UserError: it cannot be worked out.
        """
        return self.facts.get("grid")

    @abstractmethod
    def read(self, film: int, positions: range) -> NDArray[Any]:
        """Return packed frames ``(T, C, H, W)`` at these positions of one film (a range, so a stride in time is possible).

        Raises:
            UserError: a file is damaged or not what the card says; the sentence names the file.
        """
