"""Films of moving digits, made when they are asked for: each clip is a pure function of (seed, split, index).

Motion as in the Moving MNIST generator of Srivastava et al. (Unsupervised Learning of Video Representations using LSTMs,
ICML 2015): a digit starts anywhere, moves in any direction by a fixed share of the free width a frame, and bounces off the
edges; where digits overlap the brighter wins. Only operations that IEEE 754 rounds correctly (+, -, *, /, square root) stand
between the random words and the integer positions, so these are the same on every processor and with every numpy.
"""

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from stpredict import draws
from stpredict.data.clips import ClipSet
from stpredict.data.mnist import read_mnist
from stpredict.errors import UserError, nearest
from stpredict.frames import Clip, FrameSpec, Packing

CLIPS = {
    "moving_digits": "stpredict.data.generated:MovingDigits",
    "moving_mnist": "stpredict.data.generated:moving_mnist",
}

_WORDS_PER_DIGIT = 64
"""Random words set aside for one digit's motion: its start, and 31 tries at a direction."""


def positions(words: NDArray[np.uint64], length: int, free_width: int, free_height: int, speed: float) -> NDArray[np.int64]:
    """Return the corner ``(length, 2)``, row and column in pixels, of a digit that moves and bounces.

    Args:
        words: 64 random words.
        length: number of frames.
        free_width: columns that the digit's corner can move over.
        free_height: rows that the digit's corner can move over.
        speed: share of the free width travelled a frame.
    """
    numbers = ((words >> np.uint64(11)) * 2.0**-53).tolist()
    y, x = numbers[0], numbers[1]
    for first, second in zip(numbers[2::2], numbers[3::2], strict=True):
        down, right = 2.0 * first - 1.0, 2.0 * second - 1.0
        squared = down * down + right * right
        if 0.0 < squared <= 1.0:
            break
    radius = math.sqrt(squared)
    down, right = speed * (down / radius), speed * (right / radius)
    path = np.empty((length, 2), dtype=np.int64)
    for step in range(length):
        y, down = _bounce(y + down, down)
        x, right = _bounce(x + right, right)
        path[step] = int(free_height * y), int(free_width * x)
    return path


def _bounce(place: float, velocity: float) -> tuple[float, float]:
    if place <= 0.0:
        return 0.0, -velocity
    if place >= 1.0:
        return 1.0, -velocity
    return place, velocity


_FIXED_SEED = 0
"""Validation and test clips do not follow the run's seed: every run is scored on the same ones."""

_GLYPH = 28
"""Height and width of a glyph in pixels."""


class MovingGlyphs(ClipSet):
    """Clips of glyphs that move over a black square; a subclass says which glyphs, and what its card and test split are called.

    Splits: ``train`` (endless), ``validation`` and the test split; they differ in their random stream.
    """

    CARD: ClassVar[str]
    TEST: ClassVar[str]

    def __init__(
        self,
        root: Path | None,
        split: str,
        *,
        context: int,
        horizon: int,
        seed: int = 0,
        digits: int = 2,
        size: int = 64,
        speed: float = 0.1,
        validation_clips: int = 1000,
        test_clips: int = 10000,
    ) -> None:
        counts = {"train": 10000, "validation": validation_clips, self.TEST: test_clips}
        if split not in counts:
            raise UserError(f"{self.CARD} has no split '{split}'{nearest(split, counts)}")
        if digits < 1:
            raise UserError(f"A clip needs at least one digit, not {digits}")
        if size <= _GLYPH:
            raise UserError(f"Digits of {_GLYPH} pixels need a larger canvas than {size}: set 'size' above {_GLYPH}")
        if not 0.0 < speed < 1.0:
            raise UserError(f"'speed' is the share of the free width travelled a frame, above 0 and below 1, not {speed}")
        self.root, self.split, self.context, self.horizon = root, split, context, horizon
        self.stream, self.count, self.endless = f"{self.CARD} {split}", counts[split], split == "train"
        self.seed = seed if self.endless else _FIXED_SEED
        self.digits, self.size, self.speed = digits, size, speed
        self.spec = FrameSpec(channels=1, height=size, width=size)
        self.packing = Packing(scale=1.0 / 255.0)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Clip:
        if not 0 <= index < self.count and not self.endless:
            raise IndexError(index)
        length = self.context + self.horizon
        words = draws.words(self.seed, f"{self.stream} motion", 0, index, self.digits * _WORDS_PER_DIGIT)
        frames = np.zeros((length, 1, self.size, self.size), dtype=np.uint8)
        for digit, glyph in enumerate(self.glyphs(index)):
            for frame, (row, column) in zip(frames, self._path(words, digit, length).tolist(), strict=True):
                place = frame[0, row : row + _GLYPH, column : column + _GLYPH]
                np.maximum(place, glyph, out=place)
        return Clip(frames, name=f"{self.split} {index}")

    def _path(self, words: NDArray[np.uint64], digit: int, length: int) -> NDArray[np.int64]:
        free = self.size - _GLYPH
        return positions(words[digit * _WORDS_PER_DIGIT : (digit + 1) * _WORDS_PER_DIGIT], length, free, free, self.speed)

    def motion_checksum(self, clips: int) -> str:
        """Return the SHA-256 of the integer positions (little-endian int32) of the first clips: it pins the split's motion."""
        checksum = hashlib.sha256()
        for index in range(clips):
            words = draws.words(self.seed, f"{self.stream} motion", 0, index, self.digits * _WORDS_PER_DIGIT)
            for digit in range(self.digits):
                checksum.update(self._path(words, digit, self.context + self.horizon).astype("<i4").tobytes())
        return checksum.hexdigest()

    @abstractmethod
    def glyphs(self, index: int) -> list[NDArray[np.uint8]]:
        """Return the glyphs ``(28, 28)`` of clip ``index``, 0 black to 255 white."""


class MovingDigits(MovingGlyphs):
    """Digits drawn at run time by OpenCV in a random face, slant, thickness and scale: no file is needed."""

    CARD, TEST = "moving_digits", "test"
    FACES = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_TRIPLEX)

    def glyphs(self, index: int) -> list[NDArray[np.uint8]]:
        """Return digits drawn for clip ``index``."""
        numbers = draws.uniform(self.seed, f"{self.stream} digits", 0, index, self.digits * 5).reshape(self.digits, 5)
        return [self._draw(*row) for row in numbers.tolist()]

    def _draw(self, which: float, face: float, slant: float, thickness: float, scale: float) -> NDArray[np.uint8]:
        text, font = str(int(which * 10)), self.FACES[int(face * len(self.FACES))]
        glyph = np.zeros((28, 28), dtype=np.uint8)
        stroke, height = 1 + int(thickness * 3), 0.75 + 0.25 * scale
        (width, ascent), _ = cv2.getTextSize(text, font, height, stroke)
        cv2.putText(glyph, text, ((28 - width) // 2, (28 + ascent) // 2), font, height, 255, stroke, cv2.LINE_AA)
        shear = 0.6 * (slant - 0.5)
        return np.asarray(cv2.warpAffine(glyph, np.array([[1.0, -shear, 14.0 * shear], [0.0, 1.0, 0.0]]), (28, 28)), dtype=np.uint8)


class MovingMNIST(MovingGlyphs):
    """Handwritten digits of MNIST in motion.

    Splits: ``train`` (endless, from the first 50,000 training digits), ``validation`` (from the other 10,000),
    ``generated`` (10,000 clips from the 10,000 test digits, the same for everybody).
    """

    CARD, TEST = "moving_mnist", "generated"
    _SPLITS: ClassVar = {"train": ("train", 0, 50000), "validation": ("train", 50000, 60000), "generated": ("test", 0, 10000)}

    root: Path

    def __init__(self, root: Path, split: str, **motion: Any) -> None:
        super().__init__(root, split, **motion)
        self._images()  # so that a file that is not there shows now

    def _images(self) -> NDArray[np.uint8]:
        part, start, stop = self._SPLITS[self.split]
        images = _cached_mnist(self.root, part)
        if len(images) < stop:
            raise UserError(f"The MNIST {part} images under {self.root} are {len(images)}, but split '{self.split}' needs {stop}")
        return images[start:stop]

    def glyphs(self, index: int) -> list[NDArray[np.uint8]]:
        """Return the handwritten digits of clip ``index``."""
        images = self._images()
        numbers = draws.uniform(self.seed, f"{self.stream} digits", 0, index, self.digits)
        return [images[int(number * len(images))] for number in numbers.tolist()]


@lru_cache(maxsize=4)
def _cached_mnist(root: Path, part: str) -> NDArray[np.uint8]:
    return read_mnist(root, part)


class ClassicMovingMNIST(ClipSet):
    """The published test clips ``mnist_test_seq.npy`` (20, 10000, 64, 64) uint8, memory-mapped: split ``classic``."""

    FILE = "mnist_test_seq.npy"

    def __init__(self, root: Path, *, context: int, horizon: int) -> None:
        self.path = root / self.FILE
        self.split, self.context, self.horizon = "classic", context, horizon
        if not self.path.is_file():
            raise UserError(
                f"The split 'classic' is the published file {self.FILE}, which {root} does not hold; 'generated' needs MNIST alone"
            )
        shape, kind = self._frames().shape, self._frames().dtype
        if len(shape) != 4 or kind != np.uint8:
            raise UserError(f"{self.path} should hold (20, 10000, 64, 64) uint8 and holds {shape} {kind}")
        if context + horizon > shape[0]:
            raise UserError(f"{self.path} has clips of {shape[0]} frames: context {context} + horizon {horizon} does not fit")
        self.count = int(shape[1])
        self.spec = FrameSpec(channels=1, height=int(shape[2]), width=int(shape[3]))
        self.packing = Packing(scale=1.0 / 255.0)

    def _frames(self) -> NDArray[np.uint8]:
        try:
            frames: NDArray[np.uint8] = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise UserError(f"{self.path} is no whole .npy file: {error}") from None
        return frames

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Clip:
        frames = np.array(self._frames()[: self.context + self.horizon, index, None])
        return Clip(frames, name=f"classic {index}")


def moving_mnist(
    root: Path | None,
    split: str,
    *,
    context: int,
    horizon: int,
    seed: int = 0,
    digits: int = 2,
    size: int = 64,
    speed: float = 0.1,
    validation_clips: int = 1000,
    test_clips: int = 10000,
) -> ClipSet:
    """Return the clips of one split of Moving MNIST; ``test`` stands for ``generated``.

    Raises:
        UserError: the folder does not hold the files, or there is no such split.
    """
    split = "generated" if split == "test" else split
    known = ("train", "validation", "generated", "classic")
    if split not in known:
        raise UserError(f"moving_mnist has no split '{split}'{nearest(split, known)}")
    if root is None:
        raise UserError("moving_mnist needs the folder that holds (or will hold) the MNIST files: give it by --root FOLDER or data.root")
    if split == "classic":
        return ClassicMovingMNIST(Path(root), context=context, horizon=horizon)
    return MovingMNIST(
        Path(root),
        split,
        context=context,
        horizon=horizon,
        seed=seed,
        digits=digits,
        size=size,
        speed=speed,
        validation_clips=validation_clips,
        test_clips=test_clips,
    )
