from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stpredict.data import load_data
from stpredict.data.clips import ClipSet
from stpredict.render import Panel
from stpredict.showing import maps


@pytest.fixture(scope="session")
def clips() -> ClipSet:
    return load_data("moving_digits", None, "test", context=3, horizon=2, settings={"digits": 1, "size": 32, "test_clips": 4})


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is handed on to be drawn."""
    noted: dict[str, Any] = {}

    def note(panels: list[Panel], path: Path, **settings: Any) -> Path:
        noted.update(settings, panels=panels, path=path)
        return path

    monkeypatch.setattr(maps, "save_film", note)
    return noted
