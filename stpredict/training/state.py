"""What a run carries from step to step, besides what its settings tell: one object, saved whole."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from stpredict.checkpoint import Checkpoint

_LARGEST_SCALE, _SMALLEST_SCALE = 2.0**24, 1.0
_GROWS_AFTER = 2000


@dataclass
class State:
    """The state of a run between two steps, without the weights and the optimiser's, which these hold themselves.

    Attributes:
        step: training steps done.
        best: the best validation score so far, or None.
        stale: validations since the best.
        waited: those of them since a plateau last reduced the learning rate.
        reductions: how often a plateau has done so.
        skipped: steps that were skipped, since their loss or gradient was not finite.
        skipped_in_a_row: those of them since the last step that was taken.
        scale: by which the loss is multiplied under fp16, so that small gradients do not vanish.
        unscaled: steps since the scale last changed.
        seconds: on the clock while the run trained, all its continuations together.
        ema: the moving average of the weights by name; empty without one.
    """

    step: int = 0
    best: float | None = None
    stale: int = 0
    waited: int = 0
    reductions: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    scale: float = 2.0**16
    unscaled: int = 0
    seconds: float = 0.0
    ema: dict[str, Tensor] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """Return all that is no tensor and no field of a checkpoint."""
        return {name: getattr(self, name) for name in _PLAIN}

    @classmethod
    def of(cls, checkpoint: Checkpoint, ema: Mapping[str, Tensor]) -> State:
        """Return the state that a checkpoint holds."""
        plain = checkpoint.facts.get("state", {})
        return cls(checkpoint.step, checkpoint.best, **{name: plain[name] for name in _PLAIN if name in plain}, ema=dict(ema))

    def is_best(self, score: float, patience: int) -> bool:
        """Note a validation; return whether it is the best so far. After ``patience`` others in a row a plateau reduces the rate."""
        if self.best is None or score < self.best or math.isnan(self.best):
            self.best, self.stale, self.waited = score, 0, 0
            return True
        self.stale, self.waited = self.stale + 1, self.waited + 1
        if self.waited == patience:
            self.reductions, self.waited = self.reductions + 1, 0
        return False

    def note(self, skipped: bool, scaled: bool) -> None:
        """Note a step that was skipped or taken; ``scaled``: its loss had been multiplied by the scale of fp16."""
        if not skipped:
            self.went_well()
        elif not scaled or not self.overflowed():
            self.skipped += 1
            self.skipped_in_a_row += 1

    def overflowed(self) -> bool:
        """Halve the scale of fp16; return whether it could still be halved, so that the step is no failure."""
        self.unscaled = 0
        self.scale /= 2.0
        return self.scale >= _SMALLEST_SCALE

    def went_well(self) -> None:
        """Note a step that was taken; the scale of fp16 doubles after many of them."""
        self.skipped_in_a_row = 0
        self.unscaled += 1
        if self.unscaled >= _GROWS_AFTER and self.scale < _LARGEST_SCALE:
            self.scale, self.unscaled = self.scale * 2.0, 0

    def start_ema(self, network: nn.Module) -> None:
        """Begin the moving average at the weights as they are."""
        self.ema = {name: weight.detach().clone() for name, weight in network.named_parameters()}

    @torch.no_grad()
    def follow(self, network: nn.Module, decay: float, skipped: Tensor) -> None:
        """Move the average towards the weights: ``decay * average + (1 - decay) * weights``; not after a step that was skipped."""
        for name, weight in network.named_parameters():
            average = self.ema[name]
            average.copy_(torch.where(skipped, average, average.lerp(weight, 1.0 - decay)))

    @contextmanager
    def averaged(self, network: nn.Module) -> Iterator[None]:
        """Let the network have the averaged weights, if there are any, while the body runs."""
        own = {name: weight.detach().clone() for name, weight in network.named_parameters()} if self.ema else {}
        try:
            _put(network, self.ema)
            yield
        finally:
            _put(network, own)


_PLAIN = ("stale", "waited", "reductions", "skipped", "skipped_in_a_row", "scale", "unscaled", "seconds")


@torch.no_grad()
def _put(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    for name, weight in network.named_parameters() if weights else ():
        weight.copy_(weights[name])
