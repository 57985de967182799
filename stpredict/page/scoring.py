"""The scores of a page: contestants that are of the same clips in one pass, those of other clips apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stpredict.baselines import BASELINES, TrainingMean
from stpredict.data import load_data
from stpredict.data.card import read_card
from stpredict.data.clips import ClipSet
from stpredict.errors import UserError, nearest
from stpredict.evaluation import evaluate
from stpredict.forecasts import SavedForecasts
from stpredict.metrics import better_direction, create_scores, default_scores
from stpredict.page.series import SPECTRA
from stpredict.page.sources import Contestant, DataOptions, Sources, Wanted, unique
from stpredict.predictor import Predictor
from stpredict.protocols import find_protocol
from stpredict.results import Scores


@dataclass(frozen=True)
class Questions:
    """How is to be scored; as :func:`stpredict.evaluate` has it.

    Attributes:
        split: of the data; None: the one that the protocol is for, else ``test``.
        protocol: the convention of scoring.
        scores: names of scores; None: those of the protocol, and spectra.
        units: in which is scored.
        thresholds: of events.
        limit: only the first clips.
        baselines: whether to add them.
        skill: over which predictor.
        resample: what intervals draw again.
        by: the score by which clips are to be chosen.
        device: where to compute.
        progress: whether to show how far it is.
    """

    split: str | None = None
    protocol: str | None = None
    scores: tuple[str, ...] | None = None
    units: str | None = None
    thresholds: tuple[float, ...] | None = None
    limit: int | None = None
    baselines: bool = True
    skill: str | None = None
    resample: str = "clips"
    by: str | None = None
    device: str = "auto"
    progress: bool = False


@dataclass(frozen=True)
class Scored:
    """What one pass over a split gave.

    Attributes:
        wanted: which data it was.
        data: the split.
        contestants: all that were scored, baselines last.
        scores: what was found.
    """

    wanted: Wanted
    data: ClipSet
    contestants: tuple[Contestant, ...]
    scores: Scores

    @property
    def names(self) -> list[str]:
        """Return the names of all that were scored."""
        return [one.name for one in self.contestants]

    @property
    def shown(self) -> Contestant:
        """Return the one by whose scores clips are chosen: the first trained predictor, else the first of all."""
        return next((one for one in self.contestants if isinstance(one.predictor, Predictor)), self.contestants[0])


def score_all(sources: Sources, options: DataOptions, questions: Questions) -> list[Scored]:
    """Score all contestants, in as many passes as there are kinds of clips among them.

    What cannot be scored is named in the warnings of ``sources``, with the sentence that says why.

    Raises:
        UserError: a protocol, a score, or a predictor to compare with is asked for and unknown.
    """
    rules = find_protocol(questions.protocol)
    if questions.scores is not None:
        create_scores(questions.scores)
    known = [*(one.name for one in sources.contestants), *(BASELINES if questions.baselines else ())]
    if questions.skill is not None and questions.skill not in known:
        raise UserError(f"There is no predictor '{questions.skill}' over which to say the skill{nearest(questions.skill, known)}")
    kinds = _kinds(sources.contestants, options)
    refused: dict[str, str] = {}
    passes: list[Scored] = []
    for wanted in kinds:
        members = [one for one in sources.contestants if one.wanted in (None, wanted)]
        try:
            split = questions.split or rules.splits.get(read_card(wanted.card).name, "test")
            data = load_data(wanted.card, wanted.root, split, context=wanted.context, horizon=wanted.horizon, **dict(wanted.changes))
        except UserError as error:
            refused |= {one.name: str(error) for one in members if one.name not in refused}
            continue
        scored = _score(members, wanted, data, questions, refused)
        passes += [] if scored is None else [scored]
    if not kinds:
        refused = {one.name: "nothing says which data it is of: name the card (--data CARD)" for one in sources.contestants}
    anywhere = {one.name for scored in passes for one in scored.contestants}
    told: dict[str, list[str]] = {}
    for name, why in refused.items():
        if name not in anywhere:
            told.setdefault(why, []).append(f"'{name}'")
    sources.warnings += [f"Not scored: {', '.join(names)}: {why}" for why, names in told.items()]
    if len(passes) > 1:
        sources.warnings.append(f"The predictors are of {len(passes)} kinds of clips, so their scores stand apart and are not comparable")
    return passes


def _kinds(contestants: Iterable[Contestant], options: DataOptions) -> list[Wanted]:
    """Return the kinds of clips that contestants are of; where none says so, that which is asked for."""
    kinds: list[Wanted] = []
    for one in contestants:
        if one.wanted is not None and one.wanted not in kinds:
            kinds.append(one.wanted)
    if not kinds and options.card is not None:
        context, horizon = (getattr(options, name) or _first(contestants, name) for name in ("context", "horizon"))
        kinds = [Wanted(options.card, options.root, context, horizon)]
    return kinds


def _first(contestants: Iterable[Contestant], name: str) -> int | None:
    return next((value for one in contestants if (value := getattr(one.predictor, name, None)) is not None), None)


def _score(members: Sequence[Contestant], wanted: Wanted, data: ClipSet, questions: Questions, refused: dict[str, str]) -> Scored | None:
    """Score those that fit in one pass; note in ``refused`` why others do not. None: there is nothing left to score."""
    count = len(data) if questions.limit is None else min(len(data), questions.limit)
    _check_choice(data, questions)
    fitting = [one for one in (_with_mean(one, data) for one in members) if _fits(one, data, count, questions, refused)]
    if not fitting:
        return None
    everyone = [*fitting, *(_baselines(fitting, data) if questions.baselines else [])]
    try:
        return Scored(wanted, data, tuple(everyone), _evaluate(everyone, data, questions))
    except UserError as error:
        # A file of forecasts may turn out, in the midst of it, to be of other clips; without such files there is nothing to try.
        saved = [one for one in fitting if isinstance(one.predictor, SavedForecasts)]
        refused |= {one.name: str(error) for one in (saved or fitting)}
        left = [one for one in members if one.name not in {other.name for other in saved}]
        return _score(left, wanted, data, questions, refused) if saved and left else None


def _fits(one: Contestant, data: ClipSet, count: int, questions: Questions, refused: dict[str, str]) -> bool:
    """Whether a contestant can be scored, as far as its first clip tells."""
    try:
        if isinstance(one.predictor, SavedForecasts):
            if not one.predictor.clips(data, count):
                raise UserError(f"it holds none of the first {count} clips of '{data.card}' {data.split}")
        else:
            first = tuple(_score_names(data, questions)[:1])
            _evaluate([one], data, replace(questions, scores=first, limit=1, skill=None, resample="clips", progress=False))
    except UserError as error:
        refused.setdefault(one.name, str(error))
        return False
    return True


def _evaluate(contestants: Sequence[Contestant], data: ClipSet, questions: Questions) -> Scores:
    return evaluate(
        [one.predictor for one in contestants],
        data,
        questions.protocol,
        scores=_score_names(data, questions),
        baselines=False,
        limit=questions.limit,
        units=questions.units,
        thresholds=questions.thresholds,
        skill=questions.skill if any(one.name == questions.skill for one in contestants) else None,
        resample=questions.resample,
        device=questions.device,
        progress=questions.progress,
    )


def _score_names(data: ClipSet, questions: Questions) -> list[str]:
    if questions.scores is not None:
        return list(questions.scores)
    rules = find_protocol(questions.protocol)
    if rules.scores is not None:  # a protocol that says how it scores knows of no other scores
        return list(rules.scores)
    return list(dict.fromkeys([*default_scores(data.spec), SPECTRA]))


def _check_choice(data: ClipSet, questions: Questions) -> None:
    """Refuse a score to choose clips by that is not found, or does not tell better from worse.

    Raises:
        UserError: it is so.
    """
    able = [score.name for score in create_scores(_score_names(data, questions)) if better_direction(score) is not None]
    if questions.by is not None and questions.by not in able:
        raise UserError(f"Clips cannot be chosen by '{questions.by}'{nearest(questions.by, able)}")


def _baselines(besides: Sequence[Contestant], data: ClipSet) -> list[Contestant]:
    """Return the baselines that are not among the contestants already; the training mean where there are training frames of this size."""
    added: list[Contestant] = []
    taken = {one.name for one in besides}
    for name, kind in BASELINES.items():
        if any(isinstance(one.predictor, kind) for one in besides):
            continue
        baseline = _with_mean(Contestant(name, kind(), given=False), data)
        if getattr(baseline.predictor, "mean_frame", ...) is None:
            continue
        baseline.predictor.name = unique(name, taken)
        added.append(baseline)
    return added


def _with_mean(one: Contestant, data: ClipSet) -> Contestant:
    """Return a training mean that has seen the training split of these clips, if there is one that fits; others as they are."""
    if not isinstance(one.predictor, TrainingMean) or one.predictor.mean_frame is not None:
        return one
    try:
        training = None if data.training_split is None else data.training_split()
    except UserError:
        training = None
    if training is None or (not one.given and training.spec.shape != data.spec.shape):
        return one
    mean: Any = TrainingMean.of(training)
    mean.name = one.name
    return replace(one, predictor=mean)
