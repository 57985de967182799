"""One training step, each measured in a process of its own: its time and its memory."""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import statistics
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from typing import Any

import torch
from rich.console import Console

import stpredict
from benchmarks.memory import PeakMemory
from benchmarks.networks import SIZES, network_section
from benchmarks.noise import with_noise
from benchmarks.timing import Row, seconds_of
from stpredict import extensions
from stpredict.costs import measure_costs
from stpredict.data.loader import collate
from stpredict.devices import choose_device
from stpredict.errors import UserError
from stpredict.files import shipped_names
from stpredict.networks import NETWORKS, DirectNetwork
from stpredict.processes import Processes
from stpredict.training import load_settings
from stpredict.training.settings import Settings, make_settings
from stpredict.training.state import State
from stpredict.training.step import take_step
from stpredict.training.work import Work, make_work

_MEASURED = ("seconds", "clips_per_second", "tflops", "activation_mib", "peak_mib")
_TRIES = 20
"""Steps until the loss scale of fp16, halved each time, has no more to fall, and some."""


def step(options: argparse.Namespace) -> list[Row]:
    """One training step, as a run takes it, on noise: its time and its memory.

    A step of a config moves the weights once, forward in time, along the whole horizon, even if ``reversed_pass`` or a growing horizon
    would have it otherwise, so that networks can be compared.
    ``tflops`` are 10**12 floating-point operations a second: two for each multiply-add of stpredict.costs, three times those of a
    forecast, since going backward takes two products for each one of going forward; what recompute does again is not counted.
    ``activation_mib`` is by how much the step's peak exceeds what is held between two steps: weights, gradients, the optimiser's state
    and the batch. ``peak_mib`` is the whole peak: on a GPU of torch's tensors, else of the process with the program itself. Where
    memory did not suffice, a row has no figures.
    """
    rows, told = [], Console(stderr=True)
    for settings in _asked(options):
        row = _describe(settings)
        try:
            row |= _apart(settings, options.repeats)
        except (BrokenProcessPool, torch.OutOfMemoryError):
            row |= {"parameters": None, **dict.fromkeys(_MEASURED)}
        figures = [f"{name} {value:.4g}" for name, value in row.items() if name in _MEASURED and value is not None]
        about = f"{row['name']}, batch size {row['batch_size']}, {row['precision']}, recompute {row['recompute']}"
        told.print(f"{about}: {', '.join(figures) or 'memory did not suffice'}", soft_wrap=True, highlight=False)
        rows.append(row)
    return rows


def _asked(options: argparse.Namespace) -> Iterator[Settings]:
    """Yield the settings of every step that is asked for."""
    wanted = [_of_config(name, options) for name in _named(options.config)] if options.config else _of_networks(options)
    for settings, precision, recompute in itertools.product(wanted, options.precision, options.recompute):
        if recompute == "on" and _takes_no_steps(settings):
            continue
        trainer = replace(
            settings.trainer,
            device=options.device,
            precision=precision,
            recompute=recompute == "on",
            threads=options.threads,
            validate_every=0,
            devices=1,
        )
        yield replace(settings, trainer=trainer)


def _takes_no_steps(settings: Settings) -> bool:
    """Whether a network forecasts at once, so that there is nothing in time to recompute."""
    kind = extensions.find("networks", settings.network["name"], NETWORKS)
    return isinstance(kind, type) and issubclass(kind, DirectNetwork)


def _named(words: list[str]) -> list[str]:
    """Return names of configs; a folder of shipped ones stands for all that it holds, ``all`` for all that are shipped."""
    shipped = shipped_names("configs")
    return [name for word in words for name in _within(word, shipped) or [word]]


def _within(word: str, shipped: list[str]) -> list[str]:
    return shipped if word == "all" else [name for name in shipped if name.startswith(f"{word.rstrip('/')}/")]


def _of_config(name: str, options: argparse.Namespace) -> Settings:
    given = {key: getattr(options, key) for key in ("context", "horizon", "batch_size")}
    settings = load_settings(name, [f"--data.{key}={value}" for key, value in given.items() if value is not None])
    data = replace(with_noise(settings.data, options.size), reversed_pass=False)
    network = {key: value for key, value in settings.network.items() if key not in ("weights", "mismatch")}
    sampling = {key: value for key, value in settings.sampling.items() if key not in ("first_horizon", "grown_at")}
    return replace(settings, name=name, network=network, sampling=sampling, data=data)


def _of_networks(options: argparse.Namespace) -> list[Settings]:
    sizes: dict[str, Any] = {key: default if getattr(options, key) is None else getattr(options, key) for key, default in SIZES.items()}
    data = {"card": "moving_digits", **{key: sizes[key] for key in ("context", "horizon", "batch_size")}}
    made = []
    for name in options.network or stpredict.list_networks():
        network = {"name": name, **network_section(name, argparse.Namespace(**sizes))}
        settings = make_settings({"name": name, "data": data, "network": network, "trainer": {"max_steps": 1000}})
        made.append(replace(settings, data=with_noise(settings.data, sizes["size"])))
    return made


def _describe(settings: Settings) -> Row:
    data, trainer = settings.data, settings.trainer
    return {
        "name": settings.name,
        "parameters": None,
        "precision": trainer.precision,
        "recompute": "on" if trainer.recompute else "off",
        "batch_size": data.batch_size,
        "frames": f"{data.context} + {data.horizon}",
        "frame": " x ".join(str(data.settings[key]) for key in ("channels", "height", "width")),
    }


def _apart(settings: Settings, repeats: int) -> Row:
    """Measure in a fresh process: memory that another step has taken, and that is kept for the next, would count."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure_step, settings, repeats).result()


def measure_step(settings: Settings, repeats: int) -> Row:
    """Take steps in this process, a first one that does not count, and return their figures."""
    work, state = make_work(settings, Processes()), State()
    if settings.optimizer.ema is not None:
        state.start_ema(work.network)
    batch = collate([(index, work.clips[index]) for index in range(settings.data.batch_size)])

    def take() -> bool:
        outcome = take_step(work, state, batch, stop=False)
        state.step += 1
        if work.device.type == "cuda":
            torch.cuda.synchronize(work.device)
        return outcome.skipped

    for _ in range(_TRIES):  # until the optimiser has its state
        if not take():
            break
    seconds = statistics.median(seconds_of(take) for _ in range(repeats))
    with PeakMemory(work.device) as memory:  # a step of its own, since watching takes time
        take()
    rate, operations = settings.data.batch_size / seconds, _operations(work)
    return {
        "parameters": sum(weight.numel() for weight in work.network.parameters()),
        "seconds": seconds,
        "clips_per_second": rate,
        "tflops": None if operations is None else operations * rate / 1e12,
        "activation_mib": memory.extra_mib,
        "peak_mib": memory.peak_mib,
    }


def _operations(work: Work) -> float | None:
    """Return the floating-point operations of a training step on one clip; None where they cannot be counted."""
    clips = work.clips
    try:
        costs = measure_costs(work.network.eval(), clips.spec.shape, clips.context, clips.horizon)
    except UserError:
        return None
    return 3.0 * 2.0 * costs.multiply_adds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what only ``step`` takes."""
    parser.add_argument("--config", nargs="+", metavar="NAME", help="networks, clips and recipes of configs; a folder's name: all in it")
    parser.add_argument("--precision", nargs="+", choices=("fp32", "tf32", "bf16", "fp16"), default=["fp32"], help="default: fp32")
    parser.add_argument("--recompute", nargs="+", choices=("off", "on"), default=["off"], help="default: off")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu or cuda (default: auto)")


def check_arguments(options: argparse.Namespace) -> None:
    """Refuse options that mean nothing together.

    Raises:
        UserError: a config says the network, and so do other options; or there is no such device.
    """
    choose_device(options.device)
    if options.config:
        clash = [key for key in ("network", "hidden", "kernel_size", "patch_size") if getattr(options, key) is not None]
        if clash:
            raise UserError(f"A config says which network it is: leave --{clash[0].replace('_', '-')} out beside --config")
