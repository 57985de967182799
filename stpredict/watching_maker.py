"""The forecast of one cycle: which frames it starts from, and what makes it."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from stpredict.baselines import BASELINES
from stpredict.data.card import Card
from stpredict.data.newest import Newest, newest_of
from stpredict.errors import UserError
from stpredict.nowcast import continue_newest
from stpredict.products import Nowcast
from stpredict.watching_arrivals import Arrivals
from stpredict.watching_record import Cycle, drop_first, stamp
from stpredict.watching_worker import About, Worker, WorkerFailed

_MOVING_FRAMES = 3
"""A baseline is given no fewer of the newest frames, where they are there."""


@dataclass
class Maker:
    """Makes the forecast of a cycle: by the predictor, or else by the first of the chain that can."""

    predictor: str
    about: About
    card: Card
    arrivals: Arrivals
    folder: Path
    worker: Worker
    fill_gaps: str | None
    fallback: tuple[str, ...]
    horizon: int

    def __post_init__(self) -> None:
        self.every = self.card.window.every
        self.context = self.about.context or self.card.window.context
        self.span = (self.context - 1) * self.every + 1
        # Seconds that fallbacks and the writing of products took of late; the first loads libraries, which no other does.
        self.took: deque[float] = deque(maxlen=20)

    @property
    def keep(self) -> int:
        """Return how many slots back a frame may still be of use."""
        return 2 * max(self.span, _MOVING_FRAMES * self.every) + self.horizon * self.every

    def make(self, slot: int, cycle: Cycle, limit: float) -> Nowcast | None:
        """Return the forecast of a cycle, and note in ``cycle`` how it was made; ``limit`` is the end by ``time.monotonic``."""
        reasons = []
        found = self._complete(slot)
        if isinstance(found, str):
            reasons.append(f"{self.about.name}: {found}")
        else:
            newest, back = found
            left = limit - time.monotonic()
            try:
                seconds = left - min(left / 2, max(left / 4, 2 * max(self.took, default=0.0)))
                nowcast = self.worker.ask(newest, self.folder, self.horizon + back, seconds)
            except WorkerFailed as error:
                reasons.append(f"{self.about.name}: {error}")
            else:
                return self._finish(nowcast, slot, back, cycle, self.about.name, None)
        for name in self.fallback:
            began = time.monotonic()
            recent = self._recent(slot)
            if recent is None:
                reasons.append(f"{name}: there is no frame")
                continue
            newest, back = recent
            repeats = name == "persistence"  # however long ago the newest frame was
            if back > self.horizon and not repeats:
                reasons.append(f"{name}: the newest frame is older than the horizon")
                continue
            try:
                nowcast = continue_newest(BASELINES[name](), newest, self.folder, self.horizon + (0 if repeats else back))
            except UserError as error:
                reasons.append(f"{name}: {error}")
                continue
            self.took.append(time.monotonic() - began)
            return self._finish(nowcast, slot, back, cycle, name, "; ".join(reasons))
        cycle.reason = "; ".join(reasons)
        return None

    def _finish(self, nowcast: Nowcast, slot: int, back: int, cycle: Cycle, used: str, reason: str | None) -> Nowcast:
        arrivals, last = self.arrivals, slot - back * self.every
        first = last - (len(nowcast.observed) - 1) * self.every
        there = [frame for number in range(first, last + 1, self.every) if (frame := arrivals.frame(number)) is not None]
        cycle.used, cycle.reason = used, reason
        cycle.data_time = stamp(arrivals.time(last))
        cycle.inputs = [frame.path.relative_to(self.folder).as_posix() for frame in there]
        cycle.missing = [stamp(arrivals.time(number)) for number in arrivals.missing(first, slot)[-self.keep :]]
        return drop_first(nowcast, back, self.horizon)

    def _complete(self, slot: int) -> tuple[Newest, int] | str:
        """Return the newest frames that the predictor can start from, and how many of its steps before the slot they end.

        Where there are none, return why.
        """
        lacking = f"there is no frame of the last {self.horizon + 1} times"
        for back in range(self.horizon + 1):
            last = slot - back * self.every
            if self.arrivals.frame(last) is None:
                continue
            reach = self.span if self.fill_gaps is None else 2 * self.span
            try:
                return newest_of(self.card, self.arrivals.until(last, reach), self.context, self.fill_gaps), back
            except UserError as error:  # too few, or a gap
                lacking = str(error)
        return lacking

    def _recent(self, slot: int) -> tuple[Newest, int] | None:
        """Return the newest frames in a row, one at the least, and how many steps before the slot they end."""
        last = self.arrivals.newest_until(slot)
        while last is not None and (slot - last) % self.every:
            last = self.arrivals.newest_until(last - 1)
        if last is None:
            return None
        count, most = 1, max(self.context, _MOVING_FRAMES)
        while count < most and not self.arrivals.missing(last - count * self.every, last - (count - 1) * self.every):
            count += 1
        return newest_of(self.card, self.arrivals.until(last, (count - 1) * self.every + 1), count), (slot - last) // self.every
