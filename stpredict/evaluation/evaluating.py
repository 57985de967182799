"""Scores of predictors over a split, beside those of the baselines: one pass, in constant memory, by any number of processes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from stpredict import kernels
from stpredict.data.clips import ClipSet
from stpredict.data.loader import batches, share
from stpredict.devices import choose_device
from stpredict.errors import UserError, nearest
from stpredict.evaluation.clips import check_films, film_name, own_batches
from stpredict.evaluation.contestants import DIGEST_SIZE, clips_of_all, describe, open_contestants, with_training_means
from stpredict.evaluation.saving import saving
from stpredict.evaluation.scoring import Judge, Tally, forecast_batch, gather_lists, selected
from stpredict.fitting import unlike_training
from stpredict.forecasts import ForecastWriter, SavedForecasts, clip_digests, truth_hash
from stpredict.frames import FrameSpec
from stpredict.metrics import RunningScore, better_direction, create_scores, default_scores
from stpredict.metrics.bootstrap import draw_units
from stpredict.metrics.running import names_of_parts
from stpredict.metrics.skill import Estimate, difference_from, skill_over
from stpredict.processes import Processes, join
from stpredict.protocols import Protocol, check_protocol, find_protocol
from stpredict.rain import spec_in_units
from stpredict.results import Scores
from stpredict.weights.published import published_for


def evaluate(
    predictors: Any,
    data: ClipSet,
    protocol: str | None = None,
    *,
    scores: Sequence[str] | None = None,
    baselines: bool = True,
    training_clips: ClipSet | None = None,
    batch_size: int = 16,
    limit: int | None = None,
    units: str | None = None,
    thresholds: Sequence[float] | None = None,
    members: int | None = None,
    skill: str | None = None,
    resample: str = "clips",
    save_forecasts: str | Path | None = None,
    device: str = "auto",
    workers: int = 0,
    progress: bool = False,
) -> Scores:
    """Score predictors over the clips of a split.

    Where the truth is missing nothing counts. A forecast that is NaN where the truth is not makes its scores NaN, and the result says
    so; a baseline forecasts the spec's fill for a pixel that it never saw. Every mean has a 95 % interval.

    In processes that torchrun started each takes its share of the clips, and all return the same scores.

    Args:
        predictors: one or several: a predictor, saved forecasts, or a path or name that :func:`stpredict.load_predictor` knows. The
            clips that all saved forecasts have are scored.
        data: the split.
        protocol: the convention of scoring, one of :data:`stpredict.protocols.PROTOCOLS` (default ``per-pixel``).
        scores: names of scores, ours or ``package.module:Class`` (default: the protocol's, else those that every kind of frame has, and
            ``csi`` where the frame spec has thresholds).
        baselines: whether to add the baselines; the training mean only where there are training clips, of the size of these.
        training_clips: the training split, for its mean frame (default: what ``data.training_split()`` gives, if there is such).
        batch_size: clips at a time; it changes no score.
        limit: score the first ``limit`` clips only.
        units: score in these units, ``mm/h``, ``mm`` or ``dBZ``; the thresholds of the card are converted too.
        thresholds: those of events, in the units in which is scored, in place of the card's.
        members: M: every predictor forecasts an ensemble. Scores that do not take ensembles see the mean of the members.
        skill: the name of a predictor, such as ``persistence``, over which the skill of all others is to be said, and their differences
            from it, with intervals.
        resample: ``clips`` or ``films``: what is drawn again at random for the intervals. Clips that overlap, or are of one event, are
            not independent, so that intervals over clips are then too narrow; ``films`` draws whole films.
        save_forecasts: a ``.h5`` or ``.npz`` file to write the forecasts of the one predictor to.
        device: ``auto``, ``cpu`` or ``cuda``.
        workers: processes that read clips ahead.
        progress: whether to show a progress bar where stderr is a terminal.

    Raises:
        UserError: predictor and data do not fit, saved forecasts are of other clips, a name is unknown, what is asked for contradicts
            the protocol, or a number is below 1.
    """
    if batch_size < 1:
        raise UserError(f"batch_size is at least 1, not {batch_size}")
    with ExitStack() as stack:
        processes = stack.enter_context(join(choose_device(device)))
        evaluation = prepare(
            predictors,
            data,
            protocol,
            scores=scores,
            baselines=baselines,
            training_clips=training_clips,
            limit=limit,
            units=units,
            thresholds=thresholds,
            members=members,
            skill=skill,
            resample=resample,
            save_forecasts=save_forecasts,
            device=device,
        )
        if evaluation.device.type == "cpu" and not processes.alike(kernels.in_use):
            stack.enter_context(kernels.using("reference"))
            told = "The processes have different kernels, so that all computed with torch's own, as with --kernels reference"
            evaluation = replace(evaluation, warnings=(*evaluation.warnings, told))
        return evaluation.run(processes, batch_size, workers, progress)


def prepare(
    predictors: Any,
    data: ClipSet,
    protocol: str | None = None,
    *,
    scores: Sequence[str] | None = None,
    baselines: bool = True,
    training_clips: ClipSet | None = None,
    limit: int | None = None,
    units: str | None = None,
    thresholds: Sequence[float] | None = None,
    members: int | None = None,
    skill: str | None = None,
    resample: str = "clips",
    save_forecasts: str | Path | None = None,
    device: str = "auto",
) -> Evaluation:
    """Find out whether what is asked for can be done, before anything is forecast; arguments as in :func:`evaluate`.

    Raises:
        UserError: it cannot.
    """
    rules = find_protocol(protocol)
    if limit is not None and limit < 1:
        raise UserError(f"limit is at least 1, not {limit}")
    if resample not in ("clips", "films"):
        raise UserError(f"What is drawn again is 'clips' or 'films', not '{resample}'")
    if thresholds is not None and not np.isfinite(thresholds).all():
        raise UserError(f"Thresholds are finite numbers, not {list(thresholds)}")
    count = len(data) if limit is None else min(len(data), limit)
    if count == 0:
        raise UserError(f"The split '{data.split}' of '{data.card}' holds no clip of {data.context} + {data.horizon} frames")

    names, scored = _by_protocol(rules, data, scores, units, thresholds)
    chosen = create_scores(names)
    check_protocol(rules, data, scored)
    where = choose_device(device)
    contestants, asked, training = open_contestants(predictors, data, baselines, training_clips, where)
    indices, warnings = clips_of_all(contestants, data, count)
    warnings += [sentence for name, one in contestants.items() for sentence in unlike_training(name, one, data)]
    if save_forecasts is not None and asked != 1:
        raise UserError(f"A forecast file holds the forecasts of one predictor: evaluate one to write {save_forecasts}, not {asked}")
    if skill is not None and skill not in contestants:
        raise UserError(f"There is no predictor '{skill}' over which to say the skill{nearest(skill, contestants)}")
    films = check_films(data, indices) if resample == "films" else None
    path = None if save_forecasts is None else Path(save_forecasts)
    if path is not None:
        ForecastWriter(path, next(iter(contestants)), data, len(indices))  # refuses a name that it cannot write
    judge = Judge(chosen, rules, data.spec, scored)
    blank = torch.tensor(data.spec.fill, device=where).expand(1, data.horizon, *data.spec.shape)
    with torch.inference_mode():  # a score that is not for such frames says so before anything is forecast
        judge.totals(blank if members is None else blank.unsqueeze(1).expand(-1, members, -1, -1, -1, -1), blank)
    return Evaluation(contestants, data, training, judge, indices, films, where, members, skill, path, tuple(warnings))


def _by_protocol(
    rules: Protocol, data: ClipSet, scores: Sequence[str] | None, units: str | None, thresholds: Sequence[float] | None
) -> tuple[Sequence[str], FrameSpec]:
    """Return the names of the scores, and the spec of the frames in the units and with the thresholds in which is scored.

    Raises:
        UserError: the protocol does not say how a score is taken, or the units cannot be had.
    """
    other = [name for name in scores or () if rules.scores is not None and name not in {*rules.scores, *rules.treatments}]
    if other:
        known = ", ".join(dict.fromkeys([*(rules.scores or ()), *rules.treatments]))
        raise UserError(
            f"The protocol '{rules.name}' does not say how '{other[0]}' is scored, but only {known}: leave it out, or the protocol"
        )
    asked = units or rules.units or data.spec.units
    try:
        scored = spec_in_units(data.spec, asked)
    except UserError as error:
        raise error if units is not None else UserError(f"The protocol '{rules.name}' scores in {asked}: {error}") from None
    chosen = rules.thresholds if thresholds is None else thresholds
    scored = scored if chosen is None else replace(scored, thresholds=tuple(chosen))
    return (scores or rules.scores or default_scores(scored)), scored


@dataclass(frozen=True)
class Evaluation:
    """What is to be scored and how, checked.

    Attributes:
        contestants: what is scored, by name.
        data: the split.
        training: the training split, for its mean frame, if that is needed and can be had.
        judge: how it is scored.
        indices: which of its clips are.
        films: the number of the film of each clip of the data, if films are drawn again.
        device: where is computed.
        members: M, if ensembles are forecast.
        skill: the name of the reference, if skill is asked for.
        save_forecasts: where the forecasts of the first contestant go.
        warnings: what is to be said already.
    """

    contestants: Mapping[str, Any]
    data: ClipSet
    training: ClipSet | None
    judge: Judge
    indices: Sequence[int]
    films: NDArray[np.int64] | None
    device: torch.device
    members: int | None
    skill: str | None
    save_forecasts: Path | None
    warnings: tuple[str, ...]

    def run(self, processes: Processes, batch_size: int = 16, workers: int = 0, progress: bool = False) -> Scores:
        """Forecast and score all clips, this process its share of them."""
        ready = replace(self, contestants=with_training_means(self.contestants, self.training, processes))
        return ready._run(processes, batch_size, workers, progress)

    def _run(self, processes: Processes, batch_size: int, workers: int, progress: bool) -> Scores:
        tallies = {name: Tally.of(self.judge.scores, self.data.horizon) for name in self.contestants}
        with saving(self.save_forecasts, processes) as path:
            digests, starts = self._score(tallies, processes, path, batch_size, workers, progress)
        digests, starts = gather_lists(digests, processes), gather_lists(starts, processes)
        for tally in tallies.values():
            tally.gather(processes)
        return processes.from_first(lambda: self._scores(tallies, digests, starts))

    def _score(
        self, tallies: Mapping[str, Tally], processes: Processes, path: Path | None, batch_size: int, workers: int, progress: bool
    ) -> tuple[list[bytes], list[int]]:
        """Score this process's clips; return the digest of each, and when it starts, where there is a clock."""
        data, saved = self.data, next(iter(self.contestants))
        order = own_batches(self.indices, batch_size, processes.rank, processes.count)
        console = Console(stderr=True)
        silent = not (progress and processes.first and console.is_terminal)
        loader = track(batches(data, order, workers), "Scoring", len(order), console=console, disable=silent)
        clips = len(share(self.indices, processes.rank, processes.count))
        writing: AbstractContextManager[ForecastWriter | None] = nullcontext()
        if path is not None and clips:
            own = getattr(self.contestants[saved], "members", None)  # of an ensemble that was saved
            writing = ForecastWriter(path, saved, data, clips, self.members if own is None else own)
        digests: list[bytes] = []
        starts: list[int] = []
        with torch.inference_mode(), writing as writer:
            for batch in loader:
                digests += (new := clip_digests(batch))
                starts += [] if batch.times is None else batch.times[:, 0].tolist()
                physical = batch.physical(data.packing, self.device)
                draw = draw_units(batch.indices if self.films is None else self.films[list(batch.indices)])
                for name, predictor in self.contestants.items():
                    forecast = forecast_batch(predictor, name, batch, physical, data, self.members)
                    tallies[name].add(self.judge, forecast, physical[:, data.context :], draw)
                    if isinstance(predictor, SavedForecasts):
                        tallies[name].digests += [_forecast_digest(one) for one in forecast]
                    if writer is not None and name == saved:
                        writer.write(forecast, batch, new)
        return digests, starts

    def _scores(self, tallies: Mapping[str, Tally], digests: list[bytes], starts: list[int]) -> Scores:
        data, spec = self.data, self.judge.scored
        better = {score.name: way for score in self.judge.scores if (way := better_direction(score)) is not None}
        per_clip = {name: tally.clip_scores() for name, tally in tallies.items()}
        undefined = {name: tally.undefined for name, tally in tallies.items() if tally.undefined}
        frames = len(self.indices) * data.horizon
        told = [
            f"'{name}' forecasts NaN where the truth is not, in {number} of {frames} frames: all but its scores of events are NaN"
            for name, number in undefined.items()
        ]
        scores = Scores(
            protocol=self.judge.protocol.name,
            card=data.card,
            split=data.split,
            hash=truth_hash(data.context, data.horizon, digests),
            clips=len(self.indices),
            context=data.context,
            horizon=data.horizon,
            units=spec.units,
            time_step=spec.time_step,
            scores={name: {score: _numbers(sums, spec) for score, sums in tally.running.items()} for name, tally in tallies.items()},
            predictors={name: describe(one, tallies[name].digests) for name, one in self.contestants.items()},
            better=better,
            members=self.members,
            resample="clips" if self.films is None else "films",
            selected=selected(per_clip, better, self.indices),
            over=None if self.skill is None else _over(tallies, self.skill),
            warnings=(*self.warnings, *told),
            per_clip=per_clip,
            indices=tuple(self.indices),
            films=tuple(film_name(data, index) for index in self.indices),
            starts=tuple(starts),
        )
        return scores.with_published(published_for(scores, len(data)))


def _forecast_digest(forecast: torch.Tensor) -> bytes:
    return hashlib.blake2b(forecast.cpu().contiguous().numpy().data, digest_size=DIGEST_SIZE).digest()


def _over(tallies: Mapping[str, Tally], reference: str) -> dict[str, Any]:
    """Return the skill of all predictors but the reference, and their differences from it."""
    others = {name: tally.running for name, tally in tallies.items() if name != reference}
    theirs = tallies[reference].running
    skill = {name: {score: skill_over(sums, theirs[score]) for score, sums in running.items()} for name, running in others.items()}
    return {
        "name": reference,
        "skill": {name: _plain(by_score) for name, by_score in skill.items()},
        "differences": {
            name: _plain({score: difference_from(sums, theirs[score]) for score, sums in running.items()})
            for name, running in others.items()
        },
    }


def _plain(estimates: Mapping[str, Estimate | None]) -> dict[str, dict[str, Any]]:
    return {score: asdict(estimate) for score, estimate in estimates.items() if estimate is not None}


def _numbers(sums: RunningScore, spec: FrameSpec) -> dict[str, Any]:
    """Return the numbers of a score as :class:`Scores` has them."""
    numbers: dict[str, Any] = {
        "mean": sums.mean(),
        "interval": sums.interval().tolist(),
        "per_lead": sums.per_lead().tolist(),
        "per_lead_interval": sums.per_lead_interval().tolist(),
    }
    parts, ends, per_lead = sums.parts(), sums.parts_interval(), sums.parts_per_lead()
    if parts is not None and ends is not None and per_lead is not None:
        names = names_of_parts(sums.score, spec, len(parts))
        if len(names) != len(parts):
            raise UserError(f"The score '{sums.score.name}' has {len(parts)} numbers, but names {len(names)} parts")
        columns = zip(parts.tolist(), ends.T.tolist(), per_lead.T.tolist(), strict=True)
        alone = [{"mean": mean, "interval": interval, "per_lead": leads} for mean, interval, leads in columns]
        numbers["parts"] = dict(zip(names, alone, strict=True))
    return numbers
