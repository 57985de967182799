"""Scores that were found one after another become one table where they may stand in one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stpredict.predictor import free_name
from stpredict.results import Scores, compatible


@dataclass(frozen=True)
class Joined:
    """Tables of scores.

    Attributes:
        sheets: scores that may not be compared with one another.
        places: which of them each of the scores went into, in their order.
    """

    sheets: tuple[Scores, ...]
    places: tuple[int, ...]


def join_scores(several: Sequence[Scores]) -> Joined:
    """Join those that are of one protocol and the same clips, and whose intervals mean the same; others stand apart.

    Where two of one name are the same predictor, its scores are put together; otherwise the second is called ``name (2)``.
    """
    sheets: list[Scores] = []
    places: list[int] = []
    for scores in several:
        place = next((number for number, sheet in enumerate(sheets) if _may_join(sheet, scores)), len(sheets))
        if place == len(sheets):
            sheets.append(scores)
        else:
            sheets[place] = _join(sheets[place], scores)
        places.append(place)
    return Joined(tuple(sheets), tuple(places))


def _may_join(first: Scores, second: Scores) -> bool:
    references = {str(scores.over["name"]) for scores in (first, second) if scores.over is not None}
    return compatible(first, second) and first.resample == second.resample and len(references) < 2


def _join(first: Scores, second: Scores) -> Scores:
    called: dict[str, str] = {}
    for name in second.scores:
        called[name] = free_name(name, [taken for taken in first.scores if not _same(first, taken, second, name)])
    others = {called[name]: by_score for name, by_score in second.scores.items()}
    scores = {name: {**by_score, **_further(others.get(name, {}), by_score)} for name, by_score in first.scores.items()}
    about = {called[name]: one for name, one in second.predictors.items() if name in called}
    versions = dict.fromkeys([first.version, second.version])
    mixed = [f"The scores of {first.card} {first.split} were found by stpredict {' and '.join(versions)}"] if len(versions) > 1 else []
    return replace(
        first,
        scores={**scores, **_further(others, scores)},
        predictors={**first.predictors, **_further(about, first.predictors)},
        better={**first.better, **_further(second.better, first.better)},
        selected=_joined_two(first.selected, second.selected, called),
        over=_joined_over(first.over, second.over, called),
        published={**first.published, **_further(second.published, first.published)},
        warnings=tuple(dict.fromkeys([*first.warnings, *second.warnings, *mixed])),
    )


def _further(more: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is not known yet."""
    return {name: value for name, value in more.items() if name not in known}


def _same(first: Scores, ours: str, second: Scores, theirs: str) -> bool:
    """Whether two are one predictor: they learnt the same, or are baselines of one kind, and no score says otherwise."""
    one, other = first.predictors.get(ours, {}), second.predictors.get(theirs, {})
    if (one.get("kind"), one.get("hash")) != (other.get("kind"), other.get("hash")):
        return False
    if one.get("hash") is None and one.get("kind") != "baseline":
        return False
    common = set(first.scores[ours]) & set(second.scores[theirs])
    return all(_close(first.scores[ours][score]["mean"], second.scores[theirs][score]["mean"]) for score in common)


def _close(one: float, other: float) -> bool:
    """Whether two numbers are equal but for what another machine rounds otherwise; JSON does not tell infinity from NaN."""
    if not (math.isfinite(one) and math.isfinite(other)):
        return math.isfinite(one) == math.isfinite(other)
    return abs(one - other) <= 1e-4 * max(abs(one), abs(other))


def _joined_two(
    first: Mapping[str, Mapping[str, Any]], second: Mapping[str, Mapping[str, Any]], called: Mapping[str, str]
) -> dict[str, Any]:
    """Join tables of score -> predictor."""
    joined: dict[str, Any] = {score: dict(by_name) for score, by_name in first.items()}
    for score, by_name in second.items():
        ours = joined.setdefault(score, {})
        ours |= _further({called.get(name, name): value for name, value in by_name.items()}, ours)
    return joined


def _joined_over(first: Mapping[str, Any] | None, second: Mapping[str, Any] | None, called: Mapping[str, str]) -> Mapping[str, Any] | None:
    """Join skill over, and differences from, one reference."""
    if second is None:
        return first
    kinds = ("skill", "differences")
    theirs = {kind: {called.get(name, name): value for name, value in second[kind].items()} for kind in kinds}
    if first is None:
        return {"name": called.get(second["name"], second["name"]), **theirs}
    return {"name": first["name"], **{kind: {**first[kind], **_further(theirs[kind], first[kind])} for kind in kinds}}
