"""A miniature SEVIR, trained on and scored as the field does: 13 -> 12 frames, CSI-M over six thresholds, worked out here by hand."""

from __future__ import annotations

import json
from pathlib import Path
from runpy import run_path

import h5py
import numpy as np
import pytest

from stpredict.cli.main import main

GENERATOR = Path(__file__).resolve().parents[1] / "datasets" / "generators" / "sevir.py"
THRESHOLDS = (16, 74, 133, 160, 181, 219)
CONFIG = """
data: {card: sevir, batch_size: 1, workers: 0}
network: {name: convlstm, hidden: [4], kernel_size: 3, patch_size: 8}
trainer: {max_steps: 2, validate_every: 2, checkpoint_every: 2, threads: 1, device: cpu}
"""


def counts_of_persistence(file: Path) -> np.ndarray:
    """Return hits, misses and false alarms of the last observed frame, ``(3, leads, thresholds)``, over the clips of the first event."""
    with h5py.File(file) as events:
        frames = np.moveaxis(events["vil"][0].astype(int), -1, 0)
    counts = np.zeros((3, 12, 6))
    for start in (0, 12, 24):
        told = frames[start + 12]
        for lead in range(12):
            came = frames[start + 13 + lead]
            for number, threshold in enumerate(THRESHOLDS):
                there, here = came >= threshold, told >= threshold
                counts[:, lead, number] += (there & here).sum(), (there & ~here).sum(), (~there & here).sum()
    return counts


def error_of_persistence(file: Path) -> float:
    """Return the mean squared error of values / 255."""
    with h5py.File(file) as events:
        frames = np.moveaxis(events["vil"][0] / 255.0, -1, 0)
    return float(np.mean([(frames[start + 12] - frames[start + 13 : start + 25]) ** 2 for start in (0, 12, 24)]))


def test_the_variants_of_csi_m(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_path(str(GENERATOR))["write_sample"](Path("sevir"))
    Path("sevir.yaml").write_text(CONFIG)
    assert main(["train", "sevir.yaml", "--data.root", "sevir", "--run.folder", "run"]) == 0
    assert main(["evaluate", "run", "--data", "sevir", "--root", "sevir", "--protocol", "sevir", "--out", "scores.json"]) == 0
    told = json.loads(Path("scores.json").read_text())
    assert told["protocol"] == "sevir"
    assert (told["data"]["clips"], told["data"]["context"], told["data"]["horizon"]) == (3, 13, 12)
    found = told["scores"]["persistence"]
    file = Path("sevir/data/vil/2019/SEVIR_VIL_STORMEVENTS_2019_0701_1231.h5")
    hits, misses, false_alarms = counts_of_persistence(file)
    by_lead = hits / (hits + misses + false_alarms)
    overall = hits.sum(0) / (hits + misses + false_alarms).sum(0)
    assert [found["csi"]["parts"][str(threshold)]["mean"] for threshold in THRESHOLDS] == pytest.approx(overall, rel=1e-6)
    assert found["csi"]["mean"] == pytest.approx(overall.mean(), rel=1e-6)
    assert found["csi"]["per_lead"] == pytest.approx(by_lead.mean(1), rel=1e-6)
    assert found["csi_per_lead"]["mean"] == pytest.approx(by_lead.mean(), rel=1e-6)
    assert found["csi_per_lead"]["mean"] != pytest.approx(found["csi"]["mean"], rel=1e-3), "papers mean one or the other"
    assert found["csi"]["mean"] < found["csi_pool4"]["mean"] < found["csi_pool16"]["mean"]
    assert found["mse"]["mean"] == pytest.approx(error_of_persistence(file), rel=1e-5)
    assert set(told["scores"]["run"]) == {"csi", "csi_per_lead", "csi_pool4", "csi_pool16", "mse"}
