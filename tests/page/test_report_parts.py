"""What a report decides: which clips it shows, and which scores stand in one table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from stpredict.page.choosing import choose_clips, judging_score
from stpredict.page.joining import join_scores
from stpredict.page.telling import lead_of
from stpredict.results import Scores


def numbers(mean: float) -> dict[str, Any]:
    return {"mean": mean, "interval": [mean, mean], "per_lead": [mean], "per_lead_interval": [[mean], [mean]]}


def scores_of(predictors: dict[str, dict[str, float]], hashes: dict[str, str | None] | None = None, **changes: Any) -> Scores:
    """Scores with given means; a predictor without a hash is a baseline."""
    hashes = hashes or {name: f"hash of {name}" for name in predictors}
    kinds = {name: "baseline" if hashes[name] is None else "predictor" for name in predictors}
    facts: dict[str, Any] = {
        "protocol": "per-pixel", "card": "toy", "split": "test", "hash": "c0ffee", "clips": 7, "context": 3, "horizon": 1, "units": "1",
        "scores": {name: {score: numbers(mean) for score, mean in by_score.items()} for name, by_score in predictors.items()},
        "predictors": {name: {"kind": kinds[name], "hash": hashes[name]} for name in predictors},
        "better": {"mse": "lower", "ssim": "higher"},
    }  # fmt: skip
    return Scores(**{**facts, **changes})


def judged(values: list[float], score: str = "mse", indices: list[int] | None = None) -> Scores:
    """Scores of seven clips or so by one predictor, with the chosen ones as the evaluation chooses them."""
    places = indices or list(range(len(values)))
    order = sorted((place for place in range(len(values)) if not np.isnan(values[place])), key=lambda place: values[place])
    order = order if score == "mse" else order[::-1]
    chosen = {"best": places[order[0]], "median": places[order[(len(order) - 1) // 2]], "worst": places[order[-1]]} if order else {}
    selected = {score: {"one": chosen} if chosen else {}}
    return scores_of({"one": {score: 0.0}}, selected=selected, per_clip={"one": {score: np.array(values)}}, indices=tuple(places))


def test_the_worst_the_median_the_best_and_the_first() -> None:
    scores = judged([0.4, 0.1, 0.7, 0.3, 0.6, 0.2, 0.5])
    assert list(choose_clips(scores, "one", "mse", 4)) == [2, 0, 1, 4]  # the first is the median too, and the next is the second worst
    assert list(choose_clips(scores, "one", "mse", 6)) == [2, 0, 1, 4, 5, 6]
    assert len(choose_clips(scores, "one", "mse", 50)) == 7
    assert list(choose_clips(scores, "one", "mse", 1)) == [2]
    told = choose_clips(scores, "one", "mse", 5)
    assert told == {
        2: "Worst clip by mse of one (clip 2)",
        0: "Median and first clip by mse of one (clip 0)",
        1: "Best clip by mse of one (clip 1)",
        4: "2. worst clip by mse of one (clip 4)",
        5: "2. best clip by mse of one (clip 5)",
    }


def test_of_a_score_that_is_to_be_high_the_least_is_the_worst() -> None:
    scores = judged([0.4, 0.1, 0.7], "ssim", [5, 6, 9])
    assert list(choose_clips(scores, "one", "ssim", 3)) == [6, 5, 9]


def test_clips_without_a_number_are_no_worst_ones() -> None:
    nothing = float("nan")
    assert list(choose_clips(judged([nothing, 0.2, nothing, 0.1]), "one", "mse", 3)) == [1, 3, 0]
    assert choose_clips(judged([nothing, nothing]), "one", "mse", 2) == {0: "First clip (clip 0)", 1: "Further clip (clip 1)"}
    assert choose_clips(judged([0.1, 0.2]), "one", None, 1) == {0: "First clip (clip 0)"}


def test_the_score_that_chooses() -> None:
    scores = judged([0.1, 0.2])
    assert judging_score(scores, None) == "mse" and judging_score(scores, "ssim") == "ssim"
    assert judging_score(replace(scores, better={}), None) is None


def test_a_verdict_without_the_clips_own_scores_looks_at_intervals() -> None:
    scores = scores_of(
        {"one": {"mse": 0.5}, "two": {"mse": 0.25}, "persistence": {"mse": 1.0}}, {"one": "a", "two": "b", "persistence": None}
    )
    lines = lead_of([], [scores], None).splitlines()
    assert lines[0].startswith("2 trained predictors and 1 baseline, scored on 7 clips of toy test by the protocol per-pixel: 3 frames")
    assert lines[1] == (
        "By mse, two is the best with 0.2500 [0.2500, 0.2500], before one with 0.5000 [0.5000, 0.5000]; their intervals do not overlap. "
        "The best baseline, persistence, has 1.0000."
    )
    assert lines[2] == "Brackets hold 95 % intervals."
    wide = replace(scores, scores={name: {"mse": {**by["mse"], "interval": [0.0, 2.0]}} for name, by in scores.scores.items()})
    assert "; their intervals overlap." in lead_of([], [wide], None)
    alone = replace(scores, scores={"one": scores.scores["one"]})
    assert len(lead_of([], [alone], None).splitlines()) == 1 == len(lead_of([], [], None).splitlines()), "who is alone is not the best"


@pytest.mark.parametrize(("other", "words"), [(1.25, "is significant"), (0.75, "is significant"), (1.0, "may be chance")])
def test_a_verdict_pairs_the_clips(other: float, words: str) -> None:
    """The clips differ far more than the predictors: only clip by clip it is seen which is better."""
    own = np.linspace(1.0, 9.0, 40)
    theirs = own * other + np.where(np.arange(40) % 2, 0.01, -0.01)
    values = {"one": own, "two": theirs}
    scores = scores_of({name: {"mse": float(value.mean())} for name, value in values.items()}, indices=tuple(range(40)))
    wide = {name: {"mse": {**by["mse"], "interval": [1.0, 9.0]}} for name, by in scores.scores.items()}
    scores = replace(scores, scores=wide, per_clip={name: {"mse": value} for name, value in values.items()})
    assert f"] {words}." in lead_of([], [scores], "mse")
    pooled = replace(scores, per_clip={name: {"mse": 2 * value} for name, value in values.items()})
    assert "their intervals overlap" in lead_of([], [pooled], "mse"), "a score that is no mean over clips has no such pairs"


def test_scores_of_the_same_clips_stand_in_one_table() -> None:
    first = scores_of({"one": {"mse": 0.5}, "persistence": {"mse": 0.9}}, {"one": "a", "persistence": None})
    second = scores_of({"two": {"mse": 0.4}, "persistence": {"mse": 0.9, "ssim": 0.1}}, {"two": "b", "persistence": None})
    joined = join_scores([first, second])
    assert joined.places == (0, 0) and len(joined.sheets) == 1
    sheet = joined.sheets[0]
    assert list(sheet.scores) == ["one", "persistence", "two"] == list(sheet.predictors)
    assert sheet.scores["persistence"] == {"mse": numbers(0.9), "ssim": numbers(0.1)} and sheet.scores["two"] == second.scores["two"]


@pytest.mark.parametrize(
    ("changes", "places"),
    [
        ({}, (0, 0)),
        ({"hash": "other"}, (0, 1)),
        ({"protocol": "openstl"}, (0, 1)),
        ({"split": "validation"}, (0, 1)),
        ({"units": "mm/h"}, (0, 1)),
        ({"horizon": 2}, (0, 1)),
        ({"resample": "films"}, (0, 1)),
    ],
)
def test_what_is_not_comparable_stands_apart(changes: dict[str, Any], places: tuple[int, int]) -> None:
    first, second = scores_of({"one": {"mse": 0.5}}), scores_of({"two": {"mse": 0.5}}, **changes)
    assert join_scores([first, second]).places == places
    assert join_scores([first, second, first]).places == (*places, 0)


def test_two_predictors_of_one_name_are_told_apart() -> None:
    first, second = scores_of({"one": {"mse": 0.5}}, {"one": "a"}), scores_of({"one": {"mse": 0.4}}, {"one": "b"})
    second = replace(second, selected={"mse": {"one": {"best": 3}}}, version="9.9")
    sheet = join_scores([first, second]).sheets[0]
    assert {name: by_score["mse"]["mean"] for name, by_score in sheet.scores.items()} == {"one": 0.5, "one (2)": 0.4}
    assert sheet.predictors["one (2)"]["hash"] == "b" and sheet.selected == {"mse": {"one (2)": {"best": 3}}}
    assert any("9.9" in warning for warning in sheet.warnings)
    same = scores_of({"one": {"mse": 0.5 * (1 + 1e-6)}}, {"one": "a"})  # rounded otherwise
    assert list(join_scores([first, same]).sheets[0].scores) == ["one"]


def test_comparisons_with_one_reference_are_put_together() -> None:
    def over(name: str, reference: str) -> dict[str, Any]:
        return {"name": reference, "skill": {name: {"mse": {"value": 0.1, "low": 0.0, "high": 0.2}}}, "differences": {name: {}}}

    first = scores_of({"one": {"mse": 0.5}}, over=over("one", "persistence"))
    second = scores_of({"two": {"mse": 0.5}}, over=over("two", "persistence"))
    third = scores_of({"three": {"mse": 0.5}}, over=over("three", "extrapolation"))
    joined = join_scores([first, second, third, scores_of({"four": {"mse": 0.5}})])
    assert joined.places == (0, 0, 1, 0)
    assert joined.sheets[0].over is not None and list(joined.sheets[0].over["skill"]) == ["one", "two"]
