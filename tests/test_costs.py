"""Costs: multiply-adds beside published figures and closed forms, bytes beside what tensors hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from stpredict import unroll
from stpredict.costs import measure_costs
from stpredict.errors import UserError
from stpredict.networks import RecurrentNetwork, Step, create_network
from stpredict.networks.contract import Network

MNIST = {"channels": 1, "frame_size": (64, 64), "hidden": [128] * 4, "kernel_size": 5, "patch_size": 4}
KTH = {"channels": 1, "frame_size": (128, 128), "hidden": [128] * 4, "kernel_size": 5, "patch_size": 2}
OPENSTL_E3D = {"form": "stretched", "memory": "frozen"}


def create(name: str, **settings: Any) -> Network:
    with torch.device("meta"):
        return create_network(name, **settings).eval()


def billions(network: Network, size: int, horizon: int) -> float:
    return measure_costs(network, (1, size, size), 10, horizon).multiply_adds / 1e9


@pytest.mark.parametrize(
    ("name", "settings", "published"),
    [
        ("convlstm", {}, 56.8),
        ("convlstm", {"hidden": [192] * 4}, 127.0),
        ("predrnn", {}, 116.0),
        ("predrnnpp", {}, 171.7),
    ],
)
def test_as_published_for_moving_mnist(name: str, settings: dict[str, Any], published: float) -> None:
    assert round(billions(create(name, **{**MNIST, **settings}), 64, 10), 1) == published


@pytest.mark.parametrize(("name", "published"), [("convlstm", 1368), ("predrnn", 2800), ("predrnnpp", 4162)])
def test_as_published_for_kth(name: str, published: int) -> None:
    assert round(billions(create(name, **KTH), 128, 20)) == published


def test_predrnn_v2_is_published_with_the_adapter_that_forecasts_do_without() -> None:
    network = create("predrnn_v2", **MNIST)
    adapter = 128 * 128 * 16 * 16 * 2 * 4 * 19  # two increments, four layers, 19 steps
    assert billions(network, 64, 10) == billions(create("predrnn", **MNIST), 64, 10)
    assert round(billions(network, 64, 10) + adapter / 1e9, 1) == 116.6
    adapter = 128 * 128 * 64 * 64 * 2 * 4 * 29
    assert round(billions(create("predrnn_v2", **KTH), 128, 20) + adapter / 1e9) == 2815


def test_e3d_lstm_is_published_with_a_convolution_of_zeros() -> None:
    steps, tokens, width, layers = 19, 2 * 16 * 16, 128, 4
    recall = sum(2 * tokens * (tokens * pool) * width * layers for pool in range(1, steps + 1))
    ours = billions(create("e3d_lstm", **OPENSTL_E3D, **MNIST), 64, 10)
    kernel = 2 * 5 * 5 * width
    convolutions = 256 * (kernel * (7 * (16 + 3 * width) + layers * (4 + 2) * width) + width * 16 * 2) + layers * tokens * 2 * width * width
    assert ours == (steps * convolutions + recall) / 1e9
    memory = steps * layers * 256 * kernel * 4 * width
    norms = steps * layers * 5 * width * tokens  # five operations for each number that is normalised
    assert (round(ours, 1), round(memory / 1e9, 1), round(recall / 1e9, 1)) == (235.1, 63.8, 51.0)
    assert round(ours + (memory + norms) / 1e9, 1) == 298.9


def test_e3d_lstm_with_strides_is_published_with_a_convolution_of_zeros() -> None:
    steps, width, layers = 29, 128, 4
    network = create("e3d_lstm", **OPENSTL_E3D, stride=2, **{**KTH, "patch_size": 8})
    memory = steps * layers * 8 * 8 * 2 * 5 * 5 * width * 4 * width
    assert round(billions(network, 128, 20) + memory / 1e9) == 217


NETWORKS: list[tuple[str, dict[str, Any]]] = [
    ("convlstm", {"window": 2, "valid_channel": True, "norm": "layer"}),
    ("convgru", {"weight_norm": True, "known_channels": 2}),
    ("convrnn", {}),
    ("predrnnpp", {"highway": None}),
    ("e3d_lstm", {"recall": 2}),
    ("simvp", {"hidden": [4, 8], "layers": [2, 2], "context": 3}),
]


@pytest.mark.reference  # the counter sees torch's own operations alone
@pytest.mark.parametrize(("name", "settings"), NETWORKS)
def test_as_many_as_a_real_forecast_takes(name: str, settings: dict[str, Any]) -> None:
    recurrent = {} if name == "simvp" else {"hidden": [4, 4], "kernel_size": 3, "patch_size": 4}
    network = create_network(name, channels=2, frame_size=(10, 12), **{**recurrent, **settings}).eval()
    known = torch.zeros(1, 8, 2, 10, 12) if settings.get("known_channels") else None
    with torch.no_grad(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        unroll.Unroll(network).forward(torch.zeros(1, 3, 2, 10, 12), 3, 5, known=known)
    costs = measure_costs(network, (2, 10, 12), 3, 5)
    assert costs.multiply_adds == counter.get_total_flops() / 2 > 0
    assert costs.parameters == sum(weight.numel() for weight in network.parameters())
    assert costs.weight_bytes == 4 * costs.parameters + sum(buffer.nbytes for buffer in network.buffers())
    assert all(not weight.is_meta for weight in network.parameters()), "the network is as it was"


@pytest.mark.parametrize(
    ("name", "settings", "held", "growth"),
    [
        ("convlstm", {}, 2 * 2 * 4, 0),
        ("convgru", {}, 2 * 4, 0),
        ("predrnn", {}, 2 * 2 * 4 + 4, 0),
        ("predrnnpp", {}, 2 * 2 * 4 + 4 + 4, 0),
        # two slots: h and c of each layer, m, and as many memories as frames were seen, the zeros before them too; one frame of 16
        ("e3d_lstm", {}, 2 * ((2 + 4) * 2 * 4 + 4) + 16, 2 * 2 * 4),
        ("e3d_lstm", {"recall": 5}, 2 * ((2 + 4) * 2 * 4 + 4) + 16, 2 * 2 * 4),
        ("e3d_lstm", {"recall": 4}, 2 * ((2 + 4) * 2 * 4 + 4) + 16, 0),
    ],
)
def test_bytes_of_the_state(name: str, settings: dict[str, Any], held: int, growth: int) -> None:
    network = create(name, channels=1, frame_size=(10, 12), hidden=[4, 4], kernel_size=3, patch_size=4, **settings)
    costs = measure_costs(network, (1, 10, 12), 3, 5)
    cells = 3 * 3 * 4  # of the padded frame, in bytes of float32
    assert (costs.state_bytes, costs.state_growth) == (held * cells, growth * cells)


def test_direct_networks_hold_nothing() -> None:
    costs = measure_costs(create("simvp", channels=1, context=3, hidden=[4, 8], layers=[2, 2]), (1, 8, 8), 3, 3)
    assert (costs.state_bytes, costs.state_growth) == (0, 0)


class Chooser(RecurrentNetwork):
    """Does another thing with bright frames."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def initial_state(self, batch: int, height: int, width: int) -> tuple[()]:
        return ()

    def step(self, frame: Tensor | None, state: tuple[()], constants: None, known: Tensor | None = None) -> Step:
        assert frame is not None
        return Step(frame * self.gain if frame.sum().item() > 1 else frame, ())


def test_a_network_whose_work_depends_on_the_frames_is_not_counted() -> None:
    with pytest.raises(UserError, match="cannot be counted, since what it computes depends on the frames"):
        measure_costs(Chooser().eval(), (1, 4, 4), 2, 2)
