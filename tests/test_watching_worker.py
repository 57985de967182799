"""A predictor in a process of its own: its forecasts are those of this one, and its end is told, never taken over."""

from __future__ import annotations

import os
import pickle
import signal
import time
from multiprocessing import Pipe
from pathlib import Path

import numpy as np
import pytest

from stpredict import kernels
from stpredict.baselines import Persistence
from stpredict.data.newest import Newest
from stpredict.frames import Clip, FrameSpec, Packing
from stpredict.nowcast import continue_newest
from stpredict.watching_worker import Worker, WorkerFailed, serve


def frames(height: int = 8) -> Newest:
    packed = np.random.default_rng(0).integers(0, 200, (3, 1, height, 8)).astype(np.uint8)
    times = np.datetime64("2020-05-01T12:00", "s") + 300 * np.arange(3)
    spec = FrameSpec(channels=1, height=height, width=8, units="mm/h", time_step=300.0)
    return Newest(Clip(packed, times=times, name="film"), spec, Packing(scale=0.5, missing=(199,)), (False,) * 3)


def test_a_process_that_is_killed_stopped_or_late() -> None:
    """One process after another, since each takes seconds to start."""
    with Worker("persistence") as worker:
        assert worker.describe().name == "persistence"
        expected = continue_newest(Persistence(), frames(), Path("folder"), 2)
        made = worker.ask(frames(), Path("folder"), 2, 60.0)
        np.testing.assert_array_equal(made.forecast, expected.forecast)
        assert made.facts == expected.facts and made.times.tolist() == expected.times.tolist() and worker.tend() is None

        first = worker._process.pid
        os.kill(first, signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(WorkerFailed, match=r"it gave no forecast within 0\.5 s, and was started again"):
            worker.ask(frames(2000), Path("folder"), 2, 0.5)  # more than a pipe holds
        assert time.monotonic() - began < 5.0
        with pytest.raises(WorkerFailed, match="still being loaded"):
            worker.ask(frames(), Path("folder"), 2, 0.01)
        assert worker._process.pid != first
        worker.describe()

        os.kill(worker._process.pid, signal.SIGKILL)
        until = time.monotonic() + 10.0
        while (note := worker.tend()) is None and time.monotonic() < until:
            time.sleep(0.01)
        assert note == "its process was killed by SIGKILL, and was started again"
        folder = Path(worker._folder.name)
        np.testing.assert_array_equal(worker.ask(frames(), Path("folder"), 2, 60.0).forecast, expected.forecast)
        assert list(folder.iterdir()) == []
        last = worker._process
    assert last.returncode is not None and not folder.exists()


def test_an_answer_that_is_late_is_not_taken_for_the_next() -> None:
    with Worker("persistence") as worker:
        worker.describe()
        for request in (1, 2):
            folder = Path(worker._folder.name)
            (folder / f"request-{request}").write_bytes(pickle.dumps((frames(8 * request), Path("folder"), request), protocol=5))
            worker._pipe.send(request)
        worker._asked = 2
        made = worker.ask(frames(24), Path("folder"), 3, 60.0)
        assert made.forecast.shape == (3, 1, 24, 8) and list(folder.iterdir()) == []


def test_it_computes_with_the_kernels_of_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Worker, "_start", lambda worker: None)
    with kernels.using("reference"), Worker("no_such_predictor") as worker:
        order = worker._order
    ours, theirs = Pipe()
    ours.send(order)
    serve(os.dup(theirs.fileno()))  # which ends where there is no such predictor
    assert ours.recv()[0] == "failed" and kernels.chosen() == "reference"
