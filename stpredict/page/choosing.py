"""Which clips a page shows, and their films."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np

from stpredict.baselines import Baseline, Extrapolation
from stpredict.page.scoring import Scored
from stpredict.page.sources import Contestant
from stpredict.page.story import FilmStory
from stpredict.results import Scores
from stpredict.showing import ClipFilms, clip_films


def judging_score(scores: Scores, asked: str | None) -> str | None:
    """Return the score by which clips are chosen: the one asked for, else the first that tells better clips from worse."""
    return asked or next(iter(scores.better), None)


def choose_clips(scores: Scores, predictor: str, by: str | None, count: int) -> dict[int, str]:
    """Return clip -> why it is shown, ``count`` of them if there are so many.

    They are the worst, the median and the best clip of a predictor, and the first one; then the second worst, the second best, and so on.
    """
    reasons: list[tuple[str, int]] = []
    ranked = _ranked(scores, predictor, by) if by is not None else []
    if ranked:
        chosen = scores.selected.get(str(by), {}).get(predictor, {})
        reasons += [(kind, chosen[kind]) for kind in ("worst", "median", "best") if chosen.get(kind) is not None]
    reasons.append(("first", int(scores.indices[0])))
    taken: dict[int, list[str]] = {}
    for why, clip in reasons:
        taken.setdefault(int(clip), []).append(why)
    further = [clip for pair in zip_longest(ranked, ranked[::-1]) for clip in pair if clip is not None]
    for clip in [*further, *map(int, scores.indices)]:
        if len(taken) < count and clip not in taken:
            taken[clip] = _place(ranked, clip)
    chosen_by = f" clip by {by} of {predictor}"
    named = {clip: " and ".join(why) for clip, why in taken.items()}
    return {clip: _heading(why, clip, chosen_by) for clip, why in list(named.items())[:count]}


def _ranked(scores: Scores, predictor: str, by: str) -> list[int]:
    """Return the clips from the worst to the best; those without a number are left out."""
    values = np.asarray(scores.per_clip[predictor][by], dtype=np.float64)
    finite = np.flatnonzero(np.isfinite(values))
    sign = -1.0 if scores.better[by] == "lower" else 1.0
    order = finite[np.argsort(sign * values[finite], kind="stable")]
    return [int(scores.indices[position]) for position in order]


def _place(ranked: Sequence[int], clip: int) -> list[str]:
    if clip not in ranked:
        return ["further"]
    worse, better = ranked.index(clip) + 1, len(ranked) - ranked.index(clip)
    return [f"{worse}. worst" if worse <= better else f"{better}. best"]


def _heading(why: str, clip: int, chosen_by: str) -> str:
    words = f"{why} clip" if why in ("first", "further") else f"{why}{chosen_by}"
    return f"{words[0].upper()}{words[1:]} (clip {clip})"


def film_stories(scored: Scored, table: int, by: str | None, count: int, folder: Path) -> list[FilmStory]:
    """Write the films of the chosen clips to a folder, under names that say nothing of predictors, and return what is to be told of them.

    Args:
        scored: what was scored.
        table: the index of its sheet.
        by: the score by which clips are chosen, as :func:`judging_score` has it.
        count: how many clips.
        folder: where the films go.
    """
    shown = _shown(scored)
    stories = []
    for clip, heading in choose_clips(scored.scores, scored.shown.name, by, count).items():
        stem = f"clip-{clip}" if table == 0 else f"sheet-{table + 1}-clip-{clip}"
        films = clip_films([one.predictor for one in shown], scored.data, clip, folder, stem)
        stories.append(FilmStory(heading, table, films, _notes(films, scored.scores, by), _alternatives(films, heading)))
    return stories


def _shown(scored: Scored) -> list[Contestant]:
    """Return whose forecasts are shown: all that were given, and, if no baseline was, the one that shows what motion alone would do."""
    given = [one for one in scored.contestants if one.given]
    added = sorted((one for one in scored.contestants if not one.given), key=lambda one: not isinstance(one.predictor, Extrapolation))
    return given if any(isinstance(one.predictor, Baseline) for one in given) else [*given, *added[:1]]


def _notes(films: ClipFilms, scores: Scores, by: str | None) -> dict[str, str]:
    """Return the score of the clip for each panel that shows a forecast."""
    if by is None:
        return {}
    position = list(map(int, scores.indices)).index(films.clip)
    notes = {}
    for panel in films.films:
        numbers: Mapping[str, object] = scores.per_clip.get(panel.predictor or "", {})
        if panel.kind == "forecast" and by in numbers:
            notes[panel.label] = f"{by} {float(np.asarray(numbers[by])[position]):.4g}"
    return notes


def _alternatives(films: ClipFilms, heading: str) -> dict[str, str]:
    """Return in words what each panel shows, for who cannot see it."""
    after = films.frames - films.context
    words = {
        "truth": f"the {films.context} observed frames and the {after} that followed",
        "forecast": f"the {after} frames forecast by {{predictor}} after {films.context} observed ones",
        "error": "forecast by {predictor} minus truth",
    }
    return {
        panel.label: f"Film of {words[panel.kind].replace('{predictor}', panel.predictor or '')}. {heading}, {films.name}"
        for panel in films.films
    }
