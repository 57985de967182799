"""A run that is killed at thirty random instants ends as one that was left alone."""

from __future__ import annotations

import csv
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from stpredict.checkpoint import Checkpoint, checkpoints
from stpredict.training.run import Log

KILLS = 30
CONFIG: dict[str, Any] = {
    "data": {
        "card": "moving_digits",
        "context": 5,
        "horizon": 5,
        "batch_size": 8,
        "workers": 1,
        "settings": {"digits": 1, "size": 32, "validation_clips": 8},
        "augment": ["flip-x", "reverse"],
    },
    "network": {"name": "predrnn_v2", "hidden": [8, 8], "kernel_size": 3, "patch_size": 4, "dropout": 0.1},
    "optimizer": {"learning_rate": 2e-3, "schedule": "one-cycle", "clip_norm": 1.0, "ema": 0.99},
    "sampling": {"name": "reverse", "first": 100, "second": 500, "alpha": 50, "first_horizon": 2, "grown_at": 300},
    "trainer": {"max_steps": 700, "validate_every": 50, "checkpoint_every": 5, "log_every": 3, "device": "cpu", "threads": 1},
}


def start(*words: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "stpredict", *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def end_of(folder: Path) -> tuple[dict[str, bytes], list[dict[str, str]]]:
    """Return the bytes of the last checkpoint's tensors - weights, optimiser, average - and the log without its times."""
    tensors = Checkpoint.load(checkpoints(folder / "checkpoints")[-1]).tensors()
    with (folder / "log.csv").open() as file:
        rows = [{name: value for name, value in row.items() if name not in Log.TIMING} for row in csv.DictReader(file)]
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}, rows


@pytest.mark.slow
def test_thirty_kills(tmp_path: Path) -> None:
    config = tmp_path / "kills.yaml"
    config.write_text(yaml.safe_dump(CONFIG))
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    process = start("train", config, "--run.folder", alone)
    assert process.wait(timeout=600) == 0, process.communicate()[1].decode()

    instants, kills = random.Random(30), 0
    while not (killed / "done").is_file():
        process = start("resume", killed) if killed.is_dir() else start("train", config, "--run.folder", killed)
        if kills < KILLS:
            time.sleep(instants.uniform(1.0, 4.0))
            kills += process.poll() is None
            process.send_signal(signal.SIGKILL)
            process.communicate()
        else:
            assert process.wait(timeout=600) == 0, process.communicate()[1].decode()
    assert kills == KILLS, "the run was long enough for all of them"
    (tensors, rows), (expected, expected_rows) = end_of(killed), end_of(alone)
    assert rows == expected_rows and len(rows) == 700 // 3 + 700 // 50 - 700 // 150
    assert tensors.keys() == expected.keys() and all(tensors[name] == expected[name] for name in expected)
