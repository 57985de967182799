"""The films that are shown side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stpredict.errors import UserError, nearest


@dataclass(frozen=True, eq=False)
class Panel:
    """One film under one title.

    Attributes:
        title: what stands above it.
        frames: ``(T, C, H, W)`` float32 physical values, NaN = missing. C = 1 is shown by a colour map, C = 3 as red, green
            and blue in the value range. A frame may be missing altogether: a predictor forecasts no context.
        kind: ``value``, or ``error`` for a signed difference, shown in diverging colours around 0 (of three channels: their mean).
        row: the name of the row that it stands in, such as that of a clip; panels of one row stand side by side.
        notes: a line for each frame, written under it, such as a score; empty: none.
    """

    title: str
    frames: NDArray[np.float32]
    kind: Literal["value", "error"] = "value"
    row: str = ""
    notes: Sequence[str] = ()


def check_panels(panels: Sequence[Panel] | Mapping[str, Any]) -> list[Panel]:
    """Return panels whose frames are float32 ``(T, C, H, W)`` with C = 1 or 3, all of equal T, H and W, row by row.

    Args:
        panels: panels; or title -> array ``(T, C, H, W)`` or ``(T, H, W)``; or row -> title -> array.

    Raises:
        UserError: there is no panel, one has another shape or an unknown kind, or two of them differ in T, H or W.
    """
    given = list(_named(panels)) if isinstance(panels, Mapping) else list(panels)
    if not given:
        raise UserError("There is no panel to show: give at least one film")
    checked = [_check(panel) for panel in given]
    first = checked[0]
    for other in checked[1:]:
        if _extent(other) != _extent(first):
            raise UserError(
                f"The panels differ in size: '{first.title}' is {_extent(first)}, '{other.title}' is {_extent(other)} "
                "(frames x rows x columns); cut or pad them to one size"
            )
    return [panel for row in in_rows(checked).values() for panel in row]


def in_rows(panels: Sequence[Panel]) -> dict[str, list[Panel]]:
    """Return the panels of each row, in the order in which rows are first named."""
    rows: dict[str, list[Panel]] = {}
    for panel in panels:
        rows.setdefault(panel.row, []).append(panel)
    return rows


def _named(panels: Mapping[str, Any]) -> Iterator[Panel]:
    for name, given in panels.items():
        if isinstance(given, Mapping):
            yield from (Panel(str(title), frames, row=str(name)) for title, frames in given.items())
        else:
            yield Panel(str(name), given)


def _check(panel: Panel) -> Panel:
    frames = np.asarray(panel.frames, dtype=np.float32)
    if frames.ndim == 3:
        frames = frames[:, None]
    if frames.ndim != 4 or frames.shape[1] not in (1, 3) or 0 in frames.shape:
        raise UserError(
            f"The panel '{panel.title}' has the shape {np.shape(panel.frames)}; it needs (T, H, W) or (T, C, H, W) with 1 or 3 channels: "
            "choose the channels to show"
        )
    if panel.kind not in ("value", "error"):
        raise UserError(f"The panel '{panel.title}' is of no known kind '{panel.kind}'{nearest(panel.kind, ('value', 'error'))}")
    if len(panel.notes) not in (0, len(frames)):
        raise UserError(f"The panel '{panel.title}' has {len(panel.notes)} notes for {len(frames)} frames; give one for each frame")
    if panel.kind == "error":
        frames = frames.mean(axis=1, keepdims=True)
    return replace(
        panel, title=one_line(panel.title), frames=frames, row=one_line(panel.row), notes=tuple(one_line(note) for note in panel.notes)
    )


def one_line(text: str) -> str:
    """Return a text without its line breaks."""
    return " ".join(text.splitlines())


def _extent(panel: Panel) -> str:
    count, _, height, width = panel.frames.shape
    return f"{count} x {height} x {width}"


def evenly(count: int, at_most: int) -> list[int]:
    """Return no more than ``at_most`` of the numbers 0 .. count-1, evenly spaced, the first and the last among them."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, at_most))})
