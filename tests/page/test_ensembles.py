"""What the page draws of ensembles, from the JSON of scores."""

from __future__ import annotations

from typing import Any

import pytest

from stpredict.page.ensembles import ensemble_plots
from stpredict.page.series import scores_of
from stpredict.page.sheets import sheet_html
from stpredict.page.story import Sheet


def numbers(mean: float | None, leads: list[float] | None = None) -> dict[str, Any]:
    return {"mean": mean, "interval": [mean, mean], "per_lead": leads or [mean]}


def sheet(scores: dict[str, Any]) -> Sheet:
    return Sheet("sheet", {"protocol": "p", "data": {}, "predictors": {}, "scores": scores, "better": {}})


ENSEMBLE = {
    "crps": numbers(0.5),
    "rank_histogram": {**numbers(0.2), "parts": {"0": numbers(0.25), "1": numbers(0.25), "2": numbers(0.5, [0.4, 0.6])}},
    "calibration": {
        **numbers(0.1),
        "parts": {"0.5 at 0": numbers(0.1), "0.5 at 1/2": numbers(None), "0.5 at 1": numbers(-0.2), "<b> at 1": numbers(0.0)},
    },
    "power_ratio_members": {**numbers(1.0), "parts": {"64 px": numbers(1.0), "32 px": numbers(0.5)}},
}
SINGLE = {
    "rank_histogram": {**numbers(1.0), "parts": {"0": numbers(0.5), "1": numbers(0.5)}},
    "calibration": {**numbers(0.1), "parts": {"0.5 at 0": numbers(0.1), "0.5 at 1": numbers(-0.2)}},
}


def test_what_is_drawn_of_each_ensemble() -> None:
    ranks, reliability, spectra = ensemble_plots(sheet({"single": SINGLE, "several": ENSEMBLE}), {"single": 3, "several": 7})
    assert [line["series"] for line in ranks["lines"]] == [7], "a single forecast has no histogram"
    assert [point[:2] for point in ranks["lines"][0]["points"]] == [[0, 0.75], [1, 0.75], [2, 1.5]] and ranks["mark"] == 1
    assert ranks["lines"][0]["points"][2][4] == pytest.approx([1.2, 1.8])
    assert reliability["name"] == "Reliability at 0.5" and reliability["mark"] == 0
    assert [point[:2] for point in reliability["lines"][0]["points"]] == [[0.0, 0.1], [0.5, None], [1.0, -0.2]]
    assert spectra["wavelengths"] and [point[:2] for point in spectra["lines"][0]["points"]] == [[32.0, 0.5], [64.0, 1.0]]


def test_a_sheet_without_ensembles_has_no_such_plot() -> None:
    assert ensemble_plots(sheet({"single": SINGLE, "other": {"mse": numbers(1.0)}}), {"single": 0, "other": 1}) == []
    assert "plot ensembles" not in sheet_html(sheet({"single": SINGLE}), 0, {})
    assert sheet_html(sheet({"several": ENSEMBLE}), 0, {}).count("plot ensembles") == 1
    assert scores_of(sheet({"several": ENSEMBLE})) == ["crps", "rank_histogram", "calibration"], "spectra have plots of their own"
