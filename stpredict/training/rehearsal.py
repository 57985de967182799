"""A dry run: everything is made and a few steps are taken, nothing is written, and what the whole run will take is said."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from contextlib import closing

import torch

from stpredict.data.loader import TrainingOrder, batches
from stpredict.processes import Processes
from stpredict.training.elapsed import elapsed
from stpredict.training.settings import Settings
from stpredict.training.state import State
from stpredict.training.step import take_step
from stpredict.training.validation import validate
from stpredict.training.work import make_work

_STEPS = 4


def rehearse(settings: Settings) -> str:
    """Take a few steps in this process, validate once, and say in words what a run of these settings is, and takes.

    Raises:
        UserError: a setting is wrong, or the data are not there.
    """
    work = make_work(settings, Processes())
    settings, trainer, clips = work.settings, work.settings.trainer, work.clips
    state, seconds = State(), []
    order = TrainingOrder(clips, settings.seed, range(_STEPS), settings.data.batch_size)
    if settings.optimizer.ema is not None:
        state.start_ema(work.network)
    with closing(batches(clips, order, settings.data.workers)) as source:
        for batch in source:
            began = time.perf_counter()
            outcome = take_step(work, state, batch, stop=False)
            outcome.note(state)  # which waits for a GPU
            seconds.append(time.perf_counter() - began)
            state.step += 1
    each, validations = statistics.median(seconds[1:]), 0.0
    if work.validation is not None:
        began = time.perf_counter()
        validate(work, work.validation)
        validations = (time.perf_counter() - began) * -(-trainer.max_steps // trainer.validate_every)
    weights = sum(weight.numel() for weight in work.network.parameters())
    spec, total = clips.spec, each * trainer.max_steps + validations
    lines = [
        f"data        {settings.data.card}, {len(clips)} training clips of {clips.context} + {clips.horizon} frames, "
        f"{spec.channels} x {spec.height} x {spec.width}",
        f"network     {settings.network['name']}, {weights:,} parameters",
        f"step        {settings.data.batch_size} clips, {each:.3g} s, loss {outcome.loss:.5g}, gradient {outcome.norm:.3g}",
        f"memory      {_peak(work.device)}",
        f"whole run   {trainer.max_steps:,} steps, {trainer.max_steps * settings.data.batch_size / max(1, len(clips)):.3g} epochs, "
        f"about {elapsed(total)}, {elapsed(validations)} of it validation, with one process on {work.device}",
    ]
    return "\n".join(lines)


def _peak(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB at most on the GPU"
    unit = 2**30 if sys.platform == "darwin" else 2**20  # macOS counts bytes, Linux KiB
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit:.2f} GiB at most, the program itself included"
