"""``stpredict evaluate`` with thresholds, units, members and skill."""

from __future__ import annotations

import csv
import json
import re
import signal
from pathlib import Path

import pytest

import stpredict
from stpredict.cli.main import main
from stpredict.cli.scoring import KNOWN
from stpredict.cli.scoring import PROTOCOLS as PROTOCOL_NAMES
from stpredict.forecasts import ForecastFile
from stpredict.metrics import FURTHER_SCORES, SCORES
from stpredict.protocols import PROTOCOLS
from stpredict.results import Scores

OUT = {"--out": ".json", "--per-clip": ".csv", "--save-forecasts": ".h5"}
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
    over = written["over"]
    assert over["name"] == "persistence" and list(over["skill"]) == ["context-mean"] == list(over["differences"])
    skill, difference = over["skill"]["context-mean"]["mse"], over["differences"]["context-mean"]["mse"]
    theirs = written["scores"]["persistence"]["mse"]["mean"]
    assert skill["value"] == pytest.approx(1 - scores["mse"]["mean"] / theirs)
    assert difference["value"] == pytest.approx(scores["mse"]["mean"] - theirs)
    assert skill["low"] <= skill["value"] <= skill["high"] and difference["low"] <= difference["value"] <= difference["high"]
    assert "skill over persistence" in shown and "difference from persistence" in shown
    assert "below each number: 95 % intervals over clips; in bold: 0" in shown and f"{skill['value']:.3f}" in shown


def test_the_help_names_every_score_and_protocol() -> None:
    assert set(SCORES | FURTHER_SCORES) <= set(re.findall(r"\w+", KNOWN))
    assert PROTOCOL_NAMES.split() == list(PROTOCOLS)


def test_every_form_at_once(tmp_path: Path) -> None:
    names = [tmp_path / f"scores.{suffix}" for suffix in ("json", "csv", "md", "tex")]
    assert main(f"{DIGITS} {' '.join(f'--out {name}' for name in names)} --per-clip {tmp_path / 'clips.csv'}".split()) == 0
    scores = Scores.read(names[0])
    assert [name.read_text() for name in names[1:]] == [scores.csv(), scores.markdown(), scores.latex()]
    rows = list(csv.DictReader((tmp_path / "clips.csv").open()))
    assert [(row["predictor"], row["clip"]) for row in rows] == [(name, str(clip)) for name in scores.scores for clip in range(4)]
    for name, by_score in scores.scores.items():
        own = [float(row["mse"]) for row in rows if row["predictor"] == name]
        assert sum(own) / 4 == pytest.approx(by_score["mse"]["mean"], rel=1e-9)
        best = scores.selected["mse"][name]["best"]
        assert own[best] == min(own)


def test_python_gives_what_the_command_gives(tmp_path: Path) -> None:
    asked = f"{DIGITS} --skill persistence --score mse csi --threshold 0.5 --out {tmp_path / 'scores.json'}"
    assert main(asked.split()) == 0
    data = stpredict.load_data("moving_digits", None, "test", context=3, horizon=2)
    scores = stpredict.evaluate(
        ["persistence", "context-mean"], data, scores=["mse", "csi"], thresholds=[0.5], skill="persistence", baselines=False, limit=4
    )
    assert scores.to_dict() == json.loads((tmp_path / "scores.json").read_text())


def test_the_split_and_the_window_are_those_of_the_protocol(capsys: pytest.CaptureFixture[str]) -> None:
    """A card whose name a protocol knows; that there is no such split here shows that it was asked for."""
    card = Path(__file__).resolve().parents[2] / "datasets" / "moving_mnist.yaml"
    assert main(f"evaluate persistence --data {card} --root nowhere --protocol openstl".split()) == 2
    assert "mnist_test_seq.npy" in capsys.readouterr().err, "the split 'classic' is of this file"
    assert main(f"{DIGITS} --protocol hko7".split()) == 2
    assert "The protocol 'hko7' scores in mm/h" in capsys.readouterr().err


def test_several_processes_write_what_one_does(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    asked = "evaluate context-mean --data moving_digits --limit 5 --context 3 --horizon 2 --no-baselines --score mse csi --threshold 0.5"
    signals = signal.SIGINT, signal.SIGTERM, signal.SIGUSR1
    before = [signal.getsignal(number) for number in signals]
    for count in (1, 2):
        out = " ".join(f"{option} {tmp_path / f'{count}{suffix}'}" for option, suffix in OUT.items())
        assert main(f"{asked} --devices {count} --device cpu {out}".split()) == 0
        assert capfd.readouterr().out.count("protocol per-pixel") == 1, "one process prints"
    assert [signal.getsignal(number) for number in signals] == before, "the launcher's handlers do not outlive it"
    one, two = (Scores.read(tmp_path / f"{count}.json") for count in (1, 2))
    for name, numbers in one.scores["context-mean"].items():
        for key in ("mean", "interval", "per_lead"):
            assert two.scores["context-mean"][name][key] == pytest.approx(numbers[key], rel=1e-6)
    assert one.hash == two.hash and (tmp_path / "1.csv").read_text() == (tmp_path / "2.csv").read_text()
    first, second = (ForecastFile(tmp_path / f"{count}.h5") for count in (1, 2))
    assert first.hash == second.hash and (first.read_rows(range(5)) == second.read_rows(range(5))).all()
    assert len(list(tmp_path.iterdir())) == 6, "no part is left"


def test_saved_forecasts_know_how_their_clips_differ_from_the_card(tmp_path: Path) -> None:
    """The fixture's run has changed the card's frames; its forecasts are scored alone on the bare card, as they were beside the run."""
    saved, live, alone = (str(tmp_path / name) for name in ("saved.npz", "live.json", "alone.json"))
    run = str(Path(__file__).parents[1] / "fixtures" / "0.1.0" / "run")
    assert main(["evaluate", run, "--data", "moving_digits", "--limit", "3", "--save-forecasts", saved, "--out", live]) == 0
    assert main(["evaluate", saved, "--data", "moving_digits", "--limit", "3", "--out", alone]) == 0
    first, second = (json.loads(Path(path).read_text(encoding="utf-8")) for path in (live, alone))
    assert first["data"] == second["data"]
    assert first["scores"]["run"] == second["scores"]["saved.npz"]


def test_ensembles(tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    assert main(f"{DIGITS} --score mae crps crps_fair --members 3 --out {out}".split()) == 0
    written = json.loads(out.read_text())
    scores = written["scores"]["persistence"]
    assert written["members"] == 3 and scores["crps"]["mean"] == pytest.approx(scores["mae"]["mean"]) == scores["crps_fair"]["mean"]


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ("--out scores.txt", "Scores are written as .json, .csv, .md, .tex, not as '.txt'"),
        ("--out /proc/scores.json", "'scores.json' cannot be written in the folder '/proc'"),
        ("--per-clip clips.json", "The scores of each clip are written as .csv, not as '.json'"),
        ("--devices 2 --skill persistance", "did you mean 'persistence'?"),
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


def test_scores_that_cannot_be_written_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Scores, path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Scores, "write", full)
    assert main(f"{DIGITS} --score mse --out {tmp_path / 'scores.json'}".split()) != 0
    told = capsys.readouterr()
    assert "No space left" in told.err and "context-mean" in told.out and "mse" in told.out


def test_a_process_that_was_killed_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    part = tmp_path / ".f.of-process-0.h5"
    monkeypatch.setattr("stpredict.training.launching.launch", lambda *_: part.write_text("") or 137)
    assert main(f"{DIGITS.replace(' context-mean', '')} --devices 2 --device cpu --save-forecasts {tmp_path / 'f.h5'}".split()) == 137
    assert "one of the 2 processes was killed (SIGKILL): if memory is short" in capsys.readouterr().err
    assert not part.exists(), "what it left is removed"


def test_a_process_among_several_leaves_it_to_its_launcher_to_say_that_it_was_interrupted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> Scores:
        raise KeyboardInterrupt

    monkeypatch.setattr("stpredict.evaluation.evaluate", interrupt)
    assert main(DIGITS.split()) == 1 and capsys.readouterr().err == "stpredict: interrupted\n"
    monkeypatch.setattr("stpredict.training.launching.launched", lambda: True)
    assert main(DIGITS.split()) == 1 and capsys.readouterr().err == ""
