"""What identifies the clips that were forecast: a digest of each, and a hash of all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpredict.frames import Batch

DIGEST_SIZE = 16


def clip_digests(batch: Batch) -> list[bytes]:
    """Return what identifies each clip of a batch: BLAKE2b-128 of its packed frames, mask and times."""
    parts = [part.numpy() for part in (batch.frames, batch.valid, batch.times) if part is not None]
    return [_digest(part[row] for part in parts) for row in range(len(batch.indices))]


def _digest(arrays: Iterable[NDArray[Any]]) -> bytes:
    digest = hashlib.blake2b(digest_size=DIGEST_SIZE)
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.digest()


def truth_hash(context: int, horizon: int, digests: Iterable[bytes]) -> str:
    """Return what identifies the clips that were scored: BLAKE2b-128 of context, horizon and the clips' digests in index order."""
    digest = hashlib.blake2b(f"{context} {horizon}\n".encode(), digest_size=DIGEST_SIZE)
    for clip in digests:
        digest.update(clip)
    return digest.hexdigest()
