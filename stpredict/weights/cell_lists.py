"""The layout that predrnn-pytorch and OpenSTL share: ``cell_list.<layer>.conv_<block>.<0 convolution, 1 norm>.<weight or bias>``.

Gates lie in our order already. Names that are never used by their own code are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from stpredict.errors import UserError
from stpredict.weights.facts import Facts
from stpredict.weights.translation import Rule, layer_count, need

_KIND = r"(weight|bias)"

READOUT: list[Rule] = [(rf"conv_last\.{_KIND}", r"readout.\1")]

CONVLSTM: list[Rule] = [
    (rf"cell_list\.(\d+)\.conv_(x|h)\.(0|1)\.{_KIND}", r"cells.\1.\2.\3.\4"),
    (rf"cell_list\.\d+\.conv_o\.(0|1)\.{_KIND}", None),
    (rf"cell_list\.\d+\.conv_last\.{_KIND}", None),
    *READOUT,
]

PREDRNN: list[Rule] = [
    (rf"cell_list\.(\d+)\.conv_(x|h|m|o)\.(0|1)\.{_KIND}", r"cells.\1.\2.\3.\4"),
    (rf"cell_list\.(\d+)\.conv_last\.{_KIND}", r"cells.\1.out.\2"),
    (r"adapter\.weight", "adapter.weight"),
    *READOUT,
]

PREDRNNPP: list[Rule] = [
    (rf"cell_list\.(\d+)\.conv_(x|h|c|m|c2m)\.(0|1)\.{_KIND}", r"cells.\1.\2.\3.\4"),
    (rf"cell_list\.(\d+)\.conv_om\.(0|1)\.{_KIND}", r"cells.\1.m2o.\2.\3"),
    (rf"cell_list\.\d+\.conv_o\.(0|1)\.{_KIND}", None),
    (rf"cell_list\.(\d+)\.conv_last\.{_KIND}", r"cells.\1.out.\2"),
    (rf"gradient_highway\.(x|z)_concat\.(0|1)\.{_KIND}", r"ghu.\1.\2.\3"),
    *READOUT,
]

_E3D_BLOCKS = {"x": "x", "h": "h", "gm": "m", "new_cell": "c2o", "new_gm": "m2o"}

E3D_LSTM: list[Rule] = [
    (rf"cell_list\.(\d+)\.conv_({'|'.join(_E3D_BLOCKS)})\.0\.conv3d\.{_KIND}", lambda m: f"cells.{m[1]}.{_E3D_BLOCKS[m[2]]}.0.{m[3]}"),
    (rf"cell_list\.(\d+)\.conv_({'|'.join(_E3D_BLOCKS)})\.1\.{_KIND}", lambda m: f"cells.{m[1]}.{_E3D_BLOCKS[m[2]]}.1.{m[3]}"),
    (rf"cell_list\.(\d+)\._norm_c_t\.{_KIND}", r"cells.\1.recall_norm.\2"),
    (rf"cell_list\.(\d+)\.conv_last\.conv3d\.{_KIND}", r"cells.\1.out.\2"),
    *READOUT,
]


def read_sizes(tensors: Mapping[str, Tensor], facts: Facts, convolution: str = "weight") -> dict[str, Any]:
    """Return the settings that the shapes tell; tell the facts how many patch channels there are and, with a norm, the frame size.

    Args:
        tensors: by their foreign names.
        facts: what is known so far.
        convolution: how the name of a gate convolution goes on after its block, ``weight`` or ``conv3d.weight``.

    Raises:
        UserError: what the sizes are read from is missing, or contradicts the facts.
    """
    layers = layer_count(tensors, r"cell_list\.(\d+)\.")
    hidden = [need(tensors, f"cell_list.{layer}.conv_h.0.{convolution}").shape[1] for layer in range(layers)]
    kernel = need(tensors, f"cell_list.0.conv_h.0.{convolution}").shape
    if len(kernel) < 4 or kernel[-1] != kernel[-2]:
        raise UserError(f"The kernels of the checkpoint are {tuple(kernel[2:])}, not square")
    facts.tell_patches(need(tensors, "conv_last.weight").shape[0])
    facts.require("patch_size", "channels", "context")
    settings = {"hidden": hidden, "kernel_size": kernel[-1], "patch_size": facts.get("patch_size")}
    norm = tensors.get("cell_list.0.conv_x.1.weight")
    grid = norm if norm is not None else tensors.get("cell_list.0._norm_c_t.weight")
    if grid is not None:
        for name, side in zip(("height", "width"), grid.shape[-2:], strict=True):
            facts.tell(name, side * facts.get("patch_size"), "weights")
    if norm is not None:
        settings["norm"] = "layer"
    if f"cell_list.0.conv_x.0.{convolution.replace('weight', 'bias')}" in tensors:
        settings["bias"] = True
    return settings


def only_one(facts: Facts, *, maths: bool = False, memory: bool = False, stride: bool = False, weights: bool = False) -> None:
    """Tell the facts of which the network at hand has one value alone; those named are its own choice.

    Raises:
        UserError: another value has been given.
    """
    if not weights:
        facts.tell("weights", "raw", "the file has no others")
    if not stride:
        facts.tell("stride", 1, "this network has no other")
    if not memory and facts.get("memory") is not None:
        facts.tell("memory", "updated", "this network has no other")
    if not maths and facts.get("maths") is not None:
        facts.by_rule("maths", "either, the same for this network")
