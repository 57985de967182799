"""Tables of numbers with intervals, as text: for a terminal, in Markdown, in LaTeX."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

ARROWS = {"lower": "\N{DOWNWARDS ARROW}", "higher": "\N{UPWARDS ARROW}"}

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "[": "{[}",  # after \\ it would begin an argument
    "]": "{]}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    ARROWS["lower"]: r"$\downarrow$",
    ARROWS["higher"]: r"$\uparrow$",
    **{character: f"\\{character}" for character in "$&#_%"},
}

# What would begin a link, code or other type; an underscore between letters does not, so that mse_sum stays as it is.
_MARKDOWN = re.compile(r"[\\|*`~\[\]]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


@dataclass(frozen=True)
class Cell:
    """A number in a table.

    Attributes:
        value: the number; NaN where there is none.
        low: lower end of its 95 % interval; NaN where it has none.
        high: upper end.
        bold: whether it stands out.
        decimals: how many there are; None: as many as give four digits.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    bold: bool = False
    decimals: int | None = None

    @property
    def number(self) -> str:
        """Return the number alone."""
        return self._text(self.value)

    @property
    def interval(self) -> str:
        """Return ``[low, high]``, or nothing where both are unknown."""
        return "" if math.isnan(self.low) and math.isnan(self.high) else f"[{self._text(self.low)}, {self._text(self.high)}]"

    @property
    def spread(self) -> str:
        """Return the interval in short: ``±`` its wider half, or both, one below the other, where they are of unlike width."""
        if not (math.isfinite(self.value) and math.isfinite(self.low) and math.isfinite(self.high)):
            return self.interval
        below, above = self.value - self.low, self.high - self.value
        if 4 * min(below, above) >= 3 * max(below, above):
            return f"±{_short(max(below, above))}"
        return f"+{_short(above)}\n-{_short(below)}"

    def _text(self, number: float) -> str:
        if self.decimals is not None:
            return f"{number:.{self.decimals}f}"
        return f"{number:.0f}" if 1e4 <= abs(number) < 1e7 else f"{number:#.4g}".removesuffix(".")


@dataclass(frozen=True)
class Sheet:
    """A table before it is drawn.

    Attributes:
        title: what stands above it.
        headings: of the columns behind the first, which is of predictors.
        rows: the cells of each predictor.
        breaks: the rows above which a line is drawn.
        note: what stands below it.
        first: heading of the first column.
    """

    title: str
    headings: Sequence[str]
    rows: Mapping[str, Sequence[Cell]]
    breaks: Sequence[str] = ()
    note: str = ""
    first: str = "predictor"

    def table(self) -> Table:
        """Return the table for a terminal, intervals in short below their numbers."""
        note = self.note.replace("in brackets", "below each number")
        table = Table(title=Text(self.title), caption=Text(note) if note else None)
        table.add_column(Text(self.first), overflow="fold")
        for heading in self.headings:
            table.add_column(Text(heading), justify="right", overflow="fold")  # a number that is cut off is another number
        for name, cells in self.rows.items():
            if name in self.breaks:
                table.add_section()
            table.add_row(Text(name), *map(_drawn, cells))
        return table

    def markdown(self) -> str:
        """Return the table in Markdown."""
        lines = [f"| {_escape_markdown(self.first)} | " + " | ".join(_escape_markdown(heading) for heading in self.headings) + " |"]
        lines.append("|---|" + "---:|" * len(self.headings))
        for name, cells in self.rows.items():
            texts = [" ".join([f"**{cell.number}**" if cell.bold else cell.number, cell.interval]).strip() for cell in cells]
            lines.append(f"| {_escape_markdown(name)} | " + " | ".join(texts) + " |")
        note = f"\n{_escape_markdown(self.note)}\n" if self.note else ""
        return f"{_escape_markdown(self.title)}\n\n" + "\n".join(lines) + "\n" + note

    def latex(self) -> str:
        """Return the table in LaTeX; it takes the package ``booktabs``."""
        caption = _escape_latex(self.title + (f"; {self.note}" if self.note else ""))
        lines = [r"\begin{table}", r"\centering", rf"\caption{{{caption}}}"]
        lines += [rf"\begin{{tabular}}{{l{'r' * len(self.headings)}}}", r"\toprule"]
        lines += [" & ".join([_escape_latex(self.first), *map(_escape_latex, self.headings)]) + r" \\", r"\midrule"]
        for name, cells in self.rows.items():
            lines += [r"\midrule"] if name in self.breaks else []
            lines.append(" & ".join([_escape_latex(name), *map(_latex_cell, cells)]) + r" \\")
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _short(width: float) -> str:
    return f"{width:.0f}" if 100 <= width < 1e7 else f"{width:.2g}"


def _drawn(cell: Cell) -> Text:
    text = Text(cell.number, style="bold" if cell.bold else "")
    return text.append(f"\n{cell.spread}", style="not bold dim") if cell.spread else text


def _latex_cell(cell: Cell) -> str:
    number = rf"\textbf{{{cell.number}}}" if cell.bold else cell.number
    return rf"{number} {{\footnotesize {cell.interval}}}" if cell.interval else number


def _escape_markdown(text: str) -> str:
    return _MARKDOWN.sub(r"\\\g<0>", html.escape(" ".join(text.split()), quote=False))


def _escape_latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))
