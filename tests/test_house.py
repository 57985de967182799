"""The rules of the house that a program can check."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("stpredict", "configs", "datasets", "tools")
LONGEST = 450


def setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line]


def files_of_ours(*suffixes: str) -> list[Path]:
    inside = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if "__pycache__" not in path.parts]
    return [path for path in [*inside, *ROOT.iterdir()] if path.is_file() and (path.suffix in suffixes or path.name in suffixes)]


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "ruff", "check"],
        ["-m", "mypy"],
        ["-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
    ],
    ids=["ruff", "mypy", "floors"],
)
def test_the_checkers_have_nothing_to_say(command: list[str]) -> None:
    checked = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_files_are_short() -> None:
    code = [*files_of_ours(".py"), *(ROOT / "tests").rglob("*.py")]
    assert code, "nothing was looked at"
    long = {str(path.relative_to(ROOT)): count for path in code if (count := len(path.read_text(encoding="utf-8").splitlines())) > LONGEST}
    assert long == {}


def test_the_project_speaks_of_itself_alone() -> None:
    foreign = re.compile(r"\bsessions?\b|issue (tracker|\d|#)|\.\./shared|/work/|workplace|pypi\.|pythonhosted", re.IGNORECASE)
    texts = files_of_ours(".py", ".md", ".cfg", ".toml", ".txt", ".yaml", ".in", "Makefile")
    assert len(texts) > 20, "nothing was looked at"
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in texts
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if foreign.search(line)
    ]
    assert found == []


def test_every_package_is_listed_for_the_wheel() -> None:
    packages = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "stpredict").rglob("__init__.py")}
    assert set(lines(setup()["options"]["packages"])) == packages | {"stpredict.configs", "stpredict.datasets"}


def test_all_that_the_tests_need_is_pinned_to_what_is_installed() -> None:
    options, extras = setup()["options"], setup()["options.extras_require"]
    wanted = [options["install_requires"], *(extras[name] for name in ("test", "track", "radar", "onnx", "hub"))]
    waiting = [Requirement(line) for text in wanted for line in lines(text)]
    pinned = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            requirement = Requirement(line)
            pinned[canonicalize_name(requirement.name)] = requirement
    needed: set[str] = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        assert name in pinned, f"constraints.txt does not pin {name}"
        installed = distribution(name).version.partition("+")[0]
        assert requirement.specifier.contains(installed, prereleases=True), f"{requirement} is not met by {installed}"
        if name not in needed:
            needed.add(name)
            waiting += [Requirement(text) for text in distribution(name).requires or []]
