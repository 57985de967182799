"""Forecasts of frames as they arrive: a product for every time of the clock, whatever becomes of the frames and of the predictor.

A cycle begins when the frame of its time is there, or, where that does not come, a while after its time; then from the newest frames that
are complete, and the leads that are already past are dropped. The predictor works in a process of its own. Where it fails, or is late,
the next of a chain of baselines makes the product, which says so.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stpredict.baselines import BASELINES
from stpredict.data.card import Card, read_card
from stpredict.data.newest import FILLING
from stpredict.errors import UserError, nearest
from stpredict.products import choose_format, write_product
from stpredict.signals import Stop, stop_on
from stpredict.watching_arrivals import Arrivals
from stpredict.watching_maker import Maker
from stpredict.watching_record import Cycle, Record, label, stamp
from stpredict.watching_worker import Worker

DONE, FELL_BACK, INTERRUPTED = 0, 3, 75

FALLBACK = ("extrapolation", "persistence")


class Clock:
    """The time by which cycles are due; a test may have a faster one."""

    def now(self) -> float:
        """Return the seconds since 1970, UTC."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


@dataclass
class Watched:
    """How a watch went.

    Attributes:
        cycles: how many there were.
        fallbacks: of how many the product is a fallback's, or there is none.
        interrupted: whether a signal ended it.
    """

    cycles: int = 0
    fallbacks: int = 0
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        """Return 75 when it was interrupted, 3 when the predictor did not make all products, else 0."""
        return INTERRUPTED if self.interrupted else FELL_BACK if self.fallbacks else DONE


def watch(
    predictor: str,
    folder: Path,
    out: Path,
    *,
    horizon: int | None = None,
    card: str | Path | Card | None = None,
    fill_gaps: str | None = None,
    ending: str = ".nc",
    institution: str = "",
    fallback: Sequence[str] = FALLBACK,
    deadline: float | None = None,
    wait: float | None = None,
    cycles: int | None = None,
    replay: bool = False,
    allow: Collection[str] = (),
    device: str = "cpu",
    poll: float | None = None,
    clock: Clock | None = None,
) -> Watched:
    """Forecast whenever a frame arrives in a folder, or should have; go on where an earlier watch with this ``out`` ended.

    Args:
        predictor: a predictor file, a run folder or a baseline, as :func:`stpredict.load_predictor` takes it.
        folder: where frames arrive.
        out: the folder of products, ``nowcast-YYYYMMDDTHHMM`` by the time of the cycle, and of ``watch.jsonl``
            (:class:`~stpredict.watching_record.Cycle`).
        horizon: frames to forecast after the time of each cycle; None: as many as the predictor was trained for.
        card: how to read the frames; None: by the card that the predictor was trained with.
        fill_gaps: the rule by which missing frames are made up, as in :func:`stpredict.nowcast.forecast_files`.
        ending: of the products, one of :data:`stpredict.products.FORMATS`.
        institution: who makes the products.
        fallback: baselines that stand in for the predictor, the first that can; none: there is no product then.
        deadline: seconds, of the machine's own clock, from the start of a cycle until its product is written; None: half a step.
        wait: seconds after its time at which a cycle starts without its frame; None: half a step.
        cycles: after how many to end; None: never, or with the frames of a replay.
        replay: take the time from the frames, and begin with the oldest: a folder of old frames is gone through as if they came now.
        allow: code that the predictor file may name.
        device: where the predictor computes.
        poll: seconds from one look at the folder to the next; None: a hundredth of a step, at most 1.
        clock: the time; None: that of the machine.

    Returns:
        how it went. The first SIGTERM or SIGINT ends it after the cycle that is under way, the second at once.

    Raises:
        UserError: there is no such folder, the predictor cannot be loaded, an option makes no sense, or the frames do not fit.
    """
    for name in fallback:
        if name not in BASELINES or name == "training-mean":
            raise UserError(
                f"A fallback is a baseline that needs no training, not '{name}'{nearest(name, set(BASELINES) - {'training-mean'})}"
            )
    for option, number in {"deadline": deadline, "wait": wait, "poll": poll}.items():
        if number is not None and number <= 0:
            raise UserError(f"'{option}' is a number of seconds above 0, not {number:g}")
    if fill_gaps is not None and fill_gaps not in FILLING:
        raise UserError(f"There is no rule '{fill_gaps}' to fill gaps{nearest(fill_gaps, FILLING)}")
    choose_format(Path(f"nowcast{ending}"))
    if not folder.is_dir():
        raise UserError(f"There is no folder '{folder}' to watch: make it first")
    asked = None if card is None else read_card(card)
    record, result = Record(out, ending), Watched()
    try:
        with stop_on(signal.SIGINT, signal.SIGTERM) as stop, record.hold(), Worker(predictor, allow=list(allow), device=device) as worker:
            about = worker.describe()
            chosen = asked or about.card
            if chosen is None or chosen.reader is None:
                raise UserError(f"Nothing says how to read the frames in '{folder}': name their card (--data CARD)")
            arrivals = Arrivals(chosen, folder, but=out)
            steps = horizon or about.horizon or chosen.window.horizon
            maker = Maker(predictor, about, chosen, arrivals, folder, worker, fill_gaps, tuple(fallback), steps)
            _Watch(maker, record, clock or Clock(), stop, result, institution, deadline, wait, cycles, replay, poll).run()
    except KeyboardInterrupt:
        result.interrupted = True
    return result


@dataclass
class _Watch:
    """Cycles, one after another."""

    maker: Maker
    record: Record
    clock: Clock
    stop: Stop
    result: Watched
    institution: str
    deadline: float | None
    wait: float | None
    cycles: int | None
    replay: bool
    poll: float | None

    def __post_init__(self) -> None:
        self.arrivals, self.worker = self.maker.arrivals, self.maker.worker
        self.notes: list[str] = []
        source = Path(self.maker.predictor)
        self.source = source if source.exists() else None

    def run(self) -> None:
        """Go on until the cycles are made, or a signal comes."""
        slot = self._first()
        while slot is not None and not self.stop.asked and (self.cycles is None or self.result.cycles < self.cycles):
            if not self._product(slot).exists():
                if not self._await(slot):
                    break
                self._cycle(slot)
            self.arrivals.passed(slot, self.maker.keep)
            slot += 1
        self.result.interrupted = self.stop.asked and self.result.cycles != self.cycles

    def _first(self) -> int | None:
        """Wait for the first frame; return the slot of the first cycle, None where a signal came."""
        said = False
        self._look()
        self._look()
        while (newest := self.arrivals.newest) is None and not self.stop.asked:
            if not said:
                self._say(f"no frame is in '{self.maker.folder}' yet: waiting")
            said = True
            self._look()
        if newest is None:
            return None
        assert self.arrivals.oldest is not None
        step = self.arrivals.step
        done = max((round((moment - self.arrivals.time(0)) / step) for moment in self.record.done()), default=None)
        if self.replay:
            return self.arrivals.oldest + self.maker.span - 1 if done is None else done + 1
        now = self.arrivals.slot(self.clock.now())
        if done is None:
            return now
        # What an older cycle would have forecast is over.
        return max(done + 1, now - self.maker.horizon * self.maker.every + 1)

    def _await(self, slot: int) -> bool:
        """Wait until the cycle of a slot is to start; return whether it is."""
        wait = self.arrivals.step / 2 if self.wait is None else self.wait
        while not self.stop.asked:
            self.arrivals.poll()
            if (note := self.worker.tend()) is not None:
                self.notes.append(f"{self.maker.about.name}: {note}")
            if self.arrivals.frame(slot) is not None or self._now() >= self.arrivals.time(slot) + wait:
                return True
            if self.replay and self.cycles is None and self.arrivals.settled and self._now() < self.arrivals.time(slot):
                return False
            self.clock.sleep(self._pause())
        return False

    def _cycle(self, slot: int) -> None:
        began, moment, step = time.monotonic(), self.arrivals.time(slot), self.arrivals.step
        wait = step / 2 if self.wait is None else self.wait
        deadline = step / 2 if self.deadline is None else self.deadline
        cycle = Cycle(stamp(moment), due=stamp(moment + wait + deadline))
        nowcast = self.maker.make(slot, cycle, began + deadline)
        if nowcast is not None:
            path, writing = self._product(slot), time.monotonic()
            try:
                write_product(path, label(nowcast, cycle, self.institution))
            except OSError as error:
                cycle.reason = "; ".join(filter(None, [cycle.reason, f"the product could not be written: {error}"]))
            else:
                cycle.product = path.name
                self.maker.took.append(time.monotonic() - writing)
        if self.source is not None and not self.source.exists():
            self.notes.append(f"'{self.source}' is gone; the predictor that is loaded goes on, and cannot be loaded again")
            self.source = None
        events = self.arrivals.tell()
        cycle = replace(cycle, late=events.late, broken=events.broken, notes=[*self.notes, *events.notes])
        self.notes = []
        cycle.seconds, cycle.written = round(time.monotonic() - began, 3), stamp(self.clock.now())
        self.result.cycles += 1
        self.result.fallbacks += cycle.reason is not None
        self._tell(cycle)

    def _tell(self, cycle: Cycle) -> None:
        made = cycle.product or "no product"
        self._say(f"{cycle.cycle}: {made}, {cycle.used or 'nothing'}" + (f" ({cycle.reason})" if cycle.reason else ""))
        for name, sentence in cycle.broken.items():
            self._say(f"{name}: {sentence}")
        for note in [*cycle.notes, *(f"{name} came late" for name in cycle.late)]:
            self._say(note)
        try:
            self.record.add(cycle)
        except OSError as error:
            self._say(str(error))

    def _say(self, words: str) -> None:
        print(f"watch: {' '.join(words.split())}", file=sys.stderr, flush=True)

    def _product(self, slot: int) -> Path:
        return self.record.product(self.arrivals.time(slot), self.arrivals.step)

    def _look(self) -> None:
        self.arrivals.poll()
        self.clock.sleep(self._pause())

    def _pause(self) -> float:
        if self.poll is not None:
            return self.poll
        return 1.0 if self.arrivals.newest is None else min(1.0, max(0.05, self.arrivals.step / 100))

    def _now(self) -> float:
        if not self.replay:
            return self.clock.now()
        assert self.arrivals.newest is not None
        return self.arrivals.time(self.arrivals.newest)
