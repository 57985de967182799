"""Where computation runs, and how tensors lie there."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stpredict.devices import Arriving, carry, choose_device, laid_out_like, put_channels_last, tune
from stpredict.errors import UserError
from stpredict.networks import create_network


def test_devices_by_name() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(UserError, match="There is no device 'tpu'"):
        choose_device("tpu")


def test_a_cpu_is_left_to_choose_as_it_did() -> None:
    before = torch.backends.cudnn.benchmark
    tune(torch.device("cpu"), "fp32")
    assert torch.backends.cudnn.benchmark == before and not torch.backends.cudnn.allow_tf32


def test_what_is_on_the_cpu_already_is_not_copied() -> None:
    frames = torch.arange(6.0)
    assert carry(frames, "cpu") is frames


def test_numbers_arrive_as_they_were() -> None:
    numbers = torch.tensor([1.0, float("inf"), 2**-60], dtype=torch.float64)
    arriving = Arriving(numbers)
    assert arriving.read() == [1.0, float("inf"), 2**-60] == arriving.read()


def test_kernels_with_their_channels_last_compute_the_same() -> None:
    network = create_network("predrnn", channels=1, hidden=[4, 4], kernel_size=3, patch_size=2)
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    assert put_channels_last(network)
    for name, weight in network.state_dict().items():
        assert torch.equal(weight, before[name]) and weight.is_contiguous(memory_format=torch.channels_last)
    assert network.cells[0].x[0].weight.stride()[1] == 1


def test_norms_keep_the_channels_first() -> None:
    network = create_network("predrnn", channels=1, hidden=[4], kernel_size=3, patch_size=2, norm="channel")
    assert not put_channels_last(network) and network.cells[0].x[0].weight.is_contiguous()


def test_a_layout_is_taken_over() -> None:
    kernel = nn.Conv2d(3, 5, 3).weight.data
    last = kernel.contiguous(memory_format=torch.channels_last)
    copied = laid_out_like(kernel, last)
    assert copied.stride() == last.stride() != kernel.stride() and torch.equal(copied, kernel)
    assert laid_out_like(kernel, kernel) is kernel
