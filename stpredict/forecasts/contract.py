"""What every kind of saved forecasts can do, so that it may stand wherever a predictor is scored or shown."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

from stpredict.data.clips import ClipSet
from stpredict.frames import Batch, FrameSpec


class SavedForecasts(ABC):
    """Forecasts that were made before, of some clips of a split.

    Attributes:
        name: what tables and files call them: the last part of their path.
        path: the file or folder that they are in.
        spec: what the numbers mean, or None where nothing says it; then they are taken as, or turned into, those of the data.
        context: observed frames of a clip, or None where nothing says it.
        horizon: forecast frames of a clip, or None where it is not the same for all.
        members: M where :meth:`forecast_batch` gives ensembles, else None.
        card: the name of the card of the data that they are of, or None where nothing says it.
        changes: what was not as that card says, as :func:`stpredict.load_data` takes it (every, crop, resize, settings).
        provenance: what is known of where they come from; plain data.
        warnings: sentences that a user should read before she believes the scores.
    """

    name: str
    path: Path
    spec: FrameSpec | None = None
    context: int | None = None
    horizon: int | None = None
    members: int | None = None
    card: str | None = None
    changes: Mapping[str, Any] = MappingProxyType({})
    provenance: Mapping[str, Any] = MappingProxyType({})
    warnings: tuple[str, ...] = ()

    @abstractmethod
    def clips(self, data: ClipSet, count: int) -> Sequence[int]:
        """Return which of the first ``count`` clips of ``data`` are forecast, in increasing order, as far as can be told without the clips.

        There is at least one.

        Raises:
            UserError: these are forecasts of other data, or of none of these clips: the sentence says in which facts they differ.
        """

    @abstractmethod
    def forecast_batch(self, batch: Batch, physical: Tensor, data: ClipSet) -> Tensor:
        """Return the forecasts of the clips of a batch.

        Args:
            batch: the clips, still packed.
            physical: their frames ``(B, context + horizon, C, H, W)``, physical, NaN where missing.
            data: the split that they are of.

        Returns:
            ``(B, horizon, C, H, W)``, or ``(B, M, horizon, C, H, W)`` of M members; physical, on the device of ``physical``.

        Raises:
            UserError: a clip holds other frames or times than those that the forecasts continue, or the file is damaged.
        """

    @abstractmethod
    def describe(self) -> str:
        """Say in a line what they are, as ``stpredict info`` prints it."""
