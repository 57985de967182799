"""A report: runs, predictors, forecasts and scores become one page, in a folder of its own or in one file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from stpredict.devices import choose_device
from stpredict.errors import UserError
from stpredict.files import whole_file, write_text
from stpredict.page.choosing import film_stories, judging_score
from stpredict.page.html import FILMS, write_page
from stpredict.page.joining import Joined, join_scores
from stpredict.page.replacing import new_page, whole_folder
from stpredict.page.runs import config_text, tell_run
from stpredict.page.scoring import Questions, Scored, score_all
from stpredict.page.sources import DataOptions, Sources, open_sources
from stpredict.page.story import FilmStory, Sheet, Story
from stpredict.page.telling import heading_of, kinds_of, lead_of, provenance_of, report_command, run_commands, title_of
from stpredict.protocols import find_protocol


def report(
    sources: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    data: str | Path | None = None,
    root: str | Path | None = None,
    split: str | None = None,
    context: int | None = None,
    horizon: int | None = None,
    protocol: str | None = None,
    scores: Sequence[str] | None = None,
    units: str | None = None,
    thresholds: Sequence[float] | None = None,
    limit: int | None = None,
    baselines: bool = True,
    skill: str | None = None,
    resample: str = "clips",
    clips: int = 4,
    by: str | None = None,
    title: str | None = None,
    single_file: bool = False,
    allow: Collection[str] = (),
    device: str = "auto",
    progress: bool = False,
    warn: Callable[[str], None] = lambda words: None,
) -> Path:
    """Make a page that shows what was trained, how good it is, and what it looks like; it opens from disk in a browser.

    The same sources give the same bytes. What cannot be scored, since it does not fit the data, is named on the page.

    Args:
        sources: run folders, predictor files, names of baselines, saved forecasts, scores that ``evaluate`` wrote (``.json``), and
            folders of studies, whose runs stand with the scores that they have.
        out: the folder to write: ``index.html``, ``films``, ``scores.json`` and ``scores.csv``. It is new, empty, or holds an earlier
            report, which is replaced when the new one is whole. Or a file ``.html``, which then holds everything.
        data: the card that all are scored on (default: what each was trained on).
        root: the folder of the data's files (default: as in the config of the run).
        split: of the data (default: the one that the protocol is for, else ``test``).
        context: observed frames (default: those of the protocol, else of each predictor).
        horizon: frames to forecast (default: those of the protocol, else of each predictor).
        protocol: the convention of scoring.
        scores: names of scores (default: those of the protocol, and spectra).
        units: score in these units.
        thresholds: those of events (default: the card's).
        limit: score the first ``limit`` clips only.
        baselines: whether to add the baselines.
        skill: the name of a predictor over which the skill of all others is to be said.
        resample: ``clips`` or ``films``, as in :func:`stpredict.evaluate`.
        clips: of how many clips films are shown: the worst, the median and the best of the first trained predictor, the first of the
            split, and further ones from both ends.
        by: the score that tells these (default: the first).
        title: of the page.
        single_file: write a page that holds its films itself.
        allow: code that a predictor file may name, as ``package.module:Class``.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: whether to show a progress bar where stderr is a terminal.
        warn: is told each sentence that the page warns with.

    Returns:
        The page.

    Raises:
        UserError: a source is none, a name is unknown, there is nothing to show, or ``out`` holds something else.
        OSError: a file could not be read or written.
    """
    named = [sources] if isinstance(sources, str | Path) else list(sources)
    out = Path(out)
    if clips < 0 or (limit is not None and limit < 1):
        raise UserError(f"clips is at least 0 and limit at least 1, not {clips} and {limit}")
    rules = find_protocol(protocol)
    window = context or rules.context, horizon or rules.horizon
    options = DataOptions(None if data is None else str(data), None if root is None else str(root), *window)
    questions = Questions(
        split=split,
        protocol=protocol,
        scores=None if scores is None else tuple(scores),
        units=units,
        thresholds=None if thresholds is None else tuple(thresholds),
        limit=limit,
        baselines=baselines,
        skill=skill,
        resample=resample,
        by=by,
        device=device,
        progress=progress,
    )
    further = {"clips": clips if clips != 4 else None, "by": by, "title": title, "single-file": single_file or None, "out": out.name}
    made_by = report_command(named, options, questions, further)

    def find() -> _Found:
        opened = open_sources(named, options, allow=allow, device=choose_device(device))
        passes = score_all(opened, options, questions)
        joined = join_scores([*(scored.scores for scored in passes), *opened.scores.values()])
        if not (joined.sheets or opened.runs):
            raise UserError(" ".join(opened.warnings) or "There is nothing to show: name a run, a predictor or scores")
        found = _Found(opened, passes, joined, questions, made_by, title, clips)
        for words in found.warnings:
            warn(words)
        return found

    if out.suffix == ".html":
        new_page(out)
        with tempfile.TemporaryDirectory() as films, whole_file(out) as temporary:
            temporary.touch()  # a place that is not to be written to is found before hours are spent on what goes there
            write_page(_story(find(), Path(films), alone=True), temporary, Path(films), single=True)
        return out
    with whole_folder(out) as folder:
        found = find()
        if single_file:
            with tempfile.TemporaryDirectory() as films:
                write_page(_story(found, Path(films)), folder / "index.html", Path(films), single=True)
        else:
            (folder / FILMS).mkdir()
            write_page(_story(found, folder / FILMS), folder, folder / FILMS, single=False)
        for name, (_, text) in _files(found).items():
            write_text(folder / name, text.encode("utf-8", "replace").decode("utf-8"))  # names of folders need not be UTF-8
    return out / "index.html"


@dataclass(frozen=True)
class _Found:
    """What there is to tell, before films are made.

    Attributes:
        sources: runs, and what was not to be used.
        passes: what was scored now.
        joined: all scores, in tables; those of the passes come first.
        questions: how was scored.
        made_by: the command of the page.
        title: of the page, if it was given.
        clips: of how many clips of each pass films are made.
    """

    sources: Sources
    passes: list[Scored]
    joined: Joined
    questions: Questions
    made_by: str
    title: str | None
    clips: int

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return what must be known before a number is believed, each once."""
        return tuple(dict.fromkeys([*self.sources.warnings, *(words for scores in self.joined.sheets for words in scores.warnings)]))


def _story(found: _Found, films: Path, alone: bool = False) -> Story:
    """Return what the page tells; the films are written to a folder. With ``alone`` no file lies beside the page."""
    stories: list[FilmStory] = []
    shown: dict[int, int] = {}  # pass -> the first clip of which there is a film
    for number, scored in enumerate(found.passes):
        by = judging_score(scored.scores, found.questions.by)
        made = film_stories(scored, found.joined.places[number], by, found.clips, films) if found.clips else []
        shown |= {number: made[0].films.clip} if made else {}
        stories += made
    runs = []
    for place, run in enumerate(found.sources.runs, start=1):
        there = [(scored, shown.get(number)) for number, scored in enumerate(found.passes) if run.name in scored.names]
        scored_in, clip = there[0] if there else (None, None)
        file = _config_name(place)
        runs.append(tell_run(run, run_commands(run, file, found.questions, scored_in, clip), file))
    sheets = found.joined.sheets
    names = list(dict.fromkeys(name for scores in sheets for name, kind in kinds_of(scores).items() if kind != "baseline"))
    asked = [study.name for study in found.sources.studies]
    return Story(
        title=found.title or title_of(asked or names or [run.name for run in runs], [scores.card for scores in sheets]),
        lead=lead_of(found.sources.runs, sheets, found.questions.by),
        studies=tuple(found.sources.studies),
        runs=tuple(runs),
        sheets=tuple(Sheet(heading_of(scores), scores.to_dict()) for scores in sheets),
        films=tuple(stories),
        provenance=provenance_of(found.questions.device, found.made_by, sheets),
        files={} if alone else {name: about for name, (about, _) in _files(found).items()},
        warnings=found.warnings,
    )


def _files(found: _Found) -> dict[str, tuple[str, str]]:
    """Return the files beside the page by name, what each holds and its text: all numbers, and the configs that commands name."""
    files: dict[str, tuple[str, str]] = {}
    for number, scores in enumerate(found.joined.sheets, start=1):
        stem, about = "scores" if number == 1 else f"scores-{number}", f"the numbers of {heading_of(scores)}"
        files |= {f"{stem}.json": (about, scores.json()), f"{stem}.csv": (about, scores.csv())}
    for number, study in enumerate(found.sources.studies, start=1):
        stem = "study" if number == 1 else f"study-{number}"
        about = f"what the study {study.name} found"
        files |= {f"{stem}.json": (about, study.json()), f"{stem}.csv": (about, study.csv())}
    for place, run in enumerate(found.sources.runs, start=1):
        text = config_text(run)
        files |= {_config_name(place): (f"the config of {run.name}", text)} if text else {}
    return files


def _config_name(number: int) -> str:
    return f"config-{number}.yaml"
