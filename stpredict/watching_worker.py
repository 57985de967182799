"""A predictor in a process of its own: what it does to that process, a crash, a hang, no memory, it does not do to who asks it.

Frames and forecasts go through files, and the pipe between the two carries a few words at a time: so neither end waits for the other to
read, and a process that stands still cannot hold the one that asked.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from stpredict import kernels
from stpredict.data.card import Card
from stpredict.data.newest import Newest
from stpredict.devices import choose_device
from stpredict.errors import UserError
from stpredict.forecasts import SavedForecasts
from stpredict.nowcast import continue_newest, own_card
from stpredict.predictor import load_predictor
from stpredict.products import Nowcast

_LOADING = 300.0
"""Seconds after which a process that still loads its predictor counts as hung."""

_START = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from stpredict.watching_worker import serve; serve(*map(int, sys.argv[2:]))"
)


class WorkerFailed(Exception):
    """The process gave no forecast; the sentence says why."""


@dataclass(frozen=True)
class About:
    """What a predictor is.

    Attributes:
        name: what it is called.
        context: frames that it was trained with; None: any number.
        horizon: frames that it was trained to forecast; None: any number.
        card: the card that it was trained with, if that reads files.
    """

    name: str
    context: int | None
    horizon: int | None
    card: Card | None


class Worker:
    """A process that holds a predictor loaded, and is started again when it has ended."""

    def __init__(self, source: str, *, allow: Sequence[str] = (), device: str = "cpu") -> None:
        """Start the process; arguments as of :func:`stpredict.load_predictor`."""
        computing = {"device": device, "threads": torch.get_num_threads(), "kernels": kernels.chosen()}
        self._order = {"source": source, "allow": list(allow), **computing}
        self._folder = tempfile.TemporaryDirectory(prefix="stpredict-")
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection[Any, Any] | None = None
        self._about: About | None = None
        self._started, self._asked = 0.0, 0
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()
        self._folder.cleanup()

    def describe(self) -> About:
        """Wait until the predictor is loaded, and return what it is.

        Raises:
            UserError: it cannot be loaded.
        """
        try:
            return self._wait_loaded(_LOADING)
        except WorkerFailed as error:
            raise UserError(f"The predictor '{self._order['source']}' could not be loaded: {error}") from None

    def tend(self) -> str | None:
        """Start a process that has ended, if it had loaded its predictor before; return what happened, a sentence, or None."""
        if self._about is None or self._process is None or self._process.poll() is None:
            return None
        ended = self._how_it_ended()
        self._start()
        return f"{ended}, and was started again"

    def ask(self, newest: Newest, source: Path, horizon: int, seconds: float) -> Nowcast:
        """Return the predictor's forecast, as :func:`stpredict.nowcast.continue_newest` makes it.

        Raises:
            WorkerFailed: there is none within these seconds; a process that is late is killed, and one that has ended started again.
        """
        deadline = time.monotonic() + seconds
        if self._process is None:
            self._start()
        if seconds <= 0:
            raise WorkerFailed("there was no time left for it")
        self._wait_loaded(seconds)
        assert self._pipe is not None
        self._asked += 1
        request = Path(self._folder.name, f"request-{self._asked}")
        try:
            request.write_bytes(pickle.dumps((newest, source, horizon), protocol=5))
        except OSError as error:
            request.unlink(missing_ok=True)
            raise WorkerFailed(f"it could not be asked: {error.strerror} in {self._folder.name}") from None
        left = max(0.0, deadline - time.monotonic())
        try:
            self._pipe.send(self._asked)
            word, content = self._receive_reply(deadline)
        except TimeoutError:
            if left < seconds / 2:  # its answer, when it comes, is passed over
                raise WorkerFailed(f"it was still being loaded until {left:.2g} s were left") from None
            self._end()
            self._start()
            raise WorkerFailed(f"it gave no forecast within {left:.3g} s, and was started again") from None
        except (EOFError, OSError):
            ended = self._how_it_ended()
            self._start()
            raise WorkerFailed(ended) from None
        if word == "failed":
            raise WorkerFailed(content)
        reply = Path(self._folder.name, f"reply-{self._asked}")
        try:
            nowcast: Nowcast = pickle.loads(reply.read_bytes())  # of this process's own child, in a folder that is this user's alone
        except OSError as error:
            raise WorkerFailed(f"its forecast could not be read: {error}") from None
        finally:
            reply.unlink(missing_ok=True)
        return nowcast

    def _wait_loaded(self, seconds: float) -> About:
        if self._about is not None:
            return self._about
        try:
            word, content = self._receive(seconds)
        except TimeoutError:
            if time.monotonic() - self._started > _LOADING:
                self._end()
                raise WorkerFailed(f"it was not loaded within {_LOADING:g} s, and is started again") from None
            raise WorkerFailed("it is still being loaded") from None
        except (EOFError, OSError):
            raise WorkerFailed(self._how_it_ended()) from None
        if word == "failed":
            self._end()
            raise WorkerFailed(content)
        self._about = content
        return self._about

    def _receive_reply(self, deadline: float) -> tuple[str, Any]:
        """Return the answer to what was asked last; those to earlier requests came too late."""
        while True:
            word, (number, content) = self._receive(max(0.0, deadline - time.monotonic()))
            Path(self._folder.name, f"request-{number}").unlink(missing_ok=True)
            if number == self._asked:
                return word, content
            Path(self._folder.name, f"reply-{number}").unlink(missing_ok=True)

    def _receive(self, seconds: float) -> tuple[str, Any]:
        assert self._pipe is not None
        if not self._pipe.poll(seconds):
            raise TimeoutError
        message: tuple[str, Any] = self._pipe.recv()
        return message

    def _start(self) -> None:
        self._end()
        self._about, self._started = None, time.monotonic()
        self._pipe, theirs = Pipe()
        with theirs:
            # Apart from the terminal, whose Ctrl-C is the parent's to answer.
            words = [sys.executable, "-c", _START, json.dumps(sys.path), str(theirs.fileno())]
            self._process = subprocess.Popen(
                words, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
            )
        self._pipe.send({**self._order, "folder": self._folder.name})

    def _end(self) -> None:
        """End the process at once, if there is one."""
        if self._process is not None:
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):  # a driver may hold it in the kernel; nobody waits for that
                self._process.wait(5.0)
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = self._about = None
        for left in Path(self._folder.name).iterdir():
            left.unlink()

    def _how_it_ended(self) -> str:
        """Say how the process ended, or see to it that it does."""
        assert self._process is not None
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            code = None
        self._end()
        if code is None:
            return "its process closed its pipe"
        return f"its process was killed by {signal.Signals(-code).name}" if code < 0 else f"its process ended with exit code {code}"


def serve(pipe_number: int) -> None:
    """Load a predictor and forecast what the pipe asks for, until its other end is closed."""
    with Connection(pipe_number) as pipe:
        try:
            order = pipe.recv()
            torch.set_num_threads(order["threads"])
            kernels.choose(order["kernels"])
            try:
                predictor = load_predictor(order["source"], allow=order["allow"], device=choose_device(order["device"]))
                if isinstance(predictor, SavedForecasts):
                    raise UserError(
                        f"The forecast file {predictor.path} holds forecasts of its own clips alone: give a predictor or a baseline"
                    )
                about = About(predictor.name, predictor.context, predictor.horizon, own_card(predictor))
            except (UserError, OSError) as error:
                pipe.send(("failed", str(error)))
                return
            pipe.send(("loaded", about))
            while True:
                number = pipe.recv()
                pipe.send(_answer(predictor, Path(order["folder"]), number))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            os._exit(0)  # nobody waits for what threads and devices still do


def _answer(predictor: Any, folder: Path, number: int) -> tuple[str, tuple[int, str | None]]:
    try:
        newest, source, horizon = pickle.loads((folder / f"request-{number}").read_bytes())  # the parent's, as in `ask`
        nowcast = continue_newest(predictor, newest, source, horizon)
        (folder / f"reply-{number}").write_bytes(pickle.dumps(nowcast, protocol=5))
    except (UserError, OSError) as error:
        return "failed", (number, str(error))
    return "made", (number, None)
