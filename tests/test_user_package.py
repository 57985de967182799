"""Code of a user's own, in a package of her own: it trains, resumes, is scored and shown like ours, and is never imported unasked."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import pytest
import safetensors.torch
import torch
import yaml

import stpredict
from stpredict.cli.main import main
from stpredict.draws import Draws
from stpredict.frames import FrameSpec
from stpredict.networks import create_network
from stpredict.predictor import Predictor
from stpredict.unroll import Unroll

PACKAGE = Path(__file__).parent / "user_package"
OURS = Path(stpredict.__file__).parents[1]

# Runs commands one after another and tells of each: exit code, stdout, stderr.
DRIVER = """
import contextlib, io, json, sys, torch
from stpredict.cli.main import main
torch.set_num_threads(1)
told = []
for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    told.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(told))
"""

# What the user calls her code: by its entry points, or module and class.
BY_NAME = {
    "network": "rainbow",
    "encoder": "rainbow-encoder",
    "direct": "rainbow-direct",
    "loss": "rainbow-charbonnier",
    "text": "rainbow-text",
    "sky": "rainbow-sky",
    "score": "rainbow-bias",
}
BY_CLASS = {
    "network": "rainbow_forecast.networks:Rainbow",
    "encoder": "rainbow_forecast.networks:RainbowEncoder",
    "direct": "rainbow_forecast.networks:RainbowDirect",
    "loss": "rainbow_forecast.scoring:Charbonnier",
    "text": "rainbow_forecast.data:TextFilms",
    "sky": "rainbow_forecast.data:Sky",
    "score": "rainbow_forecast.scoring:Bias",
}


class Told(NamedTuple):
    """What a command said."""

    code: int
    out: str
    err: str


def run_commands(commands: Sequence[Sequence[str]], folder: Path, *places: Path) -> list[Told]:
    """Run commands in a fresh Python that finds stpredict, and her code where ``places`` hold it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*places, OURS)))}
    command = [sys.executable, "-c", DRIVER, json.dumps(commands)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [Told(*told) for told in json.loads(done.stdout)]


def write_her_files(folder: Path, names: dict[str, str]) -> None:
    """Write her cards, configs and films."""
    trainer = {"max_steps": 6, "validate_every": 3, "checkpoint_every": 3, "log_every": 1, "threads": 1, "device": "cpu"}
    loss = {"name": names["loss"], "knee": 0.2}
    window = {"context": 3, "horizon": 2}
    sky = {
        "clips": names["sky"],
        "needs_files": False,
        "settings": {"size": 9},
        "window": window,
        "splits": ["train", "validation", "test"],
    }
    films: dict[str, Any] = {
        "reader": names["text"],
        "settings": {"minutes": 5},
        "frames": {"transform": {"name": "linear", "low": 0, "high": 9}},
    }
    films |= {"window": window, "splits": {"by": "film", "films": {"train": ["[a-c]*"], "validation": ["d*"], "test": ["e*"]}}}
    written: dict[str, Any] = {"sky": sky, "films": films}
    network = {"name": names["network"], "known_channels": 1}
    written["rainbow"] = {"data": {"card": "sky.yaml", "batch_size": 2, "workers": 0}, "network": network, "loss": loss, "trainer": trainer}
    for kind in ("encoder", "direct"):
        data = {"card": "films.yaml", "root": "films", "batch_size": 2, "workers": 0}
        written[kind] = {"data": data, "network": {"name": names[kind]}, "loss": {**loss, "over": "future"}, "trainer": trainer}
    for name, plain in written.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(plain))
    (folder / "films").mkdir()
    for number, name in enumerate("abcde"):
        blocks = [f"2020-06-0{number + 1}T12:00"]
        for time in range(7):
            signs = "012.456789"
            blocks.append("\n".join("".join(signs[(row + column + time + number) % 10] for column in range(6)) for row in range(5)))
        (folder / "films" / f"{name}.film").write_text("\n\n".join(blocks))


def story(names: dict[str, str]) -> list[list[str]]:
    """All that she does: train, be interrupted half way, resume, score, show, forecast."""
    bias = ["--score", names["score"], "mse"]
    commands = [
        "train rainbow.yaml --run.folder whole",
        "train rainbow.yaml --run.folder half --trainer.max_steps 3",
        "resume half --trainer.max_steps 6",
        "evaluate half persistence --data sky.yaml --out sky.json",
        "render half persistence --data sky.yaml --clip 2 --out sky.mp4",
        "train encoder.yaml --run.folder encoder",
        "train direct.yaml --run.folder direct",
        "evaluate encoder direct --data films.yaml --root films --out films.json",
        "render encoder direct --data films.yaml --root films --out films.png",
        "forecast direct films/e.film --horizon 3 --out next.npz",
        "info encoder",
    ]
    return [[*command.split(), *(bias if command.startswith("evaluate") else [])] for command in commands]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Her package, installed into a folder of its own."""
    folder = tmp_path_factory.mktemp("installed")
    shutil.copytree(PACKAGE, folder / "source", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--quiet",
        "install",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
    ]
    done = subprocess.run([*pip, "--target", folder / "site", folder / "source"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.fixture
def her_code(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Her package where this Python finds it, without entry points; forgotten afterwards."""
    monkeypatch.syspath_prepend(PACKAGE)
    yield
    for name in [name for name in sys.modules if name.startswith("rainbow_forecast")]:
        del sys.modules[name]


@pytest.mark.parametrize("names", [BY_NAME, BY_CLASS], ids=["entry points", "module and class"])
def test_her_code_trains_resumes_scores_and_films_like_ours(
    names: dict[str, str],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_her_files(tmp_path, names)
    site = request.getfixturevalue("installed") if names is BY_NAME else PACKAGE
    commands = story(names)
    for words, told in zip(commands, run_commands(commands, tmp_path, site), strict=True):
        assert told.code == 0, (words, told.err)

    whole, half = (safetensors.torch.load_file(tmp_path / run / "last.safetensors") for run in ("whole", "half"))
    assert len(whole) == 6 and all(torch.equal(whole[key], half[key]) for key in whole)
    with (tmp_path / "half" / "log.csv").open() as file:
        log = list(csv.DictReader(file))
    assert [row["step"] for row in log] == ["1", "2", "3", "4", "5", "6"]
    assert log[2]["validation_loss"] != log[2]["validation_mse"] != "", "the loss is hers, not ours"

    sky = json.loads((tmp_path / "sky.json").read_text())
    assert set(sky["scores"]) == {"half", "persistence", "extrapolation", "context-mean", "training-mean"}
    assert sky["scores"]["persistence"]["bias"]["per_lead"] == pytest.approx(bias_of_persistence(monkeypatch), abs=1e-6)
    films = json.loads((tmp_path / "films.json").read_text())
    assert set(films["scores"]) == {"encoder", "direct", "persistence", "extrapolation", "context-mean", "training-mean"}
    assert films["data"]["units"] == "colours"
    with av.open(str(tmp_path / "sky.mp4")) as film:
        assert sum(1 for _ in film.decode(video=0)) == 5
    with np.load(tmp_path / "next.npz") as forecast:
        assert forecast["forecast"].shape == (3, 1, 5, 6) and np.isfinite(forecast["forecast"]).all()
        last = np.datetime64("2020-06-05T12:30", "s").astype(np.int64)
        assert forecast["forecast_times"].tolist() == [last + 300 * lead for lead in (1, 2, 3)]

    # The same file where nobody asked for her code.
    monkeypatch.chdir(tmp_path)
    shutil.copy("half/best.safetensors", "gift.safetensors")
    for words in (["info", "gift.safetensors"], ["evaluate", "gift.safetensors", "--data", "moving_digits", "--out", "scores.json"]):
        assert main(words) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1
        assert f"gift.safetensors names the code '{names['network']}', which nothing here asked for" in err
    assert not Path("scores.json").exists()


def bias_of_persistence(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Work out by hand what the mean of forecast minus truth of persistence is at leads 1 and 2."""
    with monkeypatch.context() as patch:
        patch.syspath_prepend(PACKAGE)
        clips = import_module("rainbow_forecast.data").Sky(None, "test", context=3, horizon=2, size=9)
    for name in [name for name in sys.modules if name.startswith("rainbow_forecast")]:
        del sys.modules[name]
    differences: list[list[float]] = [[], []]
    for index in range(3):
        clip = clips[index]
        for lead in (0, 1):
            valid = clip.valid[3 + lead]
            difference = (clip.frames[2].astype(float) - clip.frames[3 + lead].astype(float)) / 100
            differences[lead] += difference[valid].tolist()
    return [float(np.mean(lead)) for lead in differences]


def test_a_file_does_not_import_code_that_lies_about(
    her_code: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    named = "rainbow_forecast.networks:Rainbow"
    network = create_network(named, channels=1)
    Predictor(network, FrameSpec(1, 8, 8), 3, 2, network_name=named, network_settings={}).save("gift.safetensors")
    for name in [name for name in sys.modules if name.startswith("rainbow_forecast")]:
        del sys.modules[name]
    np.save("film.npy", np.zeros((4, 8, 8), dtype=np.uint8))

    for words in (["info"], ["evaluate", "--data", "moving_digits"], ["render", "--data", "moving_digits", "--out", "a.mp4"], ["forecast"]):
        rest = ["film.npy", "--out", "a.npz"] if words[0] == "forecast" else words[1:]
        assert main([words[0], "gift.safetensors", *rest]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and f"--allow-code {named}" in err
        assert not any(name.startswith("rainbow_forecast") for name in sys.modules)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.npy", "gift.safetensors"]

    assert main(["info", "gift.safetensors", "--allow-code", named]) == 0
    assert main(["forecast", "gift.safetensors", "film.npy", "--allow-code", named, "--out", "a.npz"]) == 0
    assert "rainbow_forecast.networks" in sys.modules
    assert f"network     {named}" in capsys.readouterr().out


def test_many_observed_frames_at_once_are_the_same_as_one_by_one(her_code: None, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = create_network("rainbow_forecast.networks:Rainbow", channels=2, known_channels=1, patch_size=2)
    frames, known = torch.rand(3, 6, 2, 5, 7), torch.rand(3, 6, 1, 5, 7)
    valid = torch.rand(frames.shape) > 0.2
    draws = Draws(1, 2, (4, 5, 6))
    calls: list[int] = []
    observe = type(network).observe

    def counted(self: Any, frames: torch.Tensor, *rest: Any) -> Any:
        calls.append(frames.shape[1])
        return observe(self, frames, *rest)

    monkeypatch.setattr(type(network), "observe", counted)
    at_once, penalty = Unroll(network).forward(frames, 4, 2, None, valid, known, draws)
    assert calls == [4], "the whole context is taken in by one call"
    monkeypatch.delattr(type(network), "observe")
    stepped, again = Unroll(network).forward(frames, 4, 2, None, valid, known, draws)
    torch.testing.assert_close(at_once, stepped)
    torch.testing.assert_close(penalty, again)
    assert penalty.shape == (3,) and (penalty > 0).all()


def test_what_the_contract_hands_over_makes_a_difference(her_code: None) -> None:
    """A mask, known inputs, draws or the change at the start of the forecast that did not arrive would be seen here."""
    torch.manual_seed(0)
    network = create_network("rainbow_forecast.networks:Rainbow", channels=1, known_channels=1)
    frames, known = torch.rand(1, 5, 1, 4, 4), torch.rand(1, 5, 1, 4, 4)
    valid = torch.ones_like(frames, dtype=torch.bool)
    plain = rolled(network, frames, valid, known)
    assert not torch.equal(plain, rolled(network, frames, valid & (frames != frames[0, 0, 0, 0, 0]), known))
    for lead, changes in ((3, [False, False, True, True]), (4, [False, False, False, True])):
        other = known.clone()
        other[:, lead] += 1
        differs = [not torch.equal(a, b) for a, b in zip(plain[0], rolled(network, frames, valid, other)[0], strict=True)]
        assert differs == changes, "a step is given what is known of the frame that it predicts"
    spec = FrameSpec(1, 4, 4)
    members = Predictor(network, spec, 3, 2, network_name="rainbow", network_settings={}).forecast(frames[:, :3], 2, members=3, known=known)
    assert members.shape == (1, 3, 2, 1, 4, 4) and not torch.equal(members[:, 0], members[:, 1])
    network.fade.data.fill_(0.0)
    faded = rolled(network, frames, valid, known)
    assert torch.equal(plain[:, :3], faded[:, :3]) and not torch.equal(plain[:, 3:], faded[:, 3:])


def rolled(network: Any, frames: torch.Tensor, valid: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return stpredict.rollout(network, frames, 3, valid=valid, known=known)
