"""A recurrent network as it is, with someone looking on."""

from __future__ import annotations

from torch import Tensor, nn

from stpredict.networks.contract import Constants, RecurrentNetwork, State, Step
from stpredict.networks.wrapped import WrappedNetwork


class WatchedNetwork(WrappedNetwork):
    """A network as it is, that takes its steps one at a time and counts them.

    Attributes:
        steps: how many it has taken.
    """

    def __init__(self, network: RecurrentNetwork) -> None:
        super().__init__(network)
        self.steps = 0

    def step(self, frame: Tensor | None, state: State, constants: Constants, known: Tensor | None = None) -> Step:
        """Let the network take a step."""
        made = self.network.step(frame, state, constants, known)
        self.steps += 1
        return Step(*made)


def cells_of(network: nn.Module) -> dict[str, nn.Module]:
    """Return the layers of a network by name: the modules of each ``nn.ModuleList`` called ``cells``."""
    modules = dict(network.named_modules())
    lists = [name for name, module in modules.items() if name.rpartition(".")[2] == "cells" and isinstance(module, nn.ModuleList)]
    return {f"{name}.{child}": modules[f"{name}.{child}"] for name in lists for child, _ in modules[name].named_children()}


def highways_of(network: nn.Module) -> dict[str, nn.Module]:
    """Return the gradient highways of a network by name: the modules called ``ghu``."""
    return {name: module for name, module in network.named_modules() if name.rpartition(".")[2] == "ghu"}
