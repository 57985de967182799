"""Work through the frames of an archive in blocks, in several processes, with a progress bar."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from stpredict.errors import UserError

_work: Callable[[int], Any] | None = None  # of a process that works for another


def positions_of(firsts: Sequence[int], block: range) -> Iterator[tuple[int, range, int]]:
    """Yield film, positions in it and place in the block of the frames of a block, which may begin and end within films.

    Args:
        firsts: number of the first frame of each film.
        block: numbers of frames, counted over all films.
    """
    start = block.start
    while start < block.stop:
        film = bisect_right(firsts, start) - 1
        end = min(block.stop, firsts[film + 1] if film + 1 < len(firsts) else block.stop)
        yield film, range(start - firsts[film], end - firsts[film]), start - block.start
        start = end


def each_block(
    work: Callable[[int], Any], numbers: Sequence[int], sizes: Sequence[int], workers: int, title: str, progress: bool
) -> dict[int, Any]:
    """Return what ``work`` makes of each number, in no order.

    Args:
        work: called with one of ``numbers``; it is sent to the processes.
        numbers: of blocks.
        sizes: frames of each block, for the progress bar.
        workers: processes; 1: this one.
        title: of the bar.
        progress: whether to show one where stderr is a terminal.

    Raises:
        UserError: ``work`` raised it, or a process has died.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("frames"), TimeRemainingColumn())
    results, size_of = {}, dict(zip(numbers, sizes, strict=True))
    with Progress(*columns, console=console, disable=not (progress and console.is_terminal)) as bar:
        task = bar.add_task(title, total=sum(sizes))
        for number, result in _results(work, numbers, min(workers, len(numbers))):
            results[number] = result
            bar.advance(task, size_of[number])
    return results


def _results(work: Callable[[int], Any], numbers: Sequence[int], workers: int) -> Iterator[tuple[int, Any]]:
    if workers <= 1:
        for number in numbers:
            yield number, work(number)
        return
    import cv2

    cv2.setNumThreads(1)  # a forked child waits for ever for the threads that OpenCV had in its parent
    # Forked as the processes of the loader are, so that a user's script needs no `if __name__ == "__main__"`.
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(work, os.getpid())) as pool:
        waiting: dict[Future[Any], int] = {pool.submit(_do, number): number for number in numbers}
        try:
            for future in as_completed(waiting):
                result = future.result()
                if isinstance(result, UserError):
                    raise result
                yield waiting[future], result
        except BrokenProcessPool:
            raise UserError(
                "A process that reads frames was killed: if memory ran out, ask for fewer --workers; what is done is kept"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _begin(work: Callable[[int], Any], parent: int) -> None:
    import torch

    global _work
    _work = work
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to answer
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process when its parent is killed, which it would otherwise never learn."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _do(number: int) -> Any:
    assert _work is not None
    try:
        return _work(number)
    except UserError as error:  # some of its kinds do not travel between processes
        return UserError(str(error))
