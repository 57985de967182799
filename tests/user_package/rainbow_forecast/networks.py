"""One network of each kind."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stpredict import DirectNetwork, RecurrentNetwork, Step
from stpredict.draws import Draws

Memory = dict[str, Tensor]


class Rainbow(RecurrentNetwork):
    """A memory that leaks and is linear in what it sees, so that it can also take in many frames at once.

    It uses every part of the contract: the mask of missing pixels, known inputs, draws, a penalty, a change of its state where the
    forecast begins.
    """

    predicts_context = True
    takes_valid = True
    stochastic = True

    def __init__(
        self, *, channels: int, hidden: int = 4, patch_size: int = 2, known_channels: int = 0, noise: float = 0.1, thrift: float = 0.01
    ) -> None:
        super().__init__()
        self.hidden, self.patch_size, self.noise, self.thrift = hidden, patch_size, noise, thrift
        self.see = nn.Conv2d(2 * channels + known_channels, hidden, patch_size, patch_size)
        self.show = nn.ConvTranspose2d(hidden, channels, patch_size, patch_size)
        self.keep = nn.Parameter(torch.tensor(0.7))
        self.fade = nn.Parameter(torch.tensor(0.9))

    def initial_state(self, batch: int, height: int, width: int) -> Memory:
        return {"memory": self.keep.new_zeros(batch, self.hidden, height // self.patch_size, width // self.patch_size)}

    def prepare(self, batch: int, draws: Draws | None = None) -> Tensor:
        if draws is None:
            return self.keep.new_zeros(batch, self.hidden, 1, 1)
        return self.noise * draws.normal("rainbow", self.hidden, 1, 1).to(self.keep.device)

    def step(self, frame: Tensor | None, state: Memory, constants: Tensor, known: Tensor | None = None) -> Step:
        assert frame is not None
        seen = self.see(frame if known is None else torch.cat([frame, known], dim=1))
        memory = self.keep * state["memory"] + seen
        return Step(self.show(memory + constants), {"memory": memory}, self.thrift * memory.square().mean(dim=(1, 2, 3)))

    def begin_forecast(self, state: Memory) -> Memory:
        return {"memory": self.fade * state["memory"]}

    def observe(self, frames: Tensor, state: Memory, constants: Tensor, known: Tensor | None = None) -> tuple[Tensor, Memory, Tensor]:
        steps = frames.shape[1]
        seen = self.see((frames if known is None else torch.cat([frames, known], dim=2)).flatten(0, 1)).unflatten(0, (-1, steps))
        ages = torch.arange(steps)[:, None] - torch.arange(steps)
        left = torch.where(ages >= 0, self.keep ** ages.clamp(min=0), 0.0)
        first = self.keep ** torch.arange(1, steps + 1)
        memory = torch.einsum("ts,bs...->bt...", left, seen) + torch.einsum("t,b...->bt...", first, state["memory"])
        shown = self.show((memory + constants[:, None]).flatten(0, 1)).unflatten(0, (-1, steps))
        return shown, {"memory": memory[:, -1]}, self.thrift * memory.square().mean(dim=(2, 3, 4)).sum(dim=1)


class RainbowEncoder(RecurrentNetwork):
    """An encoder-forecaster: it says nothing while it looks, and looks at nothing while it speaks."""

    predicts_context = False

    def __init__(self, *, channels: int, hidden: int = 4) -> None:
        super().__init__()
        self.hidden = hidden
        self.look = nn.Conv2d(channels + hidden, hidden, 3, padding=1)
        self.turn = nn.Conv2d(hidden, hidden, 1)
        self.speak = nn.Conv2d(hidden, channels, 3, padding=1)

    def initial_state(self, batch: int, height: int, width: int) -> Tensor:
        return self.turn.weight.new_zeros(batch, self.hidden, height, width)

    def step(self, frame: Tensor | None, state: Tensor, constants: None, known: Tensor | None = None) -> Step:
        if frame is not None:
            return Step(None, torch.tanh(self.look(torch.cat([frame, state], dim=1))))
        return Step(self.speak(state), torch.tanh(self.turn(state)))

    def begin_forecast(self, state: Tensor) -> Tensor:
        return -state


class RainbowDirect(DirectNetwork):
    """Goes on from the last frame along the change since the first."""

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.change = nn.Conv2d(channels, channels, 3, padding=1)

    def forecast(self, observed: Tensor, horizon: int, known: Tensor | None = None) -> Tensor:
        change = self.change(observed[:, -1] - observed[:, 0])
        return torch.stack([observed[:, -1] + lead * change for lead in range(1, horizon + 1)], dim=1)
