"""``stpredict data prepare``, and training on what it makes."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import safetensors.torch

from stpredict.cli.main import main

RADAR = """
data: {card: knmi, context: 3, horizon: 2, batch_size: 2, workers: 0, crop: [0, 0, 16, 20]}
network: {name: convlstm, hidden: [4], kernel_size: 3, patch_size: 4}
trainer: {max_steps: 2, validate_every: 2, checkpoint_every: 2, threads: 1, device: cpu}
"""


@pytest.fixture
def archive(knmi_files: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rain").mkdir()
    knmi_files.write_sample(tmp_path / "rain", frames=40)
    (tmp_path / "radar.yaml").write_text(RADAR)
    return tmp_path / "rain"


def ask(command: str) -> int:
    return main(command.split())


def test_training_on_a_prepared_file_is_training_on_the_archive(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask("data prepare knmi --root rain --out rain.h5 --workers 2") == 0
    assert capsys.readouterr().out.startswith("rain.h5: 1 film(s), 40 frames, ")
    assert ask("data prepare knmi --root rain --out rain.h5") == 0
    assert "rain.h5 is complete and its sources are unchanged: 1 film(s), 40 frames" in capsys.readouterr().out
    assert ask("data prepare knmi --root rain --out part.h5 --crop 0 0 16 24 --compression none") == 0
    weights = []
    for root in ("rain", "rain.h5", "part.h5"):
        assert ask(f"train radar.yaml --data.root {root} --run.folder run-{root}") == 0
        weights.append(safetensors.torch.load_file(f"run-{root}/best.safetensors"))
    assert all(set(weights[0]) == set(other) and all((weights[0][name] == other[name]).all() for name in other) for other in weights[1:])
    assert ask("evaluate persistence --data knmi --root rain.h5 --context 3 --horizon 2") == 0


def test_what_prepare_refuses(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask("data prepare knmi --root rain --out rain.h5 --workers 1") == 0
    next(archive.iterdir()).unlink()
    for command, sentence in {
        "knmi --root rain --out rain.h5": "1 gone",
        "knmi --root rain --out rain.h5 --again --crop 0 0 99 99": "beyond the 32 x 28 frames",
        "knmi --out other.h5": "needs the folder of its files",
        "knmi --root rain --out other.npz": "ends in .h5",
        "knmi --root rain --out nowhere/rain.h5": "no folder 'nowhere'",
        "knmi --root rain --out rain.h5 --crop 1 2": "expected 4 arguments",
        "moving_digits --out digits.h5": "nothing to prepare",
        "video --root rain.h5 --out film.h5": "is a prepared file already",
    }.items():
        capsys.readouterr()
        assert ask(f"data prepare {command}") == 2
        assert sentence in capsys.readouterr().err
    assert ask("data preview kth --root rain.h5 --out film.png") == 2
    assert "was made by the reader knmi, but the card 'kth' names kth" in capsys.readouterr().err
