"""Checkpoints of predrnn-pytorch, the authors' PyTorch code of PredRNN and PredRNN-v2: a dict with ``net_param``.

Source: predrnn-pytorch 49d3b0f (2023), and 816c004 (2019), whose cells have biases and always a layer norm.
"""

from __future__ import annotations

import math

from stpredict.errors import UserError
from stpredict.weights import openstl
from stpredict.weights.container import Container
from stpredict.weights.facts import Facts
from stpredict.weights.translation import Translation, need


def recognises(container: Container) -> bool:
    """Return whether this is what its ``save`` writes."""
    return container.kind == "net_param" and any(name.startswith("cell_list.") for name in container.tensors)


def translate(container: Container, facts: Facts) -> Translation:
    """Translate a checkpoint of predrnn-pytorch."""
    tensors = container.tensors
    if any(".conv_a." in name or name.startswith(("action_conv", "conv_input")) for name in tensors):
        raise UserError("The checkpoint is of an action-conditioned network, which this program does not have")
    notes = {}
    if "cell_list.0.conv_x.0.bias" in tensors:
        side = math.isqrt(need(tensors, "conv_last.weight").shape[0])
        facts.tell("channels", 1, "the code of 2019 has no others")
        facts.tell("patch_size", side, "weights")
        notes["layout"] = "2019: with biases and layer norm"
    translation = openstl.predrnn(tensors, facts, "predrnn-pytorch's PredRNN")
    return Translation(translation.network, translation.settings, translation.tensors, notes)
