"""Film files: pictures of one size to H.264, VP9, GIF or WebP."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import groupby
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stpredict.errors import UserError
from stpredict.render.palettes import Palette, common_palette

Picture = Callable[[int], NDArray[np.uint8]]
Writer = Callable[[Path, Picture, Sequence[int], float], None]

# Without B frames, which take a third of the time here and save nothing: what is drawn moves in whole pixels.
_H264 = {"crf": "18", "preset": "veryfast", "bf": "0"}
_VP9 = {"crf": "24", "b": "0", "deadline": "realtime", "cpu-used": "5", "row-mt": "1"}
_KEYS_ONLY = {
    "libx264": {"crf": "26", "preset": "veryfast", "g": "1", "bf": "0"},
    "libvpx-vp9": {"crf": "40", "b": "0", "deadline": "realtime", "cpu-used": "5", "g": "1", "lag-in-frames": "0", "auto-alt-ref": "0"},
}


def write_mp4(path: Path, picture: Picture, times: Sequence[int], frames_per_second: float) -> None:
    """Write H.264 in the form that browsers play: yuv420p, the index before the pictures.

    Raises:
        UserError: the library or its encoder is not there.
    """
    if not _has_encoder("libx264"):
        raise UserError(f"Writing .mp4 needs {_what_lacks()}; .webm works without it")
    _encode(path, picture, times, frames_per_second, "libx264", _H264)


def write_webm(path: Path, picture: Picture, times: Sequence[int], frames_per_second: float) -> None:
    """Write VP9, by PyAV or, where that or its encoder is not there, by OpenCV."""
    if _has_encoder("libvpx-vp9"):
        _encode(path, picture, times, frames_per_second, "libvpx-vp9", _VP9)
    else:
        _encode_by_opencv(path, picture, times, frames_per_second)


def keys_only_suffix() -> str:
    """Return what :func:`write_keys_only` can write on this machine: ``.mp4``, or ``.webm`` where there is no encoder of H.264."""
    return ".mp4" if _has_encoder("libx264") else ".webm"


def write_keys_only(path: Path, picture: Picture, times: Sequence[int], frames_per_second: float) -> None:
    """Write a film every frame of which stands by itself, so that a player that seeks shows the frame asked for, at once.

    Where there is no PyAV, OpenCV writes VP9 that has other frames as well.
    """
    codec = "libx264" if path.suffix == ".mp4" else "libvpx-vp9"
    if _has_encoder(codec):
        _encode(path, picture, times, frames_per_second, codec, _KEYS_ONLY[codec])
    else:
        _encode_by_opencv(path, picture, times, frames_per_second)


def write_gif(path: Path, picture: Picture, times: Sequence[int], frames_per_second: float) -> None:
    """Write an endless GIF whose frames share one palette.

    Raises:
        UserError: more than 50 frames per second, which programs play as 10.
    """
    if frames_per_second > 50:
        raise UserError(f"A GIF shows at most 50 frames per second, not {frames_per_second:g}; choose fewer, or another format")
    palette = Palette(common_palette(picture, sorted(set(times))))
    _save_animation(path, lambda time: palette.image(picture(time)), times, frames_per_second, palette=palette.entries, optimize=False)


def write_webp(path: Path, picture: Picture, times: Sequence[int], frames_per_second: float) -> None:
    """Write an endless WebP without loss."""
    _save_animation(
        path,
        lambda time: Image.fromarray(picture(time)),
        times,
        frames_per_second,
        lossless=True,
        quality=20,
        method=0,
        minimize_size=False,
    )


WRITERS: Mapping[str, Writer] = {".mp4": write_mp4, ".webm": write_webm, ".gif": write_gif, ".webp": write_webp}
"""Each writes a film: frame ``times[k]`` of a picture is shown ``k / frames_per_second`` seconds after the start."""


def _has_encoder(name: str) -> bool:
    if not _has_av():
        return False
    from av.codec import Codec
    from av.codec.codec import UnknownCodecError

    try:
        Codec(name, "w")
    except UnknownCodecError:
        return False
    return True


def _has_av() -> bool:
    try:
        import av  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "av":
            raise
        return False
    return True


def _what_lacks() -> str:
    return "the encoder libx264, which this machine's 'av' lacks" if _has_av() else "the library 'av' (pip install av)"


def _in_order(picture: Picture, times: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
    """Yield the pictures of a film; one that stands for a while is drawn once."""
    drawn, last = -1, np.zeros((0, 0, 3), dtype=np.uint8)
    for time in times:
        if time != drawn:
            drawn, last = time, picture(time)
        yield last


def _encode(path: Path, picture: Picture, times: Sequence[int], frames_per_second: float, codec: str, options: Mapping[str, str]) -> None:
    import av
    from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter

    height, width, _ = picture(times[0]).shape
    container_options = {"movflags": "+faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=container_options) as container:
        stream = container.add_stream(codec, rate=Fraction(frames_per_second).limit_denominator(1_000_000), options=dict(options))
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        # Players guess the colours of a film that does not say how they are coded, each in its own way.
        stream.codec_context.colorspace = Colorspace.ITU709
        stream.codec_context.color_range = ColorRange.MPEG
        stream.codec_context.color_primaries = ColorPrimaries.BT709
        stream.codec_context.color_trc = ColorTrc.BT709
        convert = VideoReformatter()  # one for all frames, since its tables take longer to make than a frame to convert
        for number, shown in enumerate(_in_order(picture, times)):
            frame = av.VideoFrame.from_ndarray(shown, format="rgb24")
            frame = convert.reformat(frame, format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        _check_count(path, sum(packet.size > 0 for packet in container.demux(video=0)), len(times))


def _encode_by_opencv(path: Path, picture: Picture, times: Sequence[int], frames_per_second: float) -> None:
    height, width, _ = picture(times[0]).shape
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"vp09"), frames_per_second, (width, height))
    try:
        for shown in _in_order(picture, times):
            writer.write(cv2.cvtColor(shown, cv2.COLOR_RGB2BGR))
    finally:
        writer.release()
    film = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    found = 0
    while film.grab():
        found += 1
    film.release()
    _check_count(path, found, len(times))


def _check_count(path: Path, found: int, count: int) -> None:
    """Refuse a film that lacks frames: OpenCV drops what it cannot write, and says nothing."""
    if found != count:
        raise OSError(f"Only {found} of {count} frames could be written to '{path.parent}'; is the disk full?")


def _save_animation(
    path: Path, image: Callable[[int], Image.Image], times: Sequence[int], frames_per_second: float, **options: Any
) -> None:
    """Write pictures, each for as long as it stands."""
    stands = [(time, len(list(group))) for time, group in groupby(times)]
    durations = [1000 / frames_per_second * count for _, count in stands]
    changes = 0

    def images() -> Iterator[Image.Image]:
        nonlocal changes
        last = None
        for time, _ in stands:
            shown = image(time)
            changes += shown != last
            yield (last := shown)

    drawn = images()
    next(drawn).save(path, save_all=True, append_images=drawn, duration=durations, loop=0, **options)
    with Image.open(path) as written:
        # Two equal pictures after each other become one that stands longer.
        _check_count(path, getattr(written, "n_frames", 1), changes)
