"""``stpredict evaluate`` with thresholds, units, members and skill."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from stpredict.cli.main import main
from stpredict.cli.scoring import KNOWN
from stpredict.metrics import FURTHER_SCORES, SCORES

DIGITS = "evaluate persistence context-mean --data moving_digits --limit 4 --context 3 --horizon 2 --no-baselines"


def test_scores_of_events_and_skill(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    out = tmp_path / "scores.json"
    asked = f"{DIGITS} --score mse csi hss fss --threshold 0.25 0.75 --skill persistence --out {out}"
    assert main(asked.split()) == 0
    written, shown = json.loads(out.read_text()), capsys.readouterr().out
    scores = written["scores"]["context-mean"]
    assert list(scores) == ["mse", "csi", "hss", "fss"] and list(scores["csi"]["parts"]) == ["0.25", "0.75"]
    assert list(scores["fss"]["parts"]) == [f"{threshold}, {window} px" for threshold in ("0.25", "0.75") for window in (3, 9, 27)]
    parts = [part["mean"] for part in scores["csi"]["parts"].values()]
    assert scores["csi"]["mean"] == pytest.approx(sum(parts) / 2) and min(parts) > 0
    skill = written["skill"]["scores"]["context-mean"]
    assert skill["mse"]["value"] == pytest.approx(1 - scores["mse"]["mean"] / written["scores"]["persistence"]["mse"]["mean"])
    assert skill["mse"]["low"] <= skill["mse"]["value"] <= skill["mse"]["high"]
    assert "skill over persistence, with 95 % intervals over clips" in shown
    assert f"{skill['mse']['value']:.3f} [{skill['mse']['low']:.3f}, {skill['mse']['high']:.3f}]" in shown


def test_the_help_names_every_score() -> None:
    assert set(SCORES | FURTHER_SCORES) <= set(re.findall(r"\w+", KNOWN))


def test_ensembles(tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    assert main(f"{DIGITS} --score mae crps crps_fair --members 3 --out {out}".split()) == 0
    written = json.loads(out.read_text())
    scores = written["scores"]["persistence"]
    assert written["members"] == 3 and scores["crps"]["mean"] == pytest.approx(scores["mae"]["mean"]) == scores["crps_fair"]["mean"]


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ("--score csi", "The score 'csi' needs thresholds: name them (--threshold 0.5 2 5)"),
        ("--threshold nan", "Thresholds are finite numbers, not [nan]"),
        ("--units mm/h", "Values in 1 cannot be turned into mm/h"),
        ("--score crps_fair", "'crps_fair' needs at least 2 members: ask for them (--members 10)"),
        ("--tile 16", "--tile is for trained predictors, and there is none: leave it out"),
        ("--skill persistance", "did you mean 'persistence'?"),
        ("--resample films --skill persistence", "are not of several films to draw from"),
    ],
)
def test_what_cannot_be_scored_is_refused(asked: str, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(f"{DIGITS} {asked}".split()) == 2
    assert why in " ".join(capsys.readouterr().err.split())
