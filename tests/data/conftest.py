"""What several tests of readers share."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).resolve().parent
GENERATORS = HERE.parents[1] / "datasets" / "generators"


@functools.cache
def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"of_tests_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def cf() -> ModuleType:
    pytest.importorskip("xarray")
    return _load(HERE / "cf_samples.py")


@pytest.fixture(scope="session")
def cf_files() -> ModuleType:
    pytest.importorskip("xarray")
    return _load(GENERATORS / "cf.py")


@pytest.fixture(scope="session")
def bom_files() -> ModuleType:
    pytest.importorskip("netCDF4")
    return _load(GENERATORS / "bom.py")


@pytest.fixture(scope="session")
def generator() -> Callable[[str], ModuleType]:
    """Return the generator of tiny archives of a name, such as ``knmi``."""
    return lambda name: _load(GENERATORS / f"{name}.py")
