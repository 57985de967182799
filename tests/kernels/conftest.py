"""What tests of several kernels count with."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stpredict.kernels import compiled, winograd


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The shapes of the frames that the compiled kernels are given."""
    seen: list[torch.Size] = []
    real = winograd.convolve

    def counted(library: compiled.Library, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        seen.append(inputs.shape)
        return real(library, inputs, weight, bias)

    monkeypatch.setattr(winograd, "convolve", counted)
    return seen
