"""Write a forecast file while forecasts are made, and join those that several processes wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import stpredict
from stpredict.data.clips import ClipSet
from stpredict.errors import UserError
from stpredict.files import whole_file
from stpredict.forecasts.digests import DIGEST_SIZE, truth_hash
from stpredict.forecasts.files import ForecastFile
from stpredict.forecasts.formats import Writing, format_of
from stpredict.frames import Batch, FrameSpec

_AT_ONCE = 16  # clips that are in memory when files are joined


class ForecastWriter:
    """Writes a forecast file while forecasts are made, in constant memory, whole or not at all.

    ``ForecastWriter(path, predictor, data, clips, members=None)`` is used in a ``with`` statement; the file stands at ``path`` when that
    ends without an error. Clips may come in any order; each is written once.
    """

    def __init__(self, path: str | Path, predictor: str, data: ClipSet, clips: int, members: int | None = None) -> None:
        """Prepare to write.

        Args:
            path: where to, ending in ``.h5`` or ``.npz``.
            predictor: its name.
            data: the split whose clips are continued.
            clips: N, how many of them, at least 1.
            members: M, if each forecast is an ensemble.

        Raises:
            UserError: ``path`` ends in something else.
        """
        self.path, self.predictor, self.data, self.members = Path(path), predictor, data, members
        self.shape = (clips, *(() if members is None else (members,)), data.horizon, *data.spec.shape)
        self._format = format_of(self.path)
        self._indices: list[int] = []
        self._digests: list[bytes] = []
        self._times: list[NDArray[np.int64]] = []

    def __enter__(self) -> ForecastWriter:
        self._file = self._open()
        self._writer = self._file.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.__exit__(kind, error, trace)

    def write(self, forecast: Tensor, batch: Batch, digests: Sequence[bytes]) -> None:
        """Append the forecasts of the clips of a batch, which have these digests.

        ``forecast`` is ``(B, horizon, C, H, W)``, or ``(B, M, horizon, C, H, W)`` with members, physical.
        """
        assert forecast.shape == (len(batch.indices), *self.shape[1:]), "a forecast for each clip of the batch"
        self._writer.append(forecast.to("cpu", torch.float32).contiguous().numpy())
        self._indices += batch.indices
        self._digests += digests
        if batch.times is not None:
            self._times.append(batch.times[:, self.data.context :].numpy())

    @contextmanager
    def _open(self) -> Iterator[Writing]:
        with whole_file(self.path) as temporary, closing(self._format.write(temporary, self.shape)) as writer:
            yield writer
            assert len(self._indices) == self.shape[0], "as many clips as were announced"
            data = self.data
            about = _about(self.predictor, data.card, data.split, data.context, data.horizon, data.spec, self.members, data.changes)
            times = np.concatenate(self._times) if self._times else None
            _finish(writer, about, self._indices, self._digests, times)


def join_forecasts(parts: Sequence[Path], out: Path) -> None:
    """Join forecast files of one predictor and one split into one, in the order of the clips, whole or not at all.

    A few clips at a time are in memory. The parts stay where they are; they may be of either kind of file, whatever ``out`` is.

    Raises:
        UserError: a part is damaged, two are not of one kind, or a clip is in two of them.
        OSError: the file could not be written.
    """
    assert parts, "at least one file"
    files = [ForecastFile(part) for part in parts]
    first = files[0]
    for other in files:
        for fact in ("predictor", "card", "split", "context", "horizon", "spec", "members"):
            if getattr(other, fact) != getattr(first, fact):
                raise UserError(f"{other.path} and {first.path} do not belong together: their {fact} differs")
        if (other.times is None) != (first.times is None):
            raise UserError(f"{other.path} and {first.path} do not belong together: only one of them has times")
    places = sorted((index, number, row) for number, file in enumerate(files) for row, index in enumerate(file.indices))
    for (index, number, _), (other_index, other_number, _) in pairwise(places):
        if index == other_index:
            raise UserError(
                f"Clip {index} is both in {files[number].path} and in {files[other_number].path}: join files of different clips"
            )
    members = () if first.members is None else (first.members,)
    shape = (len(places), *members, first.horizon, *first.spec.shape)
    with whole_file(out) as temporary, closing(format_of(out).write(temporary, shape)) as writer:
        for start in range(0, len(places), _AT_ONCE):
            some = [(number, row) for _, number, row in places[start : start + _AT_ONCE]]
            forecasts = np.empty((len(some), *shape[1:]), dtype=np.float32)
            for number in {number for number, _ in some}:
                where = [place for place, (other, _) in enumerate(some) if other == number]
                forecasts[where] = files[number].read_rows([some[place][1] for place in where])
            writer.append(forecasts)
        about = _about(first.predictor, first.card, first.split, first.context, first.horizon, first.spec, first.members, first.changes)
        digests = [files[number].digests[row] for _, number, row in places]
        times = [times[row] for _, number, row in places if (times := files[number].times) is not None]
        _finish(writer, about, [index for index, _, _ in places], digests, np.stack(times).astype(np.int64) if times else None)


def _about(
    predictor: str, card: str, split: str, context: int, horizon: int, spec: FrameSpec, members: int | None, changes: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what a file says about itself, but for the hash of the truth."""
    about: dict[str, Any] = {"predictor": predictor, "card": card, "split": split, "context": context, "horizon": horizon}
    about |= {"spec": spec.to_dict(), "changes": dict(changes), "version": stpredict.__version__}
    return about if members is None else {**about, "members": members}


def _finish(
    writer: Writing, about: dict[str, Any], indices: Sequence[int], digests: Sequence[bytes], times: NDArray[np.int64] | None
) -> None:
    """Write what stands beside the forecasts, whose clips are in this order."""
    by_index = [digest for _, digest in sorted(zip(indices, digests, strict=True))]
    arrays: dict[str, NDArray[Any]] = {
        "indices": np.array(indices, dtype=np.int64),
        "digests": np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, DIGEST_SIZE),
    }
    if times is not None:
        arrays["times"] = times
    writer.finish(arrays, json.dumps({**about, "hash": truth_hash(about["context"], about["horizon"], by_index)}))
