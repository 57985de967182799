"""What the page knows of everything that has a line in a plot, and the data that its script draws from."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from stpredict.page.ensembles import MEMBER_SPECTRA, ensemble_plots
from stpredict.page.markup import is_number
from stpredict.page.story import Sheet, Story

SPECTRA = "power_ratio"
"""The score whose parts are wavelengths."""

_MOST_POINTS = 300
"""Of one curve; a screen shows no more."""


def predictors_of(sheet: Sheet) -> dict[str, str]:
    """Return the predictors of a sheet and what they are: ``predictor``, ``forecasts`` or ``baseline``; baselines last."""
    about = sheet.scores.get("predictors") or {}
    kinds = {predictor: (about.get(predictor) or {}).get("kind", "predictor") for predictor in sheet.scores.get("scores") or {}}
    return dict(sorted(kinds.items(), key=lambda item: item[1] == "baseline"))


def scores_of(sheet: Sheet) -> list[str]:
    """Return the names of the scores of a sheet, without the spectra."""
    return score_names(sheet.scores.get("scores") or {})


def score_names(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the names of the scores that any predictor has, without the spectra."""
    return list(dict.fromkeys(score for scores in rows.values() for score in scores if score not in (SPECTRA, MEMBER_SPECTRA)))


def spectra_of(sheet: Sheet) -> Mapping[str, Any]:
    """Return the numbers of each predictor's spectrum that has any."""
    rows = (sheet.scores.get("scores") or {}).items()
    return {predictor: scores[SPECTRA] for predictor, scores in rows if (scores.get(SPECTRA) or {}).get("parts")}


def series_of(story: Story) -> dict[str, dict[str, Any]]:
    """Return everything that has lines, by name: its kind and its place among those of its kind, which says how it is drawn."""
    kinds: dict[str, str] = {}
    for sheet in story.sheets:
        for predictor, kind in predictors_of(sheet).items():
            kinds.setdefault(predictor, kind)
    for film in story.films:
        for panel in film.films.films:
            if panel.predictor is not None:
                kinds.setdefault(panel.predictor, "predictor")
    for run in story.runs:
        kinds.setdefault(run.name, "run")
    places = {True: 0, False: 0}
    series = {}
    for number, (called, kind) in enumerate(kinds.items()):
        baseline = kind == "baseline"
        series[called] = {"number": number, "kind": kind, "place": places[baseline]}
        places[baseline] += 1
    return series


def script_data(story: Story) -> str:
    """Return the data of the page's script as JSON that may stand inside an HTML element."""
    series = series_of(story)
    numbers = {called: about["number"] for called, about in series.items()}
    data = {
        "series": [{"name": called, "kind": about["kind"], "place": about["place"]} for called, about in series.items()],
        "sheets": [_sheet(sheet, numbers) for sheet in story.sheets],
        "curves": _curves(story, numbers),
        "clips": [
            {
                "frames": film.films.frames,
                "context": film.films.context,
                "rate": film.films.frames_per_second,
                "width": film.films.width,
                "height": film.films.height,
                "captions": list(film.films.captions),
            }
            for film in story.films
        ],
    }
    text = json.dumps(_short(data), separators=(",", ":"), allow_nan=False)  # ASCII: U+2028, U+2029 and lone surrogates are escaped
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _sheet(sheet: Sheet, numbers: Mapping[str, int]) -> dict[str, Any]:
    data, rows = sheet.scores.get("data") or {}, sheet.scores.get("scores") or {}
    predictors = predictors_of(sheet)
    return {
        "horizon": data.get("horizon"),
        "step": data.get("time_step"),
        "series": [numbers[predictor] for predictor in predictors],
        "scores": [
            {
                "name": score,
                "better": (sheet.scores.get("better") or {}).get(score),
                "lines": [_line(numbers[predictor], rows[predictor][score]) for predictor in predictors if score in rows[predictor]],
            }
            for score in scores_of(sheet)
        ],
        "spectra": [_spectrum(numbers[predictor], found) for predictor, found in spectra_of(sheet).items()],
        "ensembles": ensemble_plots(sheet, numbers),
    }


def _line(number: int, found: Mapping[str, Any]) -> dict[str, Any]:
    low, high = found.get("per_lead_interval") or (None, None)
    parts = [{"name": part, "leads": list(values.get("per_lead") or [])} for part, values in (found.get("parts") or {}).items()]
    return {
        "series": number,
        "leads": list(found.get("per_lead") or []),
        "low": low,
        "high": high,
        "parts": parts if len(parts) > 1 else [],
    }


def _spectrum(number: int, found: Mapping[str, Any]) -> dict[str, Any]:
    points = []
    for part, values in found["parts"].items():
        wavelength = re.search(r"\d+(\.\d+)?", part)
        if wavelength and float(wavelength[0]) > 0:
            bounds = values.get("interval") or (None, None)
            points.append([float(wavelength[0]), values.get("mean"), *bounds, list(values.get("per_lead") or [])])
    return {"series": number, "points": sorted(points, key=lambda point: -point[0])}


def _curves(story: Story, numbers: Mapping[str, int]) -> list[dict[str, Any]]:
    columns = dict.fromkeys(column for run in story.runs for column, points in run.curves.items() if points)
    return [
        {
            "name": column,
            "lines": [{"series": numbers[run.name], "points": thinned(run.curves[column])} for run in story.runs if run.curves.get(column)],
        }
        for column in columns
    ]


def thinned(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return a curve of at most 300 points that keeps its extremes: of each stretch, the lowest and the highest value."""
    if len(points) <= _MOST_POINTS:
        return [(step, value) for step, value in points]
    count = _MOST_POINTS // 2
    kept: list[tuple[int, float]] = []
    for part in range(count):
        stretch = points[part * len(points) // count : (part + 1) * len(points) // count]
        finite = [point for point in stretch if math.isfinite(point[1])] or list(stretch[:1])
        ends = {min(finite, key=lambda point: point[1]), max(finite, key=lambda point: point[1])}
        kept += sorted(((step, value) for step, value in ends), key=lambda point: point[0])
    return kept


def _short(value: Any) -> Any:
    """Return plain data whose numbers have no more digits than a plot shows; those that are not finite become None."""
    if isinstance(value, Mapping):
        return {key: _short(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_short(part) for part in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if is_number(value) else None
    return value
