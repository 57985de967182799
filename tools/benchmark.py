"""Measures how fast stpredict is on this machine. Nothing is asserted: figures are for people, and hang on what else runs.

::

    python tools/benchmark.py step --network predrnn --hidden 64 64 --out step.json

Each subcommand prints a table and, with ``--out``, writes JSON: ``{"benchmark", "machine", "rows"}``. Times are medians of repeated
runs after a first one that does not count.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import stpredict
from stpredict.data.clips import ClipSet
from stpredict.files import shipped_names, write_text
from stpredict.frames import FrameSpec
from stpredict.metrics import create_scores
from stpredict.predictor import Predictor
from stpredict.render import save_film
from stpredict.training import load_settings, train
from stpredict.unroll import Unroll

Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one benchmark; print its table, and write its JSON where asked to."""
    options = _parser().parse_args(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if options.repeats < 1:
        raise SystemExit("--repeats is at least 1")
    rows = options.measure(options)
    result = {"benchmark": options.benchmark, "machine": machine(), "rows": rows}  # after it, since some set the number of threads
    Console().print(_table(result))
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
        parsers[name].add_argument("--network", nargs="+", default=stpredict.list_networks(), metavar="NAME", help="default: all")
        parsers[name].add_argument("--hidden", nargs="+", type=int, default=[64, 64], metavar="N", help="of each layer (default: 64 64)")
        parsers[name].add_argument("--kernel-size", type=int, default=5, metavar="N", help="default: 5")
        parsers[name].add_argument("--patch-size", type=int, default=4, metavar="N", help="default: 4")
    for name in ("step", "inference", "evaluation", "rendering"):
        parsers[name].add_argument("--size", type=int, default=64, metavar="N", help="height and width of a frame (default: 64)")
        parsers[name].add_argument("--horizon", type=int, default=10, metavar="N", help="forecast frames (default: 10)")
    for name in ("step", "inference", "evaluation"):
        parsers[name].add_argument("--batch-size", type=int, default=8, metavar="N", help="clips at a time (default: 8)")
    for name in ("step", "inference"):
        parsers[name].add_argument("--context", type=int, default=10, metavar="N", help="observed frames (default: 10)")
    parsers["rendering"].add_argument("--panels", type=int, default=3, metavar="N", help="side by side (default: 3)")
    return parser


def machine() -> Row:
    """Say what computes: the CPU, its cores and threads, and versions."""
    model = platform.processor() or platform.machine()
    about = Path("/proc/cpuinfo")
    if about.is_file():
        lines = [line.partition(":")[2].strip() for line in about.read_text().splitlines() if line.startswith("model name")]
        model = lines[0] if lines else model
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "stpredict": stpredict.__version__,
    }


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    """Return the median of the seconds that ``work`` takes, once warm."""
    work()
    return statistics.median(_seconds(work) for _ in range(repeats))


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def data(options: argparse.Namespace) -> list[Row]:
    """Reading or making clips, on one core.

    The process grows by ``memory_growth_mib`` from the first tenth of an epoch to its end.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    sets = [stpredict.load_data("moving_digits")]
    sets += [stpredict.load_data(card, root) for card, root in _roots(options).items() if root is not None]
    return [_read(clips, options.clips or len(clips), options.repeats) for clips in sets]


def _read(clips: ClipSet, count: int, repeats: int) -> Row:
    count = count if clips.endless else min(count, len(clips))
    tenth = range(max(1, count // 10))
    seconds = median_seconds(lambda: [clips[index] for index in tenth], repeats)
    before = _resident_mib()
    for index in range(count):
        clips[index]
    frames = clips.context + clips.horizon
    return {
        "name": clips.card,
        "frame": " x ".join(map(str, clips.spec.shape)),
        "clips": len(tenth),
        "seconds": seconds,
        "clips_per_second": len(tenth) / seconds,
        "frames_per_second": len(tenth) * frames / seconds,
        "epoch_clips": count,
        "memory_growth_mib": None if before is None else round((_resident_mib() or 0.0) - before, 1),
    }


def _resident_mib() -> float | None:
    """Return the memory that this process holds now, where the system tells it as Linux does."""
    told = Path("/proc/self/statm")
    return int(told.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20 if told.is_file() else None


def loader(options: argparse.Namespace) -> list[Row]:
    """The share of a training step that is spent waiting for data, for each shipped config whose data are there.

    Real runs, of a few steps; the first half, in which worker processes start, does not count.
    """
    roots = {card: root for card, root in _roots(options).items() if root is not None} | {"moving_digits": None}
    cards = {name: load_settings(name).data.card for name in options.config or shipped_names("configs")}
    there = {name: roots[card] for name, card in cards.items() if card in roots}
    return [_train_briefly(name, root, max(4, options.steps), options.threads) for name, root in there.items()]


def _roots(options: argparse.Namespace) -> dict[str, Path | None]:
    return {"moving_mnist": options.mnist, "knmi": options.knmi, "video": options.video}


def _train_briefly(name: str, root: Path | None, steps: int, threads: int | None) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        wanted = {"max_steps": steps, "checkpoint_every": steps, "validate_every": 0, "log_every": 1, "threads": threads}
        overrides = [f"--trainer.{key}={value}" for key, value in wanted.items() if value is not None]
        overrides += [f"--run.folder={folder}/run", *([] if root is None else [f"--data.root={root}"])]
        settings = load_settings(name, overrides)
        run = train(settings, progress=False)
        with (run.folder / "log.csv").open(encoding="utf-8") as file:
            log = [{key: float(row[key]) for key in ("seconds", "waiting")} for row in csv.DictReader(file)]
    later = range(steps // 2, steps)
    lasted = [log[number]["seconds"] - log[number - 1]["seconds"] for number in later]
    waited = sum(log[number]["waiting"] * took for number, took in zip(later, lasted, strict=True))
    return {
        "name": name,
        "batch_size": settings.data.batch_size,
        "workers": settings.data.workers,
        "seconds": sum(lasted) / len(lasted),
        "waiting_seconds": waited / len(lasted),
        "waiting_share": waited / sum(lasted),
    }


def step(options: argparse.Namespace) -> list[Row]:
    """One training step: forward, backward, Adam."""
    return [_step(name, options) for name in options.network]


def _step(name: str, options: argparse.Namespace) -> Row:
    network = _network(name, options)
    optimizer = torch.optim.Adam(network.parameters())
    frames = _frames(options.batch_size, options.context + options.horizon, options.size)
    along = Unroll(network)

    def work() -> None:
        optimizer.zero_grad(set_to_none=True)
        predictions, _ = along.forward(frames, options.context, options.horizon)
        (predictions - frames[:, -predictions.shape[1] :]).square().mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return _network_row(name, network, options, median_seconds(work, options.repeats), options.batch_size)


def inference(options: argparse.Namespace) -> list[Row]:
    """A forecast of one clip, and of a batch."""
    return [_forecast(name, batch, options) for name in options.network for batch in dict.fromkeys((1, options.batch_size))]


def _forecast(name: str, batch: int, options: argparse.Namespace) -> Row:
    network, spec = _network(name, options), FrameSpec(1, options.size, options.size)
    predictor = Predictor(network, spec, options.context, options.horizon, network_name=name, network_settings={})
    observed = _frames(batch, options.context, options.size)
    seconds = median_seconds(lambda: predictor.forecast(observed, options.horizon), options.repeats)
    return _network_row(name, network, options, seconds, batch)


def _network(name: str, options: argparse.Namespace) -> Any:
    settings: dict[str, Any] = {"hidden": options.hidden, "kernel_size": options.kernel_size, "patch_size": options.patch_size}
    if name == "simvp":  # an encoder as wide as the first layer, a translator eight times as wide, as published
        settings = {"hidden": [options.hidden[0], 8 * options.hidden[0]], "layers": [4, 8], "kernel_size": options.kernel_size}
    return stpredict.create_network(name, channels=1, frame_size=(options.size, options.size), context=options.context, **settings)


def _network_row(name: str, network: Any, options: argparse.Namespace, seconds: float, batch: int) -> Row:
    return {
        "name": name,
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "hidden": " ".join(map(str, options.hidden)),
        "size": options.size,
        "frames": f"{options.context} + {options.horizon}",
        "batch_size": batch,
        "seconds": seconds,
        "clips_per_second": batch / seconds,
    }


def _frames(batch: int, length: int, size: int) -> torch.Tensor:
    return torch.rand(batch, length, 1, size, size, generator=torch.Generator().manual_seed(0))


def evaluation(options: argparse.Namespace) -> list[Row]:
    """The default scores, each by itself and all together."""
    spec = FrameSpec(1, options.size, options.size)
    truth = _frames(options.batch_size, options.horizon, options.size)
    forecast = truth.flip(0) * 0.5 + truth * 0.5
    scores = create_scores()
    work = {score.name: [score] for score in scores} | {"all": scores}
    rows = []
    for name, some in work.items():
        seconds = median_seconds(lambda some=some: [score(forecast, truth, spec) for score in some], options.repeats)  # type: ignore[misc]
        frames = options.batch_size * options.horizon
        rows.append({"name": name, "size": options.size, "frames": frames, "seconds": seconds, "frames_per_second": frames / seconds})
    return rows


def rendering(options: argparse.Namespace) -> list[Row]:
    """Films and a strip, written to a temporary folder; a panel-frame is one frame of one panel."""
    films = _frames(options.panels, options.horizon, options.size).numpy()
    panels = {f"panel {number}": film for number, film in enumerate(films)}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("mp4", "gif", "png"):
            path = Path(folder, f"film.{suffix}")
            seconds = median_seconds(lambda path=path: save_film(panels, path), options.repeats)  # type: ignore[misc]
            rows.append(
                {
                    "name": suffix,
                    "size": options.size,
                    "panels": options.panels,
                    "frames": options.horizon,
                    "seconds": seconds,
                    "panel_frames_per_second": options.panels * options.horizon / seconds,
                    "bytes": path.stat().st_size,
                }
            )
    return rows


def startup(options: argparse.Namespace) -> list[Row]:
    """How long ``stpredict --help`` takes, a process of its own each time."""
    command = [sys.executable, "-m", "stpredict", "--help"]
    where = Path(stpredict.__file__).parents[1]
    runs = [_seconds(lambda: subprocess.run(command, cwd=where, check=True, stdout=subprocess.DEVNULL)) for _ in range(options.repeats)]
    return [{"name": "stpredict --help", "runs": len(runs), "seconds": statistics.median(runs), "best_seconds": min(runs)}]


def _table(result: Row) -> Table:
    about, rows = result["machine"], result["rows"]
    title = f"{result['benchmark']}: {about['cpu']}, {about['threads']} thread(s) of {about['cores']} core(s), torch {about['torch']}"
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
