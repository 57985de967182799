"""Training, top to bottom: from settings to a run that has ended, or was interrupted and can go on exactly.

Step s of a run is a function of the settings, s, and the weights and optimiser state before it: clips, truth masks and dropout
are drawn by (seed, s), the learning rate and the sampling schedule are computed from s. So a checkpoint needs no more than these.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stpredict.checkpoint import Checkpoint, checkpoints, optimizer_tensors
from stpredict.configuration import read_config
from stpredict.data.loader import TrainingOrder, batches, share
from stpredict.devices import autocast
from stpredict.draws import Draws
from stpredict.errors import UserError
from stpredict.files import write_text
from stpredict.frames import Batch
from stpredict.processes import join
from stpredict.sampling import draw_truth
from stpredict.training.progress import Stopwatch, TrainingProgress
from stpredict.training.run import INTERRUPTED, Log, Run, plain_versions
from stpredict.training.schedules import first_beta, learning_rate
from stpredict.training.settings import Settings, load_settings, make_settings
from stpredict.training.tracking import Tracker, start_trackers
from stpredict.training.validation import draw_pictures, validate
from stpredict.training.work import Work, make_work

_MAY_CHANGE = ("run", "trainer", "data.root", "data.workers")
"""What may differ between a run and its continuation; anything else would make it another run."""


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
        work = make_work(settings, processes)
        folder = processes.share_from_first(Run.create(settings).folder if processes.first else None)
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
    if overrides:
        changed = make_settings(read_config(run.folder / "config.yaml", overrides))
        _refuse_other_run(settings.to_dict(), changed.to_dict())
        settings = changed
    with join(_group_device(settings)) as processes:
        found = checkpoints(run.checkpoints)
        checkpoint = Checkpoint.load(found[-1]) if found else None
        if run.done and checkpoint is not None and checkpoint.step >= settings.trainer.max_steps:
            return run
        if checkpoint is not None and settings.trainer.threads is None and "threads" in checkpoint.facts:
            settings = replace(settings, trainer=replace(settings.trainer, threads=int(checkpoint.facts["threads"])))
        return _fit(make_work(settings, processes), run, checkpoint, progress)


def _fit(work: Work, run: Run, checkpoint: Checkpoint | None, progress: bool) -> Run:
    """Take the training steps that are left."""
    settings, processes, trainer = work.settings, work.processes, work.settings.trainer
    first = processes.first
    step, best = 0, None
    if checkpoint is not None:
        checkpoint.restore(work.network, work.optimizer)
        step, best = checkpoint.step, checkpoint.best

    with ExitStack() as stack:
        if first:
            stack.enter_context(run.lock())
            run.begin(settings)
        log = Log(run.folder / "log.csv", step) if first else None
        trackers = start_trackers(settings.run.track, run.folder, settings.to_dict()) if first else []
        shown = stack.enter_context(TrainingProgress(step, trainer.max_steps, shown=progress and first))
        stop = stack.enter_context(_stop_signals())
        shown.say(f"{'going on with' if checkpoint else 'training in'} {run.folder} on {work.device}, {processes.count} process(es)")

        steps = range(step, trainer.max_steps)
        order = TrainingOrder(work.clips, settings.seed, steps, settings.data.batch_size, processes.rank, processes.count)
        source = stack.enter_context(closing(batches(work.clips, order, settings.data.workers)))
        watch, interrupted = Stopwatch(step), False
        work.network.train()
        while step < trainer.max_steps and not interrupted:
            with watch.waiting():
                batch = next(source)
            loss, norm, interrupted = _training_step(work, step, batch, bool(stop))
            step += 1
            last = step == trainer.max_steps

            validation: dict[str, float] = {}
            if work.validation is not None and (step % trainer.validate_every == 0 or last):
                with watch.apart():
                    validation = validate(work, work.validation)
            if step % trainer.log_every == 0 or validation or last:
                values = _figures(work, step, float(loss), float(norm)) | validation
                rate, waiting = watch.lap(step)
                frames = rate * settings.data.batch_size * (work.clips.context + work.clips.horizon)
                shown.show(step, values["loss"], rate, frames, waiting)
                if log is not None:
                    timing = {"seconds": watch.seconds(), "frames_per_second": frames, "waiting": waiting}
                    log.add(step=step, **values, **{name: round(value, 4) for name, value in timing.items()})
                for tracker in trackers:
                    tracker.scalars(step, values)
            with watch.apart():
                if validation:
                    shown.say(f"step {step}: " + ", ".join(f"{name.replace('_', ' ')} {value:.6f}" for name, value in validation.items()))
                    if best is None or validation["validation_mse"] < best:
                        best = validation["validation_mse"]
                        if first:
                            work.predictor(_provenance(work, run, step, best)).save(run.folder / "best.safetensors")
                    if log is not None:
                        _show_pictures(work, run, log, step, trackers)
                if step % trainer.checkpoint_every == 0 or last or interrupted:
                    if first:
                        _save(work, run, step, best)
                    processes.wait()
        for tracker in trackers:
            tracker.close()
        if step < trainer.max_steps:
            shown.say(f"interrupted after step {step}, all saved; go on with: stpredict resume {run.folder}")
            return Run(run.folder, INTERRUPTED)
        if first:
            write_text(run.folder / "done", f"{step}\n")
    return run


def _training_step(work: Work, step: int, batch: Batch, stop: bool) -> tuple[Tensor, Tensor, bool]:
    """Take one step; return the loss, the norm of the gradient, and whether any process was asked to stop."""
    settings, processes, clips = work.settings, work.processes, work.clips
    size = settings.data.batch_size
    positions = share(range(step * size, (step + 1) * size), processes.rank, processes.count)
    draws = Draws(settings.seed, step, tuple(positions))
    _set_rate(work, step)
    work.optimizer.zero_grad(set_to_none=True)

    truth, valid = clips.spec.scale(batch.physical(clips.packing, work.device))
    horizon = work.growing.at(step + 1, clips.horizon)
    total = clips.context + horizon
    truth, valid = truth[:, :total], valid[:, :total]
    use_truth = None
    if work.network.predicts_context:
        use_truth = draw_truth(work.schedule, step + 1, draws, clips.context, horizon).to(work.device)
    known = None if batch.known is None else batch.known[:, :total].to(work.device)
    with autocast(work.device, settings.trainer.precision):
        predictions, penalty = work.along.forward(truth, clips.context, horizon, use_truth, valid, known, draws)
    length = horizon if settings.loss.get("over", "all") == "future" else predictions.shape[1]
    loss_sum, count = work.loss(predictions[:, -length:], truth[:, -length:], valid[:, -length:])
    share_of_loss = loss_sum / processes.sum(count).clamp(min=1)
    if penalty is not None:
        share_of_loss = share_of_loss + penalty.sum() / size
    share_of_loss.backward()  # type: ignore[no-untyped-call]

    parameters = [parameter for group in work.optimizer.param_groups for parameter in group["params"]]
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    asked = torch.tensor(float(stop), device=work.device)
    # Running statistics, as of batch norms: each process has seen its own share of the batch.
    statistics = [buffer for buffer in work.network.buffers() if buffer.is_floating_point()]
    own = [parameter.grad for parameter in parameters if parameter.grad is not None]
    *sums, loss, asked = processes.sum_flat([*own, *statistics, share_of_loss.detach(), asked])
    gradients = sums[: len(parameters)]
    for buffer, summed in zip(statistics, sums[len(parameters) :], strict=True):
        buffer.copy_(summed / processes.count)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    norm = torch.nn.utils.get_total_norm(gradients)
    if settings.optimizer.clip_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, settings.optimizer.clip_norm, norm)
    work.optimizer.step()
    return loss, norm, stop if processes.count == 1 else bool(asked > 0)


def _set_rate(work: Work, step: int) -> None:
    optimizer, steps = work.settings.optimizer, work.settings.trainer.max_steps
    for group in work.optimizer.param_groups:
        group["lr"] = learning_rate(optimizer, step, steps)
        if "betas" in group:
            group["betas"] = (first_beta(optimizer, step, steps), optimizer.betas[1])


def _figures(work: Work, step: int, loss: float, norm: float) -> dict[str, float]:
    inside, after = work.schedule.probabilities(step)
    rate = learning_rate(work.settings.optimizer, step - 1, work.settings.trainer.max_steps)
    return {"loss": loss, "learning_rate": rate, "gradient_norm": norm, "truth_in_context": inside, "truth_after": after}


def _save(work: Work, run: Run, step: int, best: float | None) -> None:
    facts = {"threads": torch.get_num_threads(), "processes": work.processes.count, "device": work.device.type, **plain_versions()}
    state = Checkpoint(step, work.network.state_dict(), optimizer_tensors(work.optimizer), best, facts)
    state.save(run.checkpoints, work.settings.trainer.keep)
    work.predictor(_provenance(work, run, step, None)).save(run.folder / "last.safetensors")


def _provenance(work: Work, run: Run, step: int, score: float | None) -> dict[str, Any]:
    data = {key: value for key, value in work.settings.to_dict()["data"].items() if key not in ("root", "workers", "batch_size")}
    return {"run": run.folder.resolve().name, "step": step, "validation_mse": score, "data": data, "seed": work.settings.seed}


def _show_pictures(work: Work, run: Run, log: Log, step: int, trackers: Sequence[Tracker]) -> None:
    for name, path in draw_pictures(work, run, log, step).items():
        for tracker in trackers:
            tracker.picture(step, name, path)


def _group_device(settings: Settings) -> torch.device:
    return torch.device("cuda" if settings.trainer.device != "cpu" and torch.cuda.is_available() else "cpu")


def _refuse_other_run(before: Mapping[str, Any], after: Mapping[str, Any], path: str = "") -> None:
    for key in {**before, **after}:
        where = f"{path}{key}"
        old, new = before.get(key), after.get(key)
        if old == new or where in _MAY_CHANGE or where == "name":
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            _refuse_other_run(old, new, f"{where}.")
            continue
        raise UserError(f"A run goes on with its own settings: '{where}' is {old!r} and cannot become {new!r}; start another run for that")


class _Stop:
    """Whether a signal has asked the run to stop; a second one stops it at once."""

    def __init__(self) -> None:
        self.asked = False

    def __bool__(self) -> bool:
        return self.asked

    def __call__(self, number: int, frame: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def _stop_signals() -> Iterator[_Stop]:
    """Take SIGINT, SIGTERM and SIGUSR1 (SLURM) as a wish to save and stop, while the body runs in the main thread."""
    stop, numbers = _Stop(), (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    try:
        before = {number: signal.signal(number, stop) for number in numbers}
    except ValueError:  # signals belong to the main thread
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
