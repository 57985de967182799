"""What a watch leaves in its folder: a product of each cycle, and a line about it in ``watch.jsonl``."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from stpredict.errors import UserError
from stpredict.files import append_text
from stpredict.products import Nowcast

LOG = "watch.jsonl"


@dataclass
class Cycle:
    """A line of ``watch.jsonl``; times are UTC, such as ``2020-05-01T12:05:00``.

    Attributes:
        cycle: the time whose cycle it is.
        data_time: of the newest frame that the product was made from; None where there is no product.
        used: the predictor that made the product; None where there is none.
        reason: why it was not the predictor that was asked for, or why there is no product; None where it was.
        inputs: the files of the frames that the product was made from.
        missing: the times without a frame, from the first input up to the cycle.
        late: files whose frames came after the cycles of their times.
        broken: what is wrong with each file that cannot be used; each file is named once.
        notes: what else happened.
        seconds: that the cycle took.
        product: the name of the product's file; None where there is none.
        due: by when it was to be written, at the latest.
        written: when it was.
    """

    cycle: str
    data_time: str | None = None
    used: str | None = None
    reason: str | None = None
    inputs: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    product: str | None = None
    due: str = ""
    written: str = ""


class Record:
    """The folder of products."""

    def __init__(self, folder: Path, ending: str) -> None:
        self.folder, self._ending = folder, ending

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Make the folder and hold it for this process.

        Raises:
            UserError: another process holds it, or it is a file.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"'{self.folder}' is no folder: a watch writes many products, so name a folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                raise UserError(f"Another watch writes to '{self.folder}': stop it first, or name another folder") from None
            yield

    def product(self, seconds: float, step: float) -> Path:
        """Return where the product of a cycle is; its name has seconds only where the step needs them."""
        form = "%Y%m%dT%H%M" if step % 60 == 0 else "%Y%m%dT%H%M%S"
        return self.folder / f"nowcast-{datetime.fromtimestamp(seconds, UTC):{form}}{self._ending}"

    def done(self) -> list[float]:
        """Return the times of the cycles that the log tells of; a line that was cut off does not count, and the next begins anew."""
        path = self.folder / LOG
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        if text and not text.endswith("\n"):
            append_text(path, "\n")
        times = []
        for line in text.splitlines():
            try:
                times.append(datetime.fromisoformat(json.loads(line)["cycle"]).replace(tzinfo=UTC).timestamp())
            except (ValueError, TypeError, LookupError):
                continue
        return times

    def add(self, cycle: Cycle) -> None:
        """Add a line to the log.

        Raises:
            OSError: there is no room.
        """
        append_text(self.folder / LOG, json.dumps(asdict(cycle)) + "\n")


def drop_first(nowcast: Nowcast, count: int, horizon: int) -> Nowcast:
    """Return a forecast of one member without its ``count`` first frames; ``horizon`` are left.

    A forecast of no more than ``horizon`` frames is one that repeats a frame: then its times move.
    """
    if count == 0:
        return nowcast
    assert nowcast.times is not None and nowcast.spec.time_step is not None
    step = np.timedelta64(round(nowcast.spec.time_step), "s")
    seen = nowcast.times[: len(nowcast.observed)]
    times = np.concatenate([seen, seen[-1] + step * np.arange(count + 1, count + horizon + 1)]).astype("datetime64[s]")
    return replace(nowcast, forecast=nowcast.forecast[-horizon:], times=times)


def label(nowcast: Nowcast, cycle: Cycle, institution: str) -> Nowcast:
    """Return a product that tells of its cycle: what made it, why, from which files, and what was missing."""
    told = {name: getattr(cycle, name) for name in ("cycle", "data_time", "used", "reason", "inputs", "missing")}
    cautions = list(nowcast.facts.get("cautions", ()))
    if cycle.missing:
        cautions.append(f"none came in time for {_said(cycle.missing)}")
    if cycle.reason is not None:
        cautions.append(f"made by the fallback '{cycle.used}': {cycle.reason}")
    facts = {**nowcast.facts, "watch": told, **({"cautions": cautions} if cautions else {})}
    if institution:
        facts["institution"] = institution
    return replace(nowcast, source=", ".join(cycle.inputs), facts=facts)


def _said(times: Sequence[str], most: int = 6) -> str:
    """Return some times as a product says them."""
    words = [time.replace("T", " ").removesuffix(":00") for time in times]
    return ", ".join(words) if len(words) <= most else f"{', '.join(words[:most])} and {len(words) - most} more"


def stamp(seconds: float) -> str:
    """Return a time as the log says it."""
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat(timespec="seconds")
