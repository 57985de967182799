"""Random draws as functions of what they are for, so that no generator has a state to save.

Every draw is a function of (seed, stream, step, index): Philox-4x64 with the key (seed, stream) and a counter that starts
at (0, 0, index, step). Its raw words are the same for every version of numpy and every processor; only the operations
+, *, / and shifts, which IEEE 754 fixes to the last bit, turn them into numbers here.

Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (SC 2011).
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def words(seed: int, stream: str, step: int, index: int, count: int) -> NDArray[np.uint64]:
    """Return ``count`` random 64-bit words."""
    key = np.array([seed & 0xFFFF_FFFF_FFFF_FFFF, zlib.crc32(stream.encode())], dtype=np.uint64)
    counter = np.array([0, 0, index, step], dtype=np.uint64)
    return np.random.Philox(key=key, counter=counter).random_raw(count)


def uniform(seed: int, stream: str, step: int, index: int, count: int) -> NDArray[np.float64]:
    """Return ``count`` numbers, uniform in [0, 1), each a multiple of 2**-53."""
    return (words(seed, stream, step, index, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(seed: int, stream: str, step: int, count: int) -> NDArray[np.int64]:
    """Return the numbers 0 .. count-1 in random order."""
    return np.argsort(words(seed, stream, step, 0, count), kind="stable")


@dataclass(frozen=True)
class Draws:
    """The random draws that belong to one training step or forecast, a row for each sample.

    A sample's row depends on its own global index alone: neither the batch it stands in nor the number of processes
    changes it.

    Attributes:
        seed: the seed of the run or forecast.
        step: the training step (0 in a forecast).
        indices: the global index of each sample of the batch.
        members: how many samples that follow each other are members of one clip, and so are fed the same.
    """

    seed: int
    step: int
    indices: tuple[int, ...]
    members: int = 1

    def of_members(self, members: int) -> Draws:
        """Return the draws of so many members of each sample, one after the other: member m of sample i has the index i M + m."""
        indices = tuple(index * members + member for index in self.indices for member in range(members))
        return replace(self, indices=indices, members=members)

    def uniform(self, stream: str, *shape: int) -> Tensor:
        """Return float64 numbers ``(B, *shape)`` on the CPU, uniform in [0, 1)."""
        count = math.prod(shape)
        rows = [uniform(self.seed, stream, self.step, index, count) for index in self.indices]
        return torch.from_numpy(np.stack(rows)).reshape(len(rows), *shape)

    def normal(self, stream: str, *shape: int) -> Tensor:
        """Return float32 numbers ``(B, *shape)`` on the CPU, normal with mean 0 and deviation 1 (Box-Muller)."""
        pairs = self.uniform(stream, 2, *shape)
        radius = torch.sqrt(-2.0 * torch.log1p(-pairs[:, 0]))
        return (radius * torch.cos(2.0 * math.pi * pairs[:, 1])).float()
