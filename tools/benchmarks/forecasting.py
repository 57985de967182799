"""Forecasts: how fast they are made, with how much memory, and how long the command takes to start."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch

import stpredict
from benchmarks import cases
from benchmarks.figures import complete_row, figures_of
from benchmarks.memory import give_back_at_once
from benchmarks.timing import Row, seconds_of
from stpredict.devices import autocast
from stpredict.kernels import using
from stpredict.processes import Processes
from stpredict.training.settings import Settings
from stpredict.training.work import make_work


def inference(options: argparse.Namespace) -> list[Row]:
    """A forecast of one clip, and of a batch: its time and its memory.

    The columns are those of ``step``: ``tflops`` counts the operations of the direct form, two for each multiply-add, so ``share_of_peak``
    may be above 1 where a faster algorithm needs fewer. ``activation_mib`` is by how much the peak exceeds what is held between two
    forecasts: weights and observed frames, which lie on the device.
    """
    wanted = [
        replace(settings, data=replace(settings.data, batch_size=clips))
        for settings in cases.asked(options)
        for clips in dict.fromkeys((1, settings.data.batch_size))
    ]
    return [complete_row(cases.describe(settings), settings, measure_forecast, options.repeats) for settings in wanted]


def measure_forecast(settings: Settings, repeats: int) -> Row:
    """Forecast in this process, a first time that does not count, and return the figures."""
    give_back_at_once()
    with using(settings.trainer.kernels):
        work = make_work(settings, Processes())
        predictor = work.predictor({})
        predictor.network.eval()
        shape = (settings.data.batch_size, work.clips.context, *work.clips.spec.shape)
        observed = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(work.device)

        def take() -> torch.Tensor:
            with autocast(work.device, settings.trainer.precision):
                forecast: torch.Tensor = predictor.forecast(observed, work.clips.horizon)
            return forecast

        take()
        return figures_of(work, take, repeats, passes=1)


def startup(options: argparse.Namespace) -> list[Row]:
    """How long ``stpredict --help`` takes, a process of its own each time."""
    command = [sys.executable, "-m", "stpredict", "--help"]
    where = Path(stpredict.__file__).parents[1]
    runs = [seconds_of(lambda: subprocess.run(command, cwd=where, check=True, stdout=subprocess.DEVNULL)) for _ in range(options.repeats)]
    return [{"name": "stpredict --help", "runs": len(runs), "seconds": statistics.median(runs), "best_seconds": min(runs)}]
