"""Studies as HTML: the question, each variant over its seeds, what tells variants apart, what it cost, and how to have it again."""

from __future__ import annotations

from collections.abc import Sequence

from stpredict.page.markup import details, escape, name, number, table
from stpredict.results.text import Cell, Sheet
from stpredict.study import Summary
from stpredict.study.tables import SAID, settings_text, sheets


def study_html(summary: Summary) -> str:
    """Return what a study asks and found, tables that can be read without a script."""
    pieces = [f"<h3>{name(summary.name)}</h3>", f'<p class="lead">{name(summary.question)}</p>' if summary.question else ""]
    pieces += [f"<ul class=warnings>{''.join(f'<li>{name(words)}</li>' for words in summary.warnings)}</ul>" if summary.warnings else ""]
    pieces += ["<ul>" + "".join(f"<li>{name(line)}</li>" for line in verdicts(summary)) + "</ul>" if verdicts(summary) else ""]
    pieces += [_sheet(sheet) for sheet in sheets(summary)]
    pieces += [_settings(summary), _by_seed(summary), _commands(summary)]
    return "\n".join(piece for piece in pieces if piece)


def verdicts(summary: Summary) -> list[str]:
    """Return a sentence for each comparison, by the first score that tells better from worse."""
    told = []
    for pair in summary.comparisons:
        score = next((one for one in summary.better if one in pair["scores"]), None)
        if score is None:
            continue
        found = pair["scores"][score]
        against = summary.variants[pair["against"]]["scores"][score]["mean"]
        sign = -1 if summary.better[score] == "lower" else 1
        way = "better" if sign * found["mean"] > 0 else "worse" if found["mean"] else "as good"
        share = "" if not against else f" ({number(100 * found['mean'] / abs(against), 1)} %)"
        told.append(
            f"{pair['variant']} is {way} than {pair['against']} by {score}: {_plain(found['mean'])}{share}, {found['verdict']}: "
            f"{SAID[found['verdict']]}."
        )
    return told


def _plain(value: float | None) -> str:
    return Cell(float("nan") if value is None else value).number.replace("-", "\N{MINUS SIGN}")


def _sheet(sheet: Sheet) -> str:
    """Return a table; the rows behind a break stand in a group of their own."""
    groups: list[list[tuple[str, Sequence[str]]]] = [[]]
    for label, cells in sheet.rows.items():
        if label in sheet.breaks:
            groups.append([])
        groups[-1].append((name(label), [_cell(cell) for cell in cells]))
    made = table(sheet.title, [escape(sheet.first), *map(name, sheet.headings)], groups, "sortable", sheet.title)
    return f'{made}<p class="small">{escape(sheet.note)}</p>' if sheet.note else made


def _cell(cell: Cell) -> str:
    if cell.value != cell.value:  # NaN: not known
        return "<td>\N{EN DASH}</td>"
    said = escape(cell.number.replace("-", "\N{MINUS SIGN}"))
    ends = escape(cell.interval.replace("-", "\N{MINUS SIGN}"))
    interval = f' <span class="interval">{ends}</span>' if ends else ""
    return f'<td data-value="{cell.value!r}">{f"<b>{said}</b>" if cell.bold else said}{interval}</td>'


def _settings(summary: Summary) -> str:
    rows = [(name(variant), [f"<td>{name(settings_text(about['settings']))}</td>"]) for variant, about in summary.variants.items()]
    return table("What each variant sets", ["variant", "sets"], [rows], "texts", "What each variant sets")


def _by_seed(summary: Summary) -> str:
    """Return the number of each seed, folded away."""
    rows = []
    for variant, about in summary.variants.items():
        for seed in summary.seeds:
            values = [about["scores"].get(score, {}).get("seeds", {}).get(str(seed)) for score in summary.score_names]
            rows.append((name(f"{variant}-{seed}"), [f"<td>{_plain(value)}</td>" for value in values]))
    return details("Each run by itself", table("Each run by itself", ["run", *map(name, summary.score_names)], [rows], "sortable"))


def _commands(summary: Summary) -> str:
    lines = [command for about in summary.runs.values() for command in (about["train"], about["evaluate"])]
    return details("The commands behind the numbers", f'<div class="code"><pre class="commands">{escape(chr(10).join(lines))}</pre></div>')
