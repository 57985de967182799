"""What a network is: a recurrent one is stepped along a film by ``stpredict.unroll``; a direct one forecasts at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from torch import Tensor, nn

from stpredict.draws import Draws

State = Any
"""A plain nest of tensors: tuples, lists and dicts, each tensor's first axis the batch."""

Constants = Any
"""What stays the same through one rollout: transformed weights, dropout masks, noise; or None."""


class Step(NamedTuple):
    """What one step of a recurrent network gives.

    Attributes:
        frame: the prediction ``(B, C, H, W)`` of the next frame, scaled; None from the encoder of an encoder-forecaster.
        state: the new state.
        penalty: ``(B,)`` a term of the training loss of each sample, averaged over the steps of a clip; or None.
    """

    frame: Tensor | None
    state: State
    penalty: Tensor | None = None


class RecurrentNetwork(nn.Module, ABC):
    """A network that goes through a film a step at a time.

    A network may also define ``observe(frames, state, constants, known=None) -> (frames, state, penalty)``, which takes several
    observed frames ``(B, T, C, H, W)`` at once and gives the same numbers as T steps.

    Attributes:
        predicts_context: True when every step predicts the next frame; False for an encoder-forecaster.
        patch_size: height and width of the frames given to a step are multiples of it.
        takes_valid: True when a step's frame carries the mask ``valid`` as C more channels (1 = a value exists).
        stochastic: True when ``prepare`` uses its draws in a forecast, or there are noise inputs, so that members differ.
        known_channels: K of the known inputs of a step, those of noise included.
        noise_channels: how many of these, the last ones, are noise that the program draws (``network.noise_channels``).
        training_settings: settings that change no forecast, such as ``dropout``.
    """

    predicts_context: bool = True
    patch_size: int = 1
    takes_valid: bool = False
    stochastic: bool = False
    known_channels: int = 0
    noise_channels: int = 0
    training_settings: tuple[str, ...] = ()

    @abstractmethod
    def initial_state(self, batch: int, height: int, width: int) -> State:
        """Return the state before the first frame; height and width in pixels."""

    def prepare(self, batch: int, draws: Draws | None = None) -> Constants:
        """Return what stays the same through one rollout. Draws are given in training, and to each member of a forecast."""
        return None

    @abstractmethod
    def step(self, frame: Tensor | None, state: State, constants: Constants, known: Tensor | None = None) -> Step:
        """Take one frame ``(B, C, H, W)``, scaled, or None where nothing is observed, and predict the next.

        ``known`` is ``(B, K, H, W)``: the known inputs of the frame that is to be predicted.
        """

    def begin_forecast(self, state: State) -> State:
        """Return the state from which the forecast starts, once the context is over."""
        return state


class DirectNetwork(nn.Module, ABC):
    """A network that forecasts its whole horizon at once.

    Attributes:
        predicts_context: always False.
        patch_size: height and width of its frames are multiples of it.
        takes_valid: True when observed frames carry the mask ``valid`` as C more channels.
        stochastic: True when there are noise inputs.
        known_channels: K of the known inputs of a frame, those of noise included.
        noise_channels: how many of these, the last ones, are noise that the program draws.
        training_settings: settings that change no forecast, such as ``drop_path``.
    """

    predicts_context: bool = False
    patch_size: int = 1
    takes_valid: bool = False
    stochastic: bool = False
    known_channels: int = 0
    noise_channels: int = 0
    training_settings: tuple[str, ...] = ()

    def prepare(self, batch: int, draws: Draws | None = None) -> Constants:
        """Return what ``forecast`` takes as ``constants``. Draws are given in training, and to each member of a forecast."""
        return None

    @abstractmethod
    def forecast(
        self, observed: Tensor, horizon: int, known: Tensor | None = None, constants: Constants = None
    ) -> Tensor | tuple[Tensor, Tensor | None]:
        """Take ``(B, context, C, H, W)`` and return ``(B, horizon, C, H, W)``, scaled; longer horizons by feeding itself.

        It may return a pair: the frames, and ``(B,)`` a term of the training loss of each sample, or None.

        ``known`` is ``(B, context + horizon, K, H, W)``. ``constants`` is what ``prepare`` has returned; where that is None it is not
        passed, so that a network without a ``prepare`` of its own may leave this argument out of its signature.
        """


Network = RecurrentNetwork | DirectNetwork


def given_channels(network: Network) -> int:
    """Return how many known inputs a network wants of whoever gives it frames: all but its noise, which the program draws."""
    return network.known_channels - network.noise_channels
