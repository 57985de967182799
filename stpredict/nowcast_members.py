"""Ensembles of forecasts: several predictors, networks that draw at random, and observed frames that are not quite certain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stpredict.draws import Draws
from stpredict.errors import UserError, nearest
from stpredict.frames import FrameSpec
from stpredict.predictor import Predictor

_RULES = ("gain", "noise")

_REACH = 10.0
"""Pixels: the deviation of the Gaussian that smooths a field of factors."""


@dataclass(frozen=True)
class Perturbation:
    """What is done to the observed frames for each member but the first, which sees them as they are.

    A value that is missing stays missing, and none falls below the least that the units allow.

    Attributes:
        rule: ``gain`` (values times a smooth random field of factors, the same for all frames, of mean 1: an error of calibration or of
            attenuation; rain stays where it is) or ``noise`` (plus a normal number for each pixel and frame).
        size: of ``gain``, the deviation of the logarithm of the factors; of ``noise``, the deviation in the units of the frames.
    """

    rule: str
    size: float

    def __post_init__(self) -> None:
        if self.rule not in _RULES:
            raise UserError(f"There is no perturbation '{self.rule}'{nearest(self.rule, _RULES)}")
        if not 0 < self.size < math.inf:
            raise UserError(f"A perturbation has a size above 0, not {self.size}")

    @classmethod
    def parse(cls, text: str) -> Perturbation:
        """Read ``gain=0.2``.

        Raises:
            UserError: it is not of this form, or there is no such rule.
        """
        rule, equals, size = text.partition("=")
        try:
            number = float(size)
        except ValueError:
            number = math.nan
        if not equals or math.isnan(number):
            raise UserError(f"A perturbation is written as RULE=SIZE, such as gain=0.2, not '{text}'")
        return cls(rule, number)

    def apply(self, observed: Tensor, spec: FrameSpec, seed: int, member: int) -> Tensor:
        """Return the observed frames ``(K, C, H, W)``, physical, as a member sees them.

        Raises:
            UserError: the units are logarithms, which have no factors.
        """
        if self.rule == "gain" and spec.units == "dBZ":
            raise UserError("The perturbation gain multiplies, and dBZ is a logarithm: take noise, such as noise=1, instead")
        draws = Draws(seed, 0, (member,))
        if self.rule == "gain":
            field = _smooth(draws.normal("perturb gain", spec.height, spec.width)[0].numpy())
            changed = observed * torch.from_numpy(np.exp(self.size * field - self.size**2 / 2).astype(np.float32))
        else:
            changed = observed + self.size * draws.normal("perturb noise", *observed.shape)[0]
        return changed if spec.minimum is None else torch.clamp(changed, min=spec.minimum)

    def __str__(self) -> str:
        return f"{self.rule}={self.size:g}"


@dataclass(frozen=True)
class Ensemble:
    """How many forecasts there are to be, and in what they differ.

    Attributes:
        members: forecasts of each predictor; None: one.
        perturb: what differs between the members of a predictor that draws nothing at random.
        seed: of all random draws.
    """

    members: int | None = None
    perturb: Perturbation | None = None
    seed: int = 0

    def check(self, predictors: Sequence[Any]) -> None:
        """Refuse what would do nothing.

        Raises:
            UserError: members would be equal, or a setting that only members have is given without them.
        """
        if self.members is None:
            if self.perturb is not None:
                raise UserError("A perturbation is for the members of an ensemble: say how many (--members N), or leave it out")
            return
        if self.members < 2:
            raise UserError(f"An ensemble has at least two members, not {self.members}")
        same = [predictor.name for predictor in predictors if not _draws(predictor)]
        if self.perturb is None and same:
            raise UserError(
                f"'{same[0]}' draws nothing at random, so its {self.members} members would be equal: "
                "perturb what it sees (--perturb gain=0.2), or forecast without --members"
            )

    def forecast(self, predictor: Any, observed: Tensor, spec: FrameSpec, horizon: int, known: Tensor | None = None) -> NDArray[np.float32]:
        """Return the members ``(M, horizon, C, H, W)`` of one predictor from ``(K, C, H, W)``, physical, or one without members.

        ``known`` is ``(K + horizon, K', H, W)``, for a predictor that takes it.
        """
        given: dict[str, Any] = {} if known is None else {"known": known[None]}
        if self.members is None:
            return _plain(predictor.forecast(observed[None], horizon, **given))
        if self.perturb is None:
            return _plain(predictor.forecast(observed[None], horizon, members=self.members, **given, **_seeded(predictor, self.seed))[0])
        forecasts = []
        for member in range(self.members):
            seen = observed if member == 0 else self.perturb.apply(observed, spec, self.seed, member)
            own = {"members": 1, **_seeded(predictor, self.seed + member)} if _draws(predictor) else {}
            future = _plain(predictor.forecast(seen[None], horizon, **given, **own))[0]
            forecasts.append(future[0] if own else future)
        return np.stack(forecasts)


def _smooth(white: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return a smooth field of mean 0 and deviation 1 from white noise."""
    field = cv2.GaussianBlur(white.astype(np.float64), (0, 0), _REACH, borderType=cv2.BORDER_REFLECT)
    return np.asarray((field - field.mean()) / max(float(field.std()), 1e-12))


def _draws(predictor: Any) -> bool:
    """Whether members of a predictor differ by themselves."""
    return bool(predictor.network.stochastic if isinstance(predictor, Predictor) else getattr(predictor, "stochastic", False))


def _seeded(predictor: Any, seed: int) -> dict[str, int]:
    return {"seed": seed} if isinstance(predictor, Predictor) else {}


def _plain(forecast: Any) -> NDArray[np.float32]:
    return np.asarray(forecast, dtype=np.float32)
