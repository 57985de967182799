"""A recurrent network whose predictions are added to frames that are known beforehand."""

from __future__ import annotations

from torch import Tensor

from stpredict.networks.contract import Constants, RecurrentNetwork, State, Step
from stpredict.networks.wrapped import WrappedNetwork


class CorrectedNetwork(WrappedNetwork):
    """A network whose every prediction is added to the first ``channels`` known inputs of the frame that is predicted.

    The sum is the prediction, and thus what a rollout feeds next. The network sees those inputs as well.
    """

    def __init__(self, network: RecurrentNetwork, channels: int) -> None:
        super().__init__(network)
        self.channels = channels
        if hasattr(network, "observe"):
            self.observe = self._observe

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
