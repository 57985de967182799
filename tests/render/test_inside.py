"""Maps beside frames, curves of them and tables of recall: colours and places beside what they were made of."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from stpredict.errors import UserError
from stpredict.render.inside import map_panel, save_inside_curves
from stpredict.render.recall import save_recall


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are written."""
    kept: list[Figure] = []
    write = Figure.savefig

    def keep(self: Figure, *arguments: Any, **options: Any) -> None:
        kept.append(self)
        write(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return kept


def viridis(shares: Any) -> Any:
    return cv2.applyColorMap(np.round(255 * np.array(shares)).astype(np.uint8).reshape(-1, 1), cv2.COLORMAP_VIRIDIS)[:, 0, ::-1]


def test_a_map_has_colours_of_its_own_in_the_range_of_the_frames() -> None:
    maps = np.array([[[0.0, 0.25, 1.0]], [[0.5, 0.75, 0.1]]])
    panel = map_panel("input", maps, (-10.0, 41.0), bounded=True, row="cells.0", notes=("a", "b"))
    assert (panel.title, panel.row, panel.notes, panel.frames.shape) == ("input 0..1", "cells.0", ("a", "b"), (2, 3, 1, 3))
    shown = (panel.frames + 10.0) / 51.0 * 255
    np.testing.assert_allclose(shown.transpose(0, 2, 3, 1).reshape(6, 3), viridis(maps), atol=1e-3)
    unbounded = map_panel("cell", 0.0311 * maps, (0.0, 255.0), bounded=False)
    assert unbounded.title == "cell 0..0.032"
    np.testing.assert_allclose(unbounded.frames.transpose(0, 2, 3, 1).reshape(6, 3), viridis(0.0311 / 0.032 * maps), atol=1e-3)
    assert map_panel("none", 0.0 * maps, (0.0, 1.0), bounded=False).title == "none 0..1"


def test_values_on_both_sides_of_zero_have_the_colours_of_errors() -> None:
    panel = map_panel("output", np.array([[[-1.0, 0.0, 1.0]]]), (0.0, 255.0), bounded=True)
    below, ground, above = panel.frames[0, :, 0].T
    assert panel.title == "output -1..1"
    assert below[2] > below[0] and above[0] > above[2] and ground.max() < 32


def test_a_step_without_a_turn_has_no_frame() -> None:
    panel = map_panel("hidden", np.stack([np.full((2, 2), math.nan), np.ones((2, 2))]), (0.0, 1.0), bounded=False)
    assert np.isnan(panel.frames[0]).all() and np.isfinite(panel.frames[1]).all()


def test_curves_by_layer(tmp_path: Path, figures: list[Figure]) -> None:
    curves = {"cells.0": {"input": [0.1, 0.2, 0.3], "output": [0.5, math.nan, 0.4]}, "ghu": {"switch": [0.7, 0.8, 0.9]}}
    path = save_inside_curves(curves, tmp_path / "c.png", "a title", 2, label="mean opening")
    with Image.open(path) as image:
        assert image.format == "PNG"
    first, second = figures[0].axes
    assert [axis.get_title(loc="left") for axis in (first, second)] == ["cells.0", "ghu"]
    for axis, named in zip((first, second), curves.values(), strict=True):
        for line, (name, values) in zip(axis.lines, named.items(), strict=True):
            assert line.get_label() == name
            np.testing.assert_array_equal(line.get_ydata(), values)
            np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3])
    assert len({line.get_color() for axis in (first, second) for line in axis.lines}) == 3
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["input", "output", "switch"]
    (shade,) = second.patches
    assert shade.get_extents().transformed(second.transData.inverted()).x0 == pytest.approx(2.5)
    with pytest.raises(UserError, match="no curve to draw"):
        save_inside_curves({}, path, "", 1, label="")


def test_a_table_for_each_layer(tmp_path: Path, figures: list[Figure]) -> None:
    table = np.array([[1.0, math.nan, math.nan], [0.25, 0.75, math.nan], [math.nan, 0.5, 0.5]])
    path = save_recall({"cells.0": table, "cells.1": table / 2}, tmp_path / "r.png", "a title", 2)
    with Image.open(path) as image:
        assert image.format == "PNG"
    first, second, _ = figures[0].axes
    np.testing.assert_array_equal(np.ma.filled(first.images[0].get_array(), math.nan), table)
    assert first.images[0].get_clim() == second.images[0].get_clim() == (0.0, 1.0)
    written = {(text.get_position(), text.get_text()) for text in first.texts}
    assert {((0, 0), "100"), ((0, 1), "25"), ((1, 1), "75"), ((1, 2), "50"), ((2, 2), "50")} <= written and len(written) == 7
    row, column = first.lines
    assert list(row.get_ydata()) == [1.5, 1.5] and list(column.get_xdata()) == [2.5, 2.5]
    with pytest.raises(UserError, match="no recall to draw"):
        save_recall({}, path, "", 1)
    with pytest.raises(UserError, match="not to"):
        save_recall({"a": table}, tmp_path / "r.pdf", "", 1)
