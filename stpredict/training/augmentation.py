"""Clips cut out, turned, mirrored or run backwards at random: a function of seed, step and sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from stpredict.draws import Draws
from stpredict.errors import UserError
from stpredict.frames import Batch

Augmentation = Literal["flip-x", "flip-y", "turn", "reverse"]

_AXES = {"flip-x": -1, "flip-y": -2, "reverse": 0}
"""The axis of a sample ``(T, ..., H, W)`` that is turned round."""


def cut_out(batch: Batch, height: int, width: int, draws: Draws) -> Batch:
    """Return a rectangle of the frames of each clip, and of its mask and known inputs, every place as likely as any other.

    Raises:
        UserError: the frames are smaller.
    """
    rows, columns = batch.frames.shape[-2:]
    if height > rows or width > columns:
        raise UserError(f"data.random_crop {height} x {width} is larger than the frames of {rows} x {columns} pixels")
    coins = draws.uniform("random crop", 2)
    tops, lefts = ((coins[:, axis] * (length + 1)).long().tolist() for axis, length in enumerate((rows - height, columns - width)))

    def cut(part: Tensor | None) -> Tensor | None:
        if part is None:
            return None
        pieces = [clip[..., top : top + height, left : left + width] for clip, top, left in zip(part, tops, lefts, strict=True)]
        return torch.stack(pieces)

    frames = cut(batch.frames)
    assert frames is not None
    return replace(batch, frames=frames, valid=cut(batch.valid), known=cut(batch.known))


def augment(clips: Sequence[Tensor], kinds: Sequence[Augmentation], draws: Draws) -> list[Tensor]:
    """Return tensors ``(B, T, ..., H, W)``, all changed alike, each sample by its own draws.

    Args:
        clips: frames, masks and known inputs of the same samples.
        kinds: ``flip-x`` and ``flip-y`` mirror left and right, top and bottom, and ``reverse`` runs time backwards, each for half of the
            samples; ``turn`` turns by none, one, two or three quarters.
        draws: of the samples.

    Raises:
        UserError: frames that are not square cannot be turned.
    """
    changed = list(clips)
    for kind in kinds:
        coins = draws.uniform(f"augment {kind}", 1)[:, 0]
        if kind == "turn":
            changed = [_turned(clip, (coins * 4).long().tolist()) for clip in changed]
        else:
            rows = (coins < 0.5).tolist()
            changed = [_flipped(clip, _AXES[kind], rows) for clip in changed]
    return changed


def _flipped(clip: Tensor, axis: int, rows: Sequence[bool]) -> Tensor:
    return torch.stack([part.flip(axis) if row else part for row, part in zip(rows, clip, strict=True)])


def _turned(clip: Tensor, quarters: Sequence[int]) -> Tensor:
    if clip.shape[-1] != clip.shape[-2]:
        raise UserError(f"data.augment turn: frames of {clip.shape[-2]} x {clip.shape[-1]} pixels are not square")
    return torch.stack([torch.rot90(part, quarter, (-2, -1)) for quarter, part in zip(quarters, clip, strict=True)])
