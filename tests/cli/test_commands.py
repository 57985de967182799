"""Every command from end to end, on data so small that a run takes a second."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import h5py
import numpy as np
import pytest
import safetensors.torch
import tifffile
import torch
import xarray
from PIL import Image, ImageSequence

import stpredict
from stpredict.cli.main import main
from stpredict.forecasts import ForecastFile

ROOT = Path(__file__).resolve().parents[2]

TINY = """
data:
  card: moving_digits
  context: 3
  horizon: 2
  batch_size: 2
  workers: 0
  settings: {digits: 1, size: 32, validation_clips: 2, test_clips: 5}
network: {name: predrnn, hidden: [4], kernel_size: 3, patch_size: 4}
trainer: {max_steps: 6, validate_every: 3, checkpoint_every: 3, log_every: 1, threads: 1, device: cpu}
"""

RADAR = """
data: {card: knmi, context: 3, horizon: 2, batch_size: 2, workers: 0, crop: [0, 0, 16, 20]}
network: {name: convlstm, hidden: [4], kernel_size: 3, patch_size: 4}
trainer: {max_steps: 2, validate_every: 2, checkpoint_every: 2, threads: 1, device: cpu}
"""


def ask(command: str) -> None:
    """Run a command that must do what is asked of it."""
    assert main(command.split()) == 0


def frame_count(film: Path) -> int:
    with av.open(str(film)) as container:
        return sum(1 for _ in container.decode(video=0))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a config and a run of it."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.yaml").write_text(TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ask("train tiny.yaml --run.folder run")
    return folder


@pytest.fixture
def there(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of its own for a test, with the config and the run in it."""
    shutil.copytree(trained, tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    return tmp_path / "there"


@pytest.fixture(scope="module")
def radar(tmp_path_factory: pytest.TempPathFactory, knmi_files: ModuleType) -> Path:
    """Forty radar pictures of five minutes, the last of 03:15."""
    folder = tmp_path_factory.mktemp("radar")
    knmi_files.write_sample(folder, frames=40)
    return folder


def test_a_run_folder_holds_what_is_promised(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {path.name for path in (there / "run").iterdir()}
    assert names >= {"config.yaml", "log.csv", "checkpoints", "best.safetensors", "last.safetensors", "pictures", "done"}
    assert {path.suffix for path in (there / "run" / "pictures").iterdir()} == {".png"}
    ask("info run")
    told = capsys.readouterr().out
    assert "network     predrnn (hidden [4], kernel_size 3, patch_size 4)" in told
    assert "trained     3 observed frames, 2 to forecast" in told


def test_runs_are_numbered_and_overridden_and_seeded(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = "--trainer.max_steps 1 --trainer.validate_every=0"
    folders = []
    for words in (f"tiny.yaml {short}", f"{short} tiny.yaml --seed 5 --device cpu"):
        ask(f"train {words}")
        folders.append(Path(capsys.readouterr().out.strip()))
    assert folders == [Path("runs/tiny-1"), Path("runs/tiny-2")]
    first, second = (safetensors.torch.load_file(folder / "last.safetensors") for folder in folders)
    assert not torch.equal(first["readout.weight"], second["readout.weight"])


def test_an_interrupted_run_goes_on_as_if_nothing_had_been(there: Path) -> None:
    ask("train tiny.yaml --run.folder half --trainer.max_steps 3")
    ask("resume half --trainer.max_steps=6")
    for name in ("best.safetensors", "last.safetensors"):
        whole, half = (safetensors.torch.load_file(there / run / name) for run in ("run", "half"))
        assert all(torch.equal(whole[key], half[key]) for key in whole)


def test_scores_and_their_json(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask("evaluate run --data moving_digits --limit 4 --out scores.json --save-forecasts forecasts.npz --device cpu")
    table = capsys.readouterr().out
    told = json.loads(Path("scores.json").read_text())
    assert set(told) == {"protocol", "data", "predictors", "scores", "better", "resample", "selected", "version"}
    assert told["protocol"] == "per-pixel" and told["version"] == stpredict.__version__
    about = told["data"]
    assert (about["card"], about["split"], about["clips"], about["context"], about["horizon"]) == ("moving_digits", "test", 4, 3, 2)
    assert len(about["hash"]) == 32
    baselines = ["persistence", "extrapolation", "context-mean", "training-mean"]
    assert list(told["scores"]) == ["run", *baselines] and all(name in table for name in told["scores"])
    assert all(set(by_score) == {"mse", "mae", "mse_sum", "mae_sum", "ssim", "psnr"} for by_score in told["scores"].values())
    keys = {"mean", "interval", "per_lead", "per_lead_interval"}
    assert all(set(score) == keys for by_score in told["scores"].values() for score in by_score.values())
    assert [about["kind"] for about in told["predictors"].values()] == ["predictor"] + ["baseline"] * 4
    assert told["predictors"]["run"]["network"] == "predrnn" and told["predictors"]["run"]["provenance"]["data"]["card"] == "moving_digits"

    # The scores of persistence, worked out here.
    clips = stpredict.load_data("moving_digits", None, "test", context=3, horizon=2, settings={"digits": 1, "size": 32, "test_clips": 5})
    frames = np.stack([clips[index].frames for index in range(4)]) / 255.0
    errors = (frames[:, 2:3] - frames[:, 3:]) ** 2
    persistence = told["scores"]["persistence"]
    assert persistence["mse"]["per_lead"] == pytest.approx(errors.mean(axis=(0, 2, 3, 4)), rel=1e-5)
    assert persistence["mse"]["mean"] == pytest.approx(errors.mean(), rel=1e-5)
    assert persistence["mse_sum"]["mean"] == pytest.approx(errors.mean() * 32 * 32, rel=1e-5)


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_saved_forecasts_score_as_they_did_when_they_were_made(there: Path, suffix: str) -> None:
    words = "--data moving_digits --no-baselines --device cpu --out"
    ask(f"evaluate run {words} live.json --save-forecasts saved{suffix} --batch-size 2")
    ask(f"evaluate saved{suffix} run {words} again.json --batch-size 3")
    live, again = (json.loads(Path(name).read_text()) for name in ("live.json", "again.json"))
    assert list(again["scores"]) == [f"saved{suffix}", "run"] and again["data"] == live["data"]
    for predictor in again["scores"].values():
        for name, score in predictor.items():
            assert score["mean"] == pytest.approx(live["scores"]["run"][name]["mean"], abs=1e-6)
            assert score["per_lead"] == pytest.approx(live["scores"]["run"][name]["per_lead"], abs=1e-6)


def test_only_what_is_asked_for_is_scored(there: Path) -> None:
    ask("evaluate persistence run --data moving_digits --limit 2 --horizon 4 --score mae --no-baselines --out scores.json")
    told = json.loads(Path("scores.json").read_text())
    assert {name: list(scores) for name, scores in told["scores"].items()} == {"persistence": ["mae"], "run": ["mae"]}
    assert len(told["scores"]["run"]["mae"]["per_lead"]) == 4
    assert told["data"]["context"] == 3, "a baseline takes any context, so the trained predictor's is taken"


def test_tiles_are_blended(there: Path) -> None:
    scores = {}
    for tile in (None, 32, 20):
        asked = "" if tile is None else f" --tile {tile}"
        ask(f"evaluate run --data moving_digits --limit 2 --score mae --no-baselines --out tiles.json{asked}")
        scores[tile] = json.loads(Path("tiles.json").read_text())["scores"]["run"]["mae"]["mean"]
    assert scores[None] == scores[32] and scores[20] == pytest.approx(scores[None], rel=0.3) and scores[20] != scores[None]


def test_films_beside_the_real_one(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask("evaluate run --data moving_digits --limit 2 --no-baselines --save-forecasts saved.h5")
    widths = {}
    for name, predictors in {"one": "run", "three": "run saved.h5 training-mean"}.items():
        ask(f"render {predictors} --data moving_digits --clip 1 --scale 2 --out {name}.mp4")
        assert capsys.readouterr().out.endswith(f"{name}.mp4\n")
        with av.open(f"{name}.mp4") as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
            widths[name] = stream.width
        assert frame_count(Path(f"{name}.mp4")) == 5
    assert widths["three"] > widths["one"] > 3 * 64
    ask("render run --data moving_digits --frames-per-second 10 --out film.gif")
    with Image.open("film.gif") as image:
        # Pillow makes one long frame of equal ones.
        assert sum(frame.info["duration"] for frame in ImageSequence.Iterator(image)) == 5 * 100
    ask("render run persistence --data moving_digits --no-error --out strip.png")
    with Image.open("strip.png") as image:
        assert image.width > image.height


def test_a_forecast_of_an_array_in_every_format(there: Path, films: ModuleType) -> None:
    film = films.wandering_square(8, 32, 32)
    np.save("film.npy", film)
    for suffix in ("npz", "h5", "nc", "mp4"):
        ask(f"forecast run film.npy --horizon 3 --out next.{suffix}")
    observed = film[None, -3:, None].astype(np.float32) / 255
    expected = stpredict.load_predictor("run").forecast(observed, 3)[0]
    with np.load("next.npz") as arrays:
        np.testing.assert_allclose(arrays["observed"], observed[0], rtol=1e-6)
        np.testing.assert_allclose(arrays["forecast"], expected, atol=1e-6)
        assert "forecast_times" not in arrays and json.loads(str(arrays["about"]))["predictor"] == "run"
    with h5py.File("next.h5") as file:
        np.testing.assert_allclose(file["forecast"], expected, atol=1e-6)
    with xarray.open_dataset("next.nc") as data:
        assert data["forecast"].dims == ("lead", "y", "x") and "x" not in data.coords
        np.testing.assert_allclose(data["forecast"], expected[:, 0], atol=1e-6)
    assert frame_count(Path("next.mp4")) == 6


def test_products_for_forecasters(there: Path, radar: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A gap in the newest frames is refused, or filled and told; members, probabilities and each format for maps."""
    latest = Path("latest")
    latest.mkdir()
    for path in sorted(radar.iterdir())[-8:]:
        if not path.name.endswith("0305.h5"):
            (latest / path.name).symlink_to(path)
    assert main(["forecast", "persistence", "latest", "--data", "knmi", "--out", "next.nc"]) == 2
    assert "has 2 since the last gap in time, from 2010-08-26T03:00:00 to 2010-08-26T03:10:00" in capsys.readouterr().err
    members = "--also context-mean --members 3 --perturb gain=0.2 --seed 1 --exceed 1 5"
    ask(f"forecast persistence latest --data knmi --horizon 4 --fill-gaps linear {members} --institution KNMI --out next.nc")
    out, err = capsys.readouterr()
    assert out == "next.nc\n"
    assert err.startswith("observed: 6 frames, 2010-08-26 02:50 to 2010-08-26 03:15 UTC, every 5 min; missing and made up (linear): ")
    assert "made up (linear): 2010-08-26 03:05; " in err
    with xarray.open_dataset("next.nc") as data:
        assert dict(data["precip_intensity"].sizes) == {"member": 6, "time": 4, "y": 32, "x": 28}
        assert data["probability_of_exceedance"].dims == ("threshold", "time", "y", "x") and data.attrs["institution"] == "KNMI"
        first = data["precip_intensity"].values[0, :, :, :]
    for suffix in ("tif", "odim.h5"):
        ask(f"forecast persistence latest --data knmi --horizon 4 --fill-gaps linear --out next.{suffix}")
    np.testing.assert_array_equal(tifffile.imread("next.tif"), first)
    with h5py.File("next.odim.h5") as file:
        stored = file["dataset4/data1/data"][:] * 0.01
        np.testing.assert_allclose(stored[~np.isnan(first[3])], first[3][~np.isnan(first[3])], atol=0.0051)


def test_a_video_of_ones_own_is_trained_on_shown_and_continued(there: Path, films: ModuleType) -> None:
    films.write_video(there / "mine.mp4", films.wandering_square(60, 24, 32))
    config = TINY.replace("  settings: {digits: 1, size: 32, validation_clips: 2, test_clips: 5}\n", "").replace("moving_digits", "video")
    Path("mine.yaml").write_text(config)
    ask("train mine.yaml --data.root mine.mp4 --data.resize [16,16] --run.folder mine --trainer.max_steps 2")
    ask("render mine --data video --root mine.mp4 --out shown.mp4")
    assert frame_count(Path("shown.mp4")) == 5
    ask("forecast mine mine.mp4 --out next.npz")
    with np.load("next.npz") as arrays:
        assert arrays["forecast"].shape == (2, 1, 16, 16) and arrays["observed"].shape == (3, 1, 16, 16)
        assert json.loads(str(arrays["about"]))["spec"]["time_step"] == pytest.approx(1 / 25)


def test_radar_from_files_to_millimetres_an_hour(there: Path, radar: Path) -> None:
    Path("radar.yaml").write_text(RADAR)
    ask(f"train radar.yaml --data.root {radar} --run.folder rain")
    ask(f"evaluate rain --data knmi --root {radar} --out scores.json --save-forecasts saved.h5")
    told = json.loads(Path("scores.json").read_text())
    assert told["data"]["units"] == "mm/h"
    clips = stpredict.load_data("knmi", radar, "test", context=3, horizon=2, crop=[0, 0, 16, 20])
    assert told["data"]["clips"] == len(clips)
    saved = ForecastFile("saved.h5")
    assert saved.times is not None
    assert all(np.array_equal(saved.times[index], clips[index].times[3:]) for index in range(len(clips)))
    rain = np.stack([clips[index].frames for index in range(len(clips))]).astype(np.float64) * 0.12
    rain[rain == 65535 * 0.12] = np.nan
    errors = (rain[:, 2:3] - rain[:, 3:]) ** 2
    assert told["scores"]["persistence"]["mse"]["mean"] == pytest.approx(np.nanmean(errors), rel=1e-4)
    ask(f"render rain --data knmi --root {radar} --out rain.mp4")
    assert frame_count(Path("rain.mp4")) == 5


def test_cards_are_listed_shown_checked_and_previewed(there: Path, radar: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask("data list")
    assert {"moving_digits", "moving_mnist", "knmi", "array", "frames_folder", "video"} <= set(capsys.readouterr().out.split())
    ask("data show knmi")
    assert "units:      mm/h" in capsys.readouterr().out
    Path("short.yaml").write_text((ROOT / "datasets" / "knmi.yaml").read_text().replace("context: 6, horizon: 6", "context: 3, horizon: 2"))
    ask(f"data check short.yaml --root {radar}")
    assert "1 film(s), 40 frames, 0 gap(s) in time" in capsys.readouterr().out
    ask(f"data preview short.yaml --root {radar} --split test --clips 2 --out preview.mp4")
    assert frame_count(Path("preview.mp4")) == 5
    ask("data preview moving_digits --clips 3 --out preview.png")
    with Image.open("preview.png") as image:
        assert image.width > 12 * 64
    assert main(["data", "check", "short.yaml", "--root", "run"]) == 2


def test_info_of_what_can_stand_in_a_predictors_place(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told: dict[str, Any] = {}
    ask("evaluate run --data moving_digits --limit 2 --no-baselines --save-forecasts saved.npz")
    capsys.readouterr()
    for name in ("run/best.safetensors", "saved.npz", "persistence"):
        ask(f"info {name}")
        told[name] = capsys.readouterr().out
    assert told["run/best.safetensors"].startswith("predictor   best.safetensors\n")
    assert told["saved.npz"] == "forecast file saved.npz: 2 frames after 3, 2 clips of 'moving_digits' test, by run; units 1\n"
    assert told["persistence"].startswith("baseline persistence: ")
