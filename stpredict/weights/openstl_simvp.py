"""Checkpoints of OpenSTL's SimVP, of which all versions have the same maths and names.

Source: OpenSTL 0.x (0a0f36c) and 1.x (c74deb5); SimVPv2. All but the horizon follows from the shapes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from stpredict.errors import UserError
from stpredict.weights.cell_lists import only_one
from stpredict.weights.facts import Facts
from stpredict.weights.translation import Rule, Translation, layer_count, rename

_BLOCK = {
    "norm1": "attention.norm",
    "attn.proj_1": "attention.project_in",
    "attn.spatial_gating_unit.conv0": "attention.near",
    "attn.spatial_gating_unit.conv_spatial": "attention.far",
    "attn.spatial_gating_unit.conv1": "attention.gate",
    "attn.proj_2": "attention.project_out",
    "norm2": "mlp.norm",
    "mlp.fc1": "mlp.expand",
    "mlp.dwconv.dwconv": "mlp.mix",
    "mlp.fc2": "mlp.contract",
}
_KIND = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
_RULES: list[Rule] = [
    (rf"enc\.enc\.(\d+)\.conv\.conv\.{_KIND}", r"encoder.\1.convolution.\2"),
    (rf"dec\.dec\.(\d+)\.conv\.conv(?:\.0)?\.{_KIND}", r"decoder.\1.convolution.\2"),
    (rf"enc\.enc\.(\d+)\.conv\.norm\.{_KIND}", r"encoder.\1.norm.\2"),
    (rf"dec\.dec\.(\d+)\.conv\.norm\.{_KIND}", r"decoder.\1.norm.\2"),
    (rf"dec\.readout\.{_KIND}", r"readout.\1"),
    (rf"hid\.(enc|dec)\.(\d+)\.conv1\.{_KIND}", lambda m: f"translator.{m[1]}oder.{m[2]}.squeeze.{m[3]}"),
    (rf"hid\.(enc|dec)\.(\d+)\.layers\.(\d)\.conv\.{_KIND}", lambda m: f"translator.{m[1]}oder.{m[2]}.branches.{m[3]}.convolution.{m[4]}"),
    (rf"hid\.(enc|dec)\.(\d+)\.layers\.(\d)\.norm\.{_KIND}", lambda m: f"translator.{m[1]}oder.{m[2]}.branches.{m[3]}.norm.{m[4]}"),
    (rf"hid\.enc\.(\d+)\.reduction\.{_KIND}", r"translator.blocks.\1.reduction.\2"),
    (r"hid\.enc\.(\d+)\.block\.layer_scale_1", r"translator.blocks.\1.attention_scale"),
    (r"hid\.enc\.(\d+)\.block\.layer_scale_2", r"translator.blocks.\1.mlp_scale"),
    *[(rf"hid\.enc\.(\d+)\.block\.{re.escape(old)}\.{_KIND}", rf"translator.blocks.\1.{new}.\2") for old, new in _BLOCK.items()],
]


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether the names are those of an encoder, a translator and a decoder."""
    return any(name.startswith("enc.enc.") for name in tensors)


def translate(tensors: Mapping[str, Tensor], facts: Facts) -> Translation:
    """Translate SimVP with the translator IncepU or gSTA.

    Raises:
        UserError: it is another network (TAU, VAN, the authors' own SimVP), not whole, or the facts contradict it.
    """
    _refuse_others(tensors)
    only_one(facts)
    settings = settings_of(tensors)
    for name in ("channels", "context"):
        facts.tell(name, settings.pop(name), "weights")
    facts.tell("patch_size", 1, "SimVP has no patches")
    return Translation("simvp", settings, rename(tensors, _RULES, "OpenSTL's SimVP"), {})


def _refuse_others(weights: Mapping[str, Tensor]) -> None:
    if "dec.dec.0.conv.conv.weight" in weights:
        raise UserError("These are weights of the authors' own SimVP (A4Bio/SimVP): another network, with transposed convolutions")
    for key in ("enc.enc.0.conv.conv.weight", "dec.dec.0.conv.conv.0.weight", "dec.readout.weight"):
        if key not in weights:
            raise UserError(f"These are no weights of OpenSTL's SimVP: '{key}' is missing")
    if any(".spatial_gating_unit.fc." in key for key in weights):
        raise UserError("These are weights of TAU, a network that this program does not have")
    if "hid.dec.0.conv1.weight" in weights:
        return
    gate = weights.get("hid.enc.0.block.attn.spatial_gating_unit.conv1.weight")
    if gate is None:
        raise UserError("The translator of this SimVP is neither IncepU nor gSTA")
    if gate.shape[0] != 2 * gate.shape[1]:
        raise UserError("The translator of this SimVP is VAN, which has the names of gSTA but another gate")


def settings_of(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return what the shapes tell: all but the horizon and the rates of stochastic depth, which matter in training alone."""

    def shape(key: str) -> tuple[int, ...]:
        if key not in weights:
            raise UserError(f"These weights of OpenSTL's SimVP are not whole: '{key}' is missing")
        return tuple(weights[key].shape)

    spatial, channels, encoder_kernel, _ = shape("enc.enc.0.conv.conv.weight")
    decoder_kernel = shape("dec.dec.0.conv.conv.0.weight")[-1]
    inceptions = "hid.dec.0.conv1.weight" in weights
    if inceptions:
        total, middle = shape("hid.enc.0.conv1.weight")[1], shape("hid.enc.0.layers.0.conv.weight")[0]
    else:
        total = shape("hid.enc.0.block.attn.proj_1.weight")[0]
        middle = shape("hid.enc.1.block.attn.proj_1.weight")[0]
    if total % spatial:
        raise UserError(f"The translator takes {total} channels, which is no multiple of the encoder's {spatial}")
    settings: dict[str, Any] = {
        "channels": channels,
        "context": total // spatial,
        "hidden": [spatial, middle],
        "layers": [layer_count(weights, r"enc\.enc\.(\d+)\."), layer_count(weights, r"hid\.enc\.(\d+)\.")],
        "kernel_size": encoder_kernel,
        "translator": "incepu" if inceptions else "gsta",
    }
    if decoder_kernel != encoder_kernel:
        settings["decoder_kernel_size"] = decoder_kernel
    if not inceptions:
        ratio = mlp_ratio(total, shape("hid.enc.0.block.mlp.fc1.weight")[0], middle, shape("hid.enc.1.block.mlp.fc1.weight")[0])
        if ratio != 8.0:
            settings["mlp_ratio"] = ratio
    return settings


def mlp_ratio(total: int, total_width: int, middle: int, middle_width: int) -> float:
    """Return a ratio that gives both widths, which are cut to whole numbers."""
    for ratio in (middle_width / middle, total_width / total, (middle_width + 0.5) / middle, (total_width + 0.5) / total):
        if int(ratio * middle) == middle_width and int(ratio * total) == total_width:
            return ratio
    low, high = max(middle_width / middle, total_width / total), min((middle_width + 1) / middle, (total_width + 1) / total)
    ratio = (low + high) / 2
    if int(ratio * middle) == middle_width and int(ratio * total) == total_width:
        return ratio
    raise UserError("The widths of the MLPs do not follow from one ratio")
