"""Checkpoints: everything that a run needs to go on exactly, in one file that is written whole or not at all.

The file is a ``.safetensors``: tensors by name, and under ``checkpoint`` in its header the JSON of all that is no tensor.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from stpredict.errors import UserError
from stpredict.files import write_tensors
from stpredict.predictor import differences


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
    """

    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    best: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None

    def save(self, folder: Path, keep: int) -> Path:
        """Write ``step-<number>.safetensors`` and remove all but the newest ``keep`` checkpoints of the folder."""
        path = folder / f"step-{self.step:08d}.safetensors"
        tensors = {f"network.{name}": tensor for name, tensor in self.weights.items()}
        tensors |= {f"optimizer.{name}": tensor for name, tensor in self.optimizer.items()}
        header = json.dumps({"step": self.step, "best": self.best, "facts": self.facts})
        write_tensors(path, tensors, {"checkpoint": header})
        for old in checkpoints(folder)[:-keep]:
            old.unlink()
        return path

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read a checkpoint.

        Raises:
            UserError: the file is damaged, or no checkpoint.
        """
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {})["checkpoint"])
            tensors = safetensors.torch.load_file(path)
            step, best, facts = int(header["step"]), header["best"], dict(header["facts"])
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is no whole checkpoint ({error}); remove it to go on from the one before") from None
        return cls(step, _under("network.", tensors), _under("optimizer.", tensors), best, facts, path)

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
    """Return the checkpoints of a folder, oldest first."""
    return sorted(folder.glob("step-*.safetensors"))


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


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
