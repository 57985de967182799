"""The catalogue: what it says fits the networks here, the cards here, and what was published."""

from __future__ import annotations

import pytest
import torch

from stpredict.data.card import read_card
from stpredict.errors import UserError
from stpredict.networks import make_network
from stpredict.protocols import find_protocol
from stpredict.weights.catalogue import CATALOGUE, Published, find_published, list_published
from stpredict.weights.facts import Facts

PREDRNN = [one for one in CATALOGUE.values() if one.network in ("predrnn", "predrnn_v2") and "cifar" not in one.name]


@pytest.mark.parametrize("one", PREDRNN, ids=lambda one: one.name)
def test_patch_size_and_channels_make_the_published_count_of_parameters(one: Published) -> None:
    """Of PredRNN alone all tensors of the file are used; the page gives its variant on CIFAR the count of the gray one."""
    channels, height, width = one.benchmark.shape
    settings = {"hidden": [128] * 4, "kernel_size": 5, "patch_size": one.facts["patch_size"]}
    with torch.device("meta"):
        network = make_network(one.network, settings, channels=channels, frame_size=(height, width), context=one.benchmark.context)
    count = sum(weight.numel() for weight in network.parameters()) / 1e6
    assert count == pytest.approx(one.parameters, abs=0.06)
    least, most = one.bytes_expected
    assert least < 4e6 * count < 3 * 4e6 * count < most


@pytest.mark.parametrize("one", CATALOGUE.values(), ids=lambda one: one.name)
def test_an_entry_is_whole(one: Published) -> None:
    about = one.benchmark
    assert Facts(one.facts).plain().keys() >= {"channels", "context", "height", "horizon", "patch_size", "width"}
    assert one.facts.get("maths") == ("legacy" if one.network in ("convlstm", "predrnnpp") else None)
    assert one.facts.get("stride") == ({"kth20-weights": 2}.get(about.tag, 1) if one.network == "e3d_lstm" else None)
    assert one.url() == f"https://github.com/chengtan9907/OpenSTL/releases/download/{about.tag}/{one.name}.pth"
    assert set(one.scores) == set(about.columns) <= about.convention.same.keys()
    rules = find_protocol(about.convention.protocol)
    assert rules.scores is None or {*rules.scores, *rules.treatments} >= set(about.convention.same.values())
    if "rmse" in one.scores:
        assert one.scores["rmse"] == pytest.approx(one.scores["mse"] ** 0.5, abs=1e-3), "the root of the mean over all, channels too"
    if about.card is not None:
        card = read_card(about.card)
        assert (card.window.context, card.window.horizon) == (about.context, about.horizon)
        assert rules.splits[about.card] == about.split


def test_sizes_bound_what_a_file_can_be() -> None:
    """Of 11.3 million parameters: a page in place of the file is too small, a checkpoint with Adam's two numbers fits."""
    one = find_published("human_simvp_gsta_cos_ep50")
    least, most = one.bytes_expected
    assert 100_000 < least < 4 * 11_300_000 < 3 * 4 * 11_300_000 < most < 5 * 4 * 11_300_000


def test_published_figures() -> None:
    one = find_published("mmnist_simvp_s_gsta_one_ep2000")
    assert one.scores == {"mse": 15.05, "mae": 49.80, "ssim": 0.9675, "psnr": 25.97} and one.epochs == 2000
    assert find_published("kth20_predrnnv2_one_ep100").scores["lpips"] == 0.21478


def test_finding() -> None:
    with pytest.raises(UserError, match="no 'mmnist_predrn_one_ep200'; did you mean 'mmnist_predrnn_one_ep200'"):
        find_published("mmnist_predrn_one_ep200")
    with pytest.raises(UserError, match="no 'zzz'; 'stpredict import --list' shows them"):
        list_published("zzz")
    assert len(list_published("kth20")) == 8 and len(list_published()) == len(CATALOGUE) + 1
