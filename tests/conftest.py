"""What every test runs under: one thread, so that two test processes keep to two cores, and results do not hang on the machine."""

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ.setdefault("STPREDICT_INDEX", "off")  # no test writes to the user's cache
os.environ.setdefault("STPREDICT_KERNELS", str(Path(__file__).resolve().parents[1] / ".pytest_cache" / "kernels"))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start

import hypothesis
import pytest
import torch

from stpredict import kernels

torch.set_num_threads(1)
hypothesis.settings.register_profile("house", max_examples=30, deadline=None, derandomize=True)
hypothesis.settings.load_profile("house")


def _generator(name: str) -> ModuleType:
    """Load a generator of tiny archives from where it lies beside the cards."""
    path = Path(__file__).resolve().parents[1] / "datasets" / "generators" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"generator_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("first") is None)


@pytest.fixture(autouse=True)
def _kernels(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compute as users do, or as the mark ``reference`` says; what a test, or a run that it makes, chooses ends with it."""
    with kernels.using("auto" if request.node.get_closest_marker("reference") is None else "reference"):
        yield


@pytest.fixture(scope="session")
def knmi_files() -> ModuleType:
    return _generator("knmi")


@pytest.fixture(scope="session")
def films() -> ModuleType:
    return _generator("films")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Debian's Chromium without a window; it goes with the module, since its event loop would be in the way of others."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("there is no Chromium on this machine")
    quiet = ["quic", "sync", "background-networking", "component-update"]
    with sync_api.sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--no-first-run", *(f"--disable-{name}" for name in quiet)]
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()
