"""What is drawn of the first validation clip."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stpredict.data import load_data
from stpredict.showing import find_geography, maps
from stpredict.training import validation


def test_maps_keep_their_clock_scale_and_units(tmp_path: Path, knmi_files: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    knmi_files.write_sample(tmp_path, frames=40)
    data = load_data("knmi", tmp_path, "test", context=3, horizon=2)
    noted: list[dict[str, Any]] = []

    def note(panels: Any, path: Path, **settings: Any) -> Path:
        noted.append({"panels": panels, "path": path, **settings})
        return path

    def forecast(work: Any, clips: Any, batch: Any) -> Any:
        scaled, valid = clips.spec.scale(batch.physical(clips.packing, "cpu"))
        return scaled[:, -2:], scaled[:, -2:], valid[:, -2:]

    monkeypatch.setattr(maps, "save_film", note)
    monkeypatch.setattr(validation, "forecast", forecast)
    run: Any = SimpleNamespace(pictures=tmp_path, folder=tmp_path)
    log: Any = SimpleNamespace(column=lambda name: [(0, 1.0), (5, 0.5)])
    work: Any = SimpleNamespace(validation=data)
    files = validation.draw_pictures(work, run, log, 5, moving=True)
    assert [one["path"].name for one in noted] == ["step-00000005.png", "step-00000005.gif"] and set(files) == {
        "forecast",
        "film",
        "curves",
    }
    times, grid = data[0].times, data.grid(0)
    assert times is not None and grid is not None
    for one in noted:
        assert (one["units"], one["context"], one["row_origin"]) == (data.spec.units, 3, grid.row_origin)
        assert one["geography"].pixel_km == pytest.approx(find_geography(grid, data.spec.height, data.spec.width).pixel_km)
        assert one["captions"][3] == f"lead 1  +5 min  {str(times[3].astype('datetime64[m]')).replace('T', ' ')} UTC"
        true, predicted = one["panels"]
        assert np.isnan(predicted.frames[:3]).all()
        np.testing.assert_allclose(predicted.frames[3:], np.nan_to_num(true.frames[3:], nan=data.spec.fill), rtol=1e-4, atol=1e-3)
