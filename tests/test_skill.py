"""What SKILL.md says: its figures of shipped predictors are those of the files, and its commands are commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from stpredict.cli.main import parse
from stpredict.data.card import read_card
from stpredict.files import find_yaml
from stpredict.shipped import read_index
from stpredict.training import load_settings

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "SKILL.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line)
    for block in re.findall(r"^```sh\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]


def test_every_command_can_be_given() -> None:
    """Options exist, studies, configs and cards too, and a predictor is shipped or one of the runs above it."""
    made: set[str] = set()
    for program, *words in COMMANDS:
        assert program == "stpredict"
        parsed = parse(words)
        if words[0] == "train":
            settings = load_settings(parsed.config, parsed.overrides)
            assert read_card(settings.data.card).name == settings.data.card
            made.add(str(settings.run.folder))
        elif words[0] == "study":
            assert find_yaml("studies", parsed.study).stem == parsed.study
            made.add(f"studies/{parsed.study}")
        elif words[0] == "evaluate":
            assert read_card(parsed.card).name == parsed.card
            assert set(parsed.predictors) <= made | set(read_index())
        else:
            assert words[0] == "report" and set(parsed.sources) <= made
    assert len(made) >= 4


@pytest.mark.parametrize("name", [name for name in read_index() if name.startswith("moving-mnist")])
def test_figures_of_shipped_predictors_are_those_of_their_files(name: str) -> None:
    index = read_index()[name]
    row = next(line for line in TEXT.splitlines() if line.startswith(f"| `{name}` | {index.weights:,} |"))
    low, high = index.interval
    assert f"| {index.size / 1e6:.2f} MB | {index.mean:.1f} [{low:.1f}, {high:.1f}] | {index.mean / index.baseline_mean:.3f} |" in row
    assert f"{index.steps:,} steps" in row and f"{index.seconds / 60:.0f} minutes" in row
