"""A recurrent network whose predictions are added to frames that are known beforehand."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from stpredict.networks.contract import Constants, RecurrentNetwork, State, Step
from stpredict.networks.wrapped import WrappedNetwork


class CorrectedNetwork(WrappedNetwork):
    """A network whose every prediction is added to the first ``channels`` known inputs of the frame that is predicted.

    The sum is the prediction, and thus what a rollout feeds next. The network sees those inputs as well. ``smoothing`` is as in
    :func:`smooth`.
    """

    def __init__(self, network: RecurrentNetwork, channels: int, smoothing: int = 1) -> None:
        super().__init__(network)
        self.channels, self.smoothing = channels, smoothing
        if hasattr(network, "observe"):
            self.observe = self._observe

    def step(self, frame: Tensor | None, state: State, constants: Constants, known: Tensor | None = None) -> Step:
        """Let the network take a step, and add what it makes."""
        made, state, penalty = self.network.step(frame, state, constants, known)
        if made is None:
            return Step(None, state, penalty)
        assert known is not None, "there is something to be corrected"
        return Step(known[:, : self.channels] + smooth(made, self.smoothing), state, penalty)

    def _observe(
        self, frames: Tensor, state: State, constants: Constants, known: Tensor | None = None
    ) -> tuple[Tensor | None, State, Tensor | None]:
        made, state, penalty = self.network.observe(frames, state, constants, known)  # type: ignore[operator]
        if made is None:
            return None, state, penalty
        assert known is not None, "there is something to be corrected"
        return known[:, :, : self.channels] + smooth(made, self.smoothing), state, penalty


def smooth(frames: Tensor, size: int) -> Tensor:
    """Average ``(..., C, H, W)`` twice over squares of ``size`` pixels, centred; 1 leaves them as they are.

    What repeats itself every ``size`` pixels, as the edges of patches of that size do, is gone after it. Beyond the edges the frames go
    on as their outermost pixels.
    """
    if size == 1:
        return frames
    wide = functional.pad(frames.flatten(0, -4), (size - 1,) * 4, mode="replicate")
    averaged = functional.avg_pool2d(functional.avg_pool2d(wide, size, 1), size, 1)
    return averaged.reshape(frames.shape)
