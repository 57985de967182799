"""What may differ between a run and its continuation, and what then is no longer exact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from stpredict import kernels
from stpredict.checkpoint import Checkpoint
from stpredict.errors import UserError
from stpredict.kernels import compiled
from stpredict.training.run import plain_versions
from stpredict.training.settings import Settings
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


def as_it_was(settings: Settings, checkpoint: Checkpoint, overrides: Sequence[str]) -> Settings:
    """Return the settings with the threads of a checkpoint, and its kernels if they were torch's own, unless others are asked for."""
    trainer, before = settings.trainer, checkpoint.facts
    if trainer.threads is None and "threads" in before:
        trainer = replace(trainer, threads=int(before["threads"]))
    asked = any(word.removeprefix("--").partition("=")[0] == "trainer.kernels" for word in overrides)
    if not asked and _kernels_of(before) == "reference":
        trainer = replace(trainer, kernels="reference")
    return replace(settings, trainer=trainer)


def differences_now(checkpoint: Checkpoint, work: Work) -> list[str]:
    """Say what is not as it was when a checkpoint was written, so that the run goes on within rounding, not bit for bit."""
    now, before = exact_facts(work), {"compiled": False, **checkpoint.facts, "kernels": _kernels_of(checkpoint.facts)}
    said = {name: str(value) for name, value in now.items()}
    if work.settings.trainer.kernels == "auto" and now.get("kernels") == "reference" and (reason := compiled.why_not()):
        said["kernels"] = f"reference, because {reason},"
    differing = [name for name in now if before.get(name) not in (None, now[name])]
    return [f"{name} {said[name]} instead of {before[name]}: the same within rounding, not bit for bit" for name in differing]


def _kernels_of(facts: Mapping[str, Any]) -> str | None:
    """Return what computed convolutions on the CPU; those of torch did when checkpoints did not say it yet. None: it was on a GPU."""
    name: str | None = facts.get("kernels", "reference" if facts.get("device") == "cpu" else None)
    return name


def exact_facts(work: Work) -> dict[str, Any]:
    """Return what must be the same for an exact continuation."""
    on_cpu = work.device.type == "cpu"
    unit = torch.backends.cpu.get_cpu_capability() if on_cpu else torch.cuda.get_device_name(work.device)
    facts = {"threads": torch.get_num_threads(), "processes": work.processes.count, "device": work.device.type, "kernels for": unit}
    facts["compiled"] = work.settings.trainer.compile
    return {**facts, **({"kernels": kernels.in_use()} if on_cpu else {}), **plain_versions()}
