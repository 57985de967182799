"""One process or many: who this one is, and sums over all of them.

Started by torchrun the program joins its group, over NCCL on GPUs and gloo on CPUs; otherwise it is alone. Sums run in one
fixed layout, one flat buffer, so that their order does not depend on when which gradient was ready.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import Tensor


@dataclass(frozen=True)
class Processes:
    """The group of processes that work on one run.

    Attributes:
        rank: which one this is.
        count: how many there are.
        local_rank: which one this is on its machine.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

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

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            torch.distributed.barrier()


@contextmanager
def join(device: torch.device) -> Iterator[Processes]:
    """Join the group that torchrun started, or be alone; leave it at the end."""
    if "WORLD_SIZE" not in os.environ:
        yield Processes()
        return
    mine = not torch.distributed.is_initialized()
    if mine:
        # Its functions take the group that there is when they are defined as a default. torch.optim imports it when an optimiser is
        # made; the group and its threads would then outlive their end, and now and then a process would abort as it exits.
        importlib.import_module("torch.distributed.nn")
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(torch.distributed.get_rank(), torch.distributed.get_world_size(), int(os.environ["LOCAL_RANK"]))
    finally:
        if mine:
            torch.distributed.destroy_process_group()
