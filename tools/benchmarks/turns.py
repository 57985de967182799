"""One turn of another program's network, and one of ours that does the same work.

The other program's is made by a Python file outside of this repository, which has one function::

    def make(network, frame, context, horizon, settings):
        return module, loss, forecast

It is told our name of a network, such as ``predrnn``; ``(C, H, W)`` of a frame; how many frames are observed and how many forecast; and
a dict of what the section ``network`` of our config says besides the name, ``hidden``, ``kernel_size`` and so on. It returns, in float32
and on the CPU, a ``torch.nn.Module``, which is moved to the device and put into training or evaluation mode, and whose parameters Adam
moves; what makes a scalar with a gradient of clips ``(B, context + horizon, C, H, W)``, noise in [0, 1]; and what makes a forecast
``(B, horizon, C, H, W)`` of observed frames ``(B, context, C, H, W)``.

What the file changes for its whole process, such as its search path, reaches nothing else: each measurement has a process of its own.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stpredict.data.loader import collate
from stpredict.devices import autocast, choose_device
from stpredict.errors import UserError
from stpredict.processes import Processes
from stpredict.training.settings import Settings
from stpredict.training.state import State
from stpredict.training.step import take_step
from stpredict.training.work import make_work

Task = Literal["step", "forecast"]
"""A training step on a batch of clips, or a forecast of what follows the observed frames of a batch."""


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Attributes:
        file: makes the other program's network.
        settings: of our network, its clips and how it computes.
        task: what both do.
    """

    file: Path
    settings: Settings
    task: Task


@dataclass(frozen=True)
class Turn:
    """A network and one turn of its work, which ends when the device has done it.

    Attributes:
        take: do the work once.
        parameters: how many weights.
        device: where.
    """

    take: Callable[[], None]
    parameters: int
    device: torch.device


Made = tuple[nn.Module, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]


def their_turn(comparison: Comparison) -> Turn:
    """Return the other program's turn, in float32 as its file leaves torch's switches.

    Raises:
        UserError: the file does not do what is asked of it.
    """
    settings = comparison.settings
    device, data = choose_device(settings.trainer.device), settings.data
    module, loss, forecast = _make(comparison)
    module.to(device)
    clips = _noise(settings).to(device)
    wanted = (data.batch_size, data.horizon, *clips.shape[2:])

    def predict() -> None:
        with torch.no_grad():
            made = tuple(forecast(clips[:, : data.context]).shape)
        if made != wanted:
            raise UserError(f"{comparison.file} forecasts {made} where {wanted} was asked for: (B, horizon, C, H, W)")

    if comparison.task == "forecast":
        module.eval()
        return Turn(_switched(predict, device), _count(module), device)
    module.train()
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-4)

    def train() -> None:
        optimizer.zero_grad()
        loss(clips).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return Turn(_switched(train, device), _count(module), device)


def our_turn(comparison: Comparison) -> Turn:
    """Return ours: a training step as a run takes it, or a predictor's forecast."""
    settings = comparison.settings
    work = make_work(settings, Processes())
    if comparison.task == "forecast":
        predictor, horizon = work.predictor({}), work.clips.horizon
        predictor.network.eval()
        observed = _noise(settings)[:, : work.clips.context].to(work.device)

        def predict() -> None:
            with autocast(work.device, settings.trainer.precision):
                predictor.forecast(observed, horizon)

        return Turn(_switched(predict, work.device), _count(work.network), work.device)
    state = State()
    if settings.optimizer.ema is not None:
        state.start_ema(work.network)
    batch = collate([(index, work.clips[index]) for index in range(settings.data.batch_size)])

    def train() -> None:
        take_step(work, state, batch, stop=False)
        state.step += 1

    return Turn(_switched(train, work.device), _count(work.network), work.device)


def _make(comparison: Comparison) -> Made:
    """Have the file make its network."""
    file, settings = comparison.file, comparison.settings
    spec = importlib.util.spec_from_file_location(f"peer_{file.stem}", file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise UserError(f"There is no Python file {file} (--peer)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    make = getattr(module, "make", None)
    if not callable(make):
        raise UserError(
            f"{file} has no function make(network, frame, context, horizon, settings) that returns (module, loss, forecast): "
            "define it as tools/benchmarks/turns.py says"
        )
    data, network = settings.data, dict(settings.network)
    frame = tuple(data.settings[key] for key in ("channels", "height", "width"))
    made: Any = make(network.pop("name"), frame, data.context, data.horizon, network)
    if not (isinstance(made, tuple) and len(made) == 3 and isinstance(made[0], nn.Module) and all(map(callable, made[1:]))):
        raise UserError(f"make() of {file} returns {type(made).__name__}, not (module, loss, forecast), for '{settings.network['name']}'")
    return made


def _noise(settings: Settings) -> Tensor:
    """Return a batch of clips ``(B, T, C, H, W)`` in [0, 1]."""
    data = settings.data
    assert data.context is not None and data.horizon is not None, "the section of noise says both"
    shape = [data.batch_size, data.context + data.horizon, *(data.settings[key] for key in ("channels", "height", "width"))]
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def _switched(take: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Return the work with torch's switches as they stand now, waiting for the device: the two sides may set them differently."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    now = products.allow_tf32, convolutions.allow_tf32, convolutions.benchmark

    def turn() -> None:
        products.allow_tf32, convolutions.allow_tf32, convolutions.benchmark = now
        take()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return turn


def _count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())
