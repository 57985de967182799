"""Measures how fast stpredict is on this machine. Nothing is asserted: figures are for people, and hang on what else runs.

::

    python tools/benchmark.py step --network predrnn --hidden 64 64 --out step.json
    python tools/benchmark.py step --config moving_mnist --batch-size 4 --precision fp32 bf16 --recompute off on

Each subcommand prints a table and, with ``--out``, writes JSON: ``{"benchmark", "machine", "rows"}``. Times are medians of repeated
runs after a first one that does not count. What is measured stands in the folder benchmarks beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from benchmarks import training_step
from benchmarks.forecasting import inference, startup
from benchmarks.networks import SIZES
from benchmarks.reading import data, loader
from benchmarks.rendering import add_arguments as add_film_arguments
from benchmarks.rendering import rendering
from benchmarks.scoring import evaluation
from benchmarks.timing import Row
from benchmarks.training_step import step
from rich.console import Console
from rich.table import Table

import stpredict
from stpredict.errors import UserError
from stpredict.files import write_text

_WIDE = 180
"""Characters of a line that goes into a file."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one benchmark; print its table, and write its JSON where asked to."""
    options = _parser().parse_args(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if options.repeats < 1:
        raise SystemExit("--repeats is at least 1")
    try:
        if options.measure is step:
            training_step.check_arguments(options)
        rows = options.measure(options)
    except UserError as error:
        raise SystemExit(str(error)) from None
    result = {"benchmark": options.benchmark, "machine": machine(), "rows": rows}  # after it, since some set the number of threads
    Console(width=None if sys.stdout.isatty() else _WIDE).print(_table(result))
    if options.out is not None:
        write_text(options.out, json.dumps(result, indent=2, allow_nan=False) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measures how fast stpredict is on this machine.")
    commands = parser.add_subparsers(dest="benchmark", required=True)
    parsers = {}
    for measure in (data, loader, step, inference, evaluation, rendering, startup):
        summary = (measure.__doc__ or "").partition(".")[0]
        one = parsers[measure.__name__] = commands.add_parser(measure.__name__, help=summary, description=f"{summary}.")
        one.set_defaults(measure=measure)
        one.add_argument("--out", type=Path, metavar="FILE.json", help="write the figures")
        one.add_argument("--repeats", type=int, default=5, metavar="N", help="measured runs (default: 5)")
        one.add_argument("--threads", type=int, metavar="N", help="threads of torch (default: its own choice)")
    for name in ("data", "loader"):
        parsers[name].add_argument("--mnist", type=Path, metavar="FOLDER", help="the MNIST files")
        parsers[name].add_argument("--knmi", type=Path, metavar="FOLDER", help="KNMI's radar files")
        parsers[name].add_argument("--video", type=Path, metavar="FILE", help="a video")
    parsers["data"].add_argument("--clips", type=int, metavar="N", help="clips of an epoch (default: all)")
    parsers["loader"].add_argument("--steps", type=int, default=20, metavar="N", help="training steps (default: 20)")
    parsers["loader"].add_argument("--config", nargs="+", metavar="NAME", help="configs (default: all whose data are there)")
    for name in ("step", "inference"):
        parsers[name].add_argument("--network", nargs="+", metavar="NAME", help="default: all")
        parsers[name].add_argument("--hidden", nargs="+", type=int, metavar="N", help="of each layer (default: 64 64)")
        parsers[name].add_argument("--kernel-size", type=int, metavar="N", help="default: 5")
        parsers[name].add_argument("--patch-size", type=int, metavar="N", help="default: 4")
        parsers[name].add_argument("--context", type=int, metavar="N", help="observed frames (default: 10)")
    for name in ("step", "inference", "evaluation"):
        parsers[name].add_argument("--size", type=int, metavar="N", help="height and width of a frame (default: 64)")
        parsers[name].add_argument("--horizon", type=int, metavar="N", help="forecast frames (default: 10)")
    for name in ("step", "inference", "evaluation"):
        parsers[name].add_argument("--batch-size", type=int, metavar="N", help="clips at a time (default: 8)")
    for name in ("inference", "evaluation"):
        parsers[name].set_defaults(**SIZES, network=stpredict.list_networks())
    parsers["evaluation"].add_argument("--radar-size", type=int, default=384, metavar="N", help="of a radar's frame (default: 384)")
    training_step.add_arguments(parsers["step"])
    add_film_arguments(parsers["rendering"])
    return parser


def machine() -> Row:
    """Say what computes: the CPU, the GPU if there is one, cores and threads, and versions."""
    model = platform.processor() or platform.machine()
    about = Path("/proc/cpuinfo")
    if about.is_file():
        lines = [line.partition(":")[2].strip() for line in about.read_text().splitlines() if line.startswith("model name")]
        model = lines[0] if lines else model
    return {
        "cpu": model,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "stpredict": stpredict.__version__,
    }


def _table(result: Row) -> Table:
    about, rows = result["machine"], result["rows"]
    gpu = "" if about["gpu"] is None else f"{about['gpu']}, "
    title = f"{result['benchmark']}: {gpu}{about['cpu']}, {about['threads']} thread(s) of {about['cores']} core(s), torch {about['torch']}"
    table = Table(title=title)
    for name in rows[0] if rows else []:
        table.add_column(name.replace("_", " "), justify="left" if isinstance(rows[0][name], str) else "right")
    for row in rows:
        table.add_row(*(_shown(value) for value in row.values()))
    return table


def _shown(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    sys.exit(main())
