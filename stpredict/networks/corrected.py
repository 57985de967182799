"""A recurrent network whose predictions are added to frames that are known beforehand."""

from __future__ import annotations

from torch import Tensor

from stpredict.draws import Draws
from stpredict.networks.contract import Constants, RecurrentNetwork, State, Step


class CorrectedNetwork(RecurrentNetwork):
    """A network whose every prediction is added to the first ``channels`` known inputs of the frame that is predicted.

    The sum is the prediction, and thus what a rollout feeds next. The network sees those inputs as well.
    """

    def __init__(self, network: RecurrentNetwork, channels: int) -> None:
        super().__init__()
        self.network, self.channels = network, channels
        self.predicts_context, self.patch_size, self.takes_valid = network.predicts_context, network.patch_size, network.takes_valid
        self.stochastic, self.known_channels = network.stochastic, network.known_channels
        if hasattr(network, "observe"):
            self.observe = self._observe

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
        """Let the network take a step, and add what it makes."""
        made, state, penalty = self.network.step(frame, state, constants, known)
        if made is None:
            return Step(None, state, penalty)
        assert known is not None, "there is something to be corrected"
        return Step(known[:, : self.channels] + made, state, penalty)

    def _observe(
        self, frames: Tensor, state: State, constants: Constants, known: Tensor | None = None
    ) -> tuple[Tensor | None, State, Tensor | None]:
        made, state, penalty = self.network.observe(frames, state, constants, known)  # type: ignore[operator]
        if made is None:
            return None, state, penalty
        assert known is not None, "there is something to be corrected"
        return known[:, :, : self.channels] + made, state, penalty
