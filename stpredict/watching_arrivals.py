"""Frames that arrive in a folder: which are whole, of which time each is, which are late, doubled or broken."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stpredict.data.card import Card, Clock, Frames, open_reader
from stpredict.data.clips import Film, Reader
from stpredict.data.windows import clock_of, read_frames
from stpredict.errors import UserError
from stpredict.frames import Packing

_FIRST_POLLS = 5
"""After so many looks at the folder the first frames are taken, though another file still grows."""


@dataclass
class Events:
    """What happened to files since it was last told.

    Attributes:
        late: files whose frame came after the cycle of its time.
        broken: what is wrong with each file that cannot be used.
        notes: more to say, a sentence each.
    """

    late: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Kind:
    """What the frames of one archive have in common."""

    channels: int
    height: int
    width: int
    packing: Packing
    facts: dict[str, Any]


class _Entry(NamedTuple):
    """A frame that a file holds."""

    path: Path
    film: int
    position: int
    time: np.datetime64
    kind: _Kind


class Frame(NamedTuple):
    """A frame that was read: its file, time and packed numbers ``(C, H, W)``."""

    path: Path
    time: np.datetime64
    packed: NDArray[Any]


class Arrived(Reader):
    """Frames in memory as one film."""

    def __init__(self, name: str, kind: _Kind, frames: Sequence[Frame]) -> None:
        self.channels, self.height, self.width, self.packing, self.facts = kind.channels, kind.height, kind.width, kind.packing, kind.facts
        self.films = [Film(name, len(frames), np.array([frame.time for frame in frames], dtype="datetime64[s]"))]
        self._frames = frames

    def read(self, film: int, positions: range) -> NDArray[Any]:
        """Return packed frames ``(T, C, H, W)``."""
        return np.stack([self._frames[position].packed for position in positions])


@dataclass
class _Seen:
    """A file as it was when it was last looked at: it is judged once it was the same twice, and again if the system gave it to nobody."""

    size: int
    mtime_ns: int
    judged: bool = False
    again: bool = False


class Arrivals:
    """The frames of a folder into which files come, by the slot of the card's clock that each belongs to.

    Slot 0 is where the clock stood at the start of 1970, and a slot later is a step later. A file counts when its size and time of change
    were the same at two calls of :meth:`poll` and the card's reader reads it; what is hidden is passed over. Of two files for one time
    the first stays. A frame that was read stays when its file goes, as it does in a folder that is always the newest day.
    """

    def __init__(self, card: Card, root: Path, but: Path | None = None) -> None:
        """Begin with nothing.

        Args:
            card: how to read the files.
            root: the folder, searched with all its folders.
            but: a folder in it that is left out: that of the products.
        """
        self._card, self._root, self._but = card, root, but
        self._clock: Clock | None = card.time
        self._phase: float | None = None
        self._kind: _Kind | None = None
        self._seen: dict[Path, _Seen] = {}
        self._waiting: list[_Entry] = []
        self._entries: dict[int, list[_Entry]] = {}
        self._frames: dict[int, Frame] = {}
        self._named: set[Path] = set()
        self._events = Events()
        self._passed: int | None = None
        self._polls = 0

    @property
    def step(self) -> float:
        """Return the seconds of a slot; there must be a frame."""
        assert self._clock is not None, "a frame has come"
        return self._clock.step

    @property
    def oldest(self) -> int | None:
        """Return the slot of the oldest frame, None where none has come."""
        return min(self._entries, default=None)

    @property
    def newest(self) -> int | None:
        """Return the slot of the newest frame, None where none has come."""
        return max(self._entries, default=None)

    @property
    def settled(self) -> bool:
        """Whether every file has been judged."""
        return all(seen.judged for seen in self._seen.values())

    def time(self, slot: float) -> float:
        """Return the seconds from 1970 to a slot."""
        return (self._phase or 0.0) + slot * self.step

    def slot(self, seconds: float) -> int:
        """Return the newest slot at this time."""
        return int((seconds - (self._phase or 0.0)) // self.step)

    def poll(self) -> None:
        """Look at the folder once."""
        there = {path: (about.st_size, about.st_mtime_ns) for path, about in self._walk()}
        for path in set(self._seen) - set(there):
            del self._seen[path]
        for path, stamp in sorted(there.items()):
            seen = self._seen.get(path)
            if seen is None or (seen.size, seen.mtime_ns) != stamp:
                self._seen[path] = _Seen(*stamp)
            elif not seen.judged or seen.again:
                seen.judged, seen.again = True, False
                self._judge(path)
        self._polls += 1
        if self._waiting and (self._phase is not None or self.settled or self._polls >= _FIRST_POLLS):
            self._place()

    def _walk(self) -> Iterator[tuple[Path, os.stat_result]]:
        for folder, folders, names in os.walk(self._root):
            if self._but is not None and self._but.exists() and os.path.samefile(folder, self._but):
                folders[:] = []
                continue
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                path = Path(folder, name)
                if not name.startswith("."):
                    with suppress(FileNotFoundError):  # files go as they come
                        yield path, path.stat()

    def _judge(self, path: Path) -> None:
        """Find out which frames a file holds; those that it held before it changed are replaced if it can be read."""
        self._waiting = [entry for entry in self._waiting if entry.path != path]
        try:
            reader = open_reader(self._card, path)
            clock = clock_of(self._card, reader)
            if clock is None or any(film.times is None for film in reader.films):
                raise UserError(f"'{path}' tells no time, and only frames with a clock can be watched")
        except (UserError, OSError) as error:
            self._refuse(path, error)
            return
        if path in self._named:  # it was still being written
            self._named.discard(path)
            self._events.broken.pop(self._name(path), None)
        self._clock = self._clock or clock
        kind = _Kind(reader.channels, reader.height, reader.width, reader.packing, dict(reader.facts))
        for slot, entries in list(self._entries.items()):
            left = [entry for entry in entries if entry.path != path]
            if left:
                self._entries[slot] = left
            else:
                del self._entries[slot]
        for film, about in enumerate(reader.films):
            assert about.times is not None
            self._waiting += [_Entry(path, film, position, time, kind) for position, time in enumerate(about.times)]

    def _place(self) -> None:
        """Give each frame that waits its slot. Clock and kind are those of most of the frames that came first."""
        clock = self._clock
        assert clock is not None
        seconds = [float(entry.time.astype("datetime64[s]").astype(np.int64)) for entry in self._waiting]
        if self._phase is None:
            phases = Counter(0.0 if _off(moment, clock.step) <= clock.tolerance else moment % clock.step for moment in seconds)
            self._phase = phases.most_common(1)[0][0]
        if self._kind is None:
            kinds = [entry.kind for entry in self._waiting]
            self._kind = max((kind for number, kind in enumerate(kinds) if kind not in kinds[:number]), key=kinds.count)
        for entry, moment in zip(self._waiting, seconds, strict=True):
            slot = round((moment - self._phase) / clock.step)
            if _off(moment - self._phase, clock.step) > clock.tolerance:
                words = f"is of {entry.time}, which is not on the clock of the others, every {clock.step:g} s"
                self._refuse(entry.path, UserError(f"'{entry.path}' {words}"))
            elif entry.kind != self._kind:
                words = "another size, packing or place than the others; if they have changed for good, start again"
                self._refuse(entry.path, UserError(f"'{entry.path}' holds frames of {words}"))
            else:
                self._enter(slot, entry)
        self._waiting = []

    def _enter(self, slot: int, entry: _Entry) -> None:
        held = self._frames.get(slot)
        others = [other for other in self._entries.get(slot, []) if other.path != entry.path]
        if others or (held is not None and held.path != entry.path):
            first = others[0].path if others else held.path if held is not None else entry.path
            self._events.notes.append(f"'{self._name(entry.path)}' and '{self._name(first)}' are of the same time, and the first stays")
        self._entries.setdefault(slot, []).append(entry)
        if held is not None and held.path == entry.path:  # it was written anew
            self._load(slot, entry)
        elif self._passed is not None and slot <= self._passed and not others and held is None:
            self._events.late.append(self._name(entry.path))

    def frame(self, slot: int) -> Frame | None:
        """Return the frame of a slot, read when it is first asked for, or None."""
        for entry in list(self._entries.get(slot, ())):
            if slot in self._frames:
                break
            self._load(slot, entry)
        return self._frames.get(slot)

    def _load(self, slot: int, entry: _Entry) -> None:
        try:
            reader = open_reader(self._card, entry.path)
            positions = range(entry.position, entry.position + 1)
            packed = read_frames(reader, entry.film, positions, (self._card.frames or Frames()).nan_is_missing)
        except (UserError, OSError) as error:
            self._entries[slot].remove(entry)
            if not self._entries[slot]:
                del self._entries[slot]
            self._refuse(entry.path, error)
        else:
            self._frames[slot] = Frame(entry.path, entry.time, packed[0])

    def until(self, slot: int, count: int) -> Arrived:
        """Return the frames of the ``count`` slots up to this one, as far as there are any; there must be one."""
        found = [frame for number in range(slot - count + 1, slot + 1) if (frame := self.frame(number)) is not None]
        assert self._kind is not None
        return Arrived(self._root.resolve().name, self._kind, found)

    def newest_until(self, slot: int) -> int | None:
        """Return the newest slot up to this one that has a frame, or None."""
        known = sorted(number for number in {*self._entries, *self._frames} if number <= slot)
        return next((number for number in reversed(known) if self.frame(number) is not None), None)

    def missing(self, first: int, last: int) -> list[int]:
        """Return the slots of ``first`` to ``last`` that have no frame."""
        return [slot for slot in range(first, last + 1) if self.frame(slot) is None]

    def passed(self, slot: int, keep: int) -> None:
        """Note that the cycle of a slot is over; forget frames more than ``keep`` slots older, but never the newest."""
        self._passed = slot
        newest = self.newest_until(slot)
        for old in [number for number in {*self._frames, *self._entries} if number < slot - keep and number != newest]:
            self._frames.pop(old, None)
            self._entries.pop(old, None)

    def tell(self) -> Events:
        """Return what happened since this was last asked."""
        events, self._events = self._events, Events()
        return events

    def _refuse(self, path: Path, error: UserError | OSError) -> None:
        """Tell of a broken file, once."""
        if path in self._seen:
            self._seen[path].again = isinstance(error, OSError)
        if path.exists() and path not in self._named:
            self._named.add(path)
            self._events.broken[self._name(path)] = str(error)

    def _name(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()


def _off(seconds: float, step: float) -> float:
    """Return how far a time is from the nearest multiple of the step."""
    return abs(seconds - round(seconds / step) * step)
