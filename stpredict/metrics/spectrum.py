"""Power spectra: how much of the truth's detail of each size a forecast has. What a blurred forecast lacks shows here."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from stpredict.frames import FrameSpec
from stpredict.metrics.bootstrap import Numbers
from stpredict.metrics.crps import as_members
from stpredict.metrics.pixels import scored_frames

SMALL = 8.0
"""Wavelength in pixels up to which detail counts as small: blurring begins there."""


def radial_spectrum(fields: Tensor) -> Tensor:
    """Return the radially averaged power spectral density ``(..., K)`` of fields ``(..., H, W)`` without missing pixels, float64.

    It is ``|FFT|^2 / (H W)``, averaged over the coefficients whose distance from the origin, rounded, is the wavenumber
    0, 1, ..., K-1; K is half the longer side, rounded up. Wavenumbers count waves along the side of a square frame; the axes of other
    frames are counted alike. Equals ``pysteps.utils.spectral.rapsd``.
    """
    height, width = fields.shape[-2:]
    half = torch.fft.rfft2(fields.double())  # what is left out has the power of what is its mirror image in the origin
    rows = torch.fft.fftfreq(height, 1.0 / height, dtype=torch.float64, device=fields.device)
    columns = torch.arange(width // 2 + 1, dtype=torch.float64, device=fields.device)
    radius = torch.sqrt(rows[:, None].square() + columns.square()).round().long().flatten()
    mirrored = (columns > 0) & (2 * columns < width)
    times = (1.0 + mirrored.double()).expand(height, -1).flatten()
    length = (max(height, width) + 1) // 2
    inside = radius < length
    radius, times = radius[inside], times[inside]
    power = half.abs().square_().flatten(-2)[..., inside] * (times / (height * width))
    sums = torch.zeros(*fields.shape[:-2], length, dtype=torch.float64, device=fields.device)
    sums.index_add_(-1, radius, power)
    return sums / torch.zeros(length, dtype=torch.float64, device=fields.device).index_add_(0, radius, times)


def spectra(prediction: Tensor, truth: Tensor, spec: FrameSpec) -> tuple[Tensor, Tensor, Tensor]:
    """Return the spectra of forecast and truth, ``(B, T, K)``, mean over channels and 0 for a frame without a valid pixel, and 1 or 0.

    Pixels that are missing in the truth are set to the spec's fill in both.
    """
    valid = ~torch.isnan(truth)
    scored = scored_frames(valid)
    powers = [radial_spectrum(torch.where(valid, field, spec.fill)).mean(2) for field in (prediction, truth)]
    first, second = (torch.where(scored[..., None] > 0, power, 0.0) for power in powers)
    return first, second, scored


class LogSpectralDistance:
    """How far the mean spectrum of the forecasts is from that of the truth: root mean square over wavenumbers, in dB; 0 is perfect.

    Its numbers by wavenumber are ``10 log10`` of the forecasts' mean power over the truth's: below 0 the forecast is too smooth there.
    Wavenumber 0, the mean, is left out.
    """

    name = "log_spectral_distance"
    better = "lower"

    def parts(self, spec: FrameSpec) -> tuple[str, ...]:
        """Return the wavenumbers."""
        return tuple(str(number) for number in range(1, (max(spec.height, spec.width) + 1) // 2))

    def __call__(self, prediction: Tensor, truth: Tensor, spec: FrameSpec) -> tuple[Tensor, Tensor]:
        """Return the spectra of forecast and truth ``(B, T, K - 1, 2)``, and 1 for each frame ``(B, T, 1)``."""
        first, second, scored = spectra(prediction, truth, spec)
        return torch.stack([first, second], -1)[:, :, 1:], scored[..., None]

    def value(self, totals: Numbers, weights: Numbers) -> Numbers:
        """Return the ratio of powers in dB, ``(..., K - 1)``."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(weights > 0, 10.0 * np.log10(totals[..., 0] / totals[..., 1]), np.nan)

    def summary(self, values: Numbers) -> Numbers:
        """Return the root mean square over wavenumbers."""
        root: Numbers = np.sqrt(np.square(values).mean(-1))
        return root


class SmallScalePower:
    """The forecast's power over the truth's at wavelengths up to 8 pixels; 1 is right, less is blurred, more is noisy."""

    name = "small_scale_power"

    def __call__(self, prediction: Tensor, truth: Tensor, spec: FrameSpec) -> tuple[Tensor, Tensor]:
        """Return the power of forecast and truth in the small scales of each frame."""
        first, second, _ = spectra(prediction, truth, spec)
        start = math.ceil(max(truth.shape[-2:]) / SMALL)
        return first[..., start:].sum(-1), second[..., start:].sum(-1)


class PowerRatio:
    """The forecasts' mean power over the truth's at each wavelength; 1 is right, less is blurred, more is noisy.

    Wavenumber 0, the mean, is left out. The one number is the mean over the other wavenumbers.
    """

    name = "power_ratio"

    def parts(self, spec: FrameSpec) -> tuple[str, ...]:
        """Return the wavelengths, such as ``8 px``: waves along the longer side, from one on."""
        side = max(spec.height, spec.width)
        return tuple(f"{side / number:.6g} px" for number in range(1, (side + 1) // 2))

    def __call__(self, prediction: Tensor, truth: Tensor, spec: FrameSpec) -> tuple[Tensor, Tensor]:
        """Return the spectra of forecast and truth without wavenumber 0, ``(B, T, K - 1)``."""
        first, second, _ = spectra(prediction, truth, spec)
        return first[..., 1:], second[..., 1:]


class MemberPowerRatio(PowerRatio):
    """The same of each member of an ensemble, whose powers are averaged; of their mean, which is smoother than any, is the other."""

    name = "power_ratio_members"
    takes_members = True

    def __call__(self, prediction: Tensor, truth: Tensor, spec: FrameSpec) -> tuple[Tensor, Tensor]:
        """Return the mean spectrum of the members and that of the truth without wavenumber 0, ``(B, T, K - 1)``."""
        found = [super(MemberPowerRatio, self).__call__(member, truth, spec) for member in as_members(prediction, truth).unbind(1)]
        return torch.stack([first for first, _ in found]).mean(0), found[0][1]
