"""Training, top to bottom: from settings to a run that has ended, or was interrupted and can go on exactly.

Step s of a run is a function of the settings, s, and the weights and optimiser state before it: clips, truth masks and dropout
are drawn by (seed, s), the learning rate and the sampling schedule are computed from s. So a checkpoint needs no more than these.
"""

from __future__ import annotations

import math
import signal
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import torch

from stpredict.checkpoint import Checkpoint, CheckpointWriter, newest_whole, optimizer_tensors, remove_unfinished
from stpredict.configuration import read_config
from stpredict.data.loader import TrainingOrder, batches, global_batch
from stpredict.errors import UserError
from stpredict.files import write_text
from stpredict.processes import join
from stpredict.signals import stop_on
from stpredict.training.continuation import as_it_was, changes, differences_now, exact_facts
from stpredict.training.progress import Stopwatch, TrainingProgress
from stpredict.training.run import INTERRUPTED, Log, Run
from stpredict.training.schedules import learning_rate
from stpredict.training.settings import Settings, TrainerSettings, load_settings, make_settings
from stpredict.training.state import State
from stpredict.training.step import Outcome, take_step
from stpredict.training.tracking import Tracker, start_trackers
from stpredict.training.validation import draw_pictures, validate
from stpredict.training.work import Work, make_work

_MOST_SKIPPED = 10


def train(settings: Settings | str | Path | Mapping[str, Any], *, progress: bool = True) -> Run:
    """Train a predictor.

    Args:
        settings: settings, a config by path or shipped name, or plain data.
        progress: say how it goes on stderr.

    Returns:
        the run; its ``exit_code`` is 0, or 75 if it was interrupted and can be resumed.

    Raises:
        UserError: a setting is wrong, the data are not there, or the run's folder exists; nothing has been written then.
    """
    if isinstance(settings, str | Path):
        settings = load_settings(settings)
    elif not isinstance(settings, Settings):
        settings = make_settings(settings)
    with join(_group_device(settings)) as processes:
        if processes.count == 1 < settings.trainer.devices:
            raise UserError("trainer.devices above 1 is for the commands 'stpredict train' and 'resume', and this is one process")
        begun = processes.found("run folder")
        if begun is not None:  # the launcher has started these processes again
            return resume(begun, progress=progress)
        work = make_work(settings, processes)
        folder = processes.from_first(lambda: Run.create(settings).folder)
        processes.leave("run folder", str(folder))
        return _fit(work, Run(folder), None, progress)


def resume(folder: str | Path, overrides: Sequence[str] = (), *, progress: bool = True) -> Run:
    """Go on with a run from its newest checkpoint; a run that has ended, and is not made longer, is left as it is.

    Args:
        folder: the run's folder.
        overrides: dotted overrides of what may change: ``run.*``, ``trainer.*``, ``data.root``, ``data.workers``.
        progress: say how it goes on stderr.

    Raises:
        UserError: the folder is no run, its checkpoint is damaged, or an override would make it another run.
    """
    run, settings = Run.open(folder)
    said: list[str] = []
    if overrides:
        changed = make_settings(read_config(run.folder / "config.yaml", overrides))
        said = changes(settings.to_dict(), changed.to_dict())
        settings = changed
    with join(_group_device(settings)) as processes:
        checkpoint, passed_over = newest_whole(run.checkpoints)
        if checkpoint is None and passed_over:
            raise UserError(f"No checkpoint of {run.folder} is whole ({'; '.join(passed_over)}): remove them to start it again from step 0")
        said += passed_over
        if checkpoint is not None and run.done and _has_ended(settings, State.of(checkpoint, {})):
            return run
        if checkpoint is not None:
            settings = as_it_was(settings, checkpoint, overrides)
        work = make_work(settings, processes)
        said += [] if checkpoint is None else differences_now(checkpoint, work)
        return _fit(work, run, checkpoint, progress, said)


def _fit(work: Work, run: Run, checkpoint: Checkpoint | None, progress: bool, said: Sequence[str] = ()) -> Run:
    """Take the training steps that are left; first say what is to be said."""
    settings, processes, trainer = work.settings, work.processes, work.settings.trainer
    first = processes.first
    state = _begin(work, checkpoint)
    deadline = math.inf if trainer.max_hours is None else time.monotonic() + 3600.0 * trainer.max_hours

    with ExitStack() as stack:
        if first:
            stack.enter_context(run.lock())
            remove_unfinished(run.checkpoints)
            run.begin(settings)
        writer = stack.enter_context(CheckpointWriter())
        log = Log(run.folder / "log.csv", state.step) if first else None
        shown = stack.enter_context(TrainingProgress(state.step, trainer.max_steps, shown=progress and first))
        trackers = start_trackers(settings.run.track, run.folder, settings.to_dict(), shown.say) if first else []
        stop = stack.enter_context(stop_on(signal.SIGINT, signal.SIGTERM, signal.SIGUSR1))  # the last is SLURM's
        shown.say(f"{'going on with' if checkpoint else 'training in'} {run.folder} on {work.device}, {processes.count} process(es)")
        for sentence in (*work.said, *said):
            shown.say(sentence)

        steps = range(state.step, trainer.max_steps)
        order = TrainingOrder(work.clips, settings.seed, steps, settings.data.batch_size, processes.rank, processes.count, trainer.overfit)
        source = stack.enter_context(closing(batches(work.clips, order, settings.data.workers)))
        underway: deque[Outcome] = deque()
        watch, interrupted, ended = Stopwatch(state.step, state.seconds), False, _is_stale(settings, state)
        work.network.train()
        while state.step < trainer.max_steps and not (interrupted or ended):
            with watch.waiting():
                batch = next(source)
            looked_at = bool(trackers) and (state.step + 1) % trainer.log_every == 0
            outcome = take_step(work, state, batch, stop.asked or time.monotonic() > deadline, looked_at)
            underway.append(outcome)
            state.step += 1
            last = state.step == trainer.max_steps
            validates = work.validation is not None and (state.step % trainer.validate_every == 0 or last)
            logs, saves = state.step % trainer.log_every == 0 or validates or last, _is_time_to_save(trainer, state.step) or last
            # A GPU is given the next step before it is asked what came of this one, unless that is needed now.
            interrupted = _settle(work, state, underway, 1 if outcome.late and not logs and not saves else 0, shown)

            validation: dict[str, float] = {}
            if work.validation is not None and validates:
                with watch.apart(), state.averaged(work.network):
                    validation = validate(work, work.validation)
            if logs:
                values = _figures(work, state, outcome) | validation
                rate, waiting = watch.lap(state.step)
                frames = rate * settings.data.batch_size * (work.clips.context + work.clips.horizon)
                shown.show(state.step, values["loss"], rate, frames, waiting)
                if log is not None:
                    timing = {"seconds": watch.seconds(), "frames_per_second": frames, "waiting": waiting}
                    log.add(step=state.step, **values, **{name: round(value, 4) for name, value in timing.items()})
                for tracker in trackers:
                    tracker.scalars(state.step, values | {f"gradient_norm {name}": norm for name, norm in outcome.norms.items()})
            with watch.apart():
                if validation:
                    told = ", ".join(f"{name.replace('_', ' ')} {value:.6f}" for name, value in validation.items())
                    shown.say(f"step {state.step}: {told}")
                    _note_score(work, run, state, validation)
                    ended = _is_stale(settings, state)
                    if log is not None:
                        with state.averaged(work.network):
                            _show_pictures(work, run, log, state.step, trackers)
                if saves or interrupted or ended:
                    state.seconds = watch.seconds()
                    if first:
                        _save(work, run, state, writer)
                    processes.wait()
        writer.wait()
        for tracker in trackers:
            tracker.close()
        if state.step < trainer.max_steps and not ended:
            shown.say(f"interrupted after step {state.step}, all saved; go on with: stpredict resume {run.folder}")
            return Run(run.folder, INTERRUPTED)
        if ended and state.step < trainer.max_steps:
            shown.say(f"ended after step {state.step}: {state.stale} validations without a better score")
        if first:
            write_text(run.folder / "done", f"{state.step}\n")
    return run


def _begin(work: Work, checkpoint: Checkpoint | None) -> State:
    """Return the state from which a run goes on, or starts."""
    state, decay = State(), work.settings.optimizer.ema
    if checkpoint is not None:
        checkpoint.restore(work.network, work.optimizer)
        state = State.of(checkpoint, {name: value.to(work.device) for name, value in checkpoint.ema.items()})
    if decay is not None and not state.ema:
        state.start_ema(work.network)
    return state


def _is_time_to_save(trainer: TrainerSettings, step: int) -> bool:
    return step % trainer.checkpoint_every == 0 or (trainer.milestone_every > 0 and step % trainer.milestone_every == 0)


def _has_ended(settings: Settings, state: State) -> bool:
    return state.step >= settings.trainer.max_steps or _is_stale(settings, state)


def _is_stale(settings: Settings, state: State) -> bool:
    return settings.trainer.patience is not None and state.stale >= settings.trainer.patience


def _settle(work: Work, state: State, underway: deque[Outcome], left: int, shown: TrainingProgress) -> bool:
    """Note what came of steps, of all but the newest ``left``, or of all once a process was asked to stop.

    Returns:
        whether any process was.

    Raises:
        UserError: too many steps in a row were skipped.
    """
    asked = False
    while len(underway) > (0 if asked else left):
        outcome = underway.popleft()
        outcome.note(state)
        asked = asked or outcome.stop
        if outcome.skipped:
            _complain(work, state, outcome.step, shown)
    return asked


def _complain(work: Work, state: State, number: int, shown: TrainingProgress) -> None:
    """Say which clips gave a loss or gradient that is not finite.

    Raises:
        UserError: too many steps in a row did.
    """
    size = work.settings.data.batch_size
    step = 0 if work.settings.trainer.overfit else number - 1
    clips = global_batch(None if work.clips.endless else len(work.clips), work.settings.seed, step, size)
    if work.settings.trainer.precision == "fp16" and not state.skipped_in_a_row:
        shown.say(f"step {number}: too large for fp16, the loss scale is now {state.scale:g}")
        return
    shown.say(f"step {number} skipped, its loss or gradient is not finite; clips {', '.join(map(str, clips))}")
    if state.skipped_in_a_row >= _MOST_SKIPPED:
        raise UserError(
            f"{_MOST_SKIPPED} steps in a row had a loss or gradient that is not finite, the last on clips {clips}: look at these clips, "
            "go on with trainer.precision fp32, or start another run with a lower optimizer.learning_rate or an optimizer.clip_norm"
        )


def _note_score(work: Work, run: Run, state: State, validation: Mapping[str, float]) -> None:
    """Keep the predictor if its score is the best so far."""
    if state.is_best(validation[work.chosen_by], work.settings.optimizer.plateau_patience) and work.processes.first:
        noted = {name: validation[name] for name in ("validation_mse", work.chosen_by)}
        with state.averaged(work.network):
            work.predictor(_provenance(work, run, state.step, noted)).save(run.folder / "best.safetensors")


def _figures(work: Work, state: State, outcome: Outcome) -> dict[str, float]:
    inside, after = work.schedule.probabilities(state.step)
    rate = learning_rate(work.settings.optimizer, state.step - 1, work.settings.trainer.max_steps, state.reductions)
    figures = {"loss": outcome.loss, "learning_rate": rate, "gradient_norm": outcome.norm, "truth_in_context": inside}
    return figures | {"truth_after": after, "skipped": state.skipped}


def _save(work: Work, run: Run, state: State, writer: CheckpointWriter) -> None:
    """Let the checkpoint be written, and then the predictor of the same weights, while training goes on."""
    trainer = work.settings.trainer
    weights, moved = work.network.state_dict(), optimizer_tensors(work.optimizer)
    checkpoint = Checkpoint(state.step, weights, moved, state.best, {**exact_facts(work), "state": state.plain()}, ema=state.ema)
    predictor = work.predictor(_provenance(work, run, state.step, {"validation_mse": None}))
    milestone = bool(trainer.milestone_every) and state.step % trainer.milestone_every == 0

    def save_predictor(copied: Checkpoint) -> None:
        predictor.save(run.folder / "last.safetensors", {**copied.weights, **copied.ema})

    writer.write(checkpoint, run.checkpoints, trainer.keep, milestone, save_predictor)


def _provenance(work: Work, run: Run, step: int, validation: Mapping[str, float | None]) -> dict[str, Any]:
    data = {key: value for key, value in work.settings.to_dict()["data"].items() if key not in ("root", "workers", "batch_size")}
    return {"run": run.folder.resolve().name, "step": step, **validation, "data": data, "seed": work.settings.seed}


def _show_pictures(work: Work, run: Run, log: Log, step: int, trackers: Sequence[Tracker]) -> None:
    for name, path in draw_pictures(work, run, log, step, moving=bool(trackers)).items():
        for tracker in trackers:
            show = tracker.film if path.suffix == ".gif" else tracker.picture
            show(step, name, path)


def _group_device(settings: Settings) -> torch.device:
    return torch.device("cuda" if settings.trainer.device != "cpu" and torch.cuda.is_available() else "cpu")
