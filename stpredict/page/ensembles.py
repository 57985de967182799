"""What the page draws of ensembles: ranks of the truth, how often what was probable came, and how much detail members have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from stpredict.page.markup import is_number
from stpredict.page.story import Sheet

RANKS, CALIBRATION, MEMBER_SPECTRA = "rank_histogram", "calibration", "power_ratio_members"

Point = list[Any]
"""x, the mean, both ends of its interval, and the numbers by lead."""


def ensemble_plots(sheet: Sheet, numbers: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return the plots of the ensembles of a sheet, each with a line for every predictor that has one.

    Args:
        sheet: the sheet.
        numbers: predictor -> its number among all that have lines.
    """
    ranks: dict[int, list[Point]] = {}
    spectra: dict[int, list[Point]] = {}
    chances: dict[str, dict[int, list[Point]]] = {}
    for predictor, scores in (sheet.scores.get("scores") or {}).items():
        number = numbers[predictor]
        shares = (scores.get(RANKS) or {}).get("parts") or {}
        if len(shares) > 2:  # of a single forecast there are but two
            ranks[number] = [_point(place, numbers_of, len(shares)) for place, numbers_of in enumerate(shares.values())]
        for part, found in ((scores.get(CALIBRATION) or {}).get("parts") or {}).items():
            threshold, _, chance = part.rpartition(" at ")
            if re.fullmatch(r"\d+(/[1-9]\d*)?", chance):
                chances.setdefault(threshold, {}).setdefault(number, []).append(_point(float(Fraction(chance)), found))
        for part, found in ((scores.get(MEMBER_SPECTRA) or {}).get("parts") or {}).items():
            wavelength = re.search(r"\d+(\.\d+)?", part)
            if wavelength and float(wavelength[0]) > 0:
                spectra.setdefault(number, []).append(_point(float(wavelength[0]), found))
    plots = [_plot("Ranks of the truth among the members", "members below the truth", "share, of a flat histogram's", 1, ranks)]
    for threshold, lines in chances.items():
        several = {number: points for number, points in lines.items() if len(points) > 2}
        said = "how much more often it came"
        plots.append(_plot(f"Reliability at {threshold}", "probability that was forecast", said, 0, several))
    of_members = _plot("Power of the members over that of the truth", "wavelength (pixels)", "power ratio", 1, spectra)
    plots.append({**of_members, "wavelengths": True})
    return [plot for plot in plots if plot["lines"]]


def _plot(title: str, across: str, up: str, mark: float, lines: Mapping[int, list[Point]]) -> dict[str, Any]:
    drawn = [{"series": number, "points": sorted(points, key=lambda point: point[0])} for number, points in lines.items()]
    return {"name": title, "x": across, "y": up, "mark": mark, "lines": drawn}


def _point(place: float, found: Mapping[str, Any], times: float = 1.0) -> Point:
    def scaled(value: Any) -> Any:
        return value * times if is_number(value) else None

    low, high = found.get("interval") or (None, None)
    return [place, scaled(found.get("mean")), scaled(low), scaled(high), [scaled(value) for value in found.get("per_lead") or []]]
