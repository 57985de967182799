"""The group of processes: what it leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROBE = """
import os, pathlib, torch
from stpredict.processes import join

def threads():
    return sorted(path.read_text().strip() for path in pathlib.Path("/proc/self/task").glob("*/comm") if "gloo" in path.read_text())

with join(torch.device("cpu")) as processes:
    torch.optim.Adam([torch.nn.Parameter(torch.ones(2))])
    assert (processes.rank, processes.count, processes.first) == (0, 1, True)
    print(len(threads()) > 0)
print(threads())
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are listed as Linux does")
def test_no_thread_of_the_group_outlives_it() -> None:
    """A thread of gloo that still runs when the interpreter exits makes it abort now and then."""
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    done = subprocess.run([sys.executable, "-c", PROBE], cwd=ROOT, env={**os.environ, **alone}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["True", "[]"]
