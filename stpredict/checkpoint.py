"""Checkpoints: everything that a run needs to go on exactly, in one file that is written whole or not at all.

The file is a ``.safetensors``: tensors by name, and under ``checkpoint`` in its header the JSON of all that is no tensor. Its last
tensor is the checksum of every byte before it. Format 1, of stpredict 0.1.0, had no checksum; every later one ends with it, so that a
damaged file is told from one of a format that is not known yet.
"""

from __future__ import annotations

import copy
import errno
import json
import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

import stpredict
from stpredict.devices import laid_out_like
from stpredict.errors import UserError
from stpredict.files import checksum_fits, remove_leftovers, write_tensors
from stpredict.predictor import differences

FORMAT = 2
"""Version of the checkpoint file; a newer one than this is refused."""

_FIRST_FORMAT = {"step", "best", "facts"}
"""What the header of format 1 held, and nothing else, so that a damaged header of a later one is not taken for it."""

_STEM = r"step-(?P<step>\d+)(?P<milestone>\.milestone)?"


class DamagedCheckpoint(UserError):
    """A checkpoint that is not what was written.

    Attributes:
        path: the file.
        reason: what shows it.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} is no whole checkpoint ({reason}); remove it to go on from the one before")
        self.path, self.reason = path, reason


@dataclass
class Checkpoint:
    """The state of a run between two steps.

    Attributes:
        step: training steps done.
        weights: the network's tensors by name.
        optimizer: the optimiser's tensors by ``<parameter number>.<name>``.
        best: the best validation score so far, or None.
        facts: what must be the same for an exact continuation: versions, threads, processes, settings; plain data.
        path: the file that it was read from.
        ema: the running averages of the network's tensors by name; empty where none are kept.
    """

    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    best: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None
    ema: dict[str, Tensor] = field(default_factory=dict)

    def save(self, folder: Path, keep: int, milestone: bool = False) -> Path:
        """Write ``step-<number>.safetensors`` and remove older checkpoints.

        The newest ``keep`` up to this one are kept, and every milestone, ``step-<number>.milestone.safetensors``. Checkpoints of later
        steps are left alone: a run that went on from before them, since they are damaged, writes over them when it gets there.

        Raises:
            OSError: the file could not be written; nothing has been removed then.
        """
        assert keep >= 1
        path = folder / f"step-{self.step:08d}{'.milestone' if milestone else ''}.safetensors"
        header = {"format": FORMAT, "step": self.step, "best": self.best, "facts": self.facts}
        write_tensors(path, self.tensors(), {"checkpoint": json.dumps(header)}, checksum=True)
        passing = [old for old in checkpoints(folder) if _number(old) <= self.step and not _named(old)["milestone"]]
        for old in passing[:-keep]:
            old.unlink(missing_ok=True)
        return path

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by their names in the file."""
        groups = {"network": self.weights, "optimizer": self.optimizer, "ema": self.ema}
        return {f"{group}.{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}

    def with_tensors(self, tensors: dict[str, Tensor]) -> Checkpoint:
        """Return a checkpoint with other tensors, by their names in the file."""
        weights, optimizer, ema = (_under(f"{group}.", tensors) for group in ("network", "optimizer", "ema"))
        return replace(self, weights=weights, optimizer=optimizer, ema=ema)

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read a checkpoint and verify its checksum.

        Raises:
            DamagedCheckpoint: it is not what was written, or no checkpoint.
            UserError: it is of a newer format.
        """
        try:
            fits = checksum_fits(path)  # first, since it meets an unreadable sector with an error and mapped memory with a signal
            with safetensors.safe_open(path, framework="pt") as file:
                header = dict(json.loads((file.metadata() or {})["checkpoint"]))
            if not fits and header.keys() != _FIRST_FORMAT:
                raise DamagedCheckpoint(path, "its checksum does not fit its bytes")
            if fits and int(header["format"]) > FORMAT:
                raise UserError(
                    f"{path} is a checkpoint of format {header['format']}, and this stpredict {stpredict.__version__} reads formats up to "
                    f"{FORMAT}: update stpredict"
                )
            shell = cls(int(header["step"]), {}, {}, header["best"], dict(header["facts"]), path)
            return shell.with_tensors(safetensors.torch.load_file(path))
        except UserError:
            raise  # it is a ValueError
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
            raise DamagedCheckpoint(path, str(error)) from None
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            raise DamagedCheckpoint(path, f"the disk cannot read it: {error.strerror}") from None

    def restore(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Put the state back into a network and its optimiser.

        Raises:
            UserError: it is the state of another network.
        """
        given, wanted = (
            {name: tuple(tensor.shape) for name, tensor in weights.items()} for weights in (self.weights, network.state_dict())
        )
        differing = differences(given, wanted)
        if differing:
            raise UserError(
                f"{self.path} is a checkpoint of another network: {'; '.join(differing)}; remove it to go on from the one before"
            )
        network.load_state_dict(self.weights)
        restore_optimizer(optimizer, self.optimizer)


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, milestones among them, in the order of their steps."""
    found = [path for path in folder.glob("step-*.safetensors") if re.fullmatch(_STEM, path.stem)]
    return sorted(found, key=lambda path: (_number(path), path.name))


def newest_whole(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint that is whole, or None, and a sentence for each damaged one that was passed over.

    Raises:
        UserError: one that would be taken is of a newer format.
    """
    said: list[str] = []
    for path in reversed(checkpoints(folder)):
        try:
            return Checkpoint.load(path), said
        except DamagedCheckpoint as error:
            said.append(f"{path} is no whole checkpoint ({error.reason}) and was passed over")
    return None, said


def remove_unfinished(folder: Path) -> list[Path]:
    """Remove, and return, what killed processes left of checkpoints that they were writing; call it before writing there."""
    return remove_leftovers(folder, r"step-\d+(?:\.milestone)?")


class CheckpointWriter:
    """Writes checkpoints in a thread, so that a training step waits for a copy in memory and not for the disk.

    A context manager; leaving it waits for the last write. The memory of the copies is kept for the next one.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None
        self._memory: dict[str, Tensor] = {}

    def write(
        self, checkpoint: Checkpoint, folder: Path, keep: int, milestone: bool = False, then: Callable[[Checkpoint], object] | None = None
    ) -> None:
        """Copy a checkpoint, and write the copy as :meth:`Checkpoint.save` does while the caller goes on.

        Args:
            checkpoint: the state; it may change as soon as this returns.
            folder: the folder of checkpoints.
            keep: how many are kept.
            milestone: keep this one for ever.
            then: called in the thread with the copy when its file is in place, to write other files of the same state.

        Raises:
            OSError: the write before this one failed, for instance because the disk is full; this one has not begun.
        """
        self.wait()
        self._memory = _copies(checkpoint.tensors(), self._memory)
        copied = replace(checkpoint.with_tensors(self._memory), facts=copy.deepcopy(checkpoint.facts))

        def write() -> None:
            path = copied.save(folder, keep, milestone)
            if then is not None:
                then(replace(copied, path=path))

        self._writing = self._thread.submit(write)

    def wait(self) -> None:
        """Wait until the last write is done.

        Raises:
            OSError: it failed.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Wait until the last write is done, and end the thread.

        Raises:
            OSError: the write failed.
        """
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            self._memory = {}

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.close()
        except OSError as failed:
            if error is None:
                raise
            error.add_note(f"The last checkpoint was not written either: {failed}")


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's state as named tensors."""
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return {
        f"{number}.{name}": torch.as_tensor(value)
        for number, values in state.items()
        for name, value in values.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put named tensors back as the optimiser's state."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, values in optimizer.state.items():
        values.update({name: laid_out_like(value, parameter) for name, value in values.items() if value.shape == parameter.shape})


def _copies(tensors: dict[str, Tensor], memory: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors to the CPU, into memory of before where it fits."""
    copies, devices = {}, set()
    for name, tensor in tensors.items():
        place = memory.get(name)
        if place is None or place.shape != tensor.shape or place.dtype != tensor.dtype:
            # Page-locked for a GPU, which then copies without waiting after each tensor.
            place = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        copies[name] = place.copy_(tensor.detach(), non_blocking=tensor.is_cuda)
        if tensor.is_cuda:
            devices.add(tensor.device)
    for device in devices:
        torch.cuda.synchronize(device)
    return copies


def _named(path: Path) -> re.Match[str]:
    named = re.fullmatch(_STEM, path.stem)
    assert named is not None
    return named


def _number(path: Path) -> int:
    return int(_named(path)["step"])


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
