"""A film that was written: a path that knows what it holds, and shows itself in notebooks."""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    _Path = Path
else:
    _Path = type(Path())

_SHOWN_AT_MOST = 32 << 20
"""Bytes of a film that a notebook keeps inside; a greater one would make the notebook too heavy to open."""

_KINDS = {".mp4": "video/mp4", ".webm": "video/webm", ".gif": "image/gif", ".webp": "image/webp", ".png": "image/png"}


class Film(_Path):
    """The path of a film or strip; paths made from it, such as its folder, have no frames.

    Attributes:
        frames: how many it has; of a strip, how many columns.
        width: in pixels.
        height: in pixels.
        frames_per_second: speed; 0 for a strip.
    """

    frames: int = 0
    width: int = 0
    height: int = 0
    frames_per_second: float = 0.0

    @classmethod
    def of(cls, path: Path, frames: int, width: int, height: int, frames_per_second: float) -> Film:
        """Return the film at a path."""
        film = cls(path)
        film.frames, film.width, film.height, film.frames_per_second = frames, width, height, frames_per_second
        return film

    def with_segments(self, *segments: Any) -> Path:
        """Return another path, which Python 3.12 asks for."""
        return Path(*segments)

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep what is known through a copy."""
        return Film.of, (Path(self), self.frames, self.width, self.height, self.frames_per_second)

    def _repr_html_(self) -> str | None:
        """Show the film in a notebook, inside it, so that it moves with it; None where there is no such film, or it is too large."""
        if not self.frames or not self.is_file():
            return None
        size = self.stat().st_size
        name = html.escape(str(self), quote=True)
        if size > _SHOWN_AT_MOST:
            return f"<p>{name}: {size / 2**20:.0f} MiB, too large to be shown inside a notebook</p>"
        kind = _KINDS[self.suffix.lower()]
        data = f"data:{kind};base64,{base64.b64encode(self.read_bytes()).decode()}"
        if kind.startswith("video"):
            return (
                f'<video src="{data}" width="{self.width}" height="{self.height}" style="max-width: 100%; height: auto" '
                f'title="{name}" controls loop muted autoplay playsinline></video>'
            )
        return f'<img src="{data}" width="{self.width}" height="{self.height}" style="max-width: 100%; height: auto" alt="{name}">'
