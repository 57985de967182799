"""Forecasts as plain arrays: what OpenSTL saves (``preds.npy`` beside ``trues.npy``), and a student's own ``.npy`` or ``.npz``."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stpredict.data.clips import ClipSet
from stpredict.data.readers.array_files import ArrayFile, open_array
from stpredict.data.readers.finding import naming
from stpredict.errors import UserError
from stpredict.forecasts.contract import SavedForecasts
from stpredict.frames import Batch

FORECASTS, TRUTH, OBSERVED = ("forecast", "preds"), ("trues", "truth"), ("inputs",)
"""By which names arrays are known."""

EIGHT_BITS = 0.5 / 255 + 1e-6
"""By how much, of the scaled range, the truth may differ where the data are of 8 bits: half a step."""

FLOATS = 1e-5
"""By how much, of the scaled range, the truth may differ otherwise: what float32 loses in a transform and back."""

_MOST = 10.0  # of a forecast that is scaled to [0, 1]


class SavedArrays(SavedForecasts):
    """Forecasts ``(N, T, C, H, W)``, ``(N, T, H, W)`` of one channel, or ``(N, M, T, C, H, W)`` of M members, scaled to [0, 1].

    Row n continues clip n of the split. They become physical by the transform of the data's frame spec, and are raised to its minimum,
    as a predictor's are. Where the truth was saved too (``trues``), each clip must be it, to :data:`EIGHT_BITS` or :data:`FLOATS`; where
    the observed frames were (``inputs``), they must be as many as the clip's. The arrays are mapped into memory; nothing is unpickled.

    Attributes:
        shape: of the forecasts: rows, members where there are, then frames, channels, height, width.
    """

    def __init__(self, path: str | Path) -> None:
        """Look at the headers.

        Args:
            path: ``preds.npy`` or another ``.npy``, a folder that holds ``preds.npy`` or ``saved/preds.npy``, or a ``.npz``, not
                compressed, with an array ``forecast`` or ``preds``.

        Raises:
            UserError: there are no such arrays, they are damaged, or are not numbers of this shape.
        """
        self.path = Path(path)
        self.name = self.path.name or self.path.resolve().name
        self._forecasts, truth, observed = _open(self.path)
        self.shape = _shape(self._forecasts)
        self.members = self.shape[1] if len(self.shape) == 6 else None
        self.horizon = self.shape[-4]
        self._truth = truth
        self.context = None if observed is None or len(observed.shape) < 4 else observed.shape[1]
        if truth is None:
            self.warnings = (
                f"{self.path} has no truth (trues.npy) beside it: that its row n forecasts clip n of the split is taken on trust",
            )
        elif _shape(truth) != (self.shape[0], *self.shape[-4:]):
            raise UserError(f"'{truth.path}' is {_size(truth.shape)}, but the forecasts beside it are {_size(self._forecasts.shape)}")

    def clips(self, data: ClipSet, count: int) -> Sequence[int]:
        """Return the first clips, as many as there are rows.

        Raises:
            UserError: the arrays are of another size, context or horizon, or, without the truth, not as many as the split has clips.
        """
        self._refuse_other_clips(data)
        return range(min(count, self.shape[0]))

    def forecast_batch(self, batch: Batch, physical: Tensor, data: ClipSet) -> Tensor:
        """Return the forecasts of clips, as :class:`SavedForecasts` says.

        Raises:
            UserError: there is no row of a clip, the truth that was saved is not the clip, the numbers are not scaled, or a file is
                damaged.
        """
        self._refuse_other_clips(data)
        if max(batch.indices) >= self.shape[0]:
            raise UserError(f"{self.path} forecasts clips 0 to {self.shape[0] - 1}, not {max(batch.indices)}: ask for those alone")
        if self._truth is not None:
            true = torch.from_numpy(_rows(self._truth, batch.indices)).to(physical.device)
            self._refuse_other_truth(true.reshape(len(true), *self.shape[-4:]), batch, physical[:, data.context :], data)
        forecast = torch.from_numpy(_rows(self._forecasts, batch.indices)).to(physical.device)
        finite = forecast[forecast.isfinite()].abs()
        if self._truth is None and len(finite) and (most := float(finite.max())) > _MOST:
            raise UserError(f"{self.path} holds values up to {most:g}, which are not scaled to [0, 1]: {_how_scaled(data)}")
        return data.spec.unscale(forecast.reshape(len(forecast), *self.shape[1:]))

    def describe(self) -> str:
        """Say in a line what it is."""
        truth = "with the truth" if self._truth is not None else "without the truth"
        members = "" if self.members is None else f" of {self.members} members"
        frames = f"{self.horizon} frames of {_size(self.shape[-3:])}"
        return f"saved arrays {self.name}: forecasts{members} of {self.shape[0]} clips, {frames}, scaled to [0, 1], {truth}"

    def _refuse_other_clips(self, data: ClipSet) -> None:
        facts = [
            ("frames", _size(self.shape[-3:]), _size(data.spec.shape)),
            ("horizon", self.horizon, data.horizon),
            ("context", self.context or data.context, data.context),
        ]
        differing = [f"{fact} {ours} instead of {theirs}" for fact, ours, theirs in facts if ours != theirs]
        if differing:
            raise UserError(f"{self.path} forecasts other clips than '{data.card}' {data.split} has: {', '.join(differing)}")
        rows, there = self.shape[0], len(data)
        if rows > there or (self._truth is None and rows != there):
            how = "score the split that they are of" if self._truth is not None else "score the whole split, or save trues.npy beside it"
            raise UserError(f"{self.path} has forecasts of {rows} clips, and '{data.card}' {data.split} has {there}: {how}")

    def _refuse_other_truth(self, true: Tensor, batch: Batch, physical: Tensor, data: ClipSet) -> None:
        scaled, valid = data.spec.scale(physical)
        allowed = EIGHT_BITS if batch.frames.dtype == torch.uint8 else FLOATS
        difference = torch.where(valid, (true - scaled).abs(), 0.0).flatten(1).amax(1)
        for index, most in zip(batch.indices, difference.tolist(), strict=True):
            if not most <= allowed:
                assert self._truth is not None
                raise UserError(
                    f"'{self._truth.path}' is not the truth of clip {index} of '{data.card}' {data.split}: it differs by up to {most:.3g}, "
                    f"scaled; score the split and the order that the forecasts were made of, and {_how_scaled(data)}"
                )


def is_saved_arrays(path: Path) -> bool:
    """Whether a path is, or holds, arrays of forecasts and no forecast file of ours.

    Raises:
        UserError: it is a damaged zip file.
    """
    if path.is_dir():
        return _find(path) is not None
    if path.suffix == ".npz":
        names = _names(path)
        return "about.json" not in names and "about.npy" not in names and any(f"{name}.npy" in names for name in FORECASTS)
    return path.suffix == ".npy"


def _names(path: Path) -> list[str]:
    with naming(path, "npz file", OSError, zipfile.BadZipFile, ValueError, RuntimeError), zipfile.ZipFile(path) as archive:
        return archive.namelist()


def _find(folder: Path) -> Path | None:
    return next((file for file in (folder / "preds.npy", folder / "saved" / "preds.npy") if file.is_file()), None)


def _open(path: Path) -> tuple[ArrayFile, ArrayFile | None, ArrayFile | None]:
    """Return the forecasts, and the truth and the observed frames where they are."""
    if path.suffix == ".npz" and not path.is_dir():
        names = _names(path)
        if any(info.compress_type != zipfile.ZIP_STORED for info in zipfile.ZipFile(path).infolist()):
            raise UserError(f"{path} is compressed, so it cannot be read a part at a time: save it with numpy.savez")
        one_of = [next((name for name in known if f"{name}.npy" in names), None) for known in (FORECASTS, TRUTH, OBSERVED)]
        if one_of[0] is None:
            raise UserError(f"{path} holds no array 'forecast' or 'preds'; it holds {', '.join(names) or 'nothing'}")
        found = [None if name is None else _floats(open_array(path, name)) for name in one_of]
    else:
        file = _find(path) if path.is_dir() else path
        if file is None or not file.is_file():
            raise UserError(f"There are no forecasts in {path}: neither preds.npy nor saved/preds.npy")
        if file.stem in (*TRUTH, *OBSERVED):
            raise UserError(f"{file} holds frames that were observed, which are no forecasts: give the preds.npy beside it")
        beside = [
            next((there for name in known if (there := file.with_name(f"{name}.npy")).is_file()), None) for known in (TRUTH, OBSERVED)
        ]
        found = [None if one is None else _floats(open_array(one)) for one in (file, *beside)]
    forecasts, truth, observed = found
    assert forecasts is not None
    return forecasts, truth, observed


def _floats(array: ArrayFile) -> ArrayFile:
    if array.dtype.kind != "f":
        raise UserError(f"'{array.path}' holds {array.dtype}, not forecasts that are scaled to [0, 1]: save them as float32")
    return array


def _shape(array: ArrayFile) -> tuple[int, ...]:
    """Return rows, members where there are, then frames, channels, height, width."""
    shape = array.shape
    if not 4 <= len(shape) <= 6:
        raise UserError(f"'{array.path}' is {_size(shape)}: forecasts are (clips, frames, channels, height, width)")
    return (*shape[:2], 1, *shape[2:]) if len(shape) == 4 else shape


def _rows(array: ArrayFile, indices: Sequence[int]) -> NDArray[np.float32]:
    return np.stack([array.read((index,)).astype(np.float32) for index in indices])


def _how_scaled(data: ClipSet) -> str:
    transform = data.spec.transform
    return f"scale them as the card does ({transform.name}, {transform.low:g} {data.spec.units} to 0 and {transform.high:g} to 1)"


def _size(shape: Sequence[int]) -> str:
    return " x ".join(str(length) for length in shape)
