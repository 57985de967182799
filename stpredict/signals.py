"""Signals as a wish to end: the first is noted, and a second one ends at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Stop:
    """Whether a signal has asked to end.

    Attributes:
        asked: it has.
    """

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, number: int, frame: object) -> None:
        """Take a signal.

        Raises:
            KeyboardInterrupt: it is the second.
        """
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def stop_on(*numbers: signal.Signals) -> Iterator[Stop]:
    """Take these signals as a wish to end, while the body runs in the main thread; signals belong to no other."""
    stop = Stop()
    with put_back(*numbers):
        if _in_main_thread():
            for number in numbers:
                signal.signal(number, stop)
        yield stop


@contextmanager
def put_back(*numbers: signal.Signals) -> Iterator[None]:
    """Let these signals be answered after the body as they were before it: a library that takes them may not give them back."""
    before = {number: signal.getsignal(number) for number in numbers} if _in_main_thread() else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) is not handler:  # None: not Python's to put back
                signal.signal(number, handler)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
