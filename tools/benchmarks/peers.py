"""Our networks against another program's: time in turns in one process, memory in a process for each."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
import yaml
from rich.console import Console

from benchmarks import cases
from benchmarks.apart import NO_MEMORY, apart
from benchmarks.interleaving import interleaved, median_of, median_ratio
from benchmarks.memory import PeakMemory, give_back_at_once
from benchmarks.timing import Row
from benchmarks.turns import Comparison, Task, Turn, our_turn, their_turn
from stpredict.errors import UserError
from stpredict.kernels import in_use, using
from stpredict.training.settings import Settings, make_settings

TIMES = ("peer_parameters", "our_parameters", "peer_seconds", "our_seconds", "ratio")
SIZES = ("peer_mib", "our_mib", "memory_ratio")


def peers(options: argparse.Namespace) -> list[Row]:
    """Our networks against another program's, made by a Python file: time and memory of training steps and forecasts.

    The file's one function stands in tools/benchmarks/turns.py. The other program computes in float32, ours as asked for; ``kernels`` is
    the name of what computes ours. Forecasts are of one clip, and of a batch. The seconds are of turns, theirs, ours, theirs, ours, in
    one process, of which the first two do not count; ``ratio`` is the median of theirs divided by ours, turn by turn. ``peer_mib`` and
    ``our_mib`` are by how much the peak exceeds what is held between two turns, each measured in a process of its own, and
    ``memory_ratio`` is ours divided by theirs. Where memory did not suffice, there are no figures.
    """
    _check(options)
    rows, told, measured = [], Console(stderr=True), dict[tuple[str, str, int], float | None]()
    for comparison in _comparisons(options):
        row = _describe(comparison)
        if "time" in options.figures:
            row |= _if_memory_suffices(measure_times, comparison, options.repeats) or dict.fromkeys(TIMES)
        if "memory" in options.figures:
            key = (row["name"], row["work"], row["batch_size"])
            if key not in measured:  # theirs is the same, however ours computes
                measured[key] = _if_memory_suffices(measure_memory, their_turn, comparison)
            row |= _compared(measured[key], _if_memory_suffices(measure_memory, our_turn, comparison))
        told.print(", ".join(f"{name} {_shown(value)}" for name, value in row.items()), soft_wrap=True, highlight=False)
        rows.append(row)
    return rows


def _comparisons(options: argparse.Namespace) -> Iterator[Comparison]:
    for asked, task in itertools.product(cases.asked(options), options.work):
        settings = _changed(asked, options.set)
        if task == "step":
            yield Comparison(options.peer.absolute(), settings, task)
        elif not settings.trainer.recompute:  # a forecast keeps nothing that could be recomputed
            for clips in dict.fromkeys((1, settings.data.batch_size)):
                one = replace(settings, data=replace(settings.data, batch_size=clips))
                yield Comparison(options.peer.absolute(), one, task)


def _changed(settings: Settings, words: Sequence[str]) -> Settings:
    """Return the settings with those that are given as ``section.key=value``."""
    mapping = settings.to_dict()
    for word in words:
        where, _, text = word.partition("=")
        section, _, key = where.partition(".")
        if not (key and text and isinstance(mapping.get(section), dict)):
            raise UserError(f"--set takes SECTION.KEY=VALUE of a config, such as network.form=stretched, not '{word}'")
        try:
            mapping[section][key] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(f"--set {where}: '{text}' is no value of a config") from None
    return make_settings(mapping)


def _describe(comparison: Comparison) -> Row:
    data, trainer = comparison.settings.data, comparison.settings.trainer
    with using(trainer.kernels):
        kernels = in_use()
    return {
        "name": comparison.settings.name,
        "work": comparison.task,
        "batch_size": data.batch_size,
        "precision": trainer.precision,
        "kernels": kernels,
        "recompute": "on" if trainer.recompute else "off",
    }


def measure_times(comparison: Comparison, rounds: int) -> Row:
    """Return the seconds of theirs and of ours, in turns in this process, and how many weights each has."""
    with _computing(comparison):
        theirs, ours = their_turn(comparison), our_turn(comparison)
        times = interleaved([theirs.take, ours.take], rounds)
    figures = (theirs.parameters, ours.parameters, median_of(times, 0), median_of(times, 1), median_ratio(times, 0, 1))
    return dict(zip(TIMES, figures, strict=True))


def measure_memory(turn_of: Callable[[Comparison], Turn], comparison: Comparison) -> float | None:
    """Return by how much the memory of a turn exceeds, at its peak, what is held between two turns; None where that is not told."""
    give_back_at_once()
    with _computing(comparison):
        turn = turn_of(comparison)
        turn.take()  # until the optimiser has its state
        with PeakMemory(turn.device) as memory:
            turn.take()
    return memory.extra_mib


@contextmanager
def _computing(comparison: Comparison) -> Iterator[None]:
    """Compute with the threads and kernels of a comparison."""
    trainer = comparison.settings.trainer
    if trainer.threads is not None:
        torch.set_num_threads(trainer.threads)
    with using(trainer.kernels):
        yield


def _compared(theirs: float | None, ours: float | None) -> Row:
    ratio = ours / theirs if ours is not None and theirs else None
    return dict(zip(SIZES, (theirs, ours, ratio), strict=True))


def _if_memory_suffices(measure: Callable[..., Any], *arguments: Any) -> Any:
    """Return what is measured in a process of its own; None if that had too little memory."""
    try:
        return apart(measure, *arguments)
    except NO_MEMORY:
        return None


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)


def _check(options: argparse.Namespace) -> None:
    if not options.config and not options.network:
        raise UserError("Say which networks are compared, with --network NAME or --config NAME")
    if not options.peer.is_file():
        raise UserError(f"There is no Python file {options.peer} (--peer)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``peers``."""
    cases.add_arguments(parser)
    parser.add_argument("--peer", type=Path, required=True, metavar="FILE.py", help="makes the other program's networks")
    parser.add_argument("--recompute", nargs="+", choices=("off", "on"), default=["off"], help="of our training steps (default: off)")
    parser.add_argument("--work", nargs="+", choices=get_args(Task), default=list(get_args(Task)), help="default: both")
    parser.add_argument("--figures", nargs="+", choices=("time", "memory"), default=["time", "memory"], help="default: both")
    words = "more settings of ours, as in a config, such as network.form=stretched loss.name=l1+l2"
    parser.add_argument("--set", nargs="+", default=[], metavar="SECTION.KEY=VALUE", help=words)
