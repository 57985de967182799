"""Our networks with other implementations' weights give the outputs that those implementations gave."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stpredict.networks import create_network
from stpredict.unroll import rollout

GOLDENS = Path(__file__).resolve().parents[2] / ".." / "shared" / "goldens"
needs_goldens = pytest.mark.skipif(not GOLDENS.is_dir(), reason="the golden checkpoints of other implementations are not here")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the state dict of one golden checkpoint, without letting it call anything but what it is known to hold."""
    allowed = [getattr, torch.optim.lr_scheduler.OneCycleLR]
    with torch.serialization.safe_globals(allowed):
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    state = checkpoint.get("state_dict", checkpoint.get("net_param", checkpoint))
    return {key.removeprefix("model."): value for key, value in state.items()}


def to_own_names(weights: dict[str, Tensor], dead: tuple[str, ...]) -> dict[str, Tensor]:
    """Rename a PyTorch state dict of OpenSTL or predrnn-pytorch; drop the blocks that are never used."""
    renamed = {}
    for key, value in weights.items():
        cell = re.fullmatch(r"cell_list\.(\d+)\.conv_(\w+?)(?:\.(\d))?\.(weight|bias)", key)
        if cell is None:
            renamed[{"conv_last.weight": "readout.weight"}[key]] = value
            continue
        layer, block, part, kind = cell.groups()
        if block in dead:
            continue
        renamed[f"cells.{layer}.out.{kind}" if block == "last" else f"cells.{layer}.{block}.{part}.{kind}"] = value
    return renamed


CASES = {
    "openstl1_convlstm": ("convlstm", ("o", "last")),
    "openstl1_convlstm_ln": ("convlstm", ("o", "last")),
    "openstl1_predrnn": ("predrnn", ()),
    "predrnn_pytorch_predrnn": ("predrnn", ()),
}


def load_case(case: str) -> tuple[Any, dict[str, Any], Any]:
    meta = json.loads((GOLDENS / case / "meta.json").read_text())
    arrays = np.load(GOLDENS / case / "golden.npz")
    name, dead = CASES[case]
    network = create_network(
        name,
        channels=meta["image_channels"],
        hidden=meta["hidden"],
        kernel_size=meta["kernel"],
        patch_size=meta["patch_size"],
        frame_size=tuple(meta["frame_size"]),
        norm="layer" if meta["layer_norm"] else "none",
    )
    network.load_state_dict(to_own_names(read_weights(GOLDENS / case / meta["checkpoint"]), dead))
    return network, meta, arrays


@needs_goldens
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_golden(case: str) -> None:
    network, meta, arrays = load_case(case)
    frames = torch.from_numpy(arrays["frames"]).movedim(-1, 2)
    context = int(arrays["context"])
    everything = torch.ones(frames.shape[0], frames.shape[1] - 1, dtype=torch.bool)
    taught = rollout(network, frames, context, use_truth=everything).movedim(2, -1)
    closed = rollout(network, frames, context).movedim(2, -1)
    np.testing.assert_allclose(taught, arrays["teacher_forced"], atol=1e-5, rtol=0)
    np.testing.assert_allclose(closed, arrays["closed_loop"], atol=1e-5, rtol=0)
    loss = float(((closed - torch.from_numpy(arrays["frames"])[:, 1:]) ** 2).mean())
    assert loss == pytest.approx(meta["loss"]["closed_loop"], rel=1e-6)


@needs_goldens
@torch.no_grad()
def test_the_golden_notices_a_wrong_forget_bias() -> None:
    network, meta, arrays = load_case("openstl1_predrnn")
    for cell in network.cells:
        cell.forget_bias = 0.0
    frames = torch.from_numpy(arrays["frames"]).movedim(-1, 2)
    closed = rollout(network, frames, int(arrays["context"])).movedim(2, -1)
    wrong = meta["wrong_variants"]["forget bias 0 instead of 1"]["closed_loop"]
    assert float((closed - torch.from_numpy(arrays["closed_loop"])).abs().max()) == pytest.approx(wrong, rel=1e-3)
