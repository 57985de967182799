"""KTH actions, as folders of frames or as the videos themselves, with the test clips of published scores as films of their own.

Sources: Schuldt, Laptev, Caputo: Recognizing Human Actions: A Local SVM Approach (ICPR 2004); which frames make a test clip, and how
they are resized: the loaders of thuml/predrnn-pytorch and chengtan9907/OpenSTL.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from stpredict.data.clips import Film, Reader
from stpredict.data.readers.finding import find_files, name_below, natural_key
from stpredict.data.readers.folders import Folders
from stpredict.data.readers.video import Video
from stpredict.errors import UserError

_FILM = re.compile(r"person(\d\d)_([a-z]+)_d(\d)")
_NUMBER = re.compile(r"(\d+)\D*$")
_FRAMES = ["image*.jpg", "image*.jpeg", "image*.png"]
_TEST_PERSONS = range(17, 26)
_FAST = ("jogging", "running")  # a person is out of sight soon, so published clips of these overlap
_FAST_STEP = 3


class _Piece(NamedTuple):
    """Frames that follow one another without a gap: a part of a folder or of a video."""

    source: int
    positions: range


class Kth(Reader):
    """Reads KTH's six actions: ``<action>/person01_<action>_d1_uncomp/image_0001.jpg``, ..., or ``person01_<action>_d1_uncomp.avi``.

    A folder of frames is a film, cut in two wherever a number is missing (frames without a person are left out there); a video is a
    film. Beside them, the clips on which published scores are taken are films too, called ``clip of <action>, ...``: of
    persons 17 to 25, cut from the end of each film, one after another, or three frames apart for jogging and running.

    Args:
        root: the folder of the actions.
        size: height and width to which a frame is stretched, bilinearly and without rounding, as for published weights.
        classic: frames of a published clip: 30 for 10 -> 20. Left out, there are no such clips.
        leave_out: patterns of paths below the root that are not read.

    Raises:
        UserError: there is no such folder, it holds neither frames nor videos, or a file is damaged.
    """

    def __init__(
        self, root: Path, *, size: tuple[int, int] | None = None, classic: int | None = None, leave_out: Sequence[str] = ()
    ) -> None:
        if size is not None and min(size) < 1:
            raise UserError(f"Frames get a size of [height, width] of at least 1 pixel, not {list(size)}")
        if classic is not None and classic < 2:
            raise UserError(f"A published clip has at least 2 frames, not {classic}: 30 for 10 -> 20")
        self.size = size
        self._source: Reader
        if next(root.rglob("image*"), None) is not None:
            self._source = Folders(root, leave_out=leave_out)
            numbers = _frame_numbers(root, leave_out)
        else:
            self._source, numbers = Video(root, leave_out=leave_out), {}
        self.channels = 1
        self.height, self.width = size or (self._source.height, self._source.width)
        self.packing, self.facts = self._source.packing, {}

        films, clips = [], []
        for number, source in enumerate(self._source.films):
            counted = numbers.get(source.name, range(source.length))
            runs = _runs(counted)
            for run in runs:
                name = source.name if len(runs) == 1 else f"{source.name}#{counted[run.start]}"
                films.append((Film(name, len(run)), _Piece(number, run)))
                clips += [
                    (Film(f"{about}, from frame {counted[positions.start]}", classic), _Piece(number, positions))
                    for about, positions in _published(source.name, run, classic)
                    if classic is not None
                ]
        self.films = [film for film, _ in films + clips]
        self._pieces = [piece for _, piece in films + clips]

    def read(self, film: int, positions: range) -> NDArray[Any]:
        """Return packed frames ``(T, 1, H, W)``: float32 where they are resized, as they are otherwise."""
        source, whole = self._pieces[film]
        frames = self._source.read(source, whole[positions.start : positions.stop : positions.step])
        if self.size is None:
            return frames
        resized = np.empty((len(frames), 1, self.height, self.width), dtype=np.float32)
        for new, frame in zip(resized, frames, strict=True):
            new[0] = cv2.resize(frame[0].astype(np.float32), (self.width, self.height), interpolation=cv2.INTER_LINEAR)
        return resized


def _frame_numbers(root: Path, leave_out: Sequence[str]) -> dict[str, list[int]]:
    """Return the numbers in the names of the frames of each folder, in the order in which they are read."""
    paths = sorted(find_files(root, _FRAMES, leave_out), key=lambda path: (natural_key(str(path.parent)), natural_key(path.name)))
    numbers = {}
    for folder, members in groupby(paths, key=lambda path: path.parent):
        found = [(path, _NUMBER.search(path.stem)) for path in members]
        for path, number in found:
            if number is None:
                raise UserError(f"'{path}' bears no number; frames are called image_0001.jpg and so on")
        numbers[name_below(root, folder)] = [int(number[1]) for _, number in found if number is not None]
    return numbers


def _runs(numbers: Sequence[int]) -> list[range]:
    """Return the positions of frames whose numbers follow one another."""
    breaks = (np.flatnonzero(np.diff(np.asarray(numbers)) != 1) + 1).tolist()
    return [range(start, stop) for start, stop in zip([0, *breaks], [*breaks, len(numbers)], strict=True)]


def _published(name: str, run: range, length: int | None) -> list[tuple[str, range]]:
    """Return a name and the positions of each published clip of a run of frames, in order."""
    film = _FILM.search(name)
    if film is None or length is None or int(film[1]) not in _TEST_PERSONS:
        return []
    person, action, scene = film.groups()
    step = _FAST_STEP if action in _FAST else length
    starts = range(run.stop - length, run.start - 1, -step)
    return [(f"clip of {action}, person {person}, scene {scene}", range(start, start + length)) for start in reversed(starts)]
