"""Video files, a film each, decoded as they are read: whatever PyAV (FFmpeg) decodes.

A film is decoded once when it is found, to learn its frames' time stamps; later reads seek to a key frame at or before
the first wanted frame and decode on from there. Key frames may lie hundreds of frames apart, so films that are small when decoded
are remembered; of the others no more than the frames asked for is held.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stpredict.data.clips import Film, Reader
from stpredict.data.readers.finding import find_files, inspect_each, name_below, naming, refuse_different
from stpredict.errors import UserError
from stpredict.frames import Packing

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_SUFFIXES = ["mp4", "m4v", "mov", "avi", "mkv", "webm", "mpg", "mpeg", "ts", "m2ts", "mts", "wmv", "flv", "ogv", "3gp", "y4m", "gif"]

REMEMBERED_BYTES = 256 * 2**20
"""How much a reader remembers of decoded films, in each process."""


@dataclass(frozen=True)
class _Index:
    """What decoding a film once tells.

    Attributes:
        count: number of frames.
        height: of a frame as it is shown, any rotation applied.
        width: of a frame as it is shown.
        stamps: ``(count,)`` presentation times in units of the stream, increasing; None where the file has none to trust.
        key_frames: positions of the frames that can be decoded without others.
        rate: frames a second, or None where unknown.
    """

    count: int
    height: int
    width: int
    stamps: NDArray[np.int64] | None
    key_frames: frozenset[int]
    rate: float | None


class Video(Reader):
    """Reads video files as films.

    Args:
        root: a video file, or a folder of them, searched with all its folders.
        colour: red, green and blue (C = 3) instead of gray (C = 1).
        leave_out: patterns of paths below the root that are not read.

    Raises:
        UserError: there is no such file, one is damaged, or they differ in size.
    """

    def __init__(self, root: Path, *, colour: bool = False, leave_out: Sequence[str] = ()) -> None:
        self.colour = colour
        self._paths = find_files(root, [f"*.{suffix}" for suffix in _SUFFIXES], leave_out)
        self._indices = inspect_each(root, self._paths, _index)
        refuse_different(root, self._paths, [f"frames of {index.height} x {index.width} pixels" for index in self._indices])
        self.films = [Film(name_below(root, path), index.count) for path, index in zip(self._paths, self._indices, strict=True)]
        self.channels, self.height, self.width = 3 if colour else 1, self._indices[0].height, self._indices[0].width
        self.packing = Packing(scale=1 / 255)
        sizes = [index.count * self.channels * self.height * self.width for index in self._indices]
        self._is_remembered = [total <= REMEMBERED_BYTES for total in accumulate(sizes)]
        self._pictures: dict[tuple[int, int], NDArray[np.uint8]] = {}
        rate = self._indices[0].rate
        one_rate = all(index.rate is not None and abs(index.rate - (rate or 0)) < 1e-3 for index in self._indices)
        self.facts = {"time_step": 1 / rate} if rate and one_rate else {}

    def read(self, film: int, positions: range) -> NDArray[np.uint8]:
        """Return packed frames ``(T, C, H, W)``."""
        if all((film, position) in self._pictures for position in positions):
            return np.stack([self._pictures[film, position] for position in positions])
        path, index, remember = self._paths[film], self._indices[film], self._is_remembered[film]
        frames = np.empty((len(positions), self.channels, self.height, self.width), dtype=np.uint8)
        wanted = set(positions)
        for decode in (_decode_from_key_frame, _decode_from_start):
            found = 0
            for position, frame in decode(path, index, positions.start):
                if remember:
                    self._pictures[film, position] = self._picture(frame)
                if position in wanted:
                    picture = self._pictures[film, position] if remember else self._picture(frame)
                    frames[(position - positions.start) // positions.step] = picture
                    found += 1
                if position >= positions[-1]:
                    break
            if found == len(positions):
                return frames
        raise UserError(f"'{path}' is damaged: its frames from {positions.start} to {positions[-1]} cannot be decoded")

    def _picture(self, frame: VideoFrame) -> NDArray[np.uint8]:
        picture = np.asarray(frame.to_ndarray(format="rgb24" if self.colour else "gray"), dtype=np.uint8)
        upright = np.rot90(picture, frame.rotation // 90)
        return upright.transpose(2, 0, 1) if self.colour else upright[np.newaxis]


@contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    import av

    with naming(path, "video file", av.error.FFmpegError), av.open(str(path), metadata_errors="replace") as container:
        if not container.streams.video:
            raise UserError(f"'{path}' holds no video that can be read; perhaps it is truncated")
        yield container, container.streams.video[0]


def _index(path: Path) -> _Index:
    status = path.stat()
    return _decode_once(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4096)  # the train, validation and test split of an archive look at the same files
def _decode_once(path: Path, modified: int, size: int) -> _Index:
    stamps: list[int | None] = []
    key_frames: set[int] = set()
    sizes: set[tuple[int, int]] = set()
    packets = 0
    with _opened(path) as (container, stream):
        stream.thread_type = "AUTO"
        for packet in container.demux(stream):
            packets += packet.size > 0
            for frame in packet.decode():
                if packet.is_corrupt or frame.is_corrupt:
                    raise UserError(f"'{path}' is damaged: about frame {len(stamps)} a part is missing; get it again or leave it out")
                turned = frame.rotation // 90 % 2 == 1
                sizes.add((frame.width, frame.height) if turned else (frame.height, frame.width))
                if frame.key_frame:
                    key_frames.add(len(stamps))
                stamps.append(frame.pts)
        if packets < stream.frames:
            raise UserError(f"'{path}' is truncated: of {stream.frames} frames {packets} are there; get it again or leave it out")
        if len(sizes) != 1:
            raise UserError(f"'{path}' holds frames of differing size: {sorted(sizes)}" if sizes else f"'{path}' holds no frame")
        rate = float(stream.average_rate) if stream.average_rate else None
    (height, width) = sizes.pop()
    known = [stamp for stamp in stamps if stamp is not None]
    trusted = len(known) == len(stamps) and bool(np.all(np.diff(known) > 0))
    return _Index(len(stamps), height, width, np.array(known, dtype=np.int64) if trusted else None, frozenset(key_frames), rate)


def _decode_from_key_frame(path: Path, index: _Index, first: int) -> Iterator[tuple[int, VideoFrame]]:
    """Yield positions and frames from a key frame at or before ``first``; end early where the file cannot be sought in.

    In some containers (MPEG program streams) time stamps are guesses after a seek, so they are believed only as long as they
    continue from a key frame in the order that decoding the whole film gave.
    """
    if index.stamps is None:
        return
    with _opened(path) as (container, stream):
        container.seek(int(index.stamps[first]), stream=stream)
        expected: int | None = None
        for frame in container.decode(stream):
            position = int(np.searchsorted(index.stamps, frame.pts)) if frame.pts is not None else index.count
            known = position < index.count and index.stamps[position] == frame.pts
            in_order = position == expected if expected is not None else position <= first and position in index.key_frames
            if not (known and in_order):
                return
            yield position, frame
            expected = position + 1


def _decode_from_start(path: Path, index: _Index, first: int) -> Iterator[tuple[int, VideoFrame]]:
    with _opened(path) as (container, stream):
        yield from enumerate(container.decode(stream))
