"""Conventions of scoring by name: what is done to a forecast before it is scored, and by which scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from stpredict.data.clips import ClipSet
from stpredict.errors import UserError, nearest
from stpredict.frames import FrameSpec


@dataclass(frozen=True)
class Treatment:
    """What is done to a forecast before a score."""


@dataclass(frozen=True)
class Protocol:
    """A convention of scoring."""

    name: str
    about: str
    scores: tuple[str, ...] | None = None
    treatments: Mapping[str, Treatment] = field(default_factory=dict)
    units: str | None = None
    thresholds: tuple[float, ...] | None = None
    splits: Mapping[str, str] = field(default_factory=dict)
    context: int | None = None
    horizon: int | None = None

    def treat(self, score: str, forecast: Tensor, truth: Tensor, spec: FrameSpec) -> tuple[Tensor, Tensor]:
        """Return forecast and truth as ``score`` is to see them."""
        return forecast, truth


PROTOCOLS: Mapping[str, Protocol] = {
    "per-pixel": Protocol(
        "per-pixel", "forecasts are scored as they are, neither clipped nor rounded, against the truth in physical units"
    )
}


def find_protocol(name: str | None) -> Protocol:
    """Return a protocol by its name."""
    name = name or "per-pixel"
    if name not in PROTOCOLS:
        raise UserError(f"There is no protocol '{name}'{nearest(name, PROTOCOLS)}")
    return PROTOCOLS[name]


def check_protocol(protocol: Protocol, data: ClipSet, spec: FrameSpec) -> None:
    """Refuse data that cannot be scored so."""
