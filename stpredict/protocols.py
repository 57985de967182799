"""Conventions of scoring by name: what is done to a forecast before it is scored, and by which scores, in which units.

Figures of one convention say nothing beside those of another. Sources: OpenSTL's ``openstl/core/metrics.py`` (c74deb5) with the
scikit-image that it pins; predrnn-pytorch's ``core/trainer.py``; for SEVIR, Veillette et al. (NeurIPS 2020) and Gao et al., Earthformer
(NeurIPS 2022); for HKO-7, Shi et al. (NIPS 2017) and the evaluation published with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stpredict.data.clips import ClipSet
from stpredict.errors import UserError, nearest
from stpredict.frames import FrameSpec

LEVELS = 255
"""The greatest number of 8 bits."""


@dataclass(frozen=True)
class Treatment:
    """What is done to forecast and truth before a score, in this order; NaN stays NaN.

    Attributes:
        clip: cut off what the forecast has outside the value range of the frame spec.
        levels: turn both into whole numbers 0 to 255, rounded down, and back, as images of 8 bits are written.
        unit_range: take both in parts of the value range, 0 at its lower end and 1 at its upper.
    """

    clip: bool = False
    levels: bool = False
    unit_range: bool = False

    def __call__(self, forecast: Tensor, truth: Tensor, spec: FrameSpec) -> tuple[Tensor, Tensor]:
        """Return both as the score is to see them; the very same tensors where there is nothing to do."""
        low, high = spec.transform.low, spec.transform.high
        if self.clip or self.levels:
            forecast = torch.clamp(forecast, low, high)
        if self.levels:
            truth = torch.clamp(truth, low, high)
            forecast, truth = (
                torch.floor((film - low) * (LEVELS / (high - low))) * ((high - low) / LEVELS) + low for film in (forecast, truth)
            )
        if self.unit_range and (low, high) != (0.0, 1.0):
            forecast, truth = ((film - low) / (high - low) for film in (forecast, truth))
        return forecast, truth


_NOTHING = Treatment()


@dataclass(frozen=True)
class Protocol:
    """A convention of scoring.

    Attributes:
        name: what the command and results call it.
        about: what it is, in words.
        scores: those that it takes; None: the default scores of the frames.
        treatments: what is done before a score, by the score's name; for those that are not here, nothing. Scores that are here alone are
            taken only when they are asked for.
        units: in which is scored; None: those of the data.
        thresholds: of events, in these units; None: those of the data.
        splits: the split of a card that the convention is for.
        context: observed frames of a clip; None: any.
        horizon: frames to forecast; None: any.
        linear: scaled values must be those of the data divided by a number, since that is what the convention scores.
        value_range: which values must become 0 and 1 as scaled ones; None: any.
    """

    name: str
    about: str
    scores: tuple[str, ...] | None = None
    treatments: Mapping[str, Treatment] = field(default_factory=dict)
    units: str | None = None
    thresholds: tuple[float, ...] | None = None
    splits: Mapping[str, str] = field(default_factory=dict)
    context: int | None = None
    horizon: int | None = None
    linear: bool = False
    value_range: tuple[float, float] | None = None

    def treatment(self, score: str) -> Treatment:
        """Return what is done before a score; scores of equal treatments can share it."""
        return self.treatments.get(score, _NOTHING)

    def treat(self, score: str, forecast: Tensor, truth: Tensor, spec: FrameSpec) -> tuple[Tensor, Tensor]:
        """Return forecast and truth, physical values in the units of ``spec``, as ``score`` is to see them.

        Args:
            score: its name.
            forecast: ``(B, T, C, H, W)``, or with an axis of members after the first.
            truth: ``(B, T, C, H, W)``; NaN = missing.
            spec: in the units in which is scored.
        """
        return self.treatment(score)(forecast, truth, spec)


_ERRORS, _SUMS = ("mse", "mae", "rmse"), ("mse_sum", "mae_sum", "rmse_sum")
_IMAGES = ("ssim", "ssim_uniform", "ssim_range2", "psnr")
_SEEN = ("lpips", "lpips_unscaled")
_DETAIL = ("gradient_difference", "power_ratio", "small_scale_power", "log_spectral_distance")
_EVENTS = dict.fromkeys(("csi", "csi_per_lead", "csi_pool4", "csi_pool16", "pod", "far", "sucr", "bias", "hss", "hss_per_lead"), _NOTHING)

_ALL = (
    Protocol("per-pixel", "forecasts are scored as they are, neither clipped nor rounded, against the truth in physical units"),
    Protocol(
        "openstl",
        "OpenSTL's: errors summed over a frame of forecasts as they are; SSIM (7 x 7, range 2) and PSNR (peak 1) of clipped ones; scaled "
        "to [0, 1]. Its LPIPS is --score lpips",
        scores=(*_SUMS, "ssim_range2", "psnr"),
        treatments={
            **dict.fromkeys((*_ERRORS, *_SUMS, *_DETAIL), Treatment(unit_range=True)),
            **dict.fromkeys((*_IMAGES, *_SEEN), Treatment(clip=True)),
        },
        splits={"moving_mnist": "classic", "kth": "classic", "kitticaltech": "test", "taxibj": "test"},
        linear=True,
    ),
    Protocol(
        "predrnn",
        "predrnn-pytorch's: squared error summed over a frame of clipped forecasts scaled to [0, 1]; SSIM (7 x 7) and PSNR of images of 8 "
        "bits, rounded down. Its LPIPS is --score lpips_unscaled; it leaves out the last clips that fill no batch, which are scored here",
        scores=("mse_sum", "ssim_uniform", "psnr"),
        treatments={
            **dict.fromkeys((*_ERRORS, *_SUMS, *_DETAIL), Treatment(clip=True, unit_range=True)),
            **dict.fromkeys(_IMAGES, Treatment(levels=True)),
            **dict.fromkeys(_SEEN, Treatment(clip=True)),
        },
        splits={"kth": "classic"},
        linear=True,
    ),
    Protocol(
        "sevir",
        "SEVIR's: 13 -> 12 frames of pixel values 0 to 255, CSI at six thresholds, whose mean is CSI-M, of all counts together and per "
        "lead, of pixels and of pools; MSE of values / 255, which tables print in thousandths",
        scores=("csi", "csi_per_lead", "csi_pool4", "csi_pool16", "mse"),
        treatments={**_EVENTS, **dict.fromkeys((*_ERRORS, *_SUMS, *_DETAIL), Treatment(unit_range=True))},
        units="1",
        thresholds=(16.0, 74.0, 133.0, 160.0, 181.0, 219.0),
        splits={"sevir": "test"},
        context=13,
        horizon=12,
        linear=True,
        value_range=(0.0, 255.0),
    ),
    Protocol(
        "hko7",
        "HKO-7's: 5 -> 20 frames, CSI and HSS at five rain rates of each lead, then mean over leads; balanced MSE and MAE of forecasts cut "
        "off at 60 dBZ; what the data's mask leaves out counts nowhere",
        scores=("csi_per_lead", "hss_per_lead", "balanced_mse", "balanced_mae"),
        treatments={**_EVENTS, **dict.fromkeys(("balanced_mse", "balanced_mae"), Treatment(clip=True))},
        units="mm/h",
        thresholds=(0.5, 2.0, 5.0, 10.0, 30.0),
        splits={"hko7": "test"},
        context=5,
        horizon=20,
    ),
    Protocol(
        "meteonet",
        "as MeteoNet is scored: 12 -> 12 frames, events at 12, 18, 24 and 32 dBZ, of all counts together; published splits differ",
        scores=("csi", "csi_per_lead", "csi_pool4", "csi_pool16", "hss"),
        treatments=_EVENTS,
        units="dBZ",
        thresholds=(12.0, 18.0, 24.0, 32.0),
        splits={"meteonet": "test"},
        context=12,
        horizon=12,
    ),
    Protocol(
        "shanghai",
        "as Shanghai's radar is scored: 5 -> 20 frames, events at 20, 30, 35 and 40 dBZ, of all counts together; published splits differ",
        scores=("csi", "csi_per_lead", "csi_pool4", "csi_pool16", "hss"),
        treatments=_EVENTS,
        units="dBZ",
        thresholds=(20.0, 30.0, 35.0, 40.0),
        splits={"shanghai": "test"},
        context=5,
        horizon=20,
    ),
)

PROTOCOLS: Mapping[str, Protocol] = {protocol.name: protocol for protocol in _ALL}
"""The conventions by name."""


def find_protocol(name: str | None) -> Protocol:
    """Return a convention by its name; None: ``per-pixel``.

    Raises:
        UserError: there is none of that name.
    """
    name = name or "per-pixel"
    if name not in PROTOCOLS:
        raise UserError(f"There is no protocol '{name}'{nearest(name, PROTOCOLS)}")
    return PROTOCOLS[name]


def check_protocol(protocol: Protocol, data: ClipSet, spec: FrameSpec) -> None:
    """Refuse data that cannot be scored so.

    Args:
        protocol: the convention.
        data: the clips.
        spec: in the units in which they are to be scored.

    Raises:
        UserError: scaling, range of values, units, thresholds or lengths are not those of the convention.
    """
    instead = f"score '{data.card}' by another protocol, such as per-pixel"
    scale = data.spec.transform
    if protocol.linear:
        odd = f"scaled by '{scale.name}'" if scale.name != "linear" else "" if scale.low == 0 else f"from {scale.low:g} to {scale.high:g}"
        odd = odd or ("" if spec.units == data.spec.units else f"in {data.spec.units}, to be scored in {spec.units}")
        if odd:
            raise UserError(
                f"The protocol '{protocol.name}' is for values from 0 on that are scaled linearly, and those of '{data.card}' are {odd}: "
                f"{instead}"
            )
    if protocol.value_range is not None and (scale.low, scale.high) != protocol.value_range:
        low, high = protocol.value_range
        raise UserError(
            f"The protocol '{protocol.name}' is for values from {low:g} to {high:g}, and those of '{data.card}' are from {scale.low:g} to "
            f"{scale.high:g}: {instead}"
        )
    if protocol.units is not None and spec.units != protocol.units:
        raise UserError(
            f"The protocol '{protocol.name}' scores in {protocol.units}, not in {spec.units}: leave the units out, or {instead}"
        )
    if protocol.thresholds is not None and spec.thresholds != protocol.thresholds:
        usual, asked = (" ".join(f"{threshold:g}" for threshold in some) for some in (protocol.thresholds, spec.thresholds))
        raise UserError(f"The protocol '{protocol.name}' has the thresholds {usual}, not {asked or 'none'}: leave them out, or {instead}")
    for name, wanted in (("context", protocol.context), ("horizon", protocol.horizon)):
        if wanted is not None and getattr(data, name) != wanted:
            window = f"{protocol.context} + {protocol.horizon}"
            raise UserError(
                f"The protocol '{protocol.name}' is for clips of {window} frames, not {data.context} + {data.horizon}: ask for {name} "
                f"{wanted}, or {instead}"
            )
