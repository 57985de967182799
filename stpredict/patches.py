"""Space to depth: a frame as a smaller grid of patches.

The patch channel is ``(row_in_patch * P + column_in_patch) * C + channel``: the image channel is the fastest index, as in
predrnn-pytorch and OpenSTL. (``torch.nn.functional.pixel_unshuffle`` makes it the slowest; the two agree for C = 1 only.)
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def patchify(frames: Tensor, patch_size: int) -> Tensor:
    """Turn ``(..., C, H, W)`` into ``(..., P*P*C, H/P, W/P)``; H and W must be multiples of P."""
    if patch_size == 1:
        return frames
    *lead, channels, height, width = frames.shape
    assert height % patch_size == 0 and width % patch_size == 0, "rollout pads frames to whole patches"
    rows, columns = height // patch_size, width // patch_size
    split = frames.reshape(*lead, channels, rows, patch_size, columns, patch_size)
    n = len(lead)
    ordered = split.permute(*range(n), n + 2, n + 4, n, n + 1, n + 3)
    return ordered.reshape(*lead, patch_size * patch_size * channels, rows, columns)


def unpatchify(patches: Tensor, patch_size: int) -> Tensor:
    """Turn ``(..., P*P*C, H/P, W/P)`` into ``(..., C, H, W)``: the inverse of :func:`patchify`."""
    if patch_size == 1:
        return patches
    *lead, depth, rows, columns = patches.shape
    channels = depth // (patch_size * patch_size)
    split = patches.reshape(*lead, patch_size, patch_size, channels, rows, columns)
    n = len(lead)
    ordered = split.permute(*range(n), n + 2, n + 3, n, n + 4, n + 1)
    return ordered.reshape(*lead, channels, rows * patch_size, columns * patch_size)


def pad_to_patches(frames: Tensor, patch_size: int, value: float) -> Tensor:
    """Pad ``(..., H, W)`` right and at the bottom with ``value`` until H and W are multiples of the patch size."""
    height, width = frames.shape[-2:]
    right, bottom = -width % patch_size, -height % patch_size
    return functional.pad(frames, (0, right, 0, bottom), value=value) if right or bottom else frames
