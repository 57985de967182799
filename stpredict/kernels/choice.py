"""Which kernels this process computes with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from stpredict.kernels import compiled

Kernels = Literal["auto", "reference"]
"""``reference`` is torch's own convolution; ``auto`` is whatever is fastest for a shape, the same numbers within rounding."""

_chosen: Kernels = "auto"


def choose(kernels: Kernels) -> None:
    """Let this process compute with these kernels from now on."""
    global _chosen
    _chosen = kernels


def chosen() -> Kernels:
    """Return the kernels that this process is to compute with."""
    return _chosen


@contextmanager
def using(kernels: Kernels) -> Iterator[None]:
    """Compute with these kernels while the context lasts."""
    before = _chosen
    choose(kernels)
    try:
        yield
    finally:
        choose(before)


def in_use() -> str:
    """Return what computes now: ``reference``, or the name of the compiled kernels, which changes whenever their numbers may."""
    library = compiled.library() if _chosen == "auto" else None
    return "reference" if library is None else library.name
