"""What every kind of saved forecasts can do, so that it may stand wherever a predictor is scored or shown."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from stpredict.data.clips import ClipSet
from stpredict.frames import Batch, FrameSpec


class SavedForecasts(ABC):
    """Forecasts that were made before, of some clips of a split.

    Attributes:
        name: what tables and files call them: the last part of their path.
        spec: what the numbers mean, or None where nothing says it.
    """

    name: str
    spec: FrameSpec | None = None

    @abstractmethod
    def clips(self, data: ClipSet, count: int) -> Sequence[int]:
        """Return which of the first ``count`` clips of ``data`` are forecast, in increasing order, as far as can be told without the clips.

        Raises:
            UserError: these are forecasts of other data: the sentence says in which facts they differ.
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
