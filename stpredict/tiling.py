"""Forecasts of large frames in tiles that overlap and are blended, where memory is short of whole frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from stpredict.arrays import take_film
from stpredict.errors import UserError
from stpredict.predictor import Predictor, Stream


class TiledPredictor(Predictor):
    """A predictor that looks at one square tile after the other.

    Neighbouring tiles overlap, and there the weight of one falls linearly while that of the other rises. So there is no seam, but a tile
    knows nothing of what lies beyond its edge: an overlap as wide as what moves in from there within the horizon keeps this small.

    Attributes:
        tile: height and width of a tile, in pixels.
        overlap: pixels that neighbours have in common.
    """

    def __init__(self, predictor: Predictor, tile: int, overlap: int | None = None) -> None:
        """Wrap a predictor.

        Args:
            predictor: what forecasts each tile.
            tile: height and width of a tile, in pixels.
            overlap: pixels that neighbours have in common; None: a quarter of a tile.

        Raises:
            UserError: the tile is too small for the predictor, or the overlap for the tile.
        """
        super().__init__(
            predictor.network,
            predictor.spec,
            predictor.context,
            predictor.horizon,
            network_name=predictor.network_name,
            network_settings=predictor.network_settings,
            provenance=predictor.provenance,
            name=predictor.name,
        )
        self.tile = tile
        self.overlap = tile // 4 if overlap is None else overlap
        if tile < max(2, predictor.network.patch_size):
            raise UserError(
                f"A tile of {tile} pixels is too small for '{predictor.name}', whose patches are {predictor.network.patch_size}"
            )
        if not 0 <= self.overlap <= tile // 2:
            raise UserError(f"Tiles of {tile} pixels overlap by 0 to {tile // 2} pixels, not {self.overlap}")

    def forecast(
        self,
        observed: Any,
        horizon: int,
        *,
        members: int | None = None,
        known: Any = None,
        seed: int = 0,
        indices: Sequence[int] | None = None,
    ) -> Any:
        """Forecast what follows, as :meth:`stpredict.predictor.Predictor.forecast` does, in the memory of a tile.

        Raises:
            UserError: the frames do not fit the predictor.
        """
        frames, restore = take_film(observed, self.spec.time_step)
        known = None if known is None else torch.as_tensor(known, dtype=torch.float32)
        height, width = frames.shape[-2:]
        total: Tensor | None = None
        weight = torch.zeros(height, width)
        for rows, falling in _spans(height, self.tile, self.overlap):
            for columns, sideways in _spans(width, self.tile, self.overlap):
                here = None if known is None else known[..., rows, columns]
                part = super().forecast(frames[..., rows, columns], horizon, members=members, known=here, seed=seed, indices=indices)
                if total is None:
                    total = part.new_zeros(*part.shape[:-2], height, width)
                own = falling[:, None] * sideways[None, :]
                total[..., rows, columns] += part * own.to(part.device)
                weight[rows, columns] += own
        assert total is not None, "a frame has a tile at least"
        return restore(total / weight.to(total.device))

    def start(self, observed: Any, known: Any = None) -> Stream:
        """Refuse: a stream keeps the state of whole frames.

        Raises:
            UserError: always.
        """
        raise UserError(f"A stream of '{self.name}' keeps the state of whole frames: start it without tiles, or forecast frame by frame")


def _spans(length: int, tile: int, overlap: int) -> Iterator[tuple[slice, Tensor]]:
    """Yield where tiles lie along an axis, the last one at its end, each with the weights ``(tile,)`` of its pixels."""
    if length <= tile:
        yield slice(0, length), torch.ones(length)
        return
    count = -(-(length - overlap) // (tile - overlap))
    starts = [round(number * (length - tile) / (count - 1)) for number in range(count)]
    for start in starts:
        places = torch.arange(tile) + 0.5
        rise = places / (overlap + 1e-6) if start > 0 and overlap else torch.ones(tile)
        fall = (tile - places) / (overlap + 1e-6) if start + tile < length and overlap else torch.ones(tile)
        yield slice(start, start + tile), torch.minimum(rise, fall).clamp(max=1.0)
