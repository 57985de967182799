"""What is said while a run goes on: a live bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Stopwatch:
    """Tells how fast steps go and how much of their time is spent waiting for data; validation and saving do not count."""

    def __init__(self, step: int, seconds: float = 0.0) -> None:
        """Start, after a run has come to ``step`` in so many seconds."""
        self.began = time.monotonic() - seconds
        self._start_lap(step)

    def _start_lap(self, step: int) -> None:
        self._lap_step, self._lap_began = step, time.monotonic()
        self._waited = self._apart = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the body as waiting for data."""
        started = time.monotonic()
        yield
        self._waited += time.monotonic() - started

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Do not count the body: it belongs to no step."""
        started = time.monotonic()
        yield
        self._apart += time.monotonic() - started

    def lap(self, step: int) -> tuple[float, float]:
        """Return steps a second since the last lap and the share of that time spent waiting, and start the next lap."""
        spent = max(time.monotonic() - self._lap_began - self._apart, 1e-9)
        figures = (step - self._lap_step) / spent, self._waited / spent
        self._start_lap(step)
        return figures

    def seconds(self) -> float:
        """Return the seconds that the run has taken, all its continuations together."""
        return time.monotonic() - self.began


class TrainingProgress:
    """Shows step, speed, loss, time left and the share of time spent waiting for data."""

    SECONDS_BETWEEN_LINES = 10.0

    def __init__(self, first_step: int, last_step: int, *, shown: bool) -> None:
        self.console = Console(stderr=True, quiet=not shown)
        self.first_step, self.last_step = first_step, last_step
        self.bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("training", total=last_step, completed=first_step, figures="")
        self.started = self.said = time.monotonic()

    def __enter__(self) -> TrainingProgress:
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.stop()

    def show(self, step: int, loss: float, steps_per_second: float, frames_per_second: float, waiting: float) -> None:
        """Show the figures after ``step`` steps; plain lines come at most every ten seconds, and at the end."""
        figures = f"{steps_per_second:.2f} steps/s  {frames_per_second:.0f} frames/s  loss {loss:.5f}  waiting {waiting:.1%}"
        self.bar.update(self.task, completed=step, figures=figures)
        now = time.monotonic()
        if self.console.is_terminal or (now - self.said < self.SECONDS_BETWEEN_LINES and step < self.last_step):
            return
        self.said = now
        left = (self.last_step - step) / max(steps_per_second, 1e-9)
        self.say(f"step {step}/{self.last_step}  {figures}  {_clock(left)} left")

    def say(self, text: str) -> None:
        """Say one line."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)
        sys.stderr.flush()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
