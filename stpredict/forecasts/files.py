"""Forecast files: the forecasts of a predictor for the clips of one split, as ``--save-forecasts`` writes them.

A file is HDF5 (``.h5``) or a zip of arrays that ``numpy.load`` reads (``.npz``, not compressed). It holds

* ``forecast``: float32 ``(N, horizon, C, H, W)``, or ``(N, M, horizon, C, H, W)`` of M members, physical;
* ``indices``: int64 ``(N,)``, which clip of its split each row continues;
* ``digests``: uint8 ``(N, 16)``, what the true clip was (:func:`~stpredict.forecasts.digests.clip_digests`);
* ``times``: the times of the forecast frames ``(N, horizon)``, where the film has a clock: int64 seconds since 1970 in UTC;
* ``about``: JSON (an attribute of the HDF5 file, the entry ``about.json`` of the zip): predictor, card, split, context, horizon, the
  hash of the truth, frame spec, members if there are, what was not as the card says, and version of stpredict.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stpredict.data.clips import ClipSet
from stpredict.errors import UserError
from stpredict.forecasts.contract import SavedForecasts
from stpredict.forecasts.digests import DIGEST_SIZE, clip_digests
from stpredict.forecasts.formats import DAMAGE, format_of
from stpredict.frames import Batch, FrameSpec

Entry = TypeVar("Entry")


class ForecastFile(SavedForecasts):
    """Forecasts that were saved, in the place of the predictor that made them.

    Attributes:
        name: the last part of the path.
        path: of the file.
        predictor: the name of the predictor that made the forecasts.
        card: the name of the card whose clips they continue.
        split: the name of the split.
        spec: what the numbers mean.
        context: observed frames of a clip.
        horizon: forecast frames of a clip.
        members: M of an ensemble, or None.
        hash: of the truth, all clips together (:func:`~stpredict.forecasts.digests.truth_hash`).
        indices: ``(N,)`` which clip each row continues.
        digests: of the true clip of each row.
        times: ``(N, horizon)`` datetime64[s] of the forecast frames, or None.
    """

    spec: FrameSpec
    card: str
    context: int
    horizon: int

    def __init__(self, path: str | Path) -> None:
        """Read everything but the forecasts themselves.

        Raises:
            UserError: there is no such file, or it is damaged or not a forecast file.
        """
        self.path = Path(path)
        self.name = self.path.name
        self._format = format_of(self.path)
        if not self.path.is_file():
            raise UserError(f"There is no forecast file {self.path}")
        try:
            with self._format.read(self.path) as (arrays, about):
                self._take(arrays, json.loads(about))
        except DAMAGE as error:
            raise self._damaged(error) from None

    def _take(self, arrays: Mapping[str, Any], about: Any) -> None:
        self.predictor, self.card, self.split = (_entry(about, key, str) for key in ("predictor", "card", "split"))
        self.provenance = {"predictor": self.predictor, "version": str(about.get("version", ""))[:40]}
        changes = _entry(about, "changes", dict) if "changes" in about else {}
        self.changes = {name: changes[name] for name in ("every", "crop", "resize", "settings") if name in changes}
        self.context, self.horizon = _entry(about, "context", int), _entry(about, "horizon", int)
        self.hash = _entry(about, "hash", str)
        self.spec = FrameSpec.from_dict(_entry(about, "spec", dict))
        self.members = _entry(about, "members", int) if about.get("members") is not None else None
        clips, members = len(arrays["indices"]), () if self.members is None else (self.members,)
        _check_array(arrays, "forecast", np.float32, (clips, *members, self.horizon, *self.spec.shape))
        _check_array(arrays, "indices", np.int64, (clips,))
        _check_array(arrays, "digests", np.uint8, (clips, DIGEST_SIZE))
        self.times: NDArray[np.datetime64] | None = None
        if "times" in arrays:
            _check_array(arrays, "times", np.int64, (clips, self.horizon))
            self.times = np.array(arrays["times"]).astype("datetime64[s]")
        self.indices = [int(index) for index in np.array(arrays["indices"])]
        self.digests = [row.tobytes() for row in np.array(arrays["digests"])]
        self._rows = {index: row for row, index in enumerate(self.indices)}
        if len(self._rows) != clips:
            raise ValueError("a clip is in it twice")

    def __len__(self) -> int:
        """Return the number of clips that are forecast."""
        return len(self._rows)

    def clips(self, data: ClipSet, count: int) -> Sequence[int]:
        """Return which of the first clips of a split are forecast.

        Raises:
            UserError: the file is of another card, split, context, horizon or frame size, or has none of these clips.
        """
        self._refuse_other_clips(data)
        found = sorted(index for index in self.indices if index < count)
        if not found:
            raise UserError(
                f"{self.path} forecasts {len(self)} clips, the first of which is {min(self.indices)}: ask for more than {count}"
            )
        return found

    def forecast_batch(self, batch: Batch, physical: Tensor, data: ClipSet) -> Tensor:
        """Return the forecasts of clips, as :class:`SavedForecasts` says.

        Raises:
            UserError: the file is of other clips, as :meth:`clips` has it, a clip had other frames or times when it was made, it lacks
                one, or is damaged.
        """
        self._refuse_other_clips(data)
        rows = self._rows_of(batch.indices)
        for index, row, digest in zip(batch.indices, rows, clip_digests(batch), strict=True):
            if self.digests[row] != digest:
                raise UserError(
                    f"{self.path} forecasts other clips: clip {index} of '{self.card}' {self.split} had other frames or times "
                    "when the file was made; make it again from these data"
                )
        return torch.from_numpy(self.read_rows(rows)).to(physical.device)

    def describe(self) -> str:
        """Say in a line what it is."""
        made = f"{len(self)} clips of '{self.card}' {self.split}, by {self.predictor}"
        ensemble = "" if self.members is None else f", {self.members} members"
        return f"forecast file {self.name}: {self.horizon} frames after {self.context}, {made}{ensemble}; units {self.spec.units}"

    def read_rows(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """Return the forecasts of some rows, ``(B, (M,) horizon, C, H, W)``.

        Raises:
            UserError: the file is damaged.
        """
        try:
            with self._format.read(self.path) as (arrays, _):
                return np.stack([arrays["forecast"][row] for row in rows])
        except DAMAGE as error:
            raise self._damaged(error) from None

    def _refuse_other_clips(self, data: ClipSet) -> None:
        facts = [(fact, getattr(self, fact), getattr(data, fact)) for fact in ("card", "split", "context", "horizon")]
        facts += [("frames", _size(self.spec.shape), _size(data.spec.shape)), ("units", self.spec.units, data.spec.units)]
        differing = [f"{fact} {ours} instead of {theirs}" for fact, ours, theirs in facts if ours != theirs]
        if differing:
            raise UserError(f"{self.path} forecasts other clips: {', '.join(differing)}; it can be used only where it was made")

    def _rows_of(self, indices: Iterable[int]) -> list[int]:
        try:
            return [self._rows[index] for index in indices]
        except KeyError as missing:
            raise UserError(f"{self.path} forecasts {len(self)} clips, and clip {missing} is not among them: ask for those alone") from None

    def _damaged(self, error: BaseException) -> UserError:
        return UserError(f"{self.path} is no whole forecast file ({error}): make it again with --save-forecasts")


def _entry(about: Any, key: str, kind: type[Entry]) -> Entry:
    value = about[key]
    if type(value) is not kind:
        raise ValueError(f"'{key}' is {value!r:.40}")
    return value


def _check_array(arrays: Mapping[str, Any], name: str, dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    array = arrays[name]
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(f"'{name}' is {array.dtype} {_size(array.shape)} instead of {np.dtype(dtype)} {_size(shape)}")


def _size(shape: Iterable[int]) -> str:
    return " x ".join(str(length) for length in shape)
