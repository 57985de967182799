"""Checkpoints of e3d_lstm, the authors' TensorFlow 1 code of E3D-LSTM.

Source: e3d_lstm 3e5bd4b. Kernels are (time, rows, columns, in, out), gates lie in our order, norms have a scale and a shift for each
channel and the epsilon 1e-12. The memory stays zero there, so that the kernel on it is of no effect.
"""

from __future__ import annotations

from torch import Tensor

from stpredict.errors import UserError
from stpredict.weights.cell_lists import only_one
from stpredict.weights.container import Container
from stpredict.weights.facts import Facts
from stpredict.weights.predrnn_pp import from_channels_last, model_variables
from stpredict.weights.translation import Translation, layer_count, need, rename

_SCOPE = "generator/e3d-lstm/"
_AVERAGED = "/ExponentialMovingAverage"

_BLOCKS = {"": "h.0", "_1": "x.0", "_2": "m.0", "_3": "c2o.0", "_4": "m2o.0", "_5": "out"}
_NORMS = {"hidden": "h.1", "inputs": "x.1", "global_memory": "m.1", "self_attn": "recall_norm"}
_PARTS = {"kernel": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}

RULES = [
    (r"e3d(\d+)/conv3d(|_[1-5])/(kernel|bias)", lambda m: f"cells.{m[1]}.{_BLOCKS[m[2]]}.{_PARTS[m[3]]}"),
    (rf"e3d(\d+)/({'|'.join(_NORMS)})/(gamma|beta)", lambda m: f"cells.{m[1]}.{_NORMS[m[2]]}.{_PARTS[m[3]]}"),
    (r"conv3d/(kernel|bias)", lambda m: f"readout.{_PARTS[m[1]]}"),
]


def recognises(container: Container) -> bool:
    """Return whether the variables are of this program's scope."""
    return any(name.startswith(_SCOPE) for name in container.tensors)


def translate(container: Container, facts: Facts) -> Translation:
    """Translate a checkpoint of e3d_lstm, its raw weights or their moving average."""
    averaged = facts.by_rule("weights", "raw") == "ema"
    tensors = _averaged(container) if averaged else model_variables(container.tensors, _SCOPE)
    only_one(facts, memory=True, weights=True)
    layers = layer_count(tensors, r"e3d(\d+)/")
    kernels = [need(tensors, f"e3d{layer}/conv3d/kernel").shape for layer in range(layers)]
    facts.tell_patches(need(tensors, "conv3d/kernel").shape[-1])
    facts.require("patch_size", "channels", "context")
    settings = {
        "hidden": [shape[-2] for shape in kernels],
        "kernel_size": kernels[0][1],
        "patch_size": facts.get("patch_size"),
        "form": "padded",
        "memory": facts.by_rule("memory", "frozen"),
        "norm": "channel",
        "norm_epsilon": 1e-12,
        "bias": True,
        "readout_bias": True,
    }
    renamed = rename(tensors, RULES, "e3d_lstm")
    if settings["memory"] == "frozen":
        renamed = {name: tensor for name, tensor in renamed.items() if not name.endswith(".m.0.weight")}
    return Translation("e3d_lstm", settings, {name: _turned(value) for name, value in renamed.items()}, {})


def _averaged(container: Container) -> dict[str, Tensor]:
    own = {name: value for name, value in container.tensors.items() if name.startswith(_SCOPE) and name.endswith(_AVERAGED)}
    if not own:
        raise UserError("weights ema contradicts the file: it holds no moving average of its weights")
    return {name.removeprefix(_SCOPE).removesuffix(_AVERAGED): value for name, value in own.items()}


def _turned(tensor: Tensor) -> Tensor:
    return from_channels_last(tensor) if tensor.ndim > 1 else tensor
