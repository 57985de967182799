"""Make one file of an archive, a *prepared file*, from which clips are read fast: ``stpredict data prepare``.

The frames are read in blocks by several processes. Each block becomes a file of its own in a folder beside the result, and when all are
there they are joined; so a preparation that was cut off goes on where it was.
"""

from __future__ import annotations

import dataclasses
import datetime
import fcntl
import json
import re
import shutil
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

import stpredict
from stpredict.configuration import dump_config
from stpredict.data.blocks import each_block, positions_of
from stpredict.data.card import Card, open_reader, read_card
from stpredict.data.clips import Reader
from stpredict.data.readers import hdf5
from stpredict.data.readers.finding import SourceFile, list_sources
from stpredict.data.readers.store import MARK, SUFFIXES, VERSION, About, Store, is_store, plain, read_sources, write_text
from stpredict.data.spatial import Spatial
from stpredict.errors import UserError
from stpredict.files import refuse_full_disk, remove_leftovers, whole_file
from stpredict.files import write_text as write_text_file

Compression = Literal["gzip", "none"]

_BLOCK = 32 << 20  # bytes of the frames that a process holds at a time
_SAMPLES = 8  # frames by which the size of the result is judged


@dataclass(frozen=True)
class Prepared:
    """What came of preparing an archive.

    Attributes:
        path: the prepared file.
        films: how many there are in it.
        frames: how many there are in it.
        size: of the file, in bytes.
        seconds: that it took; None where it was there already.
        kept: frames that an earlier, interrupted preparation had read.
    """

    path: Path
    films: int
    frames: int
    size: int
    seconds: float | None
    kept: int = 0

    def __str__(self) -> str:
        what = f"{self.films} film(s), {self.frames} frames, {self.size / 1e6:.1f} MB"
        if self.seconds is None:
            return f"{self.path} is complete and its sources are unchanged: {what}; nothing to do"
        rate = (self.frames - self.kept) / max(self.seconds, 1e-9)
        kept = f", {self.kept} frames were there from before" if self.kept else ""
        return f"{self.path}: {what}, in {self.seconds:.0f} s ({rate:.0f} frames a second{kept})"


def prepare_archive(
    card: str | Path | Card,
    root: str | Path | None,
    out: str | Path,
    *,
    workers: int = 1,
    compression: Compression = "gzip",
    again: bool = False,
    progress: bool = False,
) -> Prepared:
    """Make a prepared file of an archive, or find that there is one.

    Args:
        card: of the archive. If it has a crop the file holds that part of the frames alone. What it says of frames, time, window, splits
            and size may change afterwards, reader and settings not.
        root: the archive's folder, or its one file.
        out: the file to make, which ends in ``.h5``.
        workers: processes that read.
        compression: ``gzip`` (its fastest level), or ``none``, which is several times faster to read and an order of magnitude larger
            for rain.
        again: make it anew where the archive, the card's settings or the compression have changed since.
        progress: whether to show a progress bar where stderr is a terminal.

    Raises:
        UserError: the card has no reader, a file of the archive cannot be read, there is no room on the disk, ``out`` is another file,
            or what is there was made of other files and ``again`` was not asked for.
        OSError: the file cannot be written.
    """
    card, out = read_card(card), Path(out)
    if card.sources:
        raise UserError(f"'{card.name}' joins others: prepare each of them by its own card, and name its file as the source's root")
    if card.reader is None:
        raise UserError(f"The clips of '{card.name}' are made as they are used: there is nothing to prepare")
    if out.suffix not in SUFFIXES:
        raise UserError(f"A prepared file ends in .h5, not '{out.suffix}': --out {out.stem}.h5")
    if root is not None and is_store(Path(root)):
        raise UserError(f"'{root}' is a prepared file already")
    work = out.with_name(f".{out.name}.parts")
    if out.exists() and not again:
        return _made_already(card, root, out, compression)
    started = time.monotonic()
    reader = open_reader(card, root)
    assert root is not None
    with _alone(work, out):
        remove_leftovers(out.parent, re.escape(out.stem))
        plan = _Plan.make(card, reader, Path(root), out, compression)
        plan.keep_what_fits(work)
        missing = [number for number in range(len(plan.blocks)) if not plan.part(work, number).exists()]
        kept = sum(len(block) for number, block in enumerate(plan.blocks) if number not in set(missing))
        _refuse_small_disk(out, plan, reader, sum(len(plan.blocks[number]) for number in missing))
        writer = _Writer(reader, plan, work)
        each_block(writer, missing, [len(plan.blocks[number]) for number in missing], workers, f"preparing {card.name}", progress)
        _join(plan, Path(root), work, out)
        for path in work.glob("*.h5"):
            path.unlink()
    frames = plan.shape[0]
    return Prepared(out, len(reader.films), frames, out.stat().st_size, time.monotonic() - started, kept)


def _made_already(card: Card, root: str | Path | None, out: Path, compression: Compression) -> Prepared:
    """Return what is there if it is what would be made.

    Raises:
        UserError: it is something else, or the archive has changed.
    """
    if not is_store(out):
        raise UserError(f"'{out}' is there and is no prepared file: name another one, or remove it")
    store = Store(out)
    assert card.reader is not None
    if root is None:
        raise UserError(f"The data set '{card.name}' needs the folder of its files (--root FOLDER). {card.how_to_get}".strip())
    try:
        store.refuse_other(card.name, card.reader, card.settings)
    except UserError as error:
        raise UserError(f"{str(error).partition(': ')[0]}; --again makes it anew") from None
    if store.about.crop != _crop(card):
        raise UserError(f"'{out}' was made with the crop {store.about.crop}, not {_crop(card)}; --again makes it anew")
    if store.about.compression != compression:
        raise UserError(f"'{out}' was made with the compression {store.about.compression}, not {compression}; --again makes it anew")
    changed = _changes(read_sources(out), list_sources(Path(root), but=[out]))
    if changed:
        raise UserError(f"'{out}' was made of other files than '{root}' holds now: {changed}; --again makes it anew")
    frames = sum(film.length for film in store.films)
    return Prepared(out, len(store.films), frames, out.stat().st_size, None)


def _crop(card: Card) -> tuple[int, int, int, int] | None:
    crop = card.spatial.crop if card.spatial is not None else None
    return None if crop is None else (crop[0], crop[1], crop[2], crop[3])


def _changes(before: Sequence[SourceFile], now: Sequence[SourceFile]) -> str:
    """Return in words how the files of an archive have changed; nothing if they have not."""
    old, new = {file.name: file for file in before}, {file.name: file for file in now}
    kinds = {
        "new": sorted(new.keys() - old.keys()),
        "gone": sorted(old.keys() - new.keys()),
        "changed": sorted(name for name in old.keys() & new.keys() if old[name] != new[name]),
    }
    told = (f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" for kind, names in kinds.items() if names)
    return ", ".join(told)


@dataclass(frozen=True)
class _Plan:
    """What is to be made, and of what; parts that were made by another plan are of no use."""

    about: About
    films: list[dict[str, Any]]
    times: NDArray[np.int64]
    shape: tuple[int, int, int, int]
    dtype: np.dtype[Any]
    sources: list[SourceFile]
    blocks: list[range]

    @staticmethod
    def make(card: Card, reader: Reader, root: Path, out: Path, compression: Compression) -> _Plan:
        sources = list_sources(root, but=[out])
        crop = _crop(card)
        height, width = Spatial(crop).size(reader.height, reader.width)
        assert card.reader is not None
        about = About(
            reader=card.reader,
            settings=plain(card.settings),
            card=dump_config(_told(card)),
            packing=reader.packing,
            facts=reader.facts,
            compression=compression,
            size=(reader.height, reader.width),
            crop=crop,
            root=str(root.resolve()),
            version=stpredict.__version__,
            date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
        firsts = [0, *accumulate(film.length for film in reader.films)]
        films = [
            {
                "name": film.name,
                "first": first,
                "length": film.length,
                "timed": film.times is not None,
                "moment": None if film.moment is None else str(film.moment.astype("datetime64[s]")),
            }
            for film, first in zip(reader.films, firsts[:-1], strict=True)
        ]
        clocks = [
            np.zeros(film.length, np.int64) if film.times is None else film.times.astype("datetime64[s]").astype(np.int64)
            for film in reader.films
        ]
        first = reader.read(0, range(1))
        size = max(1, _BLOCK // first.nbytes)
        blocks = [range(start, min(start + size, firsts[-1])) for start in range(0, firsts[-1], size)]
        shape = (firsts[-1], reader.channels, height, width)
        return _Plan(about, films, np.concatenate(clocks), shape, first.dtype, sources, blocks)

    @property
    def layout(self) -> dict[str, Any]:
        """How frames lie in the file."""
        chunk = (1, *self.shape[1:])
        return {"chunks": chunk, "compression": "gzip", "compression_opts": 1} if self.about.compression == "gzip" else {}

    def part(self, work: Path, number: int) -> Path:
        return work / f"{number:06}.h5"

    def keep_what_fits(self, work: Path) -> None:
        """Write down the plan, and remove the parts of another one."""
        text = json.dumps(
            {
                "about": json.loads(dataclasses.replace(self.about, date="", card="").to_json()),
                "films": self.films,
                "times": zlib.crc32(self.times.tobytes()),
                "shape": self.shape,
                "dtype": self.dtype.str,
                "blocks": len(self.blocks),
                "sources": self.sources,
            }
        )
        note = work / "plan.json"
        if not note.exists() or note.read_text(encoding="utf-8") != text:
            for path in work.glob("*.h5"):
                path.unlink()
            write_text_file(note, text)
        remove_leftovers(work, r"\d+")


def _told(value: Any) -> Any:
    """Return the fields of a card that say something, as plain data."""
    if not dataclasses.is_dataclass(value):
        return value
    fields = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
    return {name: _told(content) for name, content in fields if content is not None}


@contextmanager
def _alone(work: Path, out: Path) -> Iterator[None]:
    """Make the folder of parts, and keep other processes from it.

    Raises:
        UserError: another one is at it.
    """
    work.mkdir(exist_ok=True)
    with (work / "lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"Another stpredict is preparing '{out}'; wait for it") from None
        try:
            yield
        finally:
            if not any(work.glob("*.h5")):  # nothing is lost, so nothing is left
                shutil.rmtree(work, ignore_errors=True)


def _refuse_small_disk(out: Path, plan: _Plan, reader: Reader, missing: int) -> None:
    """Judge by a few frames how large the result becomes; parts and result lie side by side for a while.

    Raises:
        UserError: there is no room for it.
    """
    count = plan.shape[0]
    chosen = sorted({count * number // _SAMPLES for number in range(_SAMPLES)})
    sizes = [_stored_size(_read(reader, plan, range(number, number + 1)), plan) for number in chosen]
    wanted = int(1.2 * sum(sizes) / len(sizes) * (count + missing)) + (1 << 20)
    free = shutil.disk_usage(out.parent).free
    if wanted > free:
        raise UserError(
            f"'{out}' needs about {wanted / 1e9:.3g} GB while it is made, but the disk has {free / 1e9:.3g} GB free: make room, "
            "or write it elsewhere"
        )


def _stored_size(frame: NDArray[Any], plan: _Plan) -> int:
    return len(zlib.compress(frame.data, 1)) if plan.layout else frame.nbytes


def _read(reader: Reader, plan: _Plan, block: range) -> NDArray[Any]:
    """Read frames by their numbers in the result.

    Raises:
        UserError: a file is damaged, or frames are of another shape or type than the first.
    """
    frames = np.empty((len(block), *plan.shape[1:]), dtype=plan.dtype)
    for film, positions, place in positions_of([film["first"] for film in plan.films], block):
        part = reader.read(film, positions)
        expected = (len(positions), reader.channels, reader.height, reader.width)
        if part.dtype != plan.dtype or part.shape != expected:
            raise UserError(f"'{reader.films[film].name}' has {part.dtype} frames of shape {part.shape}, not {plan.dtype} {expected}")
        frames[place : place + len(positions)] = Spatial(plan.about.crop).apply(part, reader.packing)
    return frames


@dataclass(frozen=True)
class _Writer:
    """Writes one part of the result; sent to each process."""

    reader: Reader
    plan: _Plan
    work: Path

    def __call__(self, number: int) -> None:
        frames = _read(self.reader, self.plan, self.plan.blocks[number])
        with whole_file(self.plan.part(self.work, number)) as temporary:
            refuse_full_disk(temporary, frames.nbytes // (1 if not self.plan.layout else 8))
            with h5py.File(temporary, "w", libver="v110") as file:
                file.create_dataset("frames", data=frames, **self.plan.layout)
                file["crc32"] = np.array([zlib.crc32(frame.data) for frame in frames], dtype=np.uint32)


def _join(plan: _Plan, root: Path, work: Path, out: Path) -> None:
    parts = [plan.part(work, number) for number in range(len(plan.blocks))]
    with whole_file(out) as temporary:
        refuse_full_disk(temporary, sum(path.stat().st_size for path in parts) + (1 << 20))
        with h5py.File(temporary, "w", libver="v110") as file:
            frames = file.create_dataset("frames", shape=plan.shape, dtype=plan.dtype, **plan.layout)
            crc32 = np.empty(plan.shape[0], dtype=np.uint32)
            for path, block in zip(parts, plan.blocks, strict=True):
                with hdf5.open_file(path) as source:
                    _copy(source["frames"], frames, block, bool(plan.layout))
                    crc32[block.start : block.stop] = source["crc32"][()]
            file["crc32"], file["times"] = crc32, plan.times
            file["times"].attrs["units"] = "seconds since 1970-01-01 00:00:00 UTC"
            write_text(file, "films", json.dumps(plan.films))
            write_text(file, "sources", json.dumps(plan.sources))
            write_text(file, "about", plan.about.to_json())
            now = {file.name: file for file in list_sources(root, but=[out])}
            changed = _changes(plan.sources, [now[file.name] for file in plan.sources if file.name in now])  # new ones do no harm
            if changed:
                raise UserError(f"'{root}' has changed while it was read: {changed}; start again")
            file.flush()
            file.attrs[MARK] = VERSION


def _copy(source: h5py.Dataset, result: h5py.Dataset, block: range, packed: bool) -> None:
    """Copy the frames of a part; compressed ones as they are."""
    if not packed:
        result[block.start : block.stop] = source[()]
        return
    for position, number in enumerate(block):
        mask, chunk = source.id.read_direct_chunk((position, 0, 0, 0))
        result.id.write_direct_chunk((number, 0, 0, 0), chunk, mask)
