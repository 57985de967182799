"""A recurrent network around another: what those that change one step, or look on, have in common."""

from __future__ import annotations

from stpredict.draws import Draws
from stpredict.networks.contract import Constants, RecurrentNetwork, State


class WrappedNetwork(RecurrentNetwork):
    """A network that is like the one within in all but its steps, which a subclass takes.

    Attributes:
        network: the one within.
    """

    def __init__(self, network: RecurrentNetwork) -> None:
        super().__init__()
        self.network = network
        self.predicts_context, self.patch_size, self.takes_valid = network.predicts_context, network.patch_size, network.takes_valid
        self.known_channels, self.noise_channels, self.stochastic = network.known_channels, network.noise_channels, network.stochastic

    def initial_state(self, batch: int, height: int, width: int) -> State:
        """Return the network's."""
        return self.network.initial_state(batch, height, width)

    def prepare(self, batch: int, draws: Draws | None = None) -> Constants:
        """Return the network's."""
        return self.network.prepare(batch, draws)

    def begin_forecast(self, state: State) -> State:
        """Return the network's."""
        return self.network.begin_forecast(state)
