"""Measurements in fresh processes: memory that another one has taken, and that is kept for the next, would count."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import ParamSpec, TypeVar

import torch

NO_MEMORY = (BrokenProcessPool, torch.OutOfMemoryError)
"""What is raised where memory did not suffice."""

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def apart(measure: Callable[_Arguments, _Result], *arguments: _Arguments.args, **named: _Arguments.kwargs) -> _Result:
    """Return what ``measure`` returns in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *arguments, **named).result()
