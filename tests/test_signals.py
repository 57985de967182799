"""Signals that ask to end, and who answers them before and after."""

from __future__ import annotations

import signal
import threading

import pytest

from stpredict.signals import put_back, stop_on


def test_the_first_is_noted_the_second_ends_and_then_all_is_as_before() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with pytest.raises(KeyboardInterrupt), stop_on(signal.SIGUSR1) as stop:
        assert not stop.asked
        signal.raise_signal(signal.SIGUSR1)
        assert stop.asked
        signal.raise_signal(signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) is before


def test_a_library_that_keeps_a_signal_gives_it_back() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with put_back(signal.SIGUSR1):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGUSR1) is before


def test_in_another_thread_nothing_is_taken() -> None:
    before, found = signal.getsignal(signal.SIGUSR1), []

    def body() -> None:
        with stop_on(signal.SIGUSR1) as stop:
            found.extend([signal.getsignal(signal.SIGUSR1), stop.asked])

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert found == [before, False]
