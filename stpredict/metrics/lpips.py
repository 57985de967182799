"""LPIPS: how far two images are from each other in the eyes of a trained network.

Source: Zhang et al., The unreasonable effectiveness of deep features as a perceptual metric (CVPR 2018), version 0.1 with AlexNet. The
weights come from two files of others: AlexNet's from torch's cache, where torchvision puts them, and the few that weigh its channels
from the package lpips or torchmetrics, whichever is installed. Neither package is imported.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d

from stpredict.errors import UserError
from stpredict.frames import FrameSpec
from stpredict.metrics.pixels import frame_counts, scored_frames

BACKBONE = "alexnet-owt-7be5be79.pth"
"""AlexNet's file; its name ends in how its SHA-256 begins."""

LINEAR = {"lpips": "weights/v0.1/alex.pth", "torchmetrics": "functional/image/lpips_models/alex.pth"}
"""Packages that hold the weights of the channels, each with where."""

# The key of each convolution in AlexNet's file, its stride and padding, and whether its input is pooled first.
LAYERS = (
    ("features.0", 4, 2, False),
    ("features.3", 1, 2, True),
    ("features.6", 1, 1, True),
    ("features.8", 1, 1, False),
    ("features.10", 1, 1, False),
)
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
SMALLEST = 31
"""The least side of an image of which something is left after the second pooling."""

PIXELS_AT_ONCE = 1 << 16
_TINY = 1e-10


@dataclass(frozen=True)
class PerceptualWeights:
    """The weights of the distance.

    Attributes:
        layers: kernel and bias of each of AlexNet's convolutions.
        channels: ``(C, 1, 1)`` by how much each channel of what a convolution finds counts.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    channels: tuple[Tensor, ...]

    def to(self, device: torch.device) -> PerceptualWeights:
        """Return the same on a device."""
        layers = tuple((kernel.to(device), bias.to(device)) for kernel, bias in self.layers)
        return PerceptualWeights(layers, tuple(channel.to(device) for channel in self.channels))

    def distance(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the distance ``(N,)`` of images ``(N, 3, H, W)``, whose values the network was trained to see from -1 to 1."""
        images = torch.cat([first, second])
        shift, scale = (images.new_tensor(numbers).view(3, 1, 1) for numbers in (SHIFT, SCALE))
        found = (images - shift) / scale
        total = images.new_zeros(len(first))
        for (kernel, bias), channel, (_, stride, padding, pooled) in zip(self.layers, self.channels, LAYERS, strict=True):
            found = max_pool2d(found, 3, 2) if pooled else found
            found = conv2d(found, kernel, bias, stride, padding).relu_()
            unit = found / (torch.linalg.vector_norm(found, dim=1, keepdim=True) + _TINY)
            one, other = unit.chunk(2)
            total = total + ((one - other).square() * channel).sum(1).mean((1, 2))
        return total


def find_weights() -> tuple[Path, Path]:
    """Return AlexNet's file and that of the channels' weights.

    Raises:
        UserError: one of them is not there.
    """
    backbone = Path(torch.hub.get_dir(), "checkpoints", BACKBONE)
    if not backbone.is_file():
        raise UserError(
            f"LPIPS needs AlexNet's weights: put {BACKBONE}, from https://download.pytorch.org/models/{BACKBONE}, into {backbone.parent}"
        )
    for package, inside in LINEAR.items():
        found = importlib.util.find_spec(package)
        for folder in (found.submodule_search_locations or []) if found is not None else []:
            if Path(folder, inside).is_file():
                return backbone, Path(folder, inside)
    raise UserError("LPIPS needs the weights of AlexNet's channels, which the package 'lpips' holds: pip install 'stpredict[vision]'")


def load_weights() -> PerceptualWeights:
    """Return the weights, read once for as long as the files stay as they are.

    Raises:
        UserError: a file is not there, or not what it should be.
    """
    return _load(*((path, path.stat().st_mtime_ns) for path in find_weights()))


@lru_cache(maxsize=1)
def _load(backbone: tuple[Path, int], linear: tuple[Path, int]) -> PerceptualWeights:
    path = backbone[0]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    wanted = BACKBONE.rpartition("-")[2].removesuffix(".pth")
    if not digest.startswith(wanted):
        raise UserError(
            f"{path} is damaged or another file: its SHA-256 begins with {digest[:8]}, not {wanted}; remove it and fetch it again"
        )
    known, channels = (torch.load(one, map_location="cpu", weights_only=True) for one in (path, linear[0]))
    layers = tuple((_weights(known, f"{name}.weight", path), _weights(known, f"{name}.bias", path)) for name, *_ in LAYERS)
    counted = tuple(_weights(channels, f"lin{number}.model.1.weight", linear[0])[0] for number in range(len(LAYERS)))
    return PerceptualWeights(layers, counted)


def _weights(state: Any, name: str, path: Path) -> Tensor:
    if not isinstance(state, dict) or not isinstance(state.get(name), Tensor):
        raise UserError(f"{path} is not the file that LPIPS needs: it has no '{name}'")
    # A copy, so that the rest of the file, most of it, need not stay in memory.
    weights: Tensor = state[name].float().clone()
    return weights


class PerceptualDistance:
    """LPIPS of each frame, mean over frames; 0 = equal. Frames are rescaled so that the value range of the spec becomes -1 to 1.

    Gray frames are seen as colours of equal parts. Pixels missing in the truth are set to the spec's fill in both frames.

    Attributes:
        lowest: what the lower end of the value range becomes; the upper becomes 1.
    """

    name = "lpips"
    better = "lower"
    perfect = 0.0
    lowest = -1.0

    def __init__(self) -> None:
        """Read the weights.

        Raises:
            UserError: they are not there; the sentence says what to do.
        """
        self.weights = load_weights()

    def __call__(self, prediction: Tensor, truth: Tensor, spec: FrameSpec) -> tuple[Tensor, Tensor]:
        """Return the distance of each frame, and 1.

        Raises:
            UserError: the frames are smaller than what the network sees, or have other than 1 or 3 channels.
        """
        channels, height, width = truth.shape[2:]
        if channels not in (1, 3) or min(height, width) < SMALLEST:
            raise UserError(
                f"LPIPS is for frames of 1 or 3 channels and at least {SMALLEST} x {SMALLEST} pixels, not {channels} of {height} x "
                f"{width}: leave '{self.name}' out of the scores"
            )
        valid = ~torch.isnan(truth)
        first, second = (self._seen(torch.where(valid, frames, spec.fill), spec) for frames in (prediction, truth))
        self.weights = self.weights.to(truth.device)
        at_once = max(1, PIXELS_AT_ONCE // (height * width))
        parts = zip(torch.split(first, at_once), torch.split(second, at_once), strict=True)
        distance = torch.cat([self.weights.distance(one.expand(-1, 3, -1, -1), other.expand(-1, 3, -1, -1)) for one, other in parts])
        # The network's first convolution may leave out the last rows and columns: a NaN there counts all the same.
        undefined = (torch.isnan(prediction) & valid).flatten(2).any(2)
        total = torch.where(undefined, math.nan, distance.double().view(truth.shape[:2]))
        return torch.where(frame_counts(valid) > 0, total, 0.0), scored_frames(valid)

    def _seen(self, frames: Tensor, spec: FrameSpec) -> Tensor:
        """Return frames as the network sees them, ``(B * T, C, H, W)``."""
        scaled = (frames.flatten(0, 1) - spec.transform.low) / spec.value_range
        return scaled * (1.0 - self.lowest) + self.lowest


class UnscaledPerceptualDistance(PerceptualDistance):
    """The same of frames from 0 to 1, which is not what the network was trained to see, but what predrnn-pytorch's figures are."""

    name = "lpips_unscaled"
    lowest = 0.0
