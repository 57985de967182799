"""Moving digits and Moving MNIST: pure functions of (seed, index)."""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stpredict import draws
from stpredict.data.generated import MovingDigits, moving_mnist, positions
from stpredict.data.mnist import read_idx_images
from stpredict.errors import UserError

MNIST = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "mnist"
needs_mnist = pytest.mark.skipif(not MNIST.is_dir(), reason="the MNIST files are not here")

GENERATED_MOTION = "066ce2ac31e39c52264ae7c2fa2c484eae0aae0803cea731f9329b8ff9158492"
"""SHA-256 of the integer positions of the 10,000 test clips: the split is the same for everybody, for ever."""


def write_idx(path: Path, images: np.ndarray, magic: int = 0x803, cut: int = 0) -> Path:
    content = struct.pack(">4I", magic, *images.shape) + images.tobytes()
    content = content[: len(content) - cut]
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    return path


def small_mnist(folder: Path, suffix: str = "") -> Path:
    """Write idx files of the real size with a bar in each image, whose row tells its number."""
    for name, count in (("train", 60000), ("t10k", 10000)):
        images = np.zeros((count, 28, 28), np.uint8)
        images[np.arange(count), np.arange(count) % 28] = 255
        write_idx(folder / f"{name}-images-idx3-ubyte{suffix}", images)
    return folder


def reference_path(numbers: list[float], length: int, free: int, speed: float) -> list[tuple[int, int]]:
    """The motion written out from its description, with the angle as an angle."""
    y, x, pairs = numbers[0], numbers[1], zip(numbers[2::2], numbers[3::2], strict=True)
    a, b = next((2 * a - 1, 2 * b - 1) for a, b in pairs if (2 * a - 1) ** 2 + (2 * b - 1) ** 2 <= 1)
    angle = math.atan2(a, b)
    dy, dx, path = speed * math.sin(angle), speed * math.cos(angle), []
    for _ in range(length):
        y, x = y + dy, x + dx
        if not 0 < y < 1:
            y, dy = min(max(y, 0.0), 1.0), -dy
        if not 0 < x < 1:
            x, dx = min(max(x, 0.0), 1.0), -dx
        path.append((int(free * y), int(free * x)))
    return path


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 30), st.integers(5, 60), st.floats(0.01, 0.5))
def test_motion_follows_its_description(seed: int, length: int, free: int, speed: float) -> None:
    words = draws.words(seed, "motion", 0, 0, 64)
    path = positions(words, length, free, free, speed)
    expected = np.array(reference_path(((words >> np.uint64(11)) * 2.0**-53).tolist(), length, free, speed))
    assert np.abs(path - expected).max() <= 1  # an angle is rounded, the direction vector is not
    assert path.min() >= 0 and path.max() <= free


def test_the_motion_of_the_generated_split_is_pinned(tmp_path: Path) -> None:
    clips = moving_mnist(small_mnist(tmp_path), "generated", context=10, horizon=10)
    assert clips.motion_checksum(10_000) == GENERATED_MOTION


def test_directions_are_uniform() -> None:
    steps = [positions(draws.words(5, "motion", 0, index, 64), 2, 100_000, 100_000, 0.1) for index in range(4000)]
    angles = [math.atan2(*(path[1] - path[0])) for path in steps if path.min() > 0 and path.max() < 100_000]
    histogram, _ = np.histogram(angles, bins=8, range=(-math.pi, math.pi))
    assert ((histogram - len(angles) / 8) ** 2 / (len(angles) / 8)).sum() < 30  # 7 degrees: 1 in 10,000


def test_a_clip_is_a_pure_function_of_seed_and_index() -> None:
    first, again = (MovingDigits(None, "train", context=3, horizon=2, seed=1) for _ in range(2))
    first[0]
    assert np.array_equal(first[123].frames, again[123].frames)
    other = MovingDigits(None, "train", context=3, horizon=2, seed=2)
    assert not np.array_equal(first[123].frames, other[123].frames)
    assert not np.array_equal(first[123].frames, first[124].frames)


def test_test_clips_do_not_follow_the_seed() -> None:
    clips = [MovingDigits(None, "test", context=2, horizon=1, seed=seed)[5].frames for seed in (0, 9)]
    assert np.array_equal(*clips)


def test_a_longer_clip_begins_with_the_shorter_one() -> None:
    short, long = (MovingDigits(None, "test", context=2, horizon=horizon) for horizon in (3, 9))
    assert np.array_equal(short[7].frames, long[7].frames[:5])


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_overlapping_digits_take_the_maximum_and_splits_take_their_images(tmp_path: Path, suffix: str) -> None:
    root = small_mnist(tmp_path, suffix)
    clips = moving_mnist(root, "validation", context=1, horizon=1, digits=3, size=64)
    clip = clips[0].frames
    glyphs = clips.glyphs(0)
    words = draws.words(clips.seed, f"{clips.stream} motion", 0, 0, 3 * 64)
    expected = np.zeros((2, 64, 64), np.uint8)
    for digit, glyph in enumerate(glyphs):
        for frame, (row, column) in zip(expected, positions(words[digit * 64 :][:64], 2, 36, 36, 0.1), strict=True):
            frame[row : row + 28, column : column + 28] = np.maximum(frame[row : row + 28, column : column + 28], glyph)
    assert np.array_equal(clip[:, 0], expected)


@needs_mnist
def test_real_mnist_splits() -> None:
    train, validation, test = (moving_mnist(MNIST, split, context=10, horizon=10) for split in ("train", "validation", "test"))
    assert (train.endless, len(validation), len(test), test.split) == (True, 1000, 10000, "generated")
    assert test.motion_checksum(10_000) == GENERATED_MOTION
    assert test[0].frames.shape == (20, 1, 64, 64) and test[0].frames.dtype == np.uint8
    assert 0.02 < np.mean([test[i].frames.mean() / 255 for i in range(50)]) < 0.08


def test_classic_is_the_published_file_memory_mapped(tmp_path: Path) -> None:
    published = np.random.default_rng(0).integers(0, 256, (20, 7, 64, 64), dtype=np.uint8)
    np.save(tmp_path / "mnist_test_seq.npy", published)
    clips = moving_mnist(tmp_path, "classic", context=10, horizon=10)
    assert len(clips) == 7 and clips.split == "classic"
    assert np.array_equal(clips[3].frames[:, 0], published[:, 3])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda folder: MovingDigits(None, "trian", context=1, horizon=1), "did you mean 'train'"),
        (lambda folder: MovingDigits(None, "train", context=1, horizon=1, size=20), "larger canvas"),
        (lambda folder: MovingDigits(None, "train", context=1, horizon=1, digits=0), "at least one digit"),
        (lambda folder: MovingDigits(None, "train", context=1, horizon=1, speed=0.0), "speed"),
        (lambda folder: moving_mnist(None, "train", context=1, horizon=1), "--root"),
        (lambda folder: moving_mnist(folder, "train", context=1, horizon=1), "train-images-idx3-ubyte"),
        (lambda folder: moving_mnist(folder, "classic", context=1, horizon=1), "mnist_test_seq.npy"),
        (lambda folder: moving_mnist(folder, "tset", context=1, horizon=1), "no split 'tset'"),
    ],
)
def test_what_cannot_be_made_is_said(tmp_path: Path, make: object, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        make(tmp_path)  # type: ignore[operator]


def test_damaged_idx_files(tmp_path: Path) -> None:
    images = np.zeros((3, 28, 28), np.uint8)
    with pytest.raises(UserError, match="magic number is 0x00000801"):
        read_idx_images(write_idx(tmp_path / "a", images, magic=0x801))
    with pytest.raises(UserError, match="holds 2347 bytes"):
        read_idx_images(write_idx(tmp_path / "b", images, cut=5))
    whole = write_idx(tmp_path / "c.gz", images).read_bytes()
    (tmp_path / "c.gz").write_bytes(whole[:-9])
    with pytest.raises(UserError, match="cut off"):
        read_idx_images(tmp_path / "c.gz")
    (tmp_path / "d.gz").write_bytes(b"not a gzip file at all")
    with pytest.raises(UserError, match="damaged"):
        read_idx_images(tmp_path / "d.gz")
    with pytest.raises(UserError, match="header is damaged"):
        read_idx_images(write_idx(tmp_path / "e", np.zeros((1, 99, 28), np.uint8)))


def test_a_damaged_classic_file(tmp_path: Path) -> None:
    np.save(tmp_path / "mnist_test_seq.npy", np.zeros((20, 3, 64, 64), np.float32))
    with pytest.raises(UserError, match="float32"):
        moving_mnist(tmp_path, "classic", context=10, horizon=10)
    (tmp_path / "mnist_test_seq.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(UserError, match="no whole"):
        moving_mnist(tmp_path, "classic", context=10, horizon=10)
