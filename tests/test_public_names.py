"""The public names: these and no others, each with something behind it."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

import stpredict

NAMES = [
    "__version__",
    "DirectNetwork",
    "FrameSpec",
    "Grid",
    "Packing",
    "Predictor",
    "RecurrentNetwork",
    "Step",
    "Transform",
    "UserError",
    "create_network",
    "evaluate",
    "export_predictor",
    "import_predictor",
    "list_networks",
    "load_data",
    "load_predictor",
    "pull_predictor",
    "push_predictor",
    "render_clips",
    "rollout",
    "save_film",
    "train",
]


def test_these_and_no_others() -> None:
    assert sorted(stpredict.__all__) == sorted(NAMES) == dir(stpredict)
    with pytest.raises(AttributeError, match="module 'stpredict' has no attribute 'nothing'"):
        stpredict.nothing  # noqa: B018


@pytest.mark.parametrize("name", NAMES)
def test_each_is_what_its_module_calls_so(name: str) -> None:
    thing = getattr(stpredict, name)
    if name != "__version__":
        assert thing.__name__ == name
        assert getattr(importlib.import_module(thing.__module__), name) is thing


def test_no_module_bears_the_name_of_one() -> None:
    modules = {path.stem for path in Path(stpredict.__file__).parent.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert "training" in modules
    assert modules & set(NAMES) == set()
