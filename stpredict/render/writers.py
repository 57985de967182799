"""Film files: pictures of one size to H.264, VP9, GIF or WebP."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stpredict.errors import UserError
from stpredict.render.panels import evenly

Picture = Callable[[int], NDArray[np.uint8]]


def write_mp4(path: Path, picture: Picture, count: int, frames_per_second: float) -> None:
    """Write H.264 in the form that browsers play: yuv420p, the index before the pictures."""
    if not _has_av():
        raise UserError("Writing .mp4 needs the library 'av' (pip install av); .webm works without it")
    _encode(path, picture, count, frames_per_second, "libx264", {"crf": "18", "preset": "veryfast"})


def write_webm(path: Path, picture: Picture, count: int, frames_per_second: float) -> None:
    """Write VP9, by PyAV or, where that is not installed, by OpenCV."""
    if _has_av():
        options = {"crf": "24", "b": "0", "deadline": "realtime", "cpu-used": "5", "row-mt": "1"}
        _encode(path, picture, count, frames_per_second, "libvpx-vp9", options)
    else:
        _encode_by_opencv(path, picture, count, frames_per_second)


def write_gif(path: Path, picture: Picture, count: int, frames_per_second: float) -> None:
    """Write an endless GIF whose frames share one palette.

    Raises:
        UserError: more than 50 frames per second, which programs play as 10.
    """
    if frames_per_second > 50:
        raise UserError(f"A GIF shows at most 50 frames per second, not {frames_per_second:g}; choose fewer, or another format")
    entries = _common_palette(picture, count)
    palette = Image.new("P", (1, 1))
    palette.putpalette(entries)
    images = (Image.fromarray(picture(time)).quantize(palette=palette, dither=Image.Dither.NONE) for time in range(count))
    _save_animation(path, images, frames_per_second, palette=entries)


def write_webp(path: Path, picture: Picture, count: int, frames_per_second: float) -> None:
    """Write an endless WebP without loss."""
    images = (Image.fromarray(picture(time)) for time in range(count))
    _save_animation(path, images, frames_per_second, lossless=True, quality=20, method=2)


WRITERS: dict[str, Callable[[Path, Picture, int, float], None]] = {
    ".mp4": write_mp4,
    ".webm": write_webm,
    ".gif": write_gif,
    ".webp": write_webp,
}


def _has_av() -> bool:
    try:
        import av  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "av":
            raise
        return False
    return True


def _encode(path: Path, picture: Picture, count: int, frames_per_second: float, codec: str, options: dict[str, str]) -> None:
    import av
    from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

    height, width, _ = picture(0).shape
    container_options = {"movflags": "+faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=container_options) as container:
        stream = container.add_stream(codec, rate=Fraction(frames_per_second).limit_denominator(1_000_000), options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        # Players guess the colours of a film that does not say how they are coded, each in its own way.
        stream.codec_context.colorspace = Colorspace.ITU709
        stream.codec_context.color_range = ColorRange.MPEG
        stream.codec_context.color_primaries = ColorPrimaries.BT709
        stream.codec_context.color_trc = ColorTrc.BT709
        for time in range(count):
            frame = av.VideoFrame.from_ndarray(picture(time), format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
            frame.pts = time
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        _check_count(path, sum(1 for _ in container.decode(video=0)), count)


def _encode_by_opencv(path: Path, picture: Picture, count: int, frames_per_second: float) -> None:
    height, width, _ = picture(0).shape
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"vp09"), frames_per_second, (width, height))
    try:
        for time in range(count):
            writer.write(cv2.cvtColor(picture(time), cv2.COLOR_RGB2BGR))
    finally:
        writer.release()
    film = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    found = 0
    while film.grab():
        found += 1
    film.release()
    _check_count(path, found, count)


def _check_count(path: Path, found: int, count: int) -> None:
    """Refuse a film that lacks frames: OpenCV drops what it cannot write, and says nothing."""
    if found != count:
        raise OSError(f"Only {found} of {count} frames could be written to '{path.parent}'; is the disk full?")


def _save_animation(path: Path, images: Iterator[Image.Image], frames_per_second: float, **options: Any) -> None:
    first = next(images)
    first.save(path, save_all=True, append_images=images, duration=1000 / frames_per_second, loop=0, **options)


def _common_palette(picture: Picture, count: int) -> bytes:
    """Return up to 256 colours, three bytes each, for all frames, made from up to 16 of them.

    Half of it goes to the commonest colours as they are, so that neither the paper nor a step of a colour map (its legend makes it
    common, however few pixels a storm's core has) becomes another; the rest of the colours share what is left.
    """
    numbers: Counter[Any] = Counter()
    for time in evenly(count, 16):
        image = Image.fromarray(picture(time))
        numbers.update({colour: number for number, colour in image.getcolors(image.width * image.height) or ()})
    colours = np.array([colour for colour, _ in numbers.most_common()], dtype=np.uint8)
    kept, shared = (colours, colours[:0]) if len(colours) <= 256 else (colours[:128], colours[128:])
    entries = kept.tobytes()
    if len(shared):
        entries += bytes(Image.fromarray(shared[None]).quantize(256 - len(kept), Image.Quantize.MEDIANCUT).getpalette() or ())
    return entries
