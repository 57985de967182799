"""Forecasts: how fast they are made, scored and drawn, and how long the command takes to start."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

import stpredict
from benchmarks.networks import network_section
from benchmarks.timing import Row, median_seconds, seconds_of
from stpredict.frames import FrameSpec
from stpredict.metrics import create_scores
from stpredict.predictor import Predictor
from stpredict.render import save_film


def inference(options: argparse.Namespace) -> list[Row]:
    """A forecast of one clip, and of a batch."""
    return [_forecast(name, batch, options) for name in options.network for batch in dict.fromkeys((1, options.batch_size))]


def _forecast(name: str, batch: int, options: argparse.Namespace) -> Row:
    size, spec = options.size, FrameSpec(1, options.size, options.size)
    section = network_section(name, options)
    network: Any = stpredict.create_network(name, channels=1, frame_size=(size, size), context=options.context, **section)
    predictor = Predictor(network, spec, options.context, options.horizon, network_name=name, network_settings={})
    observed = _frames(batch, options.context, size)
    seconds = median_seconds(lambda: predictor.forecast(observed, options.horizon), options.repeats)
    return {
        "name": name,
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "hidden": " ".join(map(str, options.hidden)),
        "size": size,
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
    runs = [seconds_of(lambda: subprocess.run(command, cwd=where, check=True, stdout=subprocess.DEVNULL)) for _ in range(options.repeats)]
    return [{"name": "stpredict --help", "runs": len(runs), "seconds": statistics.median(runs), "best_seconds": min(runs)}]
