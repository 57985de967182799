"""The command line: help, exit codes, sentences, and what a command hands on."""

from __future__ import annotations

import errno
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import yaml

import stpredict
from stpredict.cli.main import main
from stpredict.errors import UserError

COMMANDS = [
    "train",
    "resume",
    "study",
    "evaluate",
    "forecast",
    "render",
    "data",
    "data list",
    "data show",
    "data check",
    "data preview",
    "info",
    "import",
]


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main([*command.split(), "--help"])
    shown = capsys.readouterr().out
    assert leaving.value.code == 0
    assert f"example:\n  stpredict {command}".rstrip() in shown


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(["--version"])
    assert leaving.value.code == 0
    assert capsys.readouterr().out.strip() == f"stpredict {stpredict.__version__}"


def test_help_needs_no_heavy_library() -> None:
    heavy = ["torch", "numpy", "cv2", "rich", "yaml", "matplotlib", "h5py"]
    probe = f"import sys, stpredict.cli.main; print([name for name in {heavy} if name in sys.modules])"
    here = Path(stpredict.__file__).parents[1]
    shown = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=here)
    assert shown.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["trian", "demo"], "has no command 'trian'; did you mean 'train'?"),
        (["data", "chek", "knmi"], "'stpredict data' has no command 'chek'; did you mean 'check'?"),
        (["data"], "the following arguments are required: COMMAND"),
        (["train"], "the following arguments are required: CONFIG"),
        (["train", "demo", "--sed", "3"], "'stpredict train' has no option '--sed'; did you mean '--seed'?"),
        (["train", "demo", "other"], "'stpredict train' has no use for 'other'"),
        (["train", "demo", "--device", "gpu"], "argument --device: invalid choice: 'gpu'"),
        (["evaluate", "p", "--dat", "knmi"], "the following arguments are required: --data"),
        (["evaluate", "p", "--data", "knmi", "--horizon", "0"], "argument --horizon: wants a whole number from 1 up, not '0'"),
        (["evaluate", "p", "--data", "knmi", "--limit", "1.5"], "argument --limit: wants a whole number from 1 up, not '1.5'"),
        (["evaluate", "p", "--data", "knmi", "--data.root", "x"], "'stpredict evaluate' takes no overrides such as '--data.root'"),
        (["render", "p", "--data", "knmi", "--out", "f.mp4", "--clip", "-1"], "argument --clip"),
        (["render", "p", "--data", "knmi", "--out", "f.mp4", "--frames-per-second", "0"], "wants a number above 0, not '0'"),
        (["render", "p", "--data", "knmi"], "the following arguments are required: --out"),
    ],
)
def test_what_is_asked_wrongly_is_one_sentence_and_2(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("stpredict: ") and told.err.count("\n") == 1
    assert sentence in told.err


class Calls:
    """Stands in for a module that a command calls, and notes with what."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.noted: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def stand_in(self, module: str, **results: Any) -> None:
        stand_in = types.ModuleType(module)
        for name, result in results.items():
            setattr(stand_in, name, self._note(name, result))
        self.monkeypatch.setitem(sys.modules, module, stand_in)

    def _note(self, name: str, result: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            self.noted[name] = (arguments, named)
            if isinstance(result, BaseException):
                raise result
            return result

        return call


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)


TINY = (
    "--network.hidden [4] --data.batch_size 2 --data.settings.size 32 --data.settings.validation_clips 2 --trainer.validate_every 0 "
    "--trainer.checkpoint_every 1 --trainer.threads 1"
)


def test_overrides_reach_the_config_wherever_they_stand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a.b"
    words = f"train --trainer.max_steps 2 demo --run.folder={folder} --seed 3 --device cpu {TINY}"
    assert main(words.split()) == 0
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert (config["seed"], config["trainer"]["device"], config["trainer"]["max_steps"], config["network"]["hidden"]) == (3, "cpu", 2, [4])
    assert capsys.readouterr().out == f"{folder}\n"


def test_an_override_without_a_value_does_not_swallow_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "demo", "--data.root", "--seed", "3"]) == 2
    assert "--data.root has no value" in capsys.readouterr().err


def test_an_interrupted_run_is_resumed_and_may_be_interrupted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the end of its hours, after a step each; of several processes the first alone says where the run is."""
    folder = tmp_path / "run"
    codes = [main(f"train demo --run.folder {folder} --trainer.max_steps 3 --trainer.max_hours 1e-9 {TINY}".split())]
    codes += [main(f"resume {folder}".split()) for _ in range(2)]
    assert codes == [75, 75, 0] and capsys.readouterr().out == f"{folder}\n" * 3
    monkeypatch.setenv("RANK", "1")
    assert main(f"resume {folder}".split()) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (UserError("Two\nlines."), 2, "stpredict: Two lines.\n"),
        (OSError(errno.ENOSPC, "No space left on device", "runs/a/log.csv"), 1, "stpredict: runs/a/log.csv: No space left on device\n"),
        (OSError("the pipe has burst"), 1, "stpredict: the pipe has burst\n"),
        (KeyboardInterrupt(), 1, "stpredict: interrupted\n"),
    ],
)
def test_what_goes_wrong_is_one_sentence(
    error: BaseException, code: int, told: str, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    calls.stand_in("stpredict.showing", describe_predictor=error)
    assert main(["info", "runs/demo-1"]) == code
    assert capsys.readouterr().err == told


def test_a_reader_that_has_seen_enough_is_no_news() -> None:
    here = Path(stpredict.__file__).parents[1]
    reading = f"'{sys.executable}' -m stpredict data list | true"
    told = subprocess.run(["bash", "-c", reading], cwd=here, capture_output=True, text=True, check=True)
    assert (told.stdout, told.stderr) == ("", "")


def test_a_bug_shows_its_traceback(calls: Calls) -> None:
    calls.stand_in("stpredict.showing", describe_predictor=ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        main(["info", "runs/demo-1"])
