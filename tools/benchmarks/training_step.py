"""One training step: its time and its memory."""

from __future__ import annotations

import argparse

from benchmarks import cases
from benchmarks.figures import complete_row, figures_of
from benchmarks.memory import give_back_at_once
from benchmarks.timing import Row
from stpredict.data.loader import collate
from stpredict.kernels import using
from stpredict.processes import Processes
from stpredict.training.settings import Settings
from stpredict.training.state import State
from stpredict.training.step import take_step
from stpredict.training.work import make_work

_TRIES = 20
"""Steps until the loss scale of fp16, halved each time, has no more to fall, and some."""


def step(options: argparse.Namespace) -> list[Row]:
    """One training step, as a run takes it, on noise: its time and its memory.

    A step of a config moves the weights once, forward in time, along the whole horizon, even if ``reversed_pass`` or a growing horizon
    would have it otherwise, so that networks can be compared.
    ``kernels`` is the name of what computed. ``tflops`` are 10**12 floating-point operations a second: two for each multiply-add of
    stpredict.costs, three times those of a forecast, since going backward takes two products for each one of going forward; what
    recompute does again is not counted. ``share_of_peak`` is what that is of the rate that benchmarks.peak measures in the same
    precision. The operations are those of the direct form, so a faster algorithm, which needs fewer, may reach more than 1.
    ``intensity`` is operations for each byte that benchmarks.traffic counts.
    ``activation_mib`` is by how much the step's peak exceeds what is held between two steps: weights, gradients, the optimiser's state
    and the batch. ``peak_mib`` is the whole peak: on a GPU of torch's tensors, else of the process with the program itself. Where
    memory did not suffice, a row has no figures.
    """
    return [complete_row(_describe(settings), settings, measure_step, options.repeats) for settings in cases.asked(options)]


def _describe(settings: Settings) -> Row:
    return {**cases.describe(settings), "recompute": "on" if settings.trainer.recompute else "off"}


def measure_step(settings: Settings, repeats: int) -> Row:
    """Take steps in this process, a first one that does not count, and return their figures."""
    give_back_at_once()
    with using(settings.trainer.kernels):
        work, state = make_work(settings, Processes()), State()
        if settings.optimizer.ema is not None:
            state.start_ema(work.network)
        batch = collate([(index, work.clips[index]) for index in range(settings.data.batch_size)])

        def take() -> bool:
            outcome = take_step(work, state, batch, stop=False)
            state.step += 1
            return outcome.skipped

        for _ in range(_TRIES):  # until the optimiser has its state
            if not take():
                break
        return figures_of(work, take, repeats, passes=3)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what only ``step`` takes."""
    parser.add_argument("--recompute", nargs="+", choices=("off", "on"), default=["off"], help="default: off")
