"""What may differ between a run and its continuation, and what then is no longer exact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from stpredict.checkpoint import Checkpoint
from stpredict.errors import UserError
from stpredict.training.run import plain_versions
from stpredict.training.work import Work

_MAY_CHANGE = ("run", "trainer", "data.root", "data.workers")
"""Anything else would make it another run."""


def changes(before: Mapping[str, Any], after: Mapping[str, Any], path: str = "") -> list[str]:
    """Say what a continuation changes.

    Raises:
        UserError: that would make it another run.
    """
    said = []
    for key in sorted(set(before) | set(after)):
        where = f"{path}{key}"
        old, new = before.get(key), after.get(key)
        if old == new or where == "name":
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            said += changes(old, new, f"{where}.")
        elif where in _MAY_CHANGE or where.partition(".")[0] in _MAY_CHANGE:
            said.append(f"{where} is now {new!r}, it was {old!r}")
        else:
            raise UserError(
                f"A run goes on with its own settings: '{where}' is {old!r} and cannot become {new!r}; start another run for that"
            )
    return said


def differences_now(checkpoint: Checkpoint, work: Work) -> list[str]:
    """Say what is not as it was when a checkpoint was written, so that the run goes on within rounding, not bit for bit."""
    now = exact_facts(work)
    differing = [name for name in now if name in checkpoint.facts and checkpoint.facts[name] != now[name]]
    return [f"{name} {now[name]} instead of {checkpoint.facts[name]}: the same within rounding, not bit for bit" for name in differing]


def exact_facts(work: Work) -> dict[str, Any]:
    """Return what must be the same for an exact continuation."""
    kernels = torch.cuda.get_device_name(work.device) if work.device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    facts = {"threads": torch.get_num_threads(), "processes": work.processes.count, "device": work.device.type, "kernels for": kernels}
    return {**facts, **plain_versions()}
