"""The generators of tiny archives, loaded from where they lie beside the cards."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


def _generator(name: str) -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "datasets" / "generators" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"generator_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def knmi_files() -> ModuleType:
    return _generator("knmi")


@pytest.fixture(scope="session")
def films() -> ModuleType:
    return _generator("films")
