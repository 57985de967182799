"""Checkpoints of predrnn-pp, the authors' TensorFlow 1 code of PredRNN++.

Source: predrnn-pp 40764c5. Kernels are (rows, columns, in, out), layers count from 1, gates lie in the order i g f o, and every norm has
a scale ``s`` and a shift ``b`` for each channel.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from stpredict.errors import UserError
from stpredict.weights.cell_lists import only_one
from stpredict.weights.container import Container
from stpredict.weights.facts import Facts
from stpredict.weights.translation import Translation, layer_count, need, permute_blocks, rename

_SCOPE = "predrnn_pp/"

_BLOCKS = {
    "temporal_state_transition": ("h", "h2c"),
    "temporal_memory_transition": ("c", "c2c"),
    "spatial_memory_transition": ("m", "m2m"),
    "input_to_state": ("x", "x2c"),
    "c2m": ("c2m", "c2m"),
    "m_to_o": ("m2o", "m2o"),
}
"""Each convolution: our name, and the name of its norm."""

_ORDERS = {"h": (0, 2, 1, 3), "c": (0, 2, 1), "x": (0, 2, 1, 4, 6, 5, 3)}
"""Which of their gates stands at each of our places."""

_NORMS = {norm: ours for ours, norm in _BLOCKS.values()}
_PARTS = {"kernel": "0.weight", "bias": "0.bias", "s": "1.weight", "b": "1.bias"}


def _layer(number: str) -> int:
    return int(number) - 1


RULES = [
    (rf"lstm_(\d+)/({'|'.join(_BLOCKS)})/(kernel|bias)", lambda m: f"cells.{_layer(m[1])}.{_BLOCKS[m[2]][0]}.{_PARTS[m[3]]}"),
    (rf"lstm_(\d+)/({'|'.join(_NORMS)})(s|b)", lambda m: f"cells.{_layer(m[1])}.{_NORMS[m[2]]}.{_PARTS[m[3]]}"),
    (r"lstm_(\d+)/memory_reduce/(kernel|bias)", lambda m: f"cells.{_layer(m[1])}.out.{_PARTS[m[2]][2:]}"),
    (r"highway/(state|input)_to_state/(kernel|bias)", lambda m: f"ghu.{'z' if m[1] == 'state' else 'x'}.{_PARTS[m[2]]}"),
    (r"highway/(state|input)_to_state(s|b)", lambda m: f"ghu.{'z' if m[1] == 'state' else 'x'}.{_PARTS[m[2]]}"),
    (r"back_to_pixel/(kernel|bias)", lambda m: f"readout.{_PARTS[m[1]][2:]}"),
]


def recognises(container: Container) -> bool:
    """Return whether the variables are of this program's scope."""
    return any(name.startswith(_SCOPE) for name in container.tensors)


def translate(container: Container, facts: Facts) -> Translation:
    """Translate a checkpoint of predrnn-pp."""
    only_one(facts)
    tensors = model_variables(container.tensors, _SCOPE)
    layers = layer_count(tensors, r"lstm_(\d+)/") - 1
    kernels = [need(tensors, f"lstm_{number}/temporal_state_transition/kernel").shape for number in range(1, layers + 1)]
    facts.tell_patches(need(tensors, "back_to_pixel/kernel").shape[-1])
    facts.require("patch_size", "channels", "context")
    settings = {
        "hidden": [shape[2] for shape in kernels],
        "kernel_size": kernels[0][0],
        "patch_size": facts.get("patch_size"),
        "norm": "channel" if "lstm_1/h2cs" in tensors else "none",
        "bias": True,
        "readout_bias": True,
    }
    renamed = rename(tensors, RULES, "predrnn-pp")
    return Translation("predrnnpp", settings, {name: _to_our_order(name, value) for name, value in renamed.items()}, {})


def model_variables(tensors: Mapping[str, Tensor], scope: str) -> dict[str, Tensor]:
    """Return the variables of the network, without their scope and without what belongs to the optimiser."""
    own = {name.removeprefix(scope): value for name, value in tensors.items() if name.startswith(scope)}
    return {
        name: value
        for name, value in own.items()
        if not re.search(r"(/(Adam|Adam_1|ExponentialMovingAverage)|(^|/)Variable(_\d+)?)$", name)
    }


def from_channels_last(kernel: Tensor) -> Tensor:
    """Return a kernel ``(..., in, out)`` as ``(out, in, ...)``."""
    if kernel.ndim not in (4, 5):
        raise UserError(f"A kernel of the checkpoint has the shape {tuple(kernel.shape)}, which no convolution has")
    return kernel.permute(kernel.ndim - 1, kernel.ndim - 2, *range(kernel.ndim - 2)).contiguous()


def _to_our_order(name: str, tensor: Tensor) -> Tensor:
    if name.endswith(".weight") and tensor.ndim > 1:
        tensor = from_channels_last(tensor)
    parts = name.split(".")
    order = _ORDERS.get(parts[2]) if parts[0] == "cells" else None
    return tensor if order is None else permute_blocks(tensor, order)
