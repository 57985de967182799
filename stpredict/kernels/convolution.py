"""The one convolution that cells call."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from stpredict.kernels import compiled, winograd
from stpredict.kernels.choice import chosen


def convolve(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve with stride 1, padded so that the grid stays.

    Args:
        inputs: ``(B, C, H, W)``.
        weight: ``(K, C, r, r)`` with r odd, or ``(K, ..., r, r)`` whose axes between make C together.
        bias: ``(K,)``.

    Returns:
        ``(B, K, H, W)``, by the kernels that :func:`stpredict.kernels.choose` has chosen.
    """
    fits = bias is None or bias.shape == weight.shape[:1]
    if fits and chosen() == "auto" and not torch.compiler.is_compiling() and winograd.serves(inputs, weight):
        library = compiled.library()
        if library is not None:
            return winograd.convolve(library, inputs, weight, bias)
    rows, columns = weight.shape[-2:]
    return functional.conv2d(inputs, weight.flatten(1, -3), bias, padding=(rows // 2, columns // 2))


def may_replace(*tensors: Tensor) -> bool:
    """Whether a fast form may stand for operations of torch on these: plain float32 on a CPU, where ``auto`` is chosen and to be had."""
    if chosen() != "auto" or torch.compiler.is_compiling() or not winograd.is_watched_by_nobody() or compiled.library() is None:
        return False
    return all(type(tensor) is Tensor and tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)
