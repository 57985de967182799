"""``stpredict report``."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from stpredict.cli.main import main
from stpredict.page import report

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "0.1.0"
OPTIONS = {
    "--data": "moving_digits",
    "--root": "files",
    "--split": "validation",
    "--context": "3",
    "--horizon": "4",
    "--protocol": "per-pixel",
    "--score": "mse ssim",
    "--units": "1",
    "--threshold": "0.5 0.75",
    "--skill": "persistence",
    "--resample": "films",
    "--limit": "7",
    "--clips": "2",
    "--by": "ssim",
    "--title": "Digits",
    "--allow-code": "a.b:C",
    "--device": "cpu",
}


def test_a_run_of_an_older_version_makes_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(FIXTURE / "run", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    command = "report run --out page --clips 1 --no-baselines --score mse ssim --device cpu"
    assert main(command.split()) == 0
    assert capsys.readouterr().out == "page/index.html\n"
    scores = json.loads(Path("page/scores.json").read_text())
    assert list(scores["scores"]) == ["run"] and list(scores["scores"]["run"]) == ["mse", "ssim"] and scores["data"]["clips"] == 2
    page = Path("page/index.html").read_text(encoding="utf-8")
    assert "interrupted" in page or "failed" in page  # it has no log, and was not marked as done


def test_every_option_reaches_the_report(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    given: dict[str, Any] = {}

    def take(sources: list[str], out: Path, **settings: Any) -> Path:
        given.update(settings, sources=sources, out=out)
        return out

    monkeypatch.setattr("stpredict.page.report", take)
    words = [word for name, values in OPTIONS.items() for word in (name, *values.split())]
    assert main(["report", "one", "two", "--out", "page", "--no-baselines", "--single-file", *words]) == 0
    assert {name: value for name, value in given.items() if name != "warn"} == {
        "sources": ["one", "two"],
        "out": Path("page"),
        "data": "moving_digits",
        "root": Path("files"),
        "split": "validation",
        "context": 3,
        "horizon": 4,
        "protocol": "per-pixel",
        "scores": ["mse", "ssim"],
        "units": "1",
        "thresholds": [0.5, 0.75],
        "skill": "persistence",
        "resample": "films",
        "limit": 7,
        "clips": 2,
        "by": "ssim",
        "title": "Digits",
        "allow": ["a.b:C"],
        "device": "cpu",
        "baselines": False,
        "single_file": True,
        "progress": True,
    }
    given["warn"]("Something is wrong")
    assert capsys.readouterr().err == "stpredict: Something is wrong\n"


def test_the_defaults_are_those_of_python(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr("stpredict.page.report", lambda sources, out, **settings: given.update(settings))
    assert main(["report", "one", "--out", "page"]) == 0
    defaults = report.__kwdefaults__
    assert {**given, "progress": False, "allow": (), "warn": defaults["warn"]} == defaults


@pytest.mark.parametrize(
    ("asked", "code", "why"),
    [
        ("report", 2, "the following arguments are required: SOURCE"),
        ("report nothing --out page", 2, "There is no predictor 'nothing'"),
        ("report persistence --out page", 2, "name the card (--data CARD)"),
        ("report persistence --out nowhere/page", 2, "There is no folder"),
        ("report persistence --out page --data moving_digits --clips -1", 2, "wants a whole number from 0 up, not '-1'"),
        ("report persistence --out shut/page --data moving_digits --limit 2 --score mse", 1, "/page: "),
        ("report persistence --out shut/page.html --data moving_digits --limit 2 --score mse", 1, "page.html: "),
    ],
)
def test_bad_input(
    asked: str, code: int, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # A folder of /proc is not to be written to, not even by root.
    (tmp_path / "shut").symlink_to("/proc/self")
    assert main(asked.split()) == code
    said = capsys.readouterr()
    assert why in " ".join(said.err.split()) and said.out == "" and len(said.err.splitlines()) == 1
    assert not re.search("Traceback", said.err) and not [path for path in tmp_path.iterdir() if path.name != "shut"]
