from __future__ import annotations

import math
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from stpredict.errors import UserError
from stpredict.render import save_curves


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Return a list that collects the figures as they are written."""
    figures: list[Figure] = []
    write = Figure.savefig

    def keep(self: Figure, *arguments: object, **options: object) -> None:
        figures.append(self)
        write(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def test_losses_share_a_logarithmic_axis_and_the_learning_rate_stands_below(tmp_path: Path, drawn: list[Figure]) -> None:
    columns = {
        "loss": [(step, 10.0 / step) for step in range(1, 100)],
        "validation_loss": [(50, 0.3), (99, 0.2)],
        "learning_rate": [(step, 1e-3) for step in range(1, 100)],
    }
    path = save_curves(columns, tmp_path / "curves.png", "demo-1")
    with Image.open(path) as image:
        assert image.format == "PNG" and min(image.size) > 400
        assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 10
    losses, rate = drawn[0].axes
    assert [line.get_label() for line in losses.lines] == ["loss", "validation loss"]
    assert losses.lines[0].get_xydata().tolist() == [list(point) for point in columns["loss"]]  # type: ignore[union-attr]
    assert (losses.get_yscale(), rate.get_yscale()) == ("log", "linear")
    assert rate.lines[0].get_ydata().tolist() == [1e-3] * 99  # type: ignore[union-attr]
    assert rate.get_position().height < 0.5 * losses.get_position().height
    assert losses.get_title(loc="left") == "demo-1"


def test_a_value_that_is_zero_makes_the_axis_linear_and_one_that_is_not_finite_leaves_a_gap(tmp_path: Path, drawn: list[Figure]) -> None:
    save_curves({"loss": [(0, 1.0), (1, math.nan), (2, 0.0)], "empty": []}, tmp_path / "curves.png", "x")
    (axis,) = drawn[0].axes
    assert axis.get_yscale() == "linear" and len(axis.lines) == 1


def test_nothing_global_is_touched(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    had_pyplot = "matplotlib.pyplot" in sys.modules
    save_curves({"loss": [(0, 1.0), (1, 0.5)]}, tmp_path / "curves.png", "x")
    assert dict(matplotlib.rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == had_pyplot


@pytest.mark.parametrize(
    ("columns", "name", "words"),
    [
        ({"loss": []}, "c.png", "no curve"),
        ({"learning_rate": [(0, 1.0)]}, "c.png", "no curve"),
        ({"loss": [(0, 1.0)]}, "c.jpg", "not to"),
        ({"loss": [(0, 1.0)]}, "nowhere/c.png", "no folder"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_a_sentence(
    tmp_path: Path, columns: dict[str, list[tuple[int, float]]], name: str, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        save_curves(columns, tmp_path / name, "x")
    assert not list(tmp_path.iterdir())
