"""``--kernels``: every command that computes with a predictor has it, computes as it says, and leaves nothing behind."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from types import ModuleType

import pytest

from stpredict import kernels
from stpredict.cli import films, gradients, importing, inside, main, report, scoring, study, training
from stpredict.cli.options import KERNELS, Parser

COMPUTING: dict[str, tuple[ModuleType, str]] = {
    "evaluate p --data d": (scoring, "_evaluate"),
    "forecast p film.mp4 --out next.mp4": (films, "_forecast"),
    "forecast p folder --watch --out products": (films, "_forecast"),
    "render p --data d --out film.mp4": (films, "_render"),
    "gradients p --data d --out lines.png": (gradients, "_gradients"),
    "inside p --data d --show gates --out gates.mp4": (inside, "_inside"),
    "report p --out page": (report, "_report"),
    "import --verify p": (importing, "_import"),
}
NONE_TO_CHOOSE = {"doctor"}
"""What has --device, but no convolutions of ours."""


def commands(parser: Parser) -> Iterator[Parser]:
    for one in parser.commands.choices.values() if parser.commands else ():
        yield one
        yield from commands(one)


def test_what_has_a_device_has_kernels() -> None:
    having = {one.prog.partition(" ")[2] for one in commands(main._parser()) if "--device" in one.options}
    named = {words.partition(" ")[0] for words in COMPUTING}
    assert having == named | {"train", "resume", "study"} | NONE_TO_CHOOSE
    assert {one.prog.partition(" ")[2] for one in commands(main._parser()) if "--kernels" in one.options} == having - NONE_TO_CHOOSE


@pytest.mark.parametrize("words", COMPUTING)
def test_a_command_computes_as_asked_and_no_longer(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def act(arguments: argparse.Namespace) -> int:
        seen.append(kernels.chosen())
        return 0

    monkeypatch.setattr(*COMPUTING[words], act)
    for asked in (["--kernels", "reference"], ["--kernels", "auto"], []):
        assert main.main([*words.split(), *asked]) == 0
        assert kernels.chosen() == "auto"
    with kernels.using("reference"):
        assert main.main(words.split()) == 0
    assert seen == ["reference", "auto", "auto", "reference"]


@pytest.mark.parametrize(("words", "module"), [("train demo", training), ("resume run", training), ("study norm", study)])
def test_a_run_is_told(words: str, module: ModuleType) -> None:
    arguments = main.parse([*words.split(), "--kernels", "reference", "--trainer.keep", "3"])
    assert module._overrides(arguments) == ["--trainer.kernels=reference", "--trainer.keep", "3"]


def test_other_kernels_are_refused_and_the_names_are_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert kernels.Kernels.__args__ == KERNELS
    assert main.main(["evaluate", "p", "--data", "d", "--kernels", "fast"]) == 2
    assert main.main(["train", "demo", "--trainer.kernels", "fast", "--trainer.max_steps", "1"]) == 2
    told = capsys.readouterr().err
    assert "argument --kernels: invalid choice: 'fast'" in told and "trainer.kernels" in told


def test_the_processes_of_an_evaluation_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setattr("stpredict.training.launching.launch", lambda words, processes: started.append((words, processes)) or 0)
    words = "evaluate persistence --data moving_digits --limit 2 --context 3 --horizon 2 --device cpu --devices 2 --kernels reference"
    assert main.main(words.split()) == 0
    assert started == [(words.split(), 2)]
