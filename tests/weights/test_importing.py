"""Other implementations' checkpoints, imported, give the outputs that those implementations gave."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stpredict.errors import UserError
from stpredict.networks import create_network
from stpredict.predictor import Predictor, read_predictor
from stpredict.unroll import Unroll, rollout
from stpredict.weights import import_cells, import_predictor
from stpredict.weights.container import read_container

GOLDENS = Path(__file__).resolve().parents[2] / ".." / "shared" / "goldens"
pytestmark = [
    pytest.mark.reference,
    pytest.mark.skipif(not GOLDENS.is_dir(), reason="the golden checkpoints of other implementations are not here"),
]

CASES = {
    "openstl0_convlstm": ("openstl", "convlstm", {"patch_size": 4, "context": 4}),
    "openstl0_convlstm_latest": ("openstl", "convlstm", {"channels": 3, "context": 4}),
    "openstl0_predrnnpp_ddp": ("openstl", "predrnnpp", {"patch_size": 4, "channels": 1, "context": 4}),
    "openstl0_simvp_incepu": ("openstl", "simvp", {}),
    "openstl1_convlstm": ("openstl", "convlstm", {}),
    "openstl1_convlstm_ln": ("openstl", "convlstm", {}),
    "openstl1_e3d": ("openstl", "e3d_lstm", {}),
    "openstl1_predrnn": ("openstl", "predrnn", {}),
    "openstl1_predrnn_ln": ("openstl", "predrnn", {}),
    "openstl1_predrnnpp_rgb": ("openstl", "predrnnpp", {}),
    "openstl1_predrnnv2_weather": ("openstl", "predrnn_v2", {}),
    "openstl1_simvp_gsta": ("openstl", "simvp", {}),
    "predrnn_pytorch_predrnn": ("predrnn-pytorch", "predrnn", {"patch_size": 4, "context": 4}),
    "predrnn_pytorch_v2": ("predrnn-pytorch", "predrnn_v2", {"patch_size": 4, "context": 4}),
    "tf_e3d": ("e3d_lstm", "e3d_lstm", {"patch_size": 4, "context": 4}),
    "tf_predrnnpp": ("predrnn-pp", "predrnnpp", {"patch_size": 4, "context": 4}),
}
"""Each case: its source, our network, and the facts that its file does not tell."""

STEPPED = [case for case in CASES if "simvp" not in case]
DIRECT = [case for case in CASES if "simvp" in case]


def load(case: str, **facts: Any) -> tuple[Predictor, dict[str, Any], dict[str, np.ndarray]]:
    meta = json.loads((GOLDENS / case / "meta.json").read_text())
    arrays = dict(np.load(GOLDENS / case / "golden.npz"))
    source, network, needed = CASES[case]
    predictor = import_predictor(GOLDENS / case / meta["checkpoint"], **{**needed, **facts})
    assert predictor.provenance["origin"] == source and predictor.network_name == network
    return predictor, meta, arrays


def predict(network: Any, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    frames = torch.from_numpy(arrays["frames"]).movedim(-1, 2)
    context = int(arrays["context"])
    everything = torch.ones(frames.shape[0], frames.shape[1] - 1, dtype=torch.bool)
    with torch.no_grad():
        made = {"teacher_forced": rollout(network, frames, context, use_truth=everything), "closed_loop": rollout(network, frames, context)}
    return {mode: film.movedim(2, -1).numpy() for mode, film in made.items()}


@pytest.mark.parametrize("case", STEPPED)
def test_golden(case: str) -> None:
    predictor, meta, arrays = load(case)
    for mode, made in predict(predictor.network, arrays).items():
        np.testing.assert_allclose(made, arrays[mode], atol=1e-5, rtol=0, err_msg=mode)
    assert (predictor.context, predictor.spec.channels) == (int(arrays["context"]), meta["image_channels"])
    if "hyper_parameters" in meta or (meta["layer_norm"] and "tf" not in case):
        assert (predictor.spec.height, predictor.spec.width) == tuple(meta["frame_size"])


@pytest.mark.parametrize("case", DIRECT)
def test_golden_of_a_direct_network(case: str) -> None:
    predictor, meta, arrays = load(case)
    frames = torch.from_numpy(arrays["frames"]).movedim(-1, 2)
    forecast = predictor.forecast(frames[:, : int(arrays["context"])], frames.shape[1] - int(arrays["context"]))
    np.testing.assert_allclose(forecast.movedim(2, -1), arrays["forecast"], atol=1e-5, rtol=0)
    assert (predictor.context, predictor.spec.channels) == (int(arrays["context"]), meta["image_channels"])


@pytest.mark.parametrize("case", STEPPED)
def test_the_loss_is_that_of_the_source(case: str) -> None:
    predictor, meta, arrays = load(case)
    frames, context = torch.from_numpy(arrays["frames"]).movedim(-1, 2), int(arrays["context"])
    if predictor.network_name == "predrnn_v2":
        predictor.network.train()
    with torch.no_grad():
        made, penalty = Unroll(predictor.network)(frames, context, frames.shape[1] - context)
    error = (made - frames[:, 1:]).double()
    square, absolute = error.square(), error.abs()
    definition = meta["loss"]["definition"]
    known = {
        "mean(E^2)": square.mean(),
        "mean(E^2)+mean|E|": square.mean() + absolute.mean(),
        "(sum(E^2)/2 + sum|E|)/batch": (square.sum() / 2 + absolute.sum()) / len(frames),
        "(sum(E^2)/2)/batch": square.sum() / 2 / len(frames),
    }
    key = max((name for name in known if definition.replace(" ", "").startswith(name.replace(" ", ""))), key=len, default=definition)
    loss = known[key]
    if penalty is not None:
        beta = meta.get("decouple_beta", predictor.network.decouple)
        loss = loss + beta / predictor.network.decouple * penalty.mean()
    assert float(loss) == pytest.approx(meta["loss"]["closed_loop"], rel=1e-5)


def test_the_cells_of_a_stack() -> None:
    case = GOLDENS / "ndrplz_convlstm_stack"
    arrays = np.load(case / "golden.npz")
    cells = import_cells(case / "convlstm.pth")
    frames = torch.from_numpy(arrays["frames"]).movedim(-1, 2)
    states = [tuple(torch.zeros(len(frames), n, *frames.shape[-2:]) for _ in range(2)) for n in (6, 8)]
    with torch.no_grad():
        for t in range(frames.shape[1]):
            x = frames[:, t]
            for layer, cell in enumerate(cells):
                states[layer] = cell(x, *states[layer])
                x = states[layer][0]
                np.testing.assert_allclose(x.movedim(1, -1), arrays[f"hidden_{layer}"][:, t], atol=1e-5, rtol=0)
    for layer, (_, c) in enumerate(states):
        np.testing.assert_allclose(c.movedim(1, -1), arrays[f"cell_last_{layer}"], atol=1e-5, rtol=0)
    with pytest.raises(UserError, match=r"without a readout.*import_cells"):
        import_predictor(case / "convlstm.pth")
    with pytest.raises(UserError, match="no layer stack"):
        import_cells(GOLDENS / "openstl1_predrnn" / "last.ckpt")


@pytest.mark.parametrize("case", CASES)
def test_the_predictor_is_ordinary(case: str, tmp_path: Path) -> None:
    predictor, _, arrays = load(case)
    predictor.save(tmp_path / "p.safetensors")
    read = read_predictor(tmp_path / "p.safetensors")
    observed = torch.from_numpy(arrays["frames"]).movedim(-1, 2)[:, : predictor.context]
    assert torch.equal(read.forecast(observed, 2), predictor.forecast(observed, 2))
    assert read.provenance["sha256"] and read.provenance["facts"]["context"]
    assert all(weight.requires_grad for weight in read.network.parameters())


@pytest.mark.parametrize(
    ("case", "facts", "sentence"),
    [
        ("openstl0_convlstm", {"patch_size": None, "context": None}, r"patch_size .*channels .*context .*patch_size 4 with channels 1"),
        ("openstl0_convlstm", {"patch_size": 3}, "patch_size 3 contradicts the weights"),
        ("openstl0_convlstm", {"channels": 2}, "patch_size 4 and channels 2 contradicts the weights"),
        ("openstl0_convlstm", {"stride": 2}, "stride 2 .given. contradicts stride 1"),
        ("openstl0_convlstm", {"memory": "frozen"}, "memory frozen .given. contradicts memory updated"),
        ("openstl0_convlstm", {"weights": "ema"}, "weights ema .given. contradicts weights raw"),
        ("openstl0_convlstm", {"maths": "fix"}, "legacy or fixed"),
        ("openstl0_convlstm", {"context": 0}, "whole number"),
        ("openstl0_convlstm", {"patchsize": 4}, "did you mean 'patch_size'"),
        ("openstl1_convlstm", {"context": 10}, "context 10 .given. contradicts context 4 .hyper_parameters"),
        ("openstl1_convlstm_ln", {"height": 32}, "height 32 .given. contradicts height 16"),
        ("openstl1_e3d", {"stride": 2}, "contradicts stride 1"),
        ("openstl1_simvp_gsta", {"context": 10}, "context 10 .given. contradicts"),
        ("tf_predrnnpp", {"weights": "ema"}, "contradicts weights raw"),
        ("tf_e3d", {"source": "openstl"}, "no checkpoint of openstl"),
        ("tf_e3d", {"source": "e3dlstm"}, "did you mean 'e3d_lstm'"),
    ],
)
def test_facts_that_are_missing_or_contradict(case: str, facts: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        load(case, **facts)


def test_facts_that_are_told_too_may_be_given() -> None:
    predictor, _, arrays = load(
        "openstl1_e3d", patch_size=4, channels=1, context=4, stride=1, memory="frozen", weights="raw", maths="fixed"
    )
    np.testing.assert_allclose(predict(predictor.network, arrays)["closed_loop"], arrays["closed_loop"], atol=1e-5, rtol=0)
    predictor, _, _ = load("predrnn_pytorch_predrnn", maths="legacy", stride=1, memory="updated", source="predrnn-pytorch")
    assert predictor.provenance["facts"]["patch_size"] == "4 (given)"


def state_of(case: str) -> dict[str, Tensor]:
    checkpoint = next(path for path in (GOLDENS / case).iterdir() if path.suffix not in (".npz", ".json"))
    return read_container(checkpoint).tensors


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"cell_list.0.conv_q.0.weight": torch.zeros(2)}, "does not have here: 'cell_list.0.conv_q.0.weight'"),
        ({"cell_list.1.conv_m.0.weight": None}, "'cells.1.m.0.weight' is missing"),
        ({"cell_list.1.conv_m.0.weight": torch.zeros(24, 8, 5, 3)}, "'cells.1.m.0.weight' is .24, 8, 5, 3. instead of .24, 8, 5, 5."),
        ({"cell_list.3.conv_h.0.weight": None}, "lacks the tensor 'cell_list.3.conv_h.0.weight'"),
        ({"conv_last.weight": None}, "lacks the tensor 'conv_last.weight'"),
        ({"cell_list.0.conv_a.0.weight": torch.zeros(2)}, "action-conditioned"),
        ({"cell_list.99.conv_h.0.weight": torch.zeros(2)}, "not whole"),
    ],
)
def test_weights_that_are_not_whole(change: dict[str, Tensor | None], sentence: str, tmp_path: Path) -> None:
    state = state_of("predrnn_pytorch_predrnn") | change
    torch.save({"net_param": {name: value for name, value in state.items() if value is not None}}, tmp_path / "model.ckpt-1")
    with pytest.raises(UserError, match=sentence):
        import_predictor(tmp_path / "model.ckpt-1", patch_size=4, context=4)


def test_the_layout_of_2019_has_biases_and_norms(tmp_path: Path) -> None:
    """No file of 2019 is here: a state dict of that layout, from our own network with biases and layer norm, comes back as it was."""
    ours = create_network("predrnn", channels=1, hidden=[4, 4], kernel_size=5, patch_size=4, frame_size=(16, 16), norm="layer", bias=True)
    theirs = {}
    for name, value in ours.state_dict().items():
        name = re.sub(r"cells\.(\d)\.out\.", r"cell_list.\1.conv_last.", name)
        name = re.sub(r"cells\.(\d)\.(\w)\.", r"cell_list.\1.conv_\2.", name)
        theirs[name.replace("readout", "conv_last")] = value
    torch.save({"net_param": theirs}, tmp_path / "model.ckpt")
    predictor = import_predictor(tmp_path / "model.ckpt", context=10)
    assert predictor.provenance["layout"].startswith("2019") and predictor.spec.shape == (1, 16, 16)
    frames = torch.rand(1, 6, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(rollout(predictor.network, frames, 3), rollout(ours, frames, 3))


def test_the_decoupling_adapter_takes_no_part() -> None:
    predictor, _, arrays = load("predrnn_pytorch_v2")
    before: Tensor = torch.from_numpy(predict(predictor.network, arrays)["closed_loop"])
    predictor.network.adapter.weight.data.zero_()
    assert torch.equal(torch.from_numpy(predict(predictor.network, arrays)["closed_loop"]), before)
