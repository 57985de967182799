"""Foreign checkpoints: how long their import takes, and how much memory; and the import of the program itself."""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

import stpredict
from benchmarks.apart import apart
from benchmarks.memory import PeakMemory
from benchmarks.timing import Row, median_seconds
from stpredict.errors import UserError
from stpredict.weights.container import read_container

NETWORKS = ("convlstm", "predrnn", "predrnn_v2", "predrnnpp")
"""Those that can be written in OpenSTL's layout here."""

_RENAMED = (
    (r"readout\.", "conv_last."),
    (r"ghu\.(x|z)\.", r"gradient_highway.\1_concat."),
    (r"cells\.(\d+)\.out\.", r"cell_list.\1.conv_last."),
    (r"cells\.(\d+)\.m2o\.", r"cell_list.\1.conv_om."),
    (r"cells\.(\d+)\.(\w+)\.", r"cell_list.\1.conv_\2."),
)
"""How our names of weights begin, and OpenSTL's; the first that fits counts."""

STARTS = ("import stpredict", "from stpredict import import_predictor")
"""What a program begins with: the second imports torch."""

_PEAK = "print(*[line for line in open('/proc/self/status') if line.startswith('VmHWM:')])"
"""Says in a fresh Python how much memory it has held at most, in KiB."""


def import_(options: argparse.Namespace) -> list[Row]:
    """Checkpoints of other programs, and the program itself: how long their import takes, and how much memory.

    Each network is written in OpenSTL's layout with weights drawn at random: as weights alone, and as Lightning has them, with twice as
    many numbers of Adam's. ``seconds`` are those of a warm process, ``extra_mib`` is by how much its memory exceeds at its peak what it
    was before, the new predictor's weights included. Of the program itself both are of a fresh Python.
    """
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = [*_written(options, Path(folder)), *_given(options)]
        rows = [apart(measure_import, path, facts, options.repeats) for path, facts in checkpoints]
    return rows + [measure_start(words, options.repeats) for words in STARTS]


def measure_import(path: Path, facts: Mapping[str, Any], repeats: int) -> Row:
    """Import a checkpoint in this process."""
    seconds = median_seconds(lambda: stpredict.import_predictor(path, **facts), repeats)
    with PeakMemory(torch.device("cpu")) as memory:
        predictor = stpredict.import_predictor(path, **facts)
    size = sum(file.stat().st_size for file in read_container(path).files) / 2**20
    return {
        "name": path.name,
        "parameters": sum(weight.numel() for weight in predictor.network.parameters()),
        "file_mib": size,
        "seconds": seconds,
        "mib_per_second": size / seconds,
        "extra_mib": memory.extra_mib,
        "peak_mib": memory.peak_mib,
    }


def measure_start(words: str, repeats: int) -> Row:
    """Run an import in a Python of its own, a first one that does not count."""
    tell = _PEAK if Path("/proc/self/status").is_file() else ""
    seconds, peaks = [], []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        run = subprocess.run([sys.executable, "-c", f"{words}\n{tell}"], check=True, capture_output=True, text=True)
        seconds.append(time.perf_counter() - began)
        peaks += [int(word) / 2**10 for word in run.stdout.split() if word.isdecimal()]
    figures = {"seconds": statistics.median(seconds[1:]), "mib_per_second": None, "extra_mib": None}
    return {"name": words, "parameters": None, "file_mib": None, **figures, "peak_mib": statistics.median(peaks) if peaks else None}


def _written(options: argparse.Namespace, folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield each checkpoint that is written, and what it does not tell."""
    sizes = {"hidden": options.hidden, "kernel_size": options.kernel_size, "patch_size": options.patch_size}
    facts = {"patch_size": options.patch_size, "channels": 1, "context": 10}
    for name in options.network:
        weights = in_openstls_layout(stpredict.create_network(name, channels=1, **sizes))
        torch.save(weights, folder / f"{name}.pth")
        yield folder / f"{name}.pth", facts
        moments = {number: {"exp_avg": weight.clone(), "exp_avg_sq": weight.square()} for number, weight in enumerate(weights.values())}
        lightning = {
            "epoch": 1,
            "global_step": 1,
            "pytorch-lightning_version": "2.0.0",
            "state_dict": {f"model.{key}": weight for key, weight in weights.items()},
            "optimizer_states": [{"state": moments}],
        }
        torch.save(lightning, folder / f"{name}.ckpt")
        yield folder / f"{name}.ckpt", facts


def in_openstls_layout(network: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a network by the names that OpenSTL gives them."""
    return {_renamed(name): weight for name, weight in network.state_dict().items()}


def _renamed(name: str) -> str:
    found = ((re.match(ours, name), theirs) for ours, theirs in _RENAMED)
    return next((match.expand(theirs) + name[match.end() :] for match, theirs in found if match), name)


def _given(options: argparse.Namespace) -> Iterator[tuple[Path, dict[str, Any]]]:
    facts = {}
    for word in options.facts:
        name, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"--facts takes KEY=VALUE, such as patch_size=4, not '{word}'")
        facts[name] = yaml.safe_load(value)
    for path in options.file:
        yield path, facts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``import``."""
    parser.add_argument("--network", nargs="*", choices=NETWORKS, default=["predrnn"], help="what is written (default: predrnn)")
    parser.add_argument("--hidden", nargs="+", type=int, default=[128] * 4, metavar="N", help="of each layer (default: 128 128 128 128)")
    parser.add_argument("--kernel-size", type=int, default=5, metavar="N", help="default: 5")
    parser.add_argument("--patch-size", type=int, default=4, metavar="N", help="default: 4")
    parser.add_argument("--file", nargs="+", type=Path, default=[], metavar="FILE", help="checkpoints of one's own")
    parser.add_argument("--facts", nargs="+", default=[], metavar="KEY=VALUE", help="what those do not tell, such as patch_size=4")
