"""Starting the processes of a run on this machine, through torch's own launcher.

A process that ends in any way but with 0 is a failure to torch's launcher, which starts the group again or says that it failed, and
tells nobody how a group ended that it was asked to stop. So a process notes its exit code in a file, and ends with 0.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path

from stpredict.errors import UserError
from stpredict.files import write_text
from stpredict.signals import put_back
from stpredict.training.settings import Settings

_NOTE = "STPREDICT_EXIT_NOTE"
"""The environment variable that names the file for the exit code."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""What is handed on to the processes, which finish their step, save and end."""

_GRACE = "600"
"""Seconds that they have for it; a second signal ends them at once."""


def launched() -> bool:
    """Whether a launcher, ours or torchrun, has started this process."""
    return "WORLD_SIZE" in os.environ


def check_launch(settings: Settings) -> None:
    """Refuse what would only show in the processes, once for each of them.

    Raises:
        UserError: there are fewer GPUs, or fewer clips in a batch, than processes.
    """
    import torch

    processes = settings.trainer.devices
    if settings.data.batch_size < processes:
        raise UserError(f"trainer.devices is {processes}, but data.batch_size {settings.data.batch_size} leaves some of them no clip")
    if settings.trainer.device != "cpu" and torch.cuda.is_available() and torch.cuda.device_count() < processes:
        raise UserError(f"trainer.devices is {processes}, but this machine has {torch.cuda.device_count()} GPU(s) that torch can use")


def launch(words: Sequence[str], processes: int, max_restarts: int = 0) -> int:
    """Run ``stpredict`` in several processes that work on one run, and wait for them.

    SIGINT, SIGTERM and SIGUSR1 are handed on. Each process has its share of the cores as threads, unless ``OMP_NUM_THREADS`` says
    how many.

    Args:
        words: the command and what follows it.
        processes: how many.
        max_restarts: how often all are started again after one of them died or failed.

    Returns:
        the exit code: 0 done, 75 interrupted and resumable, otherwise that of the process that failed first.

    Raises:
        KeyboardInterrupt: a signal came before there was anything to save, or a second one while it was saved.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", _GRACE)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // processes)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=max_restarts,
        signals_to_handle=",".join(number.name for number in _SIGNALS),
    )
    with put_back(*_SIGNALS), tempfile.TemporaryDirectory() as folder:
        note = Path(folder) / "exit_code"
        os.environ[_NOTE] = str(note)
        try:
            elastic_launch(config, sys.executable)("-u", "-m", "stpredict", *words)
        except ChildFailedError as error:
            _, failure = error.get_first_failure()
            return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode  # as a shell says by which signal one died
        except SignalException:
            if not note.exists():
                raise KeyboardInterrupt from None
        finally:
            del os.environ[_NOTE]
        return int(note.read_text())


def end(code: int) -> int:
    """Return the exit code that a process which would end with ``code`` ends with, having told :func:`launch` if it waits."""
    if _NOTE not in os.environ:
        return code
    if os.environ["RANK"] == "0":
        write_text(Path(os.environ[_NOTE]), f"{code}\n")
    return 0
