"""The notebook, run as Jupyter runs it, shows its films and gives the numbers that the commands give."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

from stpredict.cli.main import main

NOTEBOOK = Path(__file__).resolve().parents[1] / "tools" / "walkthrough.ipynb"
FEWER = {"steps = 400": "steps = 6", "test_clips=50": "test_clips=8", "limit=50": "limit=8"}


class ThisPython(AsyncKernelManager):
    """Starts the kernel with the Python that runs the tests, whatever kernels are installed."""

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"], language="python")


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Return the folder in which the notebook was run, with few steps and clips, and its cells by name."""
    folder = tmp_path_factory.mktemp("walkthrough")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert all(text.count(words) == 1 for words in FEWER)
    for cell in notebook.cells:
        for words, fewer in FEWER.items():
            cell.source = cell.source.replace(words, fewer)
    NotebookClient(notebook, timeout=300, kernel_manager_class=ThisPython, resources={"metadata": {"path": str(folder)}}).execute()
    return folder, {cell.id: cell for cell in notebook.cells}


def test_it_gives_the_json_that_the_commands_give(walked: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = walked
    monkeypatch.chdir(folder)
    command = "evaluate runs/walkthrough imported.safetensors --data moving_digits --skill persistence --out command.json"
    assert main(command.split()) == 0
    told, ours = (json.loads((folder / name).read_text(encoding="utf-8")) for name in ("command.json", "scores.json"))
    assert ours == told
    assert set(ours["scores"]) >= {"walkthrough", "imported.safetensors", "persistence"}


def test_a_rivals_arrays_score_as_the_predictor_that_they_came_from(walked: tuple[Path, dict[str, Any]]) -> None:
    _, cells = walked
    table = cells["arrays"].outputs[0].data["text/markdown"]
    rows = {line.split("|")[1].strip(): line.replace("*", "").split("|")[2:] for line in table.splitlines() if line.startswith("| ")}
    assert rows["preds.npy"] == rows["walkthrough"]


def test_a_film_shows_itself(walked: tuple[Path, dict[str, Any]]) -> None:
    folder, cells = walked
    shown = cells["film"].outputs[0].data["text/html"]
    assert "<video" in shown
    assert "base64," in shown
    assert (folder / "film.mp4").is_file()
    assert (folder / "page" / "index.html").is_file()


def test_it_is_kept_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert [cell.id for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")] == []
