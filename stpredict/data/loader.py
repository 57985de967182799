"""Batches: which clips a training step sees, and worker processes that prepare them ahead.

The global batch is a function of (seed, step) alone; a process takes its slice of it. So the order of clips needs no
state to be saved, and is the same for any number of processes.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from functools import lru_cache
from multiprocessing.process import BaseProcess

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from stpredict import draws
from stpredict.data.clips import ClipSet
from stpredict.errors import UserError
from stpredict.frames import Batch, Clip


def global_batch(count: int | None, seed: int, step: int, batch_size: int) -> list[int]:
    """Return the clip numbers of training step ``step``, counted from 0.

    Args:
        count: the number of clips, or None for an endless set, whose step s sees clips ``s * batch_size`` and on.
        seed: of the run.
        step: the training step.
        batch_size: global, over all processes.

    A finite set is seen in a new random order each epoch; a batch may reach into the next epoch, so none is short.
    """
    positions = range(step * batch_size, (step + 1) * batch_size)
    if count is None:
        return list(positions)
    return [int(_epoch_order(count, seed, position // count)[position % count]) for position in positions]


@lru_cache(maxsize=2)
def _epoch_order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return draws.permutation(seed, "order", epoch, count)


def share(indices: Sequence[int], rank: int, processes: int) -> list[int]:
    """Return the slice of a global batch that one process works on; sizes differ by at most one."""
    return list(indices[len(indices) * rank // processes : len(indices) * (rank + 1) // processes])


class TrainingOrder:
    """The batches of one process in some steps, as lists of clip numbers; with ``repeat`` always that of step 0."""

    def __init__(
        self, clips: ClipSet, seed: int, steps: range, batch_size: int, rank: int = 0, processes: int = 1, repeat: bool = False
    ) -> None:
        self.count, self.repeat = None if clips.endless else len(clips), repeat
        self.seed, self.steps, self.batch_size, self.rank, self.processes = seed, steps, batch_size, rank, processes

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            yield share(global_batch(self.count, self.seed, 0 if self.repeat else step, self.batch_size), self.rank, self.processes)

    def __len__(self) -> int:
        return len(self.steps)


def ordered(count: int, batch_size: int, rank: int = 0, processes: int = 1) -> list[list[int]]:
    """Return batches that see every clip once, in order: this process's share of them."""
    mine = share(range(count), rank, processes)
    return [mine[start : start + batch_size] for start in range(0, len(mine), batch_size)]


class _Batches(Dataset[Batch | UserError | OSError]):
    """Batches by their clip numbers. What is wrong with a file is handed over: torch would add a worker's traceback to the sentence."""

    def __init__(self, clips: ClipSet) -> None:
        self.clips = clips

    def __getitem__(self, indices: Sequence[int]) -> Batch | UserError | OSError:
        try:
            return collate([(index, self.clips[index]) for index in indices])
        except UserError as error:
            return UserError(str(error))
        except OSError as error:
            return OSError(str(error)) if error.errno is None else OSError(error.errno, error.strerror, error.filename)


def collate(numbered: Sequence[tuple[int, Clip]]) -> Batch:
    """Lay clips side by side."""
    clips = [clip for _, clip in numbered]
    valid = [clip.valid for clip in clips if clip.valid is not None]
    known = [clip.known for clip in clips if clip.known is not None]
    times = [clip.times.astype("datetime64[s]").astype(np.int64) for clip in clips if clip.times is not None]
    assert all(len(part) in (0, len(clips)) for part in (valid, known, times)), "all clips of a set have the same parts"
    return Batch(
        frames=torch.from_numpy(np.stack([clip.frames for clip in clips])),
        valid=torch.from_numpy(np.stack(valid)) if valid else None,
        known=torch.from_numpy(np.stack(known)) if known else None,
        indices=tuple(index for index, _ in numbered),
        times=torch.from_numpy(np.stack(times)) if times else None,
    )


def batches(clips: ClipSet, order: TrainingOrder | Sequence[list[int]], workers: int = 0) -> Generator[Batch]:
    """Yield batches, prepared ahead by ``workers`` processes (0: when asked for).

    Workers are forked, so that a user's script needs no ``if __name__ == "__main__"``. They end with the generator.

    Raises:
        UserError: a file is damaged, or its numbers are not what its card says.
        OSError: a file is gone or cannot be read.
        ChildProcessError: a worker has ended before its time.
    """
    if workers:
        cv2.setNumThreads(1)  # a forked child waits for ever for the threads that OpenCV had in its parent
    loader = DataLoader(
        _Batches(clips),
        batch_size=None,  # an item is a batch already
        sampler=order,
        num_workers=workers,
        multiprocessing_context="fork" if workers else None,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_leave_signals_to_parent if workers else None,
    )
    handler = signal.getsignal(signal.SIGCHLD)
    source = iter(loader)
    if threading.current_thread() is threading.main_thread():
        # That of torch raises wherever the program is when a worker dies; without it the next batch says so, within seconds.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if handler is None else handler)
    processes: Sequence[BaseProcess] = getattr(source, "_workers", ())
    try:
        while True:
            try:
                batch = next(source)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError):
                _refuse_dead(processes)
                raise
            if isinstance(batch, UserError | OSError):
                raise batch
            yield batch
    finally:
        del source  # lets the workers end
        for process in processes:
            process.kill()


def _leave_signals_to_parent(worker: int) -> None:
    """Let a worker outlive the signals by which its parent is asked to stop: SLURM, or a terminal, sends them to every process."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def _refuse_dead(processes: Sequence[BaseProcess]) -> None:
    """Tell of a worker that has died.

    Raises:
        ChildProcessError: there is one.
    """
    for process in processes:
        process.join(0.1)  # its pipes may break an instant before it has ended
        if process.exitcode is not None:
            how = f"was killed by {signal.Signals(-process.exitcode).name}" if process.exitcode < 0 else "ended"
            raise ChildProcessError(
                f"Process {process.pid}, which reads clips, {how} before its time: if memory ran out, set data.workers lower; "
                "a run goes on with 'stpredict resume'"
            ) from None
