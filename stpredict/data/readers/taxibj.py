"""TaxiBJ as the pairs of observed and following frames that OpenSTL distributes, in one npz file.

Sources: Zhang, Zheng, Qi: Deep Spatio-Temporal Residual Networks for Citywide Crowd Flows Prediction (AAAI 2017); the form of the
file: the loader of chengtan9907/OpenSTL.
"""

from __future__ import annotations

import zipfile
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stpredict.data.clips import Film, Reader
from stpredict.data.readers.array_files import ArrayFile, open_array
from stpredict.data.readers.finding import naming
from stpredict.errors import UserError
from stpredict.frames import Packing

_DAMAGE = (ValueError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error, EOFError)


class TaxiBj(Reader):
    """Reads samples of flow into and out of the 32 x 32 districts of Beijing, each a film: the frames of X, then those of Y.

    ``X_train``, ``Y_train``, ``X_test`` and ``Y_test`` are ``(N, T, 2, H, W)`` in [-1, 1], which become [0, 1]. Films are called
    ``train#0``, ``validation#0`` and ``test#0``, the number that of the sample in its array.

    Args:
        root: the file, or the folder with ``dataset.npz``.
        validation: the share of the samples to train on, the last ones, that are for validation. So many samples before them are left
            out as have frames in common with them, since each sample begins a frame after the one before.

    Raises:
        UserError: there is no such file, it is damaged, or its arrays do not fit together.
    """

    def __init__(self, root: Path, *, validation: float = 0.1) -> None:
        if not 0 <= validation < 1:
            raise UserError(f"validation is a share from 0 to below 1, not {validation:g}")
        path = root / "dataset.npz" if root.is_dir() else root
        if not path.is_file():
            raise UserError(f"There is no '{path}'; TaxiBJ is the file dataset.npz with X_train, Y_train, X_test and Y_test")
        train, test = _open_pair(path, "train"), _open_pair(path, "test")
        if train[0].shape[2:] != test[0].shape[2:] or _length(train) != _length(test):
            raise UserError(f"'{path}' is no TaxiBJ: its samples to train on, {train[0].shape}, and to test on, {test[0].shape}, differ")
        with naming(path, "npz file", *_DAMAGE), zipfile.ZipFile(path) as archive:
            self._compressed = any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist())

        length, count = _length(train), train[0].shape[0]
        first = count - round(validation * count)  # of the samples for validation
        end = first if first == count else max(first - length + 1, 0)
        self._pairs = {"train": train, "validation": train, "test": test}
        self._places = [
            *(("train", number) for number in range(end)),
            *(("validation", number) for number in range(first, count)),
            *(("test", number) for number in range(test[0].shape[0])),
        ]
        self.films = [Film(f"{part}#{number}", length) for part, number in self._places]
        self.channels, self.height, self.width = train[0].shape[2:]
        self.packing = Packing(scale=0.5, offset=0.5)
        self.facts = {}

    def read(self, film: int, positions: range) -> NDArray[np.float32]:
        """Return packed frames ``(T, 2, H, W)`` in [-1, 1]."""
        part, number = self._places[film]
        sample = np.concatenate(
            [self._read_sample(array, name, number) for array, name in zip(self._pairs[part], _names(part), strict=True)]
        )
        return np.ascontiguousarray(sample[positions.start : positions.stop : positions.step], dtype=np.float32)

    def _read_sample(self, array: ArrayFile, name: str, number: int) -> NDArray[np.float32]:
        if not self._compressed:
            return array.read((number,)).astype(np.float32)
        status = array.path.stat()
        sample: NDArray[np.float32] = _inflate(array.path, name, status.st_mtime_ns, status.st_size)[number]
        return sample


def _names(part: str) -> tuple[str, str]:
    """Return the names of the arrays of one part: of observed frames and of those that follow."""
    kind = "test" if part == "test" else "train"
    return f"X_{kind}", f"Y_{kind}"


def _length(pair: tuple[ArrayFile, ArrayFile]) -> int:
    return sum(array.shape[1] for array in pair)


def _open_pair(path: Path, part: str) -> tuple[ArrayFile, ArrayFile]:
    x, y = (open_array(path, name) for name in _names(part))
    for array, name in zip((x, y), _names(part), strict=True):
        if len(array.shape) != 5 or array.dtype.kind != "f":
            raise UserError(
                f"'{path}': {name} is {array.dtype} of shape {array.shape}, not floats (samples, frames, channels, rows, columns)"
            )
    if (x.shape[0], *x.shape[2:]) != (y.shape[0], *y.shape[2:]):
        raise UserError(f"'{path}': {' and '.join(_names(part))} do not fit together, with shapes {x.shape} and {y.shape}")
    return x, y


# A compressed array can only be read whole. Two are kept in each process, so that X and Y do not drive one another out.
@lru_cache(maxsize=2)
def _inflate(path: Path, name: str, modified: int, size: int) -> NDArray[np.float32]:
    with naming(path, "npz file", *_DAMAGE), zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
        array: NDArray[np.float32] = np.lib.format.read_array(file, allow_pickle=False).astype(np.float32)
        file.read()  # to the end, so that the checksum is compared
    return array
