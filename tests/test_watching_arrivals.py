"""Frames that arrive: when a file counts, of which time it is, and what is told of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import h5py
import numpy as np
import pytest

from stpredict import watching_arrivals
from stpredict.data.card import Clock, read_card
from stpredict.data.odim_files import write_odim
from stpredict.frames import Grid
from stpredict.watching_arrivals import Arrivals

pytest.importorskip("pyproj")
GRID = Grid("+proj=laea +lat_0=55 +lon_0=10 +x_0=1950000 +y_0=-2100000 +ellps=WGS84 +units=m +no_defs", (0.0, 0.0, 8e3, 8e3), "north")
FIRST = datetime(2020, 5, 4, 12)
SLOT = round(FIRST.replace(tzinfo=UTC).timestamp()) // 300


def put(path: Path, minutes: float, value: float = 1.0, grid: Grid = GRID) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    write_odim(path, np.full((4, 4), value), quantity="RATE", grid=grid, time=FIRST + timedelta(minutes=minutes), gain=0.5)
    return path


def arrivals(folder: Path, polls: int = 2, **clock: float) -> Arrivals:
    card = read_card("moving_rain")
    made = Arrivals(replace(card, time=Clock(300.0, **clock)), folder, but=folder / "out")
    for _ in range(polls):
        made.poll()
    return made


def value(seen: Arrivals, slot: int) -> float | None:
    """Return the rain of a frame of one value, mm/h: its number times the gain."""
    frame = seen.frame(slot)
    return None if frame is None else 0.5 * float(frame.packed.reshape(-1)[0])


def test_a_file_counts_once_it_stays_the_same(tmp_path: Path) -> None:
    path = put(tmp_path / "a.h5", 0, 3.0)
    seen = arrivals(tmp_path, polls=1)
    assert seen.newest is None and not seen.settled
    whole = path.read_bytes()
    path.write_bytes(whole[:2000])
    seen.poll()
    seen.poll()
    assert seen.newest is None, "it is not whole"
    path.write_bytes(whole)
    seen.poll()
    assert seen.newest is None
    seen.poll()
    assert (seen.oldest, seen.newest, value(seen, SLOT)) == (SLOT, SLOT, 3.0)
    assert seen.time(SLOT) == FIRST.replace(tzinfo=UTC).timestamp() and seen.slot(seen.time(SLOT) + 299) == SLOT
    assert seen.tell().broken == {}, "in the end it was whole"


def test_a_broken_file_is_named_once_and_tried_again_when_it_changes(tmp_path: Path) -> None:
    put(tmp_path / "a.h5", 0)
    (tmp_path / "notes.txt").write_text("no radar picture")
    (tmp_path / ".b.h5.part").write_text("hidden, so not looked at")
    path = put(tmp_path / "b.h5", 5)
    whole = path.read_bytes()
    with h5py.File(path, "r+") as file:
        offset = file["dataset1/data1/data"].id.get_chunk_info(0).byte_offset
    path.write_bytes(whole[:offset] + bytes(4) + whole[offset + 4 :])
    seen = arrivals(tmp_path)
    assert (value(seen, SLOT), value(seen, SLOT + 1)) == (1.0, None), "the header of b is whole, its pixels are not"
    events = seen.tell()
    assert sorted(events.broken) == ["b.h5", "notes.txt"] and events.late == [] and "b.h5" in events.broken["b.h5"]
    for _ in range(3):
        seen.poll()
    assert seen.tell().broken == {}
    seen.passed(SLOT + 1, 10)
    path.write_bytes(whole)
    seen.poll()
    seen.poll()
    assert value(seen, SLOT + 1) == 1.0 and seen.tell().late == ["b.h5"]


def test_of_two_files_for_one_time_the_first_stays(tmp_path: Path) -> None:
    put(tmp_path / "a.h5", 0, 1.0)
    seen = arrivals(tmp_path)
    assert value(seen, SLOT) == 1.0
    put(tmp_path / "again" / "a.h5", 0, 2.0)
    seen.poll()
    seen.poll()
    assert value(seen, SLOT) == 1.0
    assert seen.tell().notes == ["'again/a.h5' and 'a.h5' are of the same time, and the first stays"]
    put(tmp_path / "a.h5", 0, 4.0)  # a file may be corrected
    seen.poll()
    seen.poll()
    assert value(seen, SLOT) == 4.0


def test_the_second_file_serves_where_the_first_is_broken(tmp_path: Path) -> None:
    put(tmp_path / "a.h5", 0, 1.0)
    put(tmp_path / "b.h5", 0, 2.0)
    seen = arrivals(tmp_path)
    (tmp_path / "a.h5").unlink()
    assert value(seen, SLOT) == 2.0 and seen.tell().broken == {}, "what is gone is not broken"


def test_a_frame_stays_when_its_file_goes(tmp_path: Path) -> None:
    for number in range(4):
        put(tmp_path / f"{number}.h5", 5 * number, 1.0 + number)
    seen = arrivals(tmp_path)
    assert seen.newest_until(SLOT + 9) == SLOT + 3
    for number in range(4):
        (tmp_path / f"{number}.h5").unlink()
    seen.poll()
    assert value(seen, SLOT + 3) == 4.0
    assert seen.newest_until(SLOT + 3) == SLOT + 3 and seen.missing(SLOT + 2, SLOT + 4) == [SLOT + 2, SLOT + 4]
    seen.passed(SLOT + 100, 10)
    assert value(seen, SLOT + 3) == 4.0, "the newest is never forgotten"


def test_a_file_that_the_system_does_not_give_is_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path / "a.h5"))

    put(tmp_path / "a.h5", 0)
    with monkeypatch.context() as patch:
        patch.setattr(watching_arrivals, "open_reader", forbidden)
        seen = arrivals(tmp_path, polls=4)
        assert seen.newest is None and seen.settled and "Permission denied" in seen.tell().broken["a.h5"]
    seen.poll()
    assert value(seen, SLOT) == 1.0 and seen.tell().broken == {}


def test_a_clock_beside_the_full_minutes_and_one_that_is_not_exact(tmp_path: Path) -> None:
    for number in range(3):
        put(tmp_path / "beside" / f"{number}.h5", 5 * number + 2.5)
        put(tmp_path / "inexact" / f"{number}.h5", 5 * number + (0.25 if number == 1 else 0))
    put(tmp_path / "beside" / "odd.h5", 4)
    beside, inexact = arrivals(tmp_path / "beside"), arrivals(tmp_path / "inexact", tolerance=20.0)
    assert (beside.oldest, beside.newest) == (SLOT, SLOT + 2) and beside.time(SLOT) % 300 == 150
    assert "not on the clock of the others, every 300 s" in beside.tell().broken["odd.h5"]
    assert (inexact.missing(SLOT, SLOT + 2), inexact.tell().broken) == ([], {})


def test_frames_of_another_kind_and_products_are_left_out(tmp_path: Path) -> None:
    for number in range(3):
        put(tmp_path / f"{number}.h5", 5 * number)
    put(tmp_path / "3.h5", 15, grid=replace(GRID, corners=(0.0, 0.0, 4e3, 4e3)))
    put(tmp_path / "out" / "product.h5", 20)
    seen = arrivals(tmp_path)
    assert seen.newest == SLOT + 2 and list(seen.tell().broken) == ["3.h5"]
