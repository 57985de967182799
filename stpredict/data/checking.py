"""What ``stpredict data list``, ``show`` and ``check`` say."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stpredict.data import card_of_source, load_data
from stpredict.data.card import Card, Clock, Frames, Source, make_clips, need_root, open_reader, read_card
from stpredict.data.choosing import Rain
from stpredict.data.clips import ClipSet, Film, Reader
from stpredict.data.readers.finding import BadFiles
from stpredict.data.readers.store import Store
from stpredict.data.spatial import Spatial
from stpredict.data.splits import Splits
from stpredict.data.windows import Windows, clock_of, read_frames, runs
from stpredict.errors import UserError
from stpredict.files import shipped_names

_FRAME = re.compile(r" \(first in frame \d+\)")
_BLOCK = 16  # frames read at once: few enough that memory stays small


@dataclass(frozen=True)
class Gap:
    """Neighbouring frames of a film that are not one step apart.

    Attributes:
        film: its name.
        after: the time of the frame before it.
        seconds: from there to the next frame.
        missing: frames that would have been between, by the clock.
    """

    film: str
    after: np.datetime64
    seconds: float
    missing: int

    def __str__(self) -> str:
        return f"{self.seconds:g} s after {self.after} in '{self.film}'"


@dataclass(frozen=True)
class DataReport:
    """What there is of a data set, and what is wrong with it.

    Attributes:
        card: the name of the card.
        films: how many films could be opened.
        frames: how many frames they have; None where clips are made.
        gaps: how many gaps in time they have.
        clips: clips of each split that has any.
        problems: a sentence for each bad file, and for each split that cannot be used.
        missing: how many frames would fill the gaps.
        longest_gap: the longest of them, the first of such; None where there is none.
        split_gaps: how many gaps lie within each split that has any clip.
        candidates: where clips are chosen by rain, how many there were of each split before.
    """

    card: str
    films: int
    frames: int | None
    gaps: int
    clips: Mapping[str, int]
    problems: tuple[str, ...]
    missing: int = 0
    longest_gap: Gap | None = None
    split_gaps: Mapping[str, int] = field(default_factory=dict)
    candidates: Mapping[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Return whether everything could be read and every split holds clips."""
        return not self.problems

    def __str__(self) -> str:
        lines = [f"{self.card}: {len(self.problems)} problem(s)" if self.problems else f"{self.card}: all is well"]
        if self.frames is not None:
            longest = f" ({self.missing} frames missing), the longest {self.longest_gap}" if self.longest_gap is not None else ""
            lines.append(f"  {self.films} film(s), {self.frames} frames, {self.gaps} gap(s) in time{longest}")
        lines += [f"  split {split}: {self._told(split)}" for split in self.clips]
        lines += [f"  problem: {sentence}" for sentence in self.problems]
        return "\n".join(lines)

    def _told(self, split: str) -> str:
        chosen = f" of {self.candidates[split]}, chosen by rain" if split in self.candidates else ""
        gaps = f", {self.split_gaps[split]} gap(s) in time" if self.split_gaps.get(split) else ""
        return f"{self.clips[split]} clips{chosen}{gaps}"


def list_cards() -> dict[str, str]:
    """Return the names of the shipped cards, each with its title."""
    return {name: read_card(name).title for name in shipped_names("datasets")}


def describe(card: str | Path | Card) -> str:
    """Return what a card says, for people."""
    card = read_card(card)
    window = card.window
    made_by = [f"{kind} {name}" for kind, name in (("reader", card.reader), ("clips", card.clips)) if name is not None]
    frames, spatial, splits = card.frames or Frames(), card.spatial or Spatial(), card.splits
    transform = frames.transform
    facts = {
        "source": card.source,
        "licence": card.licence,
        "how to get": card.how_to_get,
        "made by": ", ".join([*made_by, *(f"{name} {value}" for name, value in card.settings.items())]),
        "joins": "; ".join(map(_describe_source, card.sources)),
        "units": frames.units or "",
        "transform": f"{transform.name} from {transform.low:g} to {transform.high:g}" if card.reader is not None else "",
        "time step": f"{card.time.step:g} s, give or take {card.time.tolerance:g} s" if card.time is not None else "",
        "crop": f"{list(spatial.crop)} (top, left, height, width)" if spatial.crop is not None else "",
        "resize": f"{list(spatial.resize)} (height, width)" if spatial.resize is not None else "",
        "clip": f"{window.context} frames of context, {window.horizon} to forecast",
        "rain": _describe_rain(window.rain) if window.rain is not None else "",
        "splits": _describe_splits(splits) if isinstance(splits, Splits) else ", ".join(splits or _splits_of_sources(card)),
    }
    lines = [f"{card.name}: {card.title}" if card.title else card.name]
    lines += [f"  {name + ':':<12}{' '.join(text.split())}" for name, text in facts.items() if text]
    return "\n".join(lines)


def _describe_splits(splits: Splits) -> str:
    rule: Mapping[str, Any] = splits.fractions or splits.films or splits.until or {}
    return f"by {splits.by}: " + ", ".join(f"{name} {'to the end' if value is None else value}" for name, value in rule.items())


def _describe_source(source: Source) -> str:
    where = f" in {source.root}" if source.root != "." else ""
    parts = ", ".join(f"{split} {own}" for split, own in source.splits.items())
    crop = f", crop {list(source.crop)}" if source.crop is not None else ""
    return f"{source.card}{where} ({parts}{crop})"


def _splits_of_sources(card: Card) -> list[str]:
    """Return the splits of a card that joins others, in the order in which its sources name them."""
    return list(dict.fromkeys(split for source in card.sources for split in source.splits))


def _describe_rain(rain: Rain) -> str:
    drawn = "; those of the split train are drawn, the more often the more it rains" if rain.drawing is not None else ""
    where = "frames" if rain.over == "clip" else "context"
    return f"clips in whose {where} at least {rain.fraction:.3g} of the pixels are above {rain.threshold:g}{drawn}"


def check_data(card: str | Path | Card, root: str | Path | None) -> DataReport:
    """Read everything there is of a data set.

    Raises:
        UserError: there is no such card, no root is given, or there are no files at all.
    """
    card = read_card(card)
    if card.clips is not None:
        return _check_made(card, root)
    if card.sources:
        return _check_joined(card, need_root(card, root))
    problems: dict[str, None] = {}  # an ordered set: a bad file is told once, however often it is read
    reader = _read_archive(card, root, problems)
    if reader is None:
        return _report(card, [], [], {}, problems)
    assert isinstance(card.splits, Splits)
    found: dict[str, Windows] = {}
    for split in card.splits.names:
        try:
            found[split] = Windows(card, reader, split, root=root)
        except UserError as error:
            problems[str(error)] = None
    return dataclasses.replace(
        _report(card, reader.films, _gaps(reader.films, clock_of(card, reader)), found, problems),
        split_gaps={split: windows.gaps for split, windows in found.items()},
        candidates={split: windows.candidates for split, windows in found.items()} if card.window.rain is not None else {},
    )


def _check_joined(card: Card, root: Path) -> DataReport:
    """Read each archive that a card joins, once, and count the clips of the whole."""
    problems: dict[str, None] = {}
    films: list[Film] = []
    gaps: list[Gap] = []
    archives = {(source.card, source.root, repr(source.settings)): source for source in card.sources}
    for source in archives.values():
        own = card_of_source(card, source)
        reader = _read_archive(own, root / source.root, problems)
        if reader is not None:
            films += reader.films
            gaps += _gaps(reader.films, clock_of(own, reader))
    found: dict[str, ClipSet] = {}
    for split in _splits_of_sources(card):
        try:
            found[split] = load_data(card, root, split)
        except UserError as error:
            problems[str(error)] = None
    return _report(card, films, gaps, found, problems)


def _report(
    card: Card, films: Sequence[Film], gaps: Sequence[Gap], found: Mapping[str, ClipSet], problems: Mapping[str, None]
) -> DataReport:
    return DataReport(
        card=card.name,
        films=len(films),
        frames=sum(film.length for film in films),
        gaps=len(gaps),
        clips={split: len(clips) for split, clips in found.items()},
        problems=tuple(problems),
        missing=sum(gap.missing for gap in gaps),
        longest_gap=max(gaps, key=lambda gap: gap.seconds, default=None),
    )


def _read_archive(card: Card, root: str | Path | None, problems: dict[str, None]) -> Reader | None:
    """Read every frame of an archive; None if it cannot be opened. What is wrong joins the ``problems``."""
    reader = _open_good_files(card, root, problems)
    for film in range(len(reader.films) if reader is not None else 0):
        assert reader is not None
        problems.update(dict.fromkeys(_read_film(card, reader, film)))
    return reader


def _gaps(films: Sequence[Film], clock: Clock | None) -> list[Gap]:
    return [] if clock is None else [gap for film in films for gap in _gaps_of(film, clock)]


def _gaps_of(film: Film, clock: Clock) -> list[Gap]:
    if film.times is None:
        return []
    gaps = []
    for run in runs(film, range(film.length), clock)[1:]:
        before, after = film.times[run.start - 1], film.times[run.start]
        seconds = float((after - before).astype("timedelta64[s]").astype(np.int64))
        gaps.append(Gap(film.name, before, seconds, max(0, round(seconds / clock.step) - 1)))
    return gaps


def _open_good_files(card: Card, root: str | Path | None, problems: dict[str, None]) -> Reader | None:
    """Open the reader, leaving out files that it names as bad, so that the others are checked too."""
    left_out = list(card.settings.get("leave_out", ()))
    while True:
        try:
            settings = {**card.settings, "leave_out": left_out} if left_out else card.settings
            return open_reader(dataclasses.replace(card, settings=settings), root)
        except BadFiles as error:
            problems.update(dict.fromkeys(error.sentences.values()))
            if error.sentences.keys() <= set(left_out) or (root is not None and Path(root).is_file()):
                return None
            left_out += error.sentences
        except UserError as error:
            if not problems:
                raise
            problems[str(error)] = None
            return None


def _read_film(card: Card, reader: Reader, film: int) -> list[str]:
    """Return a sentence for each thing that is wrong with a film."""
    nan_is_missing = (card.frames or Frames()).nan_is_missing
    sentences: dict[str, None] = {}
    length = reader.films[film].length
    for start in range(0, length, _BLOCK):
        block = range(start, min(start + _BLOCK, length))
        try:
            _read(reader, film, block, nan_is_missing)
        except UserError as error:
            sentences[str(error)] = None
            for position in block:
                try:
                    _read(reader, film, range(position, position + 1), nan_is_missing)
                except UserError as single:
                    sentences[str(single)] = None
    # One for each thing that is wrong with a film, which tells where that begins.
    first = {_FRAME.sub("", sentence): sentence for sentence in reversed(sentences)}
    return list(reversed(first.values()))


def _read(reader: Reader, film: int, positions: range, nan_is_missing: bool) -> None:
    read_frames(reader, film, positions, nan_is_missing)
    if isinstance(reader, Store):
        reader.verify(film, positions)


def _check_made(card: Card, root: str | Path | None) -> DataReport:
    clips, problems = {}, []
    for split in card.splits if isinstance(card.splits, list | tuple) else ():
        try:
            made = make_clips(card, root, split, seed=0)
            for index in range(1 if made.endless else len(made)):
                made[index]
            clips[split] = len(made)
        except UserError as error:
            problems.append(str(error))
    return DataReport(card.name, 0, None, 0, clips, tuple(problems))
