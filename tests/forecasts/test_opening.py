"""Which kind of saved forecasts a path is; the name that each bears."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stpredict.data.clips import ClipSet
from stpredict.data.loader import collate
from stpredict.errors import UserError
from stpredict.forecasts import ForecastArchive, ForecastFile, ForecastWriter, SavedArrays, SavedForecasts, clip_digests, open_forecasts
from stpredict.predictor import load_predictor


@pytest.fixture
def places(tmp_path: Path, radar: type[ClipSet], pysteps_file: Callable[..., Path], start: Callable[[int], np.datetime64]) -> Path:
    data = radar()
    batch = collate([(0, data[0])])
    for suffix in ("npz", "h5"):
        with ForecastWriter(tmp_path / f"ours.{suffix}", "p", data, 1) as writer:
            writer.write(batch.physical(data.packing, "cpu")[:, data.context :], batch, clip_digests(batch))
    for folder in ("saved", "nowcasts/2020", "both"):
        (tmp_path / folder).mkdir(parents=True)
    arrays = np.zeros((6, 4, 1, 10, 8), np.float32)
    np.savez(tmp_path / "own.npz", preds=arrays)
    for file in ("saved/preds.npy", "both/preds.npy", "own.npy"):
        np.save(tmp_path / file, arrays)
    pytest.importorskip("netCDF4")
    for file in ("nowcasts/2020/a.nc", "one.nc", "ONE.NC"):
        pysteps_file(tmp_path / file, arrays[0, :, 0], start(0), data.spec.grid)
    (tmp_path / "nowcasts" / ".b.nc.1.part.nc").write_bytes(b"half a file")
    return tmp_path


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("ours.npz", ForecastFile),
        ("ours.h5", ForecastFile),
        ("own.npz", SavedArrays),
        ("own.npy", SavedArrays),
        ("saved", SavedArrays),
        ("nowcasts", ForecastArchive),
        ("one.nc", ForecastArchive),
        ("ONE.NC", ForecastArchive),
    ],
)
def test_each_kind_bears_the_last_part_of_its_path(places: Path, radar: type[ClipSet], place: str, kind: type[SavedForecasts]) -> None:
    loaded = load_predictor(places / place)
    assert type(loaded) is kind and (loaded.name, loaded.path) == (place, places / place)
    data = radar()
    clips = list(loaded.clips(data, 6))
    assert clips == ([0, 1, 2, 3, 4, 5] if kind is SavedArrays else [0])
    batch = collate([(0, data[0])])
    forecast = loaded.forecast_batch(batch, batch.physical(data.packing, "cpu"), data)
    assert forecast.shape == (1, 4, 1, 10, 8) and bool(forecast.isfinite().all())
    assert len(loaded.describe()) < 150 and "\n" not in loaded.describe()


def test_what_is_none_of_them(tmp_path: Path) -> None:
    assert open_forecasts(tmp_path / "nothing.nc") is None and open_forecasts(tmp_path) is None
    (tmp_path / "notes.txt").write_text("text")
    assert open_forecasts(tmp_path / "notes.txt") is None
    (tmp_path / ".hidden.nc").write_bytes(b"")
    with pytest.raises(UserError, match="holds no predictor yet"):
        load_predictor(tmp_path)


def test_a_run_folder_is_a_predictor_even_if_forecasts_lie_in_it(tmp_path: Path) -> None:
    fixture = Path(__file__).resolve().parents[1] / "fixtures" / "0.1.0" / "predictor.safetensors"
    (tmp_path / "best.safetensors").write_bytes(fixture.read_bytes())
    np.save(tmp_path / "preds.npy", np.zeros((6, 4, 1, 10, 8), np.float32))
    assert not isinstance(load_predictor(tmp_path), SavedForecasts)
