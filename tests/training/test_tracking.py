"""TensorBoard and Weights & Biases get the curves and pictures; neither needs a network."""

from __future__ import annotations

from pathlib import Path

import pytest

from stpredict.training.tracking import start_trackers


def test_csv_needs_no_tracker(tmp_path: Path) -> None:
    assert start_trackers(("csv",), tmp_path, {}) == []


def test_tensorboard_holds_the_numbers_and_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    import cv2
    import numpy as np
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    cv2.imwrite(str(tmp_path / "p.png"), np.full((4, 6, 3), (10, 20, 30), np.uint8))
    (tracker,) = start_trackers(("csv", "tensorboard"), tmp_path, {})
    tracker.scalars(3, {"loss": 0.25})
    tracker.scalars(6, {"loss": 0.125})
    tracker.picture(6, "forecast", tmp_path / "p.png")
    tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(3, 0.25), (6, 0.125)]
    image = cv2.imdecode(np.frombuffer(events.Images("forecast")[0].encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None and image[0, 0].tolist() == [10, 20, 30]


def test_wandb_is_offline_when_nobody_is_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    folder = tmp_path / "demo-1"
    folder.mkdir()
    (tracker,) = start_trackers(("wandb",), folder, {"seed": 1})
    tracker.scalars(1, {"loss": 0.5})
    tracker.close()
    (offline,) = (folder / "wandb").glob("offline-run-*")
    assert any(offline.glob("*.wandb"))
