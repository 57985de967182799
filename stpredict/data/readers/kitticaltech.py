"""KITTI to train on and Caltech Pedestrian to test on, in the files that PredNet and OpenSTL distribute.

Sources: Geiger et al.: Vision meets Robotics: The KITTI Dataset (IJRR 2013); Dollar et al.: Pedestrian Detection: A Benchmark (CVPR
2009); frames and sources in hickle (HDF5) files: coxlab/prednet; caches of Caltech: the loader of chengtan9907/OpenSTL.
"""

from __future__ import annotations

import tokenize
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from stpredict.data.clips import Film, Reader
from stpredict.data.readers import hdf5
from stpredict.data.readers.array_files import ArrayFile, open_array
from stpredict.data.readers.finding import naming
from stpredict.errors import UserError
from stpredict.frames import Packing

_NPY_DAMAGE = (ValueError, SyntaxError, tokenize.TokenError, EOFError)
_BLOCK = 4096  # names of sources read at once


@dataclass(frozen=True)
class _Stack:
    """All frames of one file, ``(N, H, W, 3)``; an npy file where ``array`` is given, else a hickle file."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    array: ArrayFile | None = None

    def __post_init__(self) -> None:
        if len(self.shape) != 4 or self.shape[3] != 3 or self.dtype.name not in ("uint8", "float32", "float64"):
            raise UserError(f"'{self.path}' holds {self.dtype} of shape {self.shape}, not frames (N, rows, columns, 3) of uint8 or floats")

    def read(self, chosen: slice) -> NDArray[Any]:
        if self.array is not None:
            return self.array.read((chosen,))
        with hdf5.open_file(self.path) as file:
            frames: NDArray[Any] = _only_dataset(file)[chosen]
            return frames


class KittiCaltech(Reader):
    """Reads frames of roads from a car: films ``train/...`` and ``validation/...`` of KITTI, ``test/...`` of Caltech Pedestrian.

    Two forms are known. In the first, ``kitti_hkl`` holds ``X_train.hkl``, ``sources_train.hkl``, ``X_val.hkl`` and
    ``sources_val.hkl``, in which frames of one source that follow one another are a film, and ``caltech`` holds ``data_cache.npy`` and
    ``indices_cache.npy``. In the second, ``kitticaltech_npy`` holds ``train_data.npy``, ``train_idx.npy``, ``test_data.npy`` and
    ``test_idx.npy``. Indices are where a clip begins, so there every clip is a film.

    Args:
        root: the folder with these folders.
        clip_length: frames of a clip that an index begins: 11 for 10 -> 1.
        validation: the share of the clips of ``train_idx.npy``, the last ones, that are for validation; the first form has its own.
        turn_caltech: turn Caltech's colours, which its cache holds as blue, green, red, into red, green, blue. Published scores did not.

    Raises:
        UserError: a file is not there or is damaged, frames differ, or an index lies outside of the frames.
    """

    def __init__(self, root: Path, *, clip_length: int = 11, validation: float = 0.1, turn_caltech: bool = False) -> None:
        if clip_length < 2:
            raise UserError(f"A clip has at least 2 frames, not {clip_length}: 11 for 10 -> 1")
        if not 0 < validation < 1:
            raise UserError(f"validation is a share between 0 and 1, not {validation:g}")
        self._films: list[tuple[Film, _Stack, int]] = []
        if (root / "kitti_hkl").is_dir():
            self._add_sources("train", root / "kitti_hkl", "train")
            self._add_sources("validation", root / "kitti_hkl", "val")
            self._add_clips(["test"], root / "caltech" / "data_cache.npy", root / "caltech" / "indices_cache.npy", clip_length, validation)
        elif (folder := root / "kitticaltech_npy").is_dir():
            self._add_clips(["train", "validation"], folder / "train_data.npy", folder / "train_idx.npy", clip_length, validation)
            self._add_clips(["test"], folder / "test_data.npy", folder / "test_idx.npy", clip_length, validation)
        else:
            raise UserError(f"The folder '{root}' holds neither 'kitti_hkl' nor 'kitticaltech_npy'")
        first = self._films[0][1]
        for _, stack, _ in self._films:
            if (stack.shape[1:], stack.dtype) != (first.shape[1:], first.dtype):
                raise UserError(
                    f"'{stack.path}' holds frames {stack.shape[1:]} of {stack.dtype}, but '{first.path}' {first.shape[1:]} of {first.dtype}"
                )
        self.turn_caltech = turn_caltech
        self.films = [film for film, _, _ in self._films]
        self.channels, (self.height, self.width) = 3, first.shape[1:3]
        self.packing = Packing(1 / 255 if first.dtype == np.uint8 else 1.0)
        self.facts = {}

    def _add_sources(self, split: str, folder: Path, part: str) -> None:
        stack = _open_hickle(folder / f"X_{part}.hkl")
        for source, positions in _read_sources(folder / f"sources_{part}.hkl", stack.shape[0]):
            self._films.append((Film(f"{split}/{source}#{positions.start}", len(positions)), stack, positions.start))

    def _add_clips(self, splits: Sequence[str], data: Path, indices: Path, clip_length: int, validation: float) -> None:
        stack, starts = _open_npy(data), _read_indices(indices)
        outside = starts[(starts < 0) | (starts > stack.shape[0] - clip_length)]
        if len(outside):
            raise UserError(f"'{indices}': a clip of {clip_length} frames from {outside[0]} on lies outside of the {stack.shape[0]} frames")
        chosen_of = {splits[0]: starts}
        if len(splits) == 2:
            kept = len(starts) - max(round(validation * len(starts)), 1)
            later = starts[kept:]
            chosen_of = {splits[0]: starts[starts <= later[0] - clip_length], splits[1]: later}  # no frame is in both
        for split, chosen in chosen_of.items():
            self._films += [(Film(f"{split}/{data.stem}#{start}", clip_length), stack, start) for start in chosen.tolist()]

    def read(self, film: int, positions: range) -> NDArray[Any]:
        """Return packed frames ``(T, 3, H, W)``."""
        about, stack, start = self._films[film]
        frames = stack.read(slice(start + positions.start, start + positions.stop, positions.step))
        if self.turn_caltech and about.name.startswith("test/"):
            frames = frames[..., ::-1]
        return np.ascontiguousarray(frames.transpose(0, 3, 1, 2))


def _only_dataset(file: h5py.File) -> h5py.Dataset:
    """Return what a hickle file holds: one array, called data_0 or data by its versions."""
    names = hdf5.dataset_names(file)
    if len(names) != 1:
        raise UserError(f"'{file.filename}' holds {len(names)} data sets, not one: save it as one array, with hickle 3 or with h5py")
    return hdf5.dataset(file, names[0])


def _open_hickle(path: Path) -> _Stack:
    _refuse_absent(path)
    with hdf5.open_file(path) as file:
        found = _only_dataset(file)
        return _Stack(path, found.shape or (), found.dtype)


def _open_npy(path: Path) -> _Stack:
    _refuse_absent(path)
    array = open_array(path)
    return _Stack(path, array.shape, array.dtype, array)


def _read_sources(path: Path, frames: int) -> list[tuple[str, range]]:
    """Return the name and the positions of each run of frames that are of one source."""
    _refuse_absent(path)
    with hdf5.open_file(path) as file:
        found = _only_dataset(file)
        if found.shape != (frames,) or h5py.check_string_dtype(found.dtype) is None:
            raise UserError(f"'{path}' holds {found.dtype} of shape {found.shape}, not a name for each of {frames} frames")
        edges: list[tuple[str, int]] = []
        for start in range(0, frames, _BLOCK):
            for position, name in enumerate(found[start : start + _BLOCK], start):
                source = name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
                if not edges or source != edges[-1][0]:
                    edges.append((source, position))
    ends = [start for _, start in edges[1:]] + [frames]
    return [(source, range(start, end)) for (source, start), end in zip(edges, ends, strict=True)]


def _read_indices(path: Path) -> NDArray[np.int64]:
    """Return where clips begin, in order."""
    _refuse_absent(path)
    with naming(path, "npy file", *_NPY_DAMAGE):
        indices = np.load(path, mmap_mode="r", allow_pickle=False)
        if indices.ndim != 1 or indices.dtype.kind not in "iu" or not len(indices):
            raise UserError(f"'{path}' holds {indices.dtype} of shape {indices.shape}, not a list of whole numbers")
        return np.sort(np.asarray(indices, dtype=np.int64))


def _refuse_absent(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"There is no '{path}'; put it there, as 'stpredict data show kitticaltech' tells")
