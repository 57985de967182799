"""Installed from a wheel, and editable: configs and cards are found by name, and no top-level name but our own is taken."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

from stpredict.shipped import read_index

ROOT = Path(__file__).resolve().parents[1]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
OFFLINE = ["--no-index", "--no-deps", "--no-build-isolation"]
PROBE = """
import importlib.util, json, pathlib, stpredict, sys
from stpredict.files import find_yaml, shipped_names
names = {kind: shipped_names(kind) for kind in ("configs", "datasets", "studies")}
found = {kind: [str(find_yaml(kind, name)) for name in names[kind]] for kind in names}
specs = filter(None, map(importlib.util.find_spec, ("configs", "datasets", "tests", "tools")))
taken = [spec.name for spec in specs if not all(place.startswith(sys.argv[1]) for place in spec.submodule_search_locations)]
from stpredict.predictor import load_predictor
from stpredict.shipped import FOLDER, read_index
shipped = {name: load_predictor(name).name for name in read_index()}
lacking = [name + kind for name in shipped for kind in (".md", ".gif") if not (FOLDER / (name + kind)).is_file()]
told = {"shipped": list(shipped.values()), "lacking": lacking}
print(json.dumps({"names": names, "found": found, "taken": taken, "package": str(pathlib.Path(stpredict.__file__).parent), **told}))
"""


def run(command: list[str | Path], cwd: Path) -> str:
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this checkout, so that building leaves nothing in it."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("stpredict", "configs", "datasets"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    return folder


def make_environment(folder: Path) -> Path:
    """Make an environment that holds nothing of its own and sees the libraries of this one; return its interpreter."""
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    place = run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder).strip()
    # A folder named in a .pth file is added as it is: the .pth files in it, of an editable stpredict say, are not read.
    (Path(place) / "borrowed.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    return python


def install(python: Path, *what: str | Path) -> None:
    run([*PIP, "--python", python, "install", *OFFLINE, *what], python.parent)


def look(python: Path, elsewhere: Path) -> dict[str, Any]:
    seen: dict[str, Any] = json.loads(run([python, "-c", PROBE, sysconfig.get_path("purelib")], elsewhere))
    return seen


def expected_names() -> dict[str, list[str]]:
    names = {
        kind: sorted(path.relative_to(ROOT / kind).with_suffix("").as_posix() for path in (ROOT / kind).rglob("*.yaml"))
        for kind in ("configs", "datasets")
    }
    studies = [name.removeprefix("study/") for name in names["configs"] if name.startswith("study/")]
    return {**names, "configs": [name for name in names["configs"] if not name.startswith("study/")], "studies": studies}


def test_a_wheel_holds_all_and_takes_one_name(checkout: Path, tmp_path: Path) -> None:
    run([*PIP, "wheel", *OFFLINE, "--wheel-dir", tmp_path, checkout], tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    inside = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in inside} == {"stpredict", f"stpredict-{wheel.name.split('-')[1]}.dist-info"}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "stpredict").rglob("*.py")}
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "stpredict").rglob("*.c")}
    assert modules | sources <= set(inside) and sources
    assert any(name.endswith("licenses/LICENSE") for name in inside)

    python = make_environment(tmp_path / "environment")
    install(python, wheel)
    seen = look(python, tmp_path)
    assert seen["names"] == expected_names()
    assert (seen["shipped"], seen["lacking"]) == (list(read_index()), [])
    assert all(path.startswith(seen["package"]) for kind in seen["found"].values() for path in kind)
    assert seen["taken"] == []
    assert "stpredict train" in run([python.with_name("stpredict"), "--help"], tmp_path)


def test_a_source_distribution_holds_all_that_is_shipped(checkout: Path, tmp_path: Path) -> None:
    build = "from setuptools.build_meta import build_sdist; import sys; build_sdist(sys.argv[1])"
    run([sys.executable, "-c", build, tmp_path], checkout)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        inside = {name.partition("/")[2] for name in file.getnames()}
    kinds = ("__init__.py", "index.json", *(name + kind for name in read_index() for kind in (".safetensors", ".md", ".gif")))
    assert {f"stpredict/shipped/{name}" for name in kinds} <= inside


def test_an_editable_install_finds_all_and_takes_one_name(checkout: Path, tmp_path: Path) -> None:
    python = make_environment(tmp_path / "environment")
    install(python, "--editable", checkout)
    seen = look(python, tmp_path)
    assert seen["package"] == str(checkout / "stpredict")
    assert seen["names"] == expected_names()
    assert (seen["shipped"], seen["lacking"]) == (list(read_index()), [])
    assert all(Path(path).parent.is_relative_to(checkout) for kind in seen["found"].values() for path in kind)
    assert seen["taken"] == []
    assert "stpredict train" in run([python.with_name("stpredict"), "--help"], tmp_path)
