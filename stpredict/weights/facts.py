"""What must be known about a foreign checkpoint beside its weights: told by the file, given by the user, or a rule; they must agree."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from stpredict.errors import UserError, nearest

CHOICES = {"maths": ("legacy", "fixed"), "memory": ("frozen", "updated"), "weights": ("raw", "ema")}
NUMBERS = ("patch_size", "channels", "context", "stride", "horizon", "height", "width")

EXPLAINED = {
    "patch_size": "P: frames are cut into P x P patches",
    "channels": "C of a frame",
    "context": "observed frames that it was trained with",
    "stride": "of the convolutions of OpenSTL's E3D-LSTM",
    "maths": "legacy: OpenSTL before December 2023, all its released weights; fixed: since then",
    "memory": "of E3D-LSTM; frozen: as both published codes have it; updated: as the paper says",
    "weights": "raw, or the exponential moving average that e3d_lstm stores beside them",
    "horizon": "frames to forecast (default: as the file says, else the context)",
    "height": "rows of a frame, where no weight tells (default: 64)",
    "width": "columns of a frame, where no weight tells (default: 64)",
}
"""Each fact in words."""

_SIDE = 64


class Facts:
    """The facts of one checkpoint.

    Attributes:
        origin: where each known fact is from: ``given``, or what told it.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._values: dict[str, Any] = {}
        self.origin: dict[str, str] = {}
        self._possible: list[tuple[int, int]] = []
        for name, value in given.items():
            if value is None:
                continue
            if name not in EXPLAINED:
                raise UserError(f"There is no fact '{name}' about a checkpoint{nearest(name, EXPLAINED)}")
            if name in CHOICES and value not in CHOICES[name]:
                raise UserError(f"The fact '{name}' is {' or '.join(CHOICES[name])}, not '{value}'")
            if name in NUMBERS and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise UserError(f"The fact '{name}' is a whole number from 1 up, not {value!r}")
            self._values[name], self.origin[name] = value, "given"

    def tell(self, name: str, value: Any, source: str) -> None:
        """Take what the file, or the network, tells.

        Raises:
            UserError: something else has been given or told.
        """
        known = self._values.setdefault(name, value)
        if known != value:
            raise UserError(f"{name} {known} ({self.origin[name]}) contradicts {name} {value} ({source})")
        self.origin.setdefault(name, source)

    def get(self, name: str) -> Any:
        """Return a fact, or None if it is not known."""
        return self._values.get(name)

    def by_rule(self, name: str, value: Any) -> Any:
        """Return a fact, if need be by a rule."""
        if name not in self._values:
            self._values[name], self.origin[name] = value, "by rule"
        return self._values[name]

    def tell_patches(self, patch_channels: int) -> None:
        """Take that P x P x C is ``patch_channels``; if that leaves no choice, P and C are known.

        Raises:
            UserError: what has been given or told does not make so many.
        """
        possible = [(p, patch_channels // p**2) for p in range(1, math.isqrt(patch_channels) + 1) if patch_channels % p**2 == 0]
        given = [self.get("patch_size"), self.get("channels")]
        left = [pair for pair in possible if all(want in (None, have) for want, have in zip(given, pair, strict=True))]
        if not left:
            said = " and ".join(f"{name} {self.get(name)}" for name in ("patch_size", "channels") if self.get(name))
            raise UserError(f"{said} contradicts the weights: their patches have {patch_channels} channels, which are {_pairs(possible)}")
        if len(left) == 1:
            self.tell("patch_size", left[0][0], "weights")
            self.tell("channels", left[0][1], "weights")
        self._possible = possible

    def require(self, *names: str) -> None:
        """Raise a UserError that lists all of these facts that are not known."""
        missing = [name for name in names if name not in self._values]
        if not missing:
            return
        hint = f"; the patches can be {_pairs(self._possible)}" if "patch_size" in missing and self._possible else ""
        told = ", ".join(f"{name} ({EXPLAINED[name]})" for name in missing)
        raise UserError(f"The checkpoint does not tell {told}{hint}: give it, for instance --{missing[0]} 4, or {missing[0]}=4 in Python")

    def frame_size(self) -> tuple[int, int]:
        """Return (H, W), by rule 64 x 64."""
        return self.by_rule("height", _SIDE), self.by_rule("width", _SIDE)

    def plain(self) -> dict[str, str]:
        """Return all facts with where they are from, for the header of the predictor."""
        return {name: f"{value} ({self.origin[name]})" for name, value in sorted(self._values.items())}


def _pairs(possible: list[tuple[int, int]]) -> str:
    return " or ".join(f"patch_size {p} with channels {c}" for p, c in possible)
