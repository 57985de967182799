"""Measures how fast stpredict is on this machine. Nothing is asserted: figures are for people, and hang on what else runs.

::

    python tools/benchmark.py peak
    python tools/benchmark.py step --network predrnn --hidden 64 64 --out step.json --plot roofline.png
    python tools/benchmark.py step --config moving_mnist --batch-size 4 --precision fp32 bf16 --recompute off on
    python tools/benchmark.py inference --config moving_mnist --precision fp32 bf16 --kernels reference auto
    python tools/benchmark.py scaling --network predrnn --context 5 --horizon 5 --size 32 --batch-size 2 --plot scaling.png
    python tools/benchmark.py stream --config moving_mnist/predrnn
    python tools/benchmark.py import --network predrnn convlstm
    python tools/benchmark.py peers --peer FILE.py --config moving_mnist/predrnn --precision fp32 bf16 --recompute off on

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
from benchmarks import cases, importing, peak, peers, plotting, scaling, streaming, training_step
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
from stpredict.devices import choose_device
from stpredict.errors import UserError
from stpredict.files import write_text
from stpredict.render.curves import png_path

_WIDE = 220
"""Characters of a line that goes into a file."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one benchmark; print its table, and write its JSON where asked to."""
    options = _parser().parse_args(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if options.repeats < 1:
        raise SystemExit("--repeats is at least 1")
    try:
        plot = None if getattr(options, "plot", None) is None else png_path(options.plot)
        rows = options.measure(options)
    except UserError as error:
        raise SystemExit(str(error)) from None
    result = {"benchmark": options.benchmark, "machine": machine(), "rows": rows}  # after it, since some set the number of threads
    Console(width=None if sys.stdout.isatty() else _WIDE).print(_table(result))
    if options.out is not None:
        write_text(options.out, json.dumps(result, indent=2, allow_nan=False) + "\n")
    if plot is not None:
        _draw(options, rows, plot)
    return 0


def _draw(options: argparse.Namespace, rows: list[Row], path: Path) -> None:
    """Draw the rows: costs against sizes, or rates beside what the machine does at most."""
    device = choose_device(options.device)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} thread(s)"
    if options.measure is scaling.scaling:
        plotting.save_scaling(rows, path, f"{options.benchmark}, {where}")
        return
    peaks = {precision: peak.product_peak(device, precision).rate for precision in dict.fromkeys(options.precision)}
    plotting.save_roofline(rows, peaks, peak.copy_peak(device).rate, path, f"{options.benchmark}, {where}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measures how fast stpredict is on this machine.")
    commands = parser.add_subparsers(dest="benchmark", required=True)
    parsers = {}
    own = (peak.peak, data, loader, step, inference, streaming.stream, scaling.scaling, evaluation, rendering, startup, importing.import_)
    for measure in (*own, peers.peers):
        name = measure.__name__.removesuffix("_")
        summary = (measure.__doc__ or "").partition(".")[0]
        one = parsers[name] = commands.add_parser(name, help=summary, description=f"{summary}.")
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
    for name in ("step", "inference", "scaling"):
        cases.add_arguments(parsers[name])
        parsers[name].add_argument("--plot", type=Path, metavar="FILE.png", help="draw the figures")
    parsers["evaluation"].add_argument("--size", type=int, metavar="N", help="height and width of a frame (default: 64)")
    parsers["evaluation"].add_argument("--horizon", type=int, metavar="N", help="forecast frames (default: 10)")
    parsers["evaluation"].add_argument("--batch-size", type=int, metavar="N", help="clips at a time (default: 8)")
    parsers["evaluation"].set_defaults(**SIZES)
    parsers["evaluation"].add_argument("--radar-size", type=int, default=384, metavar="N", help="of a radar's frame (default: 384)")
    peak.add_arguments(parsers["peak"])
    training_step.add_arguments(parsers["step"])
    scaling.add_arguments(parsers["scaling"])
    streaming.add_arguments(parsers["stream"])
    importing.add_arguments(parsers["import"])
    peers.add_arguments(parsers["peers"])
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
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    sys.exit(main())
