"""Files that earlier versions wrote: they load, forecast what they forecast then, and a run goes on from them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import stpredict
from stpredict.cli.main import main

pytestmark = pytest.mark.reference

VERSIONS = sorted(folder for folder in (Path(__file__).parent / "fixtures").iterdir() if (folder / "forecasts.npz").is_file())


def test_there_are_files_of_this_version() -> None:
    assert stpredict.__version__ in [folder.name for folder in VERSIONS], "python tests/fixtures/make.py writes them, once"
    for folder in VERSIONS:
        saved = {path.name for path in folder.glob("saved_forecasts.*")}  # which tests/forecasts/test_files.py reads
        assert saved == {"saved_forecasts.h5", "saved_forecasts.npz"}, folder


@pytest.mark.parametrize("folder", VERSIONS, ids=lambda folder: folder.name)
def test_predictors_forecast_what_they_did(folder: Path) -> None:
    with np.load(folder / "forecasts.npz") as arrays:
        predictor = stpredict.load_predictor(folder / "predictor.safetensors")
        assert (predictor.context, predictor.horizon, predictor.spec.units) == (3, 2, "mm/h")
        forecast = predictor.forecast(arrays["predictor_observed"], 4)
        assert float(forecast.std()) > 0.1
        np.testing.assert_allclose(forecast, arrays["predictor"], rtol=1e-6, atol=1e-6 * 50)
        run = stpredict.load_predictor(folder / "run")
        np.testing.assert_allclose(run.forecast(arrays["run_observed"], 2), arrays["run"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("folder", VERSIONS, ids=lambda folder: folder.name)
def test_runs_go_on(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "run", tmp_path / "run")
    assert main(["resume", str(tmp_path / "run"), "--trainer.max_steps", "3"]) == 0
    predictor = stpredict.load_predictor(tmp_path / "run" / "last.safetensors")
    assert predictor.provenance["step"] == 3
    with np.load(folder / "forecasts.npz") as arrays:
        forecast = predictor.forecast(arrays["run_observed"], 2)
        np.testing.assert_allclose(forecast, arrays["resumed"], rtol=1e-6, atol=1e-6)
        assert float(np.abs(arrays["resumed"] - arrays["run"]).max()) > 1e-4, "a step makes a difference"
