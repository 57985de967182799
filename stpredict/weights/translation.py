"""What every source's key table yields: a network with settings, and tensors by our names."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from stpredict.errors import UserError
from stpredict.weights.container import Container
from stpredict.weights.facts import Facts


@dataclass(frozen=True)
class Translation:
    """A foreign checkpoint in our terms.

    Attributes:
        network: the name of ours that it belongs to.
        settings: of that network, without what the frame spec tells.
        tensors: by our names.
        notes: what a user should know about it, plain data for the header.
    """

    network: str
    settings: dict[str, Any]
    tensors: dict[str, Tensor]
    notes: dict[str, Any]


class Source(Protocol):
    """A program whose checkpoints can be imported."""

    def recognises(self, container: Container) -> bool:
        """Return whether the checkpoint is of this source."""

    def translate(self, container: Container, facts: Facts) -> Translation:
        """Translate a checkpoint of this source.

        Raises:
            UserError: a tensor is unknown or missing, or the facts contradict it.
        """


Rule = tuple[str, str | Callable[[re.Match[str]], str] | None]
"""A pattern of a whole foreign name, and our name, with groups as ``\\1``; None: a tensor that the source never uses."""


def rename(tensors: Mapping[str, Tensor], rules: Collection[Rule], source: str) -> dict[str, Tensor]:
    """Return tensors by our names, by the first rule that fits each; those that are never used are left out.

    Raises:
        UserError: some names fit no rule; they are listed.
    """
    compiled = [(re.compile(pattern), new) for pattern, new in rules]
    renamed, unknown = {}, []
    for name, tensor in tensors.items():
        found = next(((match, new) for pattern, new in compiled if (match := pattern.fullmatch(name))), None)
        if found is None:
            unknown.append(name)
            continue
        match, new = found
        if new is not None:
            renamed[new(match) if callable(new) else match.expand(new)] = tensor
    if unknown:
        shown = ", ".join(f"'{name[:100]}'" for name in unknown[:6]) + (f" and {len(unknown) - 6} more" if len(unknown) > 6 else "")
        raise UserError(f"The checkpoint holds tensors that {source} does not have here: {shown}")
    return renamed


def need(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """Return a tensor that the sizes are read from.

    Raises:
        UserError: it is not there.
    """
    if name not in tensors:
        raise UserError(f"The checkpoint lacks the tensor '{name}'")
    return tensors[name]


def layer_count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    """Return one more than the largest layer number that group 1 of the pattern finds; layers count from 0."""
    numbers = [int(found[1]) for name in tensors if (found := re.match(pattern, name))]
    if not numbers or max(numbers) >= len(tensors):
        raise UserError("The checkpoint holds no layers of cells, or their numbers are not whole")
    return max(numbers) + 1


def permute_blocks(tensor: Tensor, order: Collection[int]) -> Tensor:
    """Return a tensor whose first axis holds equal blocks, one a gate, with the blocks in another order."""
    if len(tensor) % len(order):
        raise UserError(f"A tensor of shape {tuple(tensor.shape)} does not hold {len(order)} equal gates")
    blocks = tensor.chunk(len(order))
    return torch.cat([blocks[index] for index in order])
