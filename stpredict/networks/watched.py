"""A recurrent network as it is, with someone looking on."""

from __future__ import annotations

from torch import Tensor, nn

from stpredict.draws import Draws
from stpredict.networks.contract import Constants, RecurrentNetwork, State, Step


class WatchedNetwork(RecurrentNetwork):
    """A network as it is, that takes its steps one at a time and counts them.

    Attributes:
        network: the network.
        steps: how many it has taken.
    """

    def __init__(self, network: RecurrentNetwork) -> None:
        super().__init__()
        self.network = network
        self.predicts_context, self.patch_size, self.takes_valid = network.predicts_context, network.patch_size, network.takes_valid
        self.known_channels, self.noise_channels = network.known_channels, network.noise_channels
        self.stochastic, self.steps = network.stochastic, 0

    def initial_state(self, batch: int, height: int, width: int) -> State:
        """Return the network's."""
        return self.network.initial_state(batch, height, width)

    def prepare(self, batch: int, draws: Draws | None = None) -> Constants:
        """Return the network's."""
        return self.network.prepare(batch, draws)

    def begin_forecast(self, state: State) -> State:
        """Return the network's."""
        return self.network.begin_forecast(state)

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
