"""One process or many: who this one is, and sums over all of them.

Started by torchrun the program joins its group, over NCCL on GPUs and gloo on CPUs; otherwise it is alone. Sums run in one
fixed layout, one flat buffer, so that their order does not depend on when which gradient was ready.

A launcher that starts a group again after one of its processes was killed keeps its store: what the processes of the first start
wrote is still there. So every start meets under a name of its own, and what the next start must know can be left in the store.
"""

from __future__ import annotations

import importlib
import itertools
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from stpredict.errors import UserError

T = TypeVar("T")

_ENTERED = itertools.count()
"""Numbers the groups that this process enters: a process that is started again enters them in the same order."""

_PATIENCE = 1800.0
"""Seconds for which processes wait for each other, which is torch's own choice."""


@dataclass(frozen=True)
class Processes:
    """The group of processes that work on one run.

    Attributes:
        rank: which one this is.
        count: how many there are.
        local_rank: which one this is on its machine.
        board: what outlives the processes when their launcher starts them again; None: nothing does.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    board: Store | None = field(default=None, repr=False, compare=False)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""
        if self.count > 1:
            tensor = tensor.clone()
            torch.distributed.all_reduce(tensor)
        return tensor

    def sum_flat(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return the sums of several tensors over all processes, in one message."""
        if self.count == 1:
            return list(tensors)
        flat = torch.cat([tensor.reshape(-1).float() for tensor in tensors])
        torch.distributed.all_reduce(flat)
        pieces = torch.split(flat, [tensor.numel() for tensor in tensors])
        return [piece.view(tensor.shape) for piece, tensor in zip(pieces, tensors, strict=True)]

    def share_from_first(self, value: Any) -> Any:
        """Return the first process's value of something small and plain."""
        if self.count == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def from_first(self, make: Callable[[], T]) -> T:
        """Return something small and plain that the first process alone makes.

        Raises:
            UserError: in every process, if it was raised in the first.
        """
        value, refusal = None, None
        if self.first:
            try:
                value = make()
            except UserError as error:
                refusal = str(error)
        value, refusal = self.share_from_first((value, refusal))
        if refusal is not None:
            raise UserError(refusal)
        made: T = value
        return made

    def alike(self, word: Callable[[], str]) -> bool:
        """Whether all processes, which compute on CPUs, make the same word; one that is alone makes none."""
        if self.count == 1:
            return True
        own = word()
        return not float(self.sum(torch.tensor(float(own != self.share_from_first(own)))))

    def leave(self, name: str, text: str) -> None:
        """Leave a word for these processes, should their launcher start them again; the first process's counts."""
        if self.board is not None and self.first:
            self.board.set(name, text)

    def found(self, name: str) -> str | None:
        """Return the word that an earlier start of these processes left, or None."""
        there = self.board is not None and self.first and self.board.check([name])
        word: str | None = self.share_from_first(self.board.get(name).decode() if self.board is not None and there else None)
        return word

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            torch.distributed.barrier()


@contextmanager
def join(device: torch.device) -> Iterator[Processes]:
    """Join the group that torchrun started, or be alone; leave it at the end.

    Args:
        device: where the group computes; on ``cuda`` each process of a machine takes a GPU of its own.

    Raises:
        ConnectionError: another process of the group has ended before its time.
    """
    if "WORLD_SIZE" not in os.environ:
        yield Processes()
        return
    rank, count, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if torch.distributed.is_initialized():  # whoever made the group leaves it
        yield Processes(rank, count, local_rank)
        return
    if device.type == "cuda":
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
    # Its functions take the group that there is when they are defined as a default. torch.optim imports it when an optimiser is
    # made; the group and its threads would then outlive their end, and now and then a process would abort as it exits.
    importlib.import_module("torch.distributed.nn")
    store, _, _ = next(rendezvous("env://", rank, count))
    meeting = PrefixStore(f"stpredict/{_agree(store, rank, count)}", store)
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", store=meeting, rank=rank, world_size=count)
    try:
        yield Processes(rank, count, local_rank, PrefixStore(f"stpredict/board/{next(_ENTERED)}", store))
    except RuntimeError as error:
        if "by peer" not in str(error):  # gloo says which connection was closed, or reset, by a peer that has ended
            raise
        raise ConnectionError("Another process of this run has ended before its time: see what it said") from None
    finally:
        torch.distributed.destroy_process_group()


def _agree(store: Store, rank: int, count: int) -> str:
    """Return a name that the processes of this start have in common, and no earlier start had.

    The number of restarts would not do: each machine's launcher counts its own. Every process shows a word that it has just made up.
    The first answers each word with its own, and goes on looking until all have read the answer: a word may be a dead process's.

    Raises:
        TimeoutError: not all processes came.
    """
    word = uuid.uuid4().hex
    if rank > 0:
        store.set(f"stpredict/here/{rank}", word)
        name: str = store.get(f"stpredict/answer/{word}").decode()
        store.set(f"stpredict/{name}/read/{rank}", "")
        return name
    missing, deadline = set(range(1, count)), time.monotonic() + _PATIENCE
    while missing:
        for other in sorted(missing):
            if store.check([f"stpredict/{word}/read/{other}"]):
                missing.remove(other)
            elif store.check([f"stpredict/here/{other}"]):
                store.set(f"stpredict/answer/{store.get(f'stpredict/here/{other}').decode()}", word)
        if time.monotonic() > deadline:
            raise TimeoutError(f"Of {count} processes, {len(missing)} did not come within {_PATIENCE:.0f} seconds: see what they say")
        time.sleep(0.01)
    return word
