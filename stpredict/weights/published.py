"""What others have published for the very clips that were scored, to stand beside what was measured."""

from __future__ import annotations

from typing import Any

from stpredict.results import Scores
from stpredict.weights.catalogue import CATALOGUE


def published_for(scores: Scores, of: int | None = None) -> dict[str, dict[str, Any]]:
    """Return what others have published for the very clips that were scored, in the way in which they were scored.

    Args:
        scores: what was measured.
        of: how many clips the split holds, where the catalogue does not say.

    Returns:
        title -> ``page``, its address, and ``scores``, the score here -> the number there. Nothing where card, split, lengths or
        protocol are not those of the figures, or where not all of the clips were scored; and no score that was not measured.
    """
    measured = {score for by_score in scores.scores.values() for score in by_score}
    found = {}
    for entry in CATALOGUE.values():
        about = entry.benchmark
        convention = about.convention
        facts = (about.card, about.split, about.context, about.horizon, convention.protocol, about.clips or of)
        if facts == (scores.card, scores.split, scores.context, scores.horizon, scores.protocol, scores.clips):
            same = {convention.same[score]: value for score, value in entry.scores.items() if convention.same[score] in measured}
            if same:
                found[f"{entry.network}, {entry.epochs} epochs ({entry.name})"] = {"page": about.page, "scores": same}
    return found
