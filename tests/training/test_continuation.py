"""What a run goes on with: the kernels of its checkpoint, one kind in all its processes; and what is then said."""

from __future__ import annotations

import multiprocessing
import os
import socket
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import pytest
import torch

from stpredict import kernels
from stpredict.checkpoint import Checkpoint, checkpoints
from stpredict.configuration import read_config
from stpredict.kernels import compiled
from stpredict.training import make_settings, resume, train
from stpredict.training.continuation import as_it_was

TINY: dict[str, Any] = {
    "data": {
        "card": "moving_digits",
        "context": 3,
        "horizon": 2,
        "batch_size": 2,
        "workers": 0,
        "settings": {"digits": 1, "size": 64},
    },
    "network": {"name": "convlstm", "hidden": [32], "kernel_size": 5, "patch_size": 4},
    "trainer": {"max_steps": 1, "validate_every": 0, "log_every": 1, "device": "cpu", "threads": 1},
}
LONGER = "--trainer.max_steps={}"


def tiny(folder: Path, **trainer: Any) -> Any:
    return make_settings({**TINY, "trainer": {**TINY["trainer"], **trainer}, "run": {"folder": str(folder)}})


def newest(folder: Path) -> Checkpoint:
    return Checkpoint.load(checkpoints(folder / "checkpoints")[-1])


def call_them(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let the compiled kernels bear this name; ``reference``: there are none."""
    monkeypatch.setattr(kernels, "in_use", lambda: "reference" if kernels.chosen() == "reference" else name)
    monkeypatch.setattr(compiled, "why_not", lambda: "there is no compiler" if name == "reference" else None)


def test_a_run_keeps_its_kernels_until_others_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "r"
    told = []

    def go_on(name: str, *overrides: str) -> None:
        call_them(monkeypatch, name)
        if folder.exists():
            resume(folder, [LONGER.format(newest(folder).step + 1), *overrides])
        else:
            train(tiny(folder))
        said = " ".join(capsys.readouterr().err.split())
        written = read_config(folder / "config.yaml")["trainer"]["kernels"]
        told.append((newest(folder).facts["kernels"], written, "within rounding" in said))
        assert ("kernels reference, because there is no compiler, instead of winograd-2: the same within rounding" in said) is (
            len(told) == 6
        )

    go_on("reference")
    go_on("winograd-1")
    go_on("winograd-1", "--trainer.kernels", "auto")
    go_on("winograd-1")
    go_on("winograd-2")
    go_on("reference")
    assert told == [
        ("reference", "auto", False),
        ("reference", "reference", False),
        ("winograd-1", "auto", True),
        ("winograd-1", "auto", False),
        ("winograd-2", "auto", True),
        ("reference", "auto", True),
    ]


@pytest.mark.parametrize(
    ("facts", "overrides", "expected"),
    [
        ({"device": "cpu"}, [], "reference"),  # before checkpoints told
        ({"device": "cpu", "kernels": "reference"}, [], "reference"),
        ({"device": "cpu", "kernels": "reference"}, ["--trainer.keep=1"], "reference"),
        ({"device": "cpu", "kernels": "reference"}, ["--trainer.kernels=auto"], "auto"),
        ({"device": "cpu", "kernels": "reference"}, ["--trainer.kernels", "auto"], "auto"),
        ({"device": "cpu", "kernels": "winograd-1"}, [], "auto"),
        ({"device": "cuda"}, [], "auto"),
    ],
)
def test_what_a_checkpoint_says_of_kernels(facts: dict[str, Any], overrides: list[str], expected: str, tmp_path: Path) -> None:
    checkpoint = Checkpoint(1, {}, {}, 0.0, {**facts, "threads": 3})
    settings = as_it_was(tiny(tmp_path / "r", threads=None), checkpoint, overrides)
    assert (settings.trainer.kernels, settings.trainer.threads) == (expected, 3)
    assert as_it_was(tiny(tmp_path / "r"), checkpoint, overrides).trainer.threads == 1


def test_a_run_that_began_without_a_compiler_ends_with_the_bits_of_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if compiled.library() is None:
        pytest.skip(f"there are no compiled kernels, because {compiled.why_not()}")
    train(tiny(tmp_path / "alone", max_steps=3, kernels="reference"), progress=False)
    train(tiny(tmp_path / "fast", max_steps=3), progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(compiled, "library", lambda: None)
        train(tiny(tmp_path / "begun"), progress=False)
    resume(tmp_path / "begun", [LONGER.format(3)], progress=False)
    alone, fast, begun = (newest(tmp_path / name).tensors() for name in ("alone", "fast", "begun"))
    assert all(torch.equal(begun[key], alone[key]) for key in alone)
    assert not all(torch.equal(fast[key], alone[key]) for key in alone), "the other kernels would have been seen"
    torch.testing.assert_close(fast, alone, rtol=1e-3, atol=1e-4)


def work(rank: int, port: int, folder: Path, names: tuple[str, str]) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    with (folder / f"{rank}.txt").open("w") as file, redirect_stderr(file):
        patch = pytest.MonkeyPatch()
        call_them(patch, names[rank])
        train(tiny(folder / "r"))
        print(kernels.chosen(), file=file)


@pytest.mark.parametrize(
    ("names", "chosen", "used"),
    [
        (("winograd-1", "reference"), "reference", "reference"),
        (("reference", "winograd-1"), "reference", "reference"),
        (("winograd-1", "winograd-1"), "auto", "winograd-1"),
    ],
)
def test_processes_with_different_kernels_all_use_torchs(names: tuple[str, str], chosen: str, used: str, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    forking = multiprocessing.get_context("fork")
    processes = [forking.Process(target=work, args=(rank, port, tmp_path, names)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60.0)
        process.kill()
    first, second = (" ".join((tmp_path / f"{rank}.txt").read_text().split()) for rank in range(2))
    assert [process.exitcode for process in processes] == [0, 0], (first, second)
    assert ("The processes have different kernels, so that all compute with torch's own" in first) is (chosen == "reference")
    assert first.endswith(chosen) and second == chosen
    assert newest(tmp_path / "r").facts["kernels"] == used
