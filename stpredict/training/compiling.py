"""Cells compiled by torch: what a cell does between two convolutions becomes one kernel, forward and backward."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from stpredict.cells.eidetic import EideticLSTMCell
from stpredict.errors import UserError
from stpredict.libraries import first_line
from stpredict.networks.contract import Network
from stpredict.networks.watched import cells_of, highways_of

_MOST_FORMS = 64
"""How many forms of a cell there may be: one for each shape of a batch, and for whether a gradient goes to its input and to its state."""


def compile_cells(network: Network, name: str, device: torch.device) -> None:
    """Let torch compile the cells of a network, in place; each is made when it is first used, which takes a minute or so.

    Weights keep their names. Each cell is compiled by itself, so that any number of layers and steps needs a handful of forms.

    Args:
        network: on its device.
        name: of the network, for people.
        device: where it computes.

    Raises:
        UserError: it has no cells that can be compiled, or torch has no compiler here.
    """
    cells = [*cells_of(network).values(), *highways_of(network).values()]
    if not cells:
        raise UserError(f"trainer.compile is for networks that take steps by cells, and {name} has none: leave it out")
    if any(isinstance(cell, EideticLSTMCell) for cell in cells):
        raise UserError(f"trainer.compile: {name} recalls from more memories at every step, each of which would be compiled: leave it out")
    import torch._dynamo.exc
    import torch._inductor.config

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_FORMS)
    torch._inductor.config.compile_threads = 1  # no helpers, which a signal to all processes of the run would reach
    try:
        torch.compile(_anything, dynamic=False)(torch.ones(2, device=device))
    except torch._dynamo.exc.TorchDynamoException as error:
        need = "Triton and a C compiler" if device.type == "cuda" else "a C++ compiler such as g++ and the headers of Python"
        cause = first_line(getattr(error, "inner_exception", error))
        raise UserError(f"trainer.compile needs {need}, and torch could compile nothing here ({cause}): leave it out") from None
    for cell in cells:
        cell.compile(dynamic=False)


def _anything(numbers: torch.Tensor) -> torch.Tensor:
    return torch.sigmoid(numbers) * numbers


def as_written(compiled: bool) -> AbstractContextManager[object]:
    """Return a context in which cells that may be ``compiled`` run as they are written, which is how a predictor runs."""
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()
