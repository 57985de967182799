"""A stream: one new frame and a forecast, beside a forecast of the whole context from scratch and the steps that a stream must take."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks import cases
from benchmarks.apart import apart
from benchmarks.interleaving import interleaved, median_of, median_ratio
from benchmarks.timing import Row
from stpredict import unroll
from stpredict.devices import Precision, autocast
from stpredict.errors import UserError
from stpredict.kernels import in_use, using
from stpredict.networks import DirectNetwork
from stpredict.predictor import Predictor
from stpredict.processes import Processes
from stpredict.training.settings import Settings
from stpredict.training.work import make_work


def stream(options: argparse.Namespace) -> list[Row]:
    """One new frame in a stream, then a forecast: its time beside that of a forecast from scratch and of the steps alone.

    ``seconds`` are those of taking in one frame and forecasting ``leads`` frames. ``scratch_seconds`` are those of the same forecast
    from the whole context. ``ideal_seconds`` are the least that the stream can take: one step that is fed the new frame, and the steps
    that the leads need then, one fewer than leads where the fed step makes the first of them. Each is measured in the same process, in
    turns; ``ratio``, of the stream to its ideal, and ``scratch_ratio``, of the forecast from scratch to the stream, are medians over the
    turns. One film, and a batch of them. A network that forecasts at once takes no steps, so it has no ideal.
    """
    if options.leads < 1:
        raise UserError(f"--leads is at least 1, not {options.leads}")
    rows = []
    for settings in cases.asked(options):
        for films in dict.fromkeys((1, settings.data.batch_size)):
            one = replace(settings, data=replace(settings.data, batch_size=films))
            rows.append(apart(measure_stream, one, options.leads, options.repeats))
    return rows


def measure_stream(settings: Settings, leads: int, repeats: int) -> Row:
    """Measure a stream in this process."""
    data, trainer = settings.data, settings.trainer
    with using(trainer.kernels):
        work = make_work(settings, Processes())
        predictor = work.predictor({})
        predictor.network.eval()
        shape = (data.batch_size, work.clips.context + 1, *work.clips.spec.shape)
        film = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(work.device)
        turns = turns_of(predictor, film, leads)
        times = interleaved([_finished(turn, work.device, trainer.precision) for turn in turns], repeats)
        row = {
            "name": settings.name,
            "parameters": sum(weight.numel() for weight in predictor.network.parameters()),
            "precision": trainer.precision,
            "kernels": in_use(),
            "batch_size": data.batch_size,
            "context": work.clips.context,
            "leads": leads,
            "seconds": median_of(times, 0),
            "scratch_seconds": median_of(times, 1),
            "scratch_ratio": median_ratio(times, 1, 0),
        }
    ideal = len(turns) > 2
    return row | {
        "ideal_seconds": median_of(times, 2) if ideal else None,
        "ratio": median_ratio(times, 0, 2) if ideal else None,
    }


def turns_of(predictor: Predictor, film: Tensor, leads: int) -> list[Callable[[], object]]:
    """Return what is timed: the stream, the forecast from scratch and, of a network that takes steps, its steps alone.

    Each has a copy of the predictor, since what a rollout keeps of the weights is made anew when another one begins.
    """
    another, network = copy.deepcopy(predictor), copy.deepcopy(predictor.network)
    stream, newest = predictor.start(film[:, :-1]), film[:, -1]

    def go_on() -> None:
        stream.observe(newest)
        stream.forecast(leads)

    def from_scratch() -> None:
        another.forecast(film[:, 1:], leads)

    if isinstance(network, DirectNetwork):
        return [go_on, from_scratch]
    scaled, valid = unroll.complete(network, *predictor.spec.scale(film), predictor.spec.scaled_fill)
    with torch.inference_mode():
        start = unroll.begin(network, len(film), *scaled.shape[-2:])
        _, before, _ = unroll.advance(network, start, film.shape[1] - 1, scaled[:, :-1], None, valid[:, :-1])

    def steps_alone() -> None:
        with torch.inference_mode():
            _, place, _ = unroll.advance(network, before, 1, scaled[:, -1:], None, valid[:, -1:])
            rest = leads - (1 if network.predicts_context else 0)
            unroll.advance(network, replace(place, state=network.begin_forecast(place.state)), rest)

    return [go_on, from_scratch, steps_alone]


def _finished(turn: Callable[[], object], device: torch.device, precision: Precision) -> Callable[[], None]:
    def finish() -> None:
        with autocast(device, precision):
            turn()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return finish


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``stream``."""
    cases.add_arguments(parser)
    parser.add_argument("--leads", type=int, default=12, metavar="N", help="frames to forecast after each new one (default: 12)")
