"""A sheet of scores as HTML: tables that can be read without a script, and the places where the script draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stpredict.page.ensembles import ensemble_plots
from stpredict.page.markup import decimals, details, escape, facts, interval, is_number, name, number, table
from stpredict.page.series import predictors_of, score_names, scores_of, spectra_of
from stpredict.page.story import Sheet
from stpredict.showing.maps import span

_ARROWS = {
    "lower": ' <span class="arrow" aria-hidden="true">\N{DOWNWARDS ARROW}</span><span class="unseen">, lower is better</span>',
    "higher": ' <span class="arrow" aria-hidden="true">\N{UPWARDS ARROW}</span><span class="unseen">, higher is better</span>',
}


def sheet_html(sheet: Sheet, index: int, shown: Mapping[int, str]) -> str:
    """Return the section of one sheet.

    Args:
        sheet: the sheet.
        index: its place among the sheets.
        shown: clip -> the id of the element with its films, for those that the page has.
    """
    scores = sheet.scores
    pieces = [
        f'<section class="sheet" id="sheet-{index}" data-sheet="{index}">',
        f"<h3>{name(sheet.heading)}</h3>",
        facts(_about(scores)),
        _means(sheet),
        f'<p class="small">{_explanation(scores)}</p>',
        '<div class="chooser"></div><div class="plots"><figure class="plot leads"></figure>',
        '<figure class="plot spectra"></figure>' if spectra_of(sheet) else "",
        '<figure class="plot ensembles"></figure></div>' if ensemble_plots(sheet, dict.fromkeys(predictors_of(sheet), 0)) else "</div>",
        _over(sheet),
        _by_part(sheet),
        _by_lead(sheet),
        _spectra(sheet),
        _selected(scores, shown),
        "</section>",
    ]
    return "\n".join(piece for piece in pieces if piece)


def _about(scores: Mapping[str, Any]) -> dict[str, str]:
    data = scores.get("data") or {}
    members = scores.get("members")
    told = {
        "protocol": scores.get("protocol"),
        "data": " ".join(str(data[key]) for key in ("card", "split") if data.get(key)),
        "clips": f"{data['clips']:,}" if isinstance(data.get("clips"), int) else None,
        "frames": f"{data['context']} observed + {data['horizon']} forecast" if {"context", "horizon"} <= data.keys() else None,
        "time step": span(step) if is_number(step := data.get("time_step")) else None,
        "units": None if data.get("units") in (None, "1") else data["units"],
        "members": members,
        "fingerprint of the clips": data.get("hash"),
    }
    return {label: str(text) for label, text in told.items() if text not in (None, "")}


def _explanation(scores: Mapping[str, Any]) -> str:
    unit = "films" if scores.get("resample") == "films" else "clips"
    return (
        f"Each number is the mean over all clips and leads; in brackets its 95 % interval (bootstrap over {unit}). A dot marks the best of "
        "a column; \N{DOWNWARDS ARROW} lower is better, \N{UPWARDS ARROW} higher is better. Click a heading to sort."
    )


def _heading(score: str, better: Mapping[str, str] | None) -> str:
    return name(score) + _ARROWS.get(str((better or {}).get(score)), "")


def _mean_cell(found: Mapping[str, Any] | None, places: int, best: bool) -> str:
    if found is None or not is_number(found.get("mean")):
        return "<td>\N{EN DASH}</td>"
    mean = number(found["mean"], places)
    told = f'<b>{mean}</b><span class="unseen"> (best)</span>' if best else mean
    return f'<td{" class=best" if best else ""} data-value="{found["mean"]!r}">{told}{interval(found.get("interval"), places)}</td>'


def _best(values: Sequence[object], better: str | None) -> object:
    finite = [value for value in values if is_number(value)]
    if not finite or better not in ("lower", "higher") or len(values) < 2:
        return None
    return min(finite) if better == "lower" else max(finite)


def _means(sheet: Sheet) -> str:
    rows, better = sheet.scores.get("scores") or {}, sheet.scores.get("better") or {}
    names, kinds = scores_of(sheet), predictors_of(sheet)
    published = sheet.scores.get("published") or {}
    places, best = {}, {}
    for score in names:
        found = [scores[score] for scores in rows.values() if score in scores]
        places[score] = decimals([numbers.get("mean") for numbers in found], [numbers.get("interval") for numbers in found])
        best[score] = _best([numbers.get("mean") for numbers in found], better.get(score))

    def row(predictor: str) -> tuple[str, list[str]]:
        cells = []
        for score in names:
            found = rows[predictor].get(score)
            cells.append(
                _mean_cell(found, places[score], found is not None and best[score] is not None and found.get("mean") == best[score])
            )
        return name(predictor), cells

    def published_row(title: str, facts: Mapping[str, Any]) -> tuple[str, list[str]]:
        page, figures = str(facts.get("page") or ""), facts.get("scores") or {}
        where = f' <a href="{escape(page)}" rel="noopener noreferrer">published</a>' if page.startswith("https://") else " (published)"
        cells = [
            f'<td data-value="{figures[score]!r}">{escape(figures[score])}</td>' if score in figures else "<td></td>" for score in names
        ]
        return name(title) + where, cells

    groups = [
        [row(predictor) for predictor, kind in kinds.items() if kind != "baseline"],
        [row(predictor) for predictor, kind in kinds.items() if kind == "baseline"],
        [published_row(title, facts) for title, facts in published.items()],
    ]
    head = ["predictor", *(_heading(score, better) for score in names)]
    return table(f"Scores of {sheet.heading}", head, groups, "sortable scores")


def _over(sheet: Sheet) -> str:
    over = sheet.scores.get("over")
    if not over:
        return ""
    better, kinds, pieces = sheet.scores.get("better") or {}, predictors_of(sheet), []
    for key, title, explained in (
        ("differences", "Difference: predictor minus", ". Unclear: the interval holds 0."),
        ("skill", "Skill over", ". 1 is perfect, 0 no better."),
    ):
        rows = over.get(key) or {}
        names = score_names(rows)
        if not names:
            continue
        places = {
            score: decimals([cell.get("value") for cell in found], [(cell.get("low"), cell.get("high")) for cell in found])
            for score in names
            for found in [[scores[score] for scores in rows.values() if score in scores]]
        }
        ways = better if key == "differences" else {}  # of skill, higher is always better
        groups = [
            [
                (name(predictor), [_over_cell(found.get(score), places[score], ways.get(score)) for score in names])
                for predictor, found in rows.items()
                if (kinds.get(predictor) == "baseline") is baseline
            ]
            for baseline in (False, True)
        ]
        caption = f"{title} {over.get('name', '')} (95 % intervals, paired bootstrap)"
        pieces.append(table(caption, ["predictor", *(_heading(score, ways) for score in names)], groups, "scores", caption + explained))
    return "".join(pieces)


def _over_cell(cell: Mapping[str, Any] | None, places: int, better: str | None) -> str:
    if cell is None:
        return "<td></td>"
    low, high = cell.get("low"), cell.get("high")
    verdict = ""
    if better is not None and is_number(low) and is_number(high):
        lower, higher = high < 0, low > 0
        word = "unclear" if not (lower or higher) else "better" if lower == (better == "lower") else "worse"
        verdict = f' <span class="verdict {word}">{word}</span>'
    return f"<td>{number(cell.get('value'), places)}{interval((low, high), places)}{verdict}</td>"


def _by_part(sheet: Sheet) -> str:
    rows, pieces = sheet.scores.get("scores") or {}, []
    for score in scores_of(sheet):
        found = {predictor: rows[predictor][score].get("parts") or {} for predictor in predictors_of(sheet) if score in rows[predictor]}
        parts = list(dict.fromkeys(part for numbers in found.values() for part in numbers))
        if len(parts) > 1:
            means = [numbers.get("mean") for values in found.values() for numbers in values.values()]
            places = decimals(means, [numbers.get("interval") for values in found.values() for numbers in values.values()])
            body = [
                (name(predictor), [_mean_cell(values.get(part), places, False) for part in parts]) for predictor, values in found.items()
            ]
            pieces.append(details(f"{score} by part", table(score, ["predictor", *map(name, parts)], [body], "sortable scores")))
    return "".join(pieces)


def _by_lead(sheet: Sheet) -> str:
    rows, pieces = sheet.scores.get("scores") or {}, []
    for score in scores_of(sheet):
        leads = {predictor: rows[predictor][score].get("per_lead") or [] for predictor in predictors_of(sheet) if score in rows[predictor]}
        length = max(map(len, leads.values()), default=0)
        if length:
            places = min(6, decimals([value for values in leads.values() for value in values]))
            body = [(name(predictor), [f"<td>{number(value, places)}</td>" for value in values]) for predictor, values in leads.items()]
            head = ["predictor", *(str(lead + 1) for lead in range(length))]
            pieces.append(table(f"{score} by lead", head, [body], "numbers", f"{score} by lead"))
    return details("Scores by lead in numbers", "".join(pieces)) if pieces else ""


def _spectra(sheet: Sheet) -> str:
    found = spectra_of(sheet)
    parts = list(dict.fromkeys(part for numbers in found.values() for part in numbers["parts"]))
    if not parts:
        return ""
    body = [
        (name(predictor), [f"<td>{number((numbers['parts'].get(part) or {}).get('mean'), 3)}</td>" for part in parts])
        for predictor, numbers in found.items()
    ]
    label = "Power of the forecasts over that of the truth, by wavelength"
    return details("Spectra in numbers", table(label, ["predictor", *map(name, parts)], [body], "numbers", label))


def _selected(scores: Mapping[str, Any], shown: Mapping[int, str]) -> str:
    def clip(number: object) -> str:
        if number is None:
            return "<td></td>"
        target = shown.get(number) if isinstance(number, int) else None
        return f'<td><a href="#{target}">{escape(number)}</a></td>' if target else f"<td>{escape(number)}</td>"

    pieces = []
    for score, predictors in (scores.get("selected") or {}).items():
        body = [(name(predictor), [clip(found.get(key)) for key in ("best", "median", "worst")]) for predictor, found in predictors.items()]
        if body:
            pieces.append(table(f"Clips by {score}", ["predictor", "best", "median", "worst"], [body], "numbers", f"by {score}"))
    return details("Best, median and worst clips", f'<div class="aside">{"".join(pieces)}</div>') if pieces else ""
