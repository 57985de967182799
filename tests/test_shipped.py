"""Shipped predictors: found by name, what their index and cards say, files that were altered, and how one is shipped."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType

import pytest
import safetensors.torch
import torch
import yaml

from stpredict import shipped
from stpredict.cli.main import main
from stpredict.data import load_data
from stpredict.data.clips import ClipSet
from stpredict.errors import UserError
from stpredict.evaluation import evaluate
from stpredict.fitting import check_fit, unlike_training
from stpredict.frames import Transform
from stpredict.networks import NETWORKS
from stpredict.predictor import Predictor, load_predictor, read_header
from stpredict.processes import Processes
from stpredict.results import Scores
from stpredict.shipped import FOLDER, LARGEST, find_shipped, read_index
from stpredict.training import load_settings, train
from stpredict.training.work import make_work

ROOT = Path(__file__).resolve().parents[1]
NAMES = list(read_index())
DIGITS = "moving-digits-predrnn-s"

TINY = """
data:
  card: moving_digits
  context: 3
  horizon: 2
  batch_size: 2
  workers: 0
  settings: {digits: 1, size: 32, validation_clips: 2, test_clips: 6}
network: {name: convlstm, hidden: [4], kernel_size: 3, patch_size: 4}
trainer: {max_steps: 4, validate_every: 2, checkpoint_every: 2, log_every: 1, threads: 1, device: cpu}
"""


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"tool_{name}", ROOT / "tools" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the shipped files, to which the program looks."""
    folder = tmp_path / "shipped"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    monkeypatch.setattr(shipped, "FOLDER", folder)
    return folder


def digits(name: str = DIGITS, clips: int = 40, **settings: int) -> tuple[Predictor, ClipSet]:
    predictor = load_predictor(name)
    changes = predictor.data_changes("moving_digits")
    changes["settings"] = {**changes["settings"], "test_clips": clips, **settings}
    return predictor, load_data("moving_digits", split="test", context=predictor.context, horizon=predictor.horizon, **changes)


def test_every_file_belongs_to_one_of_the_index_and_each_has_all_three() -> None:
    kinds = (".safetensors", ".md", ".gif")
    there = {path.name for path in FOLDER.iterdir() if path.suffix in kinds}
    assert there == {name + kind for name in NAMES for kind in kinds}
    assert DIGITS in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_each_is_small_and_is_what_the_index_says(name: str) -> None:
    about, path = read_index()[name], find_shipped(name)
    assert path.stat().st_size == about.size <= LARGEST <= 3_000_000
    assert hashlib.sha256(path.read_bytes()).hexdigest() == about.sha256
    stored = safetensors.torch.load_file(path)
    assert {weight.dtype for weight in stored.values()} == {torch.bfloat16}
    predictor = load_predictor(name)
    assert (predictor.name, predictor.network_name) == (name, about.network) and about.network in NETWORKS
    state = predictor.network.state_dict()
    assert all(state[key].dtype == torch.float32 and torch.equal(state[key], weight.float()) for key, weight in stored.items())
    assert sum(weight.numel() for weight in predictor.network.parameters()) == about.weights
    assert predictor.provenance["data"]["card"] == about.data
    assert about.interval[0] < about.mean < about.interval[1] and about.mean < about.baseline_mean


@pytest.mark.parametrize("name", NAMES)
def test_nothing_that_is_shipped_tells_where_it_was_made(name: str) -> None:
    said = json.dumps(read_header(find_shipped(name))) + (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    assert [word for word in ("/home", "/root", "/work", "/tmp", "/Users") if word in said] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_model_card_says_what_the_index_says_and_holds_a_recipe_that_a_run_can_be_made_of(name: str, tmp_path: Path) -> None:
    about, card = read_index()[name], (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    _, front, text = card.split("---\n", 2)
    assert yaml.safe_load(front)["license"] == about.licence
    for heading in ("Use", "Data and licence", "Scores", "Cost", "Recipe", "To reproduce", "Limits", "Facts"):
        assert f"\n## {heading}\n" in text
    assert f"{about.clips} clips of the split `{about.split}`" in text and f"protocol `{about.protocol}`" in text
    assert f"{about.steps:,} training steps" in text and f"({name}.gif)" in text
    (tmp_path / "recipe.yaml").write_text(text.partition("```yaml\n")[2].partition("```")[0])
    settings, predictor = load_settings(tmp_path / "recipe.yaml"), load_predictor(name)
    own = {key: value for key, value in settings.network.items() if key not in ("name", "weights", "mismatch")}
    assert (settings.network["name"], own) == (predictor.network_name, predictor.network_settings)
    assert settings.data.card == about.data and settings.data.root is None


def test_the_score_of_the_index_is_found_again() -> None:
    predictor, _ = digits()
    about = read_index()[DIGITS]
    changes = predictor.data_changes(about.data)
    clips = load_data(about.data, split=about.split, context=predictor.context, horizon=predictor.horizon, **changes)
    scores = evaluate([predictor], clips, scores=[about.score], baselines=False, limit=64)
    low, high = scores.scores[DIGITS][about.score]["interval"]
    assert low <= about.mean <= high


def test_it_stands_wherever_a_predictor_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(f"evaluate {DIGITS} --data moving_digits --limit 4 --no-baselines --out scores.json".split()) == 0
    assert Scores.read(tmp_path / "scores.json").predictors[DIGITS]["kind"] == "predictor"
    assert main(f"render {DIGITS} --data moving_digits --clip 1 --no-error --out film.png".split()) == 0
    assert main(f"report {DIGITS} --limit 4 --clips 1 --no-baselines --out page".split()) == 0
    assert DIGITS in (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    capsys.readouterr()
    assert main(["info", DIGITS]) == 0
    told, about = capsys.readouterr().out, read_index()[DIGITS]
    for words in (DIGITS, about.about, about.sha256, about.result(), f"licence     {about.licence}"):
        assert words in told


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--shipped"]) == 0
    told = capsys.readouterr().out
    for name, about in read_index().items():
        assert all(words in told for words in (name, about.about, f"{about.weights:,}", about.result(), about.licence))
    assert main(["info"]) == 2 and main(["info", DIGITS, "--shipped"]) == 2
    assert capsys.readouterr().err.count("wants either a PREDICTOR or --shipped") == 2


@pytest.mark.parametrize("damage", ["flipped", "longer", "gone"])
def test_an_altered_file_is_refused_before_it_is_read(damage: str, copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copied / f"{DIGITS}.safetensors"
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(whole + b"\0" if damage == "longer" else whole[:-1] + bytes([whole[-1] ^ 1]))
    assert main(["info", DIGITS]) == 2
    told = capsys.readouterr().err
    why = {"flipped": "SHA-256", "longer": f"has {len(whole) + 1:,} bytes, not {len(whole):,}", "gone": "is missing"}[damage]
    assert told.count("\n") == 1 and DIGITS in told and why in told and told.endswith("install stpredict again\n")


def test_a_damaged_index_is_told(copied: Path) -> None:
    entry = asdict(read_index()[DIGITS])
    for text in ("", "[]", '{"a": 1}', json.dumps({"../a": entry}), json.dumps({"a": {**entry, "more": 1}})):
        (copied / "index.json").write_text(text)
        with pytest.raises(UserError, match=r"index of the shipped predictors .* is damaged .*: install stpredict again"):
            load_predictor(DIGITS)


def test_a_name_that_is_not_there_is_told_the_nearest() -> None:
    with pytest.raises(UserError, match=r"neither a file, nor a run folder, nor a shipped predictor, nor a baseline; did you mean 'moving"):
        load_predictor("moving-digits-predrn-s")
    with pytest.raises(UserError, match="did you mean 'persistence'"):
        load_predictor("persistance")
    with pytest.raises(UserError, match="no shipped predictor 'moving-digit'"):
        find_shipped("moving-digit")


def test_a_name_goes_before_a_file_and_a_path_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / DIGITS).mkdir()
    assert isinstance(load_predictor(DIGITS), Predictor)
    with pytest.raises(UserError, match="holds no predictor yet"):
        load_predictor(f"./{DIGITS}")


def test_training_goes_on_from_one_by_name() -> None:
    source = load_predictor(DIGITS)
    settings = load_settings("moving_digits/two_digits", ["--trainer.device=cpu"])
    own = {key: value for key, value in settings.network.items() if key not in ("name", "weights")}
    assert (settings.network["weights"], own) == (DIGITS, source.network_settings), "the demo trains the network that is shipped"
    network = make_work(settings, Processes()).network
    assert all(torch.equal(weight, source.network.state_dict()[key]) for key, weight in network.state_dict().items())


def test_frames_of_another_scale_or_size_are_told_in_one_sentence() -> None:
    predictor, clips = digits()
    check_fit(predictor.name, predictor, clips)
    assert unlike_training(predictor.name, predictor, clips) == []
    frames = torch.full((1, 5, 1, 48, 48), 200.0)
    with pytest.raises(UserError, match="takes values from 0 to 1, and these reach from 200 to 200: divide them by 255"):
        predictor.forecast(frames, 1)
    with pytest.raises(UserError, match="reach from -200 to -200: scale them to 0 to 1"):
        predictor.forecast(-frames, 1)
    assert predictor.forecast(frames / 255, 1).shape == (1, 1, 1, 48, 48)
    _, larger = digits(size=64, clips=3)
    (sentence,) = unlike_training(predictor.name, predictor, larger)
    assert "trained on frames of 48 x 48 pixels, and those of 'moving_digits' are of 64 x 64" in sentence and "resize: [48, 48]" in sentence
    assert sentence in evaluate([predictor], larger, baselines=False).warnings
    predictor.spec = replace(predictor.spec, transform=Transform("linear", 0.0, 255.0))
    with pytest.raises(UserError, match="values from 0 to 255 instead of 0 to 1; in a copy of the card, bring the values to 0 to 255"):
        check_fit(predictor.name, predictor, clips)


def test_a_run_is_shipped_with_measured_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    run = train(load_settings(tmp_path / "tiny.yaml", [f"--run.folder={tmp_path / 'run'}"]))
    folder = tmp_path / "shipped"
    folder.mkdir()
    ship = tool("ship")
    words = [str(run.folder), "--name", "tiny", "--about", "A tiny one", "--limits", "It is tiny.", "--limit", "4", "--out", str(folder)]
    assert ship.main(words) == 0
    monkeypatch.setattr(shipped, "FOLDER", folder)
    about, predictor = read_index()["tiny"], load_predictor("tiny")
    trained = load_predictor(run.folder).network.state_dict()
    assert all(torch.equal(weight, trained[key].bfloat16().float()) for key, weight in predictor.network.state_dict().items())
    clips = load_data("moving_digits", split="test", context=3, horizon=2, **predictor.data_changes("moving_digits"))
    scores = evaluate([predictor], clips, limit=4)
    ours = scores.scores["tiny"]["mse_sum"]
    assert (about.mean, list(about.interval), about.clips) == (ours["mean"], ours["interval"], 4)
    best = min(scores.baselines, key=lambda name: scores.scores[name]["mse_sum"]["mean"])
    assert (about.baseline, about.baseline_mean) == (best, scores.scores[best]["mse_sum"]["mean"])
    assert about.steps == 4 and about.seconds > 0
    text = (folder / "tiny.md").read_text(encoding="utf-8")
    assert "- It is tiny." in text and scores.hash in text and f"{ours['per_lead'][1]:.4g}" in text and str(tmp_path) not in text
    assert (folder / "tiny.gif").stat().st_size > 1000
    assert ship.main([*words, "--name", "second"]) == 0 and list(read_index()) == ["second", "tiny"]


def test_what_cannot_be_shipped(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ship = tool("ship")
    (tmp_path / "tiny.yaml").write_text(TINY)
    run = train(load_settings(tmp_path / "tiny.yaml", [f"--run.folder={tmp_path / 'run'}"]))
    words = ["--about", "x", "--limit", "2", "--out", str(tmp_path)]
    monkeypatch.setattr(ship, "LARGEST", 1000)
    assert ship.main([str(run.folder), "--name", "large", *words]) == 2
    assert ship.main([str(run.folder), "--name", "../up", *words]) == 2
    assert ship.main([str(tmp_path / "nothing"), "--name", "none", *words]) == 2
    (run.folder / "done").unlink()
    assert ship.main([str(run.folder), "--name", "early", *words]) == 2
    told = capsys.readouterr().err
    assert "shipped ones have at most 1,000" in told and "not '../up'" in told and "is no run folder" in told and "has not ended" in told
    assert [path.name for path in tmp_path.iterdir() if path.suffix in (".md", ".safetensors", ".json")] == []


def test_paths_are_stripped() -> None:
    strip = tool("ship").strip_paths
    plain = {"card": "/home/me/cards/mine.yaml", "settings": {"files": ["/a/b", "c/d"]}, "step": 3, "none": None}
    assert strip(plain) == {"card": "mine.yaml", "settings": {"files": ["b", "c/d"]}, "step": 3, "none": None}


def test_the_demo_leaves_films_scores_and_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    demo = tool("demo")
    short = ["--trainer.max_steps=2", "--trainer.validation_clips=2", "--data.settings.test_clips=6"]
    monkeypatch.setattr(demo, "load_settings", lambda name, words: load_settings(name, [*words, *short]))
    assert demo.main() == 0
    told, run = capsys.readouterr().out, tmp_path / "runs" / "demo-1"
    assert (tmp_path / "runs" / f"{DIGITS}.mp4").stat().st_size > 1000
    scores = Scores.read(run / "scores.json")
    assert list(scores.scores)[:2] == ["demo-1", DIGITS] and len(scores.baselines) == 4
    assert f"{scores.scores['demo-1']['mse']['mean']:.5f}" in told and f"{scores.scores[DIGITS]['mse']['mean']:.5f}" in told
    for file in ("film.mp4", "page/index.html", "best.safetensors", "done"):
        assert (run / file).stat().st_size
    assert DIGITS in (run / "page" / "index.html").read_text(encoding="utf-8")
