"""Films from CF NetCDF files and Zarr stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpredict.data.clips import Film, Reader
from stpredict.data.readers.cf_files import find_places, read_stored
from stpredict.data.readers.cf_header import Header, Settings, read_header
from stpredict.data.readers.finding import BadFiles, inspect_each, name_below, refuse_different
from stpredict.errors import UserError


class Cf(Reader):
    """Reads all frames of NetCDF files or Zarr stores as one film, ordered by time.

    Dimensions are found by the attributes of their coordinates, then by their names. Integers of 8 and 16 bits stay packed; what
    ``_FillValue``, ``missing_value``, ``valid_min``, ``valid_max`` and ``valid_range`` declare is missing. Times listed in
    ``missing_times`` are no frames. Row order is kept.

    Args:
        root: a NetCDF file, a Zarr store (folder or address, such as ``s3://bucket/rain.zarr``), or a folder of them.
        variable: which one; left out, the only one with time, y and x.
        files: shell patterns of the names of files and stores; left out, by the usual suffixes.
        dimensions: names of dimensions where neither attributes nor names tell them: ``{time: a, y: b, x: c, channel: d}``.
        select: which number is taken along a further dimension, such as ``{ensemble: 0}``.
        units: what frames are to be in; left out, the file's. Accumulations become ``mm/h`` by the period in the file.
        file_units: what the numbers are in, where the file does not say it.
        period: seconds over which an accumulation was gathered, where the file does not say it.
        projection: a PROJ string, WKT or EPSG code, where the file does not say it; ``none``: do without.
        leave_out: patterns of paths below the root that are not read.

    Raises:
        UserError: there is no such file; one is damaged, lacks what is needed, or two are of one time or of two kinds.
    """

    def __init__(
        self,
        root: Path,
        *,
        variable: str | None = None,
        files: Sequence[str] = (),
        dimensions: Mapping[str, str] | None = None,
        select: Mapping[str, int] | None = None,
        units: str | None = None,
        file_units: str | None = None,
        period: float | None = None,
        projection: str | None = None,
        leave_out: Sequence[str] = (),
    ) -> None:
        if period is not None and not period > 0:
            raise UserError(f"The setting period is in seconds, above 0, not {period:g}")
        settings = Settings(variable, dimensions or {}, select or {}, units, file_units, period, projection)
        paths = find_places(root, files, leave_out)
        headers = inspect_each(root, paths, lambda path: read_header(path, settings))
        refuse_different(root, paths, [header.kind for header in headers])
        self._paths = paths
        times = np.concatenate([header.times for header in headers])
        if not len(times):
            raise UserError(f"'{root}' holds no frame")
        # Of each frame, which file it is in and where.
        files_of = np.concatenate([np.full(len(header.times), number) for number, header in enumerate(headers)])
        within = np.concatenate([header.places for header in headers])
        order = np.argsort(times, kind="stable")
        self._file, self._within, times = files_of[order], within[order], times[order]
        self._refuse_one_time(root, times)

        first = headers[0]
        self._variable, self._layout, self._encoding = first.variable, [header.layout for header in headers], first.encoding
        self.films = [Film(name_below(root, root), len(times), times)]
        self.channels, self.height, self.width = first.size
        self.packing = first.encoding.packing(first.factor)
        self.facts = _facts(first, times)

    def read(self, film: int, positions: range) -> NDArray[Any]:
        """Return packed frames ``(T, C, H, W)``."""
        files, within = (
            self._file[positions.start : positions.stop : positions.step],
            self._within[positions.start : positions.stop : positions.step],
        )
        parts, start = [], 0
        while start < len(files):
            stop = start + _run(files[start:], within[start:])
            parts.append(self._read_run(int(files[start]), within[start:stop]))
            start = stop
        if not parts:
            return np.empty(
                (0, self.channels, self.height, self.width), dtype=self._encoding.dtype if self._encoding.is_packed else np.float32
            )
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _read_run(self, file: int, within: NDArray[np.int64]) -> NDArray[Any]:
        """Read frames that lie evenly in one file."""
        path, layout = self._paths[file], self._layout[file]
        step = int(within[1] - within[0]) if len(within) > 1 else 1
        chosen = slice(int(within[0]), int(within[-1]) + 1, step)
        stored = read_stored(path, self._variable, tuple(_index(role, chosen) for role in layout))
        axes = [role for role in layout if isinstance(role, str)]
        for role in ("time", "channel"):
            if role not in axes:
                stored, axes = stored[np.newaxis], [role, *axes]
        frames = stored.transpose([axes.index(role) for role in ("time", "channel", "y", "x")])
        if frames.shape != (len(within), self.channels, self.height, self.width):
            raise UserError(f"'{path}' has changed its size to {frames.shape}")
        return self._encoding.pack(frames)

    def _refuse_one_time(self, root: Path, times: NDArray[np.datetime64]) -> None:
        bad: dict[str, str] = {}
        for number in np.flatnonzero(times[1:] == times[:-1]) + 1:
            before, path = self._paths[self._file[number - 1]], self._paths[self._file[number]]
            both = f"'{before}' and '{path}' hold frames" if before != path else f"'{path}' holds two frames"
            bad.setdefault(name_below(root, path), f"{both} of the same time, {times[number]}; keep one")
        if bad:
            raise BadFiles(bad)


def _index(role: str | int, times: slice) -> int | slice:
    return role if isinstance(role, int) else times if role == "time" else slice(None)


def _run(files: NDArray[np.int64], within: NDArray[np.int64]) -> int:
    """Return how many of the first frames lie in one file at even, increasing distances."""
    length, step = 1, 0
    while length < len(files) and files[length] == files[0]:
        distance = int(within[length] - within[length - 1])
        if distance < 1 or step not in (0, distance):
            break
        length, step = length + 1, distance
    return length


def _facts(header: Header, times: NDArray[np.datetime64]) -> dict[str, Any]:
    facts: dict[str, Any] = {"units": header.units, "grid": header.grid, "period": header.period}
    steps, counts = np.unique(np.diff(times).astype("timedelta64[s]").astype(np.int64), return_counts=True)
    if len(steps):
        facts["time_step"] = float(steps[np.argmax(counts)])
    return facts
