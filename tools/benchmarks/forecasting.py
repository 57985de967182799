"""Forecasts: how fast they are made, and how long the command takes to start."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import stpredict
from benchmarks.networks import network_section
from benchmarks.timing import Row, median_seconds, seconds_of
from stpredict.frames import FrameSpec
from stpredict.predictor import Predictor


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


def startup(options: argparse.Namespace) -> list[Row]:
    """How long ``stpredict --help`` takes, a process of its own each time."""
    command = [sys.executable, "-m", "stpredict", "--help"]
    where = Path(stpredict.__file__).parents[1]
    runs = [seconds_of(lambda: subprocess.run(command, cwd=where, check=True, stdout=subprocess.DEVNULL)) for _ in range(options.repeats)]
    return [{"name": "stpredict --help", "runs": len(runs), "seconds": statistics.median(runs), "best_seconds": min(runs)}]
