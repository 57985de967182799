"""A study, run by run: trains what is not trained yet, goes on with what was interrupted, scores what is not scored, and sums up.

All that is known is in the study's folder, so that a study that was stopped, however it was stopped, goes on where it was when the same
command is given again; several processes that are given it share its runs.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stpredict.checkpoint import checkpoints
from stpredict.configuration import read_yaml
from stpredict.errors import UserError
from stpredict.files import append_text, write_text
from stpredict.processes import Processes
from stpredict.signals import stop_on
from stpredict.study.plan import PLAN, Study, load_study
from stpredict.study.scoring import COSTS, SCORES, check_scoring, is_scored, score_baselines, score_run
from stpredict.study.summary import Summary, sum_up
from stpredict.training import resume, train
from stpredict.training.overview import NOT_THE_RESULT, dotted
from stpredict.training.run import INTERRUPTED
from stpredict.training.settings import Settings
from stpredict.training.work import make_work


@dataclass(frozen=True)
class Outcome:
    """What a start of a study came to.

    Attributes:
        summary: of all runs that are scored so far.
        exit_code: 0 when all are, 75 when it was interrupted, or other processes still work on the rest.
    """

    summary: Summary
    exit_code: int


def run_study(study: Study, folder: str | Path, *, progress: bool = True, say: Callable[[str], None] = lambda words: None) -> Outcome:
    """Start a study, or go on with it.

    Args:
        study: what is asked.
        folder: where its runs, their scores and the summary go; it is new, empty, or of this study.
        progress: say how each training goes on stderr.
        say: is told what is begun.

    Raises:
        UserError: a setting is wrong, the folder is of something else or its runs were made by other settings; nothing has been trained
            then. Or runs failed; the others have been made and summed up then.
    """
    folder = Path(folder)
    _begin(study, folder)
    failed: dict[str, str] = {}
    elsewhere: list[str] = []
    for number, (name, (variant, seed)) in enumerate(study.runs.items(), start=1):
        settings = study.settings_of(variant, seed, str(folder / name))
        with _held(folder, name) as free:
            if not free:
                elsewhere.append(name)
                continue
            if is_scored(study, folder, name):
                continue
            say(f"{name} ({number} of {len(study.runs)})")
            try:
                if _train(settings, folder, name, progress) == INTERRUPTED:
                    return Outcome(sum_up(study, folder), INTERRUPTED)
            except UserError as error:
                failed[name] = str(error)
                continue
            with stop_on(signal.SIGINT, signal.SIGTERM, signal.SIGUSR1) as stop:
                score_run(study, folder, name, settings)
                sum_up(study, folder).write(folder)
            if stop.asked:
                return Outcome(sum_up(study, folder), INTERRUPTED)
    with stop_on(signal.SIGINT, signal.SIGTERM, signal.SIGUSR1) as stop:
        score_baselines(study, folder)
        summary = sum_up(study, folder)
        summary.write(folder)
    if failed:
        first, why = next(iter(failed.items()))
        raise UserError(f"{len(failed)} of {len(study.runs)} runs failed, the others are in {folder}; {first}: {why}")
    waiting = [name for name in elsewhere if not is_scored(study, folder, name)]
    if waiting:
        say(f"other processes work on {', '.join(waiting)}; start the study again when they have ended, for the whole table")
    return Outcome(summary, INTERRUPTED if waiting or stop.asked else 0)


def _begin(study: Study, folder: Path) -> None:
    """Check all that can be checked before hours are spent, and write down what is asked.

    Raises:
        UserError: something is wrong.
    """
    if folder.is_dir() and not (folder / PLAN).is_file() and any(folder.iterdir()):
        raise UserError(f"{folder} holds something else than a study: name another folder by --out")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: name the folder of the study by --out")
    made = [name for name in study.runs if (folder / name).is_dir()]
    if (folder / PLAN).is_file():
        study.check_continues(load_study(folder), made)
    for variant in study.variants:
        settings = study.settings_of(variant, study.seeds[0])
        if settings.trainer.devices > 1:
            raise UserError(
                f"Variant '{variant}': trainer.devices above 1 is for 'stpredict train'; start a study in several processes instead"
            )
        if not set(made) >= {name for name, (of, _) in study.runs.items() if of == variant}:
            try:
                make_work(settings, Processes())
            except UserError as error:
                raise UserError(f"Variant '{variant}' of the study '{study.name}': {error}") from None
    check_scoring(study)
    for inside in (SCORES, COSTS):
        (folder / inside).mkdir(parents=True, exist_ok=True)
    write_text(folder / PLAN, study.to_text())


@contextmanager
def _held(folder: Path, name: str) -> Iterator[bool]:
    """Hold a run of a study for this process, as far as no other does; the kernel lets go of it when the process ends."""
    with (folder / f".{name}.lock").open("w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            yield False
        else:
            yield True


def _train(settings: Settings, folder: Path, name: str, progress: bool) -> int:
    """Train a run, or go on with it, and note what it took; return its exit code."""
    run = folder / name
    before, seconds, processor = _steps(run), time.monotonic(), sum(os.times()[:4])
    done = resume(run, _moved(settings, run), progress=progress) if run.is_dir() else train(settings, progress=progress)
    took = {"steps": _steps(run) - before, "processor": sum(os.times()[:4]) - processor, "clock": time.monotonic() - seconds}
    if took["steps"] > 0:
        append_text(folder / COSTS / f"{name}.jsonl", json.dumps({key: round(value, 3) for key, value in took.items()}) + "\n")
    return done.exit_code


def _steps(run: Path) -> int:
    """Return how many steps of a run are saved."""
    steps = [path.stem.removeprefix("step-") for path in checkpoints(run / "checkpoints")] if run.is_dir() else []
    return max((int(step) for step in steps if step.isdecimal()), default=0)


def _moved(settings: Settings, run: Path) -> list[str]:
    """Return the overrides by which a run goes on at another place, such as with other files or threads."""
    before: Mapping[str, Any] = dotted(read_yaml(run / "config.yaml"))
    now = dotted(settings.to_dict())
    keys = [key for key in NOT_THE_RESULT if key.startswith(("data.", "trainer.")) and now.get(key) not in (None, before.get(key))]
    return [f"--{key}={json.dumps(now[key])}" for key in keys]
