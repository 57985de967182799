"""Pieces of HTML: whatever comes from data is escaped here, and numbers get as many digits as they are worth."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import TypeGuard


def escape(text: object) -> str:
    """Return a text as HTML shows it, also between quotes; what UTF-8 cannot say becomes a question mark."""
    return html.escape(str(text).replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8"))


def name(text: object) -> str:
    """Return a name that somebody chose; it cannot turn the direction of the words around it."""
    return f'<bdi class="name">{escape(text)}</bdi>'


def facts(pairs: Mapping[str, str]) -> str:
    """Return labels and their texts as a list of descriptions."""
    rows = "".join(f"<div{_shape(text)}><dt>{escape(label)}</dt><dd>{name(text)}</dd></div>" for label, text in pairs.items())
    return f'<dl class="facts">{rows}</dl>' if rows else ""


def _shape(text: str) -> str:
    """Return the class of a text that needs room: a long one has a line of its own."""
    return " class=long" if len(text) > 60 else " class=hash" if len(text) > 24 and " " not in text else ""


def details(summary: str, body: str) -> str:
    """Return HTML that is folded away under a line of plain text."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def table(label: str, head: Sequence[str], groups: Iterable[Iterable[tuple[str, Sequence[str]]]], kind: str = "", caption: str = "") -> str:
    """Return a table that scrolls inside its own box.

    Args:
        label: what it is, for those who cannot see it.
        head: the cells of the first row, as HTML.
        groups: the rows that belong together, each a heading and whole ``<td>`` elements, as HTML.
        kind: its class.
        caption: a line of plain text above it.
    """
    columns = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    bodies = "".join(
        "<tbody>" + "".join(f'<tr><th scope="row">{heading}</th>{"".join(cells)}</tr>' for heading, cells in rows) + "</tbody>"
        for rows in map(list, groups)
        if rows
    )
    said = f'<p class="caption-above">{escape(caption)}</p>' if caption else ""
    box = f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">'
    return f'{said}{box}<table class="{kind}"><thead><tr>{columns}</tr></thead>{bodies}</table></div>'


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def decimals(values: Iterable[object], intervals: Iterable[object] = ()) -> int:
    """Return how many digits after the point the numbers of a column have.

    Two digits of the usual interval's half are told; without intervals, four of the usual value.
    """
    halves = [(bounds[1] - bounds[0]) / 2 for bounds in intervals if is_interval(bounds) and bounds[1] > bounds[0]]
    sizes = [abs(value) for value in values if is_number(value) and value]
    size, digits = (median(halves), 2) if halves else (median(sizes), 4) if sizes else (1.0, 1)
    return max(0, digits - 1 - math.floor(math.log10(size)))


def number(value: object, places: int) -> str:
    """Return a number as text, with a true minus sign; a dash where there is none."""
    if not is_number(value):
        return "\N{EN DASH}"
    said = f"{value:.3e}" if places > 7 or abs(value) >= 1e9 else f"{value:,.{places}f}"
    return said.replace("-", "\N{MINUS SIGN}")


def interval(bounds: object, places: int) -> str:
    """Return an interval as small text; nothing where there is none."""
    if not is_interval(bounds):
        return ""
    low, high = bounds
    return f' <span class="interval">[{number(low, places)}, {number(high, places)}]</span>'


def is_interval(bounds: object) -> TypeGuard[tuple[float, float]]:
    """Whether it is a pair of finite numbers."""
    return isinstance(bounds, Sequence) and len(bounds) == 2 and all(map(is_number, bounds))
