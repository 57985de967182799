"""``stpredict study``, and the page of a study."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from stpredict.cli.main import main

STUDY = """
question: Is a <wide> one better?
settings:
  data: {card: moving_digits, context: 2, horizon: 2, batch_size: 2, workers: 0}
  network: {name: convlstm, hidden: [4], kernel_size: 3, patch_size: 8}
  trainer: {max_steps: 2, validate_every: 2, checkpoint_every: 2}
always: {data: {settings: {digits: 1, size: 32, validation_clips: 2, test_clips: 6}}}
variants:
  narrow: {}
  wide: {network: {hidden: [6]}}
seeds: [0, 1]
score: {scores: [mse]}
"""


def test_a_study_is_made_and_becomes_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(STUDY)
    assert main(["study", "mine.yaml", "--device", "cpu", "--score.clips", "4"]) == 0
    said = capsys.readouterr()
    assert said.out.endswith("studies/mine\n") and "wide - narrow" in said.out and "wide-1 (4 of 4)" in said.err
    assert main(["study", "studies/mine"]) == 0, "it goes on as it was begun"
    assert capsys.readouterr().err == ""

    assert main(["report", "studies/mine", "--out", "page", "--device", "cpu"]) == 0
    page = Path("page/index.html").read_text(encoding="utf-8")
    found = json.loads(Path("page/study.json").read_text())
    assert found == json.loads(Path("studies/mine/study.json").read_text())
    assert "Is a &lt;wide&gt; one better?" in page and "<wide>" not in page
    section = re.search(r'<section id="studies">(.*?)</section>', page, re.DOTALL)
    assert section is not None
    numbers = [float(value) for value in re.findall(r'data-value="([^"]+)"', section[1])]
    (pair,) = found["comparisons"]
    for number in (pair["scores"]["mse"]["mean"], found["baselines"]["persistence"]["mse"], found["variants"]["wide"]["weights"]):
        assert number in numbers
    sign = "better" if pair["scores"]["mse"]["mean"] < 0 else "worse"
    assert f"wide is {sign} than narrow by mse" in section[1]
    scores = json.loads(Path("page/scores.json").read_text())["scores"]
    assert list(scores) == ["narrow-0", "wide-0", "narrow-1", "wide-1", "persistence", "extrapolation"]
    assert scores["wide-1"]["mse"]["mean"] == found["variants"]["wide"]["scores"]["mse"]["seeds"]["1"]


def test_options_reach_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").write_text(STUDY)
    asked: dict[str, Any] = {}

    def take(study: Any, folder: Path, **further: Any) -> Any:
        asked.update(study=study, folder=folder)
        raise InterruptedError("seen")

    monkeypatch.setattr("stpredict.study.run_study", take)
    options = "--root files --out there --seeds 5 7 --device cpu --kernels reference --precision bf16 --optimizer.learning_rate 0.5"
    assert main(["study", str(tmp_path / "mine.yaml"), *options.split()]) == 1
    settings = asked["study"].settings_of("wide", 7)
    assert (asked["folder"], asked["study"].seeds) == (Path("there"), (5, 7))
    assert (settings.data.root, settings.optimizer.learning_rate) == ("files", 0.5)
    assert (settings.trainer.device, settings.trainer.kernels, settings.trainer.precision) == ("cpu", "reference", "bf16")
    assert settings.data.settings["size"] == 32, "what is set for all stays"


def test_a_rehearsal_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(STUDY)
    assert main(["study", "mine.yaml", "--dry-run", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "narrow:\n" in said and "wide:\n" in said and "4 runs, of 2 variants and 2 seeds" in said
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("study nothing", "There is no study 'nothing'"),
        ("study .", ". is no folder of a study: it holds no study.yaml"),
        ("study demo.yaml", "There is no study 'demo.yaml'"),
        ("study e3d-memory --root .", "Variant 'frozen-8' of the study 'e3d-memory': . does not hold train-images"),
        ("study e3d-memory --trainer.max_step 3", "There is no key 'trainer.max_step'; did you mean 'max_steps'"),
        ("study e3d-memory --seeds -1", "wants a whole number from 0 up"),
    ],
)
def test_mistakes_are_sentences(
    words: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == 2
    said = capsys.readouterr().err
    assert said.startswith("stpredict: ") and said.count("\n") == 1
    assert sentence in said
    assert not Path("studies").exists()
