"""What several tests of training use."""

from __future__ import annotations

from pathlib import Path

import pytest

_BAD_LOSS = """
class Bad:
    '''A squared error that is not finite at some backward passes, counted from 1.'''

    def __init__(self, at: list[int]) -> None:
        self.at, self.step = at, 0

    def __call__(self, predictions, targets, valid):
        self.step += predictions.requires_grad
        wrong = predictions.requires_grad and self.step in self.at
        return (predictions - targets).square().sum() * (float("nan") if wrong else 1.0), valid.sum()
"""


@pytest.fixture
def bad_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Return the name of a loss that is not finite where its setting ``at`` says."""
    module = f"bad_loss_of_{request.module.__name__.rpartition('.')[2]}"
    (tmp_path / f"{module}.py").write_text(_BAD_LOSS)
    monkeypatch.syspath_prepend(tmp_path)
    return f"{module}:Bad"
