"""Checkpoints of OpenSTL: releases and ``latest.pth`` of 0.x, Lightning checkpoints of 1.x.

Source: OpenSTL, branches OpenSTLv0.3.0 (0a0f36c) and OpenSTL-Lightning (c74deb5). Its ConvLSTM and PredRNN++ were mended in December
2023, after every release of weights; so what is not a Lightning checkpoint is run with the maths of before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from stpredict.errors import UserError
from stpredict.weights import openstl_simvp
from stpredict.weights.cell_lists import CONVLSTM, E3D_LSTM, PREDRNN, PREDRNNPP, only_one, read_sizes
from stpredict.weights.container import Container
from stpredict.weights.facts import Facts
from stpredict.weights.translation import Translation, rename

_TOLD = {"pre_seq_length": "context", "aft_seq_length": "horizon", "patch_size": "patch_size", "stride": "stride"}


def recognises(container: Container) -> bool:
    """Return whether the names are OpenSTL's; those of predrnn-pytorch, of one layout with them, come under ``net_param``."""
    names = container.tensors
    return openstl_simvp.recognises(names) or (container.kind != "net_param" and any(name.startswith("cell_list.") for name in names))


def translate(container: Container, facts: Facts) -> Translation:
    """Translate a checkpoint of OpenSTL."""
    tensors = container.tensors
    _tell(facts, container.facts, e3d=any(".conv_gm." in name for name in tensors))
    rule = "fixed" if container.kind == "Lightning checkpoint" else "legacy"
    if openstl_simvp.recognises(tensors):
        translation = openstl_simvp.translate(tensors, facts)
    elif any(".conv_a." in name or name.startswith("action_conv") for name in tensors):
        raise UserError("The checkpoint is of an action-conditioned network, which this program does not have")
    elif any(".conv_gm." in name for name in tensors):
        translation = _e3d_lstm(tensors, facts)
    elif any(name.startswith("gradient_highway.") for name in tensors):
        translation = _predrnnpp(tensors, facts, rule)
    elif any(".conv_m." in name for name in tensors):
        translation = predrnn(tensors, facts, "OpenSTL's PredRNN")
    else:
        translation = _convlstm(tensors, facts, rule)
    _check(container.facts, translation.settings)
    return replace(translation, notes=translation.notes | _normalisation(container.facts))


def predrnn(tensors: Mapping[str, Tensor], facts: Facts, source: str) -> Translation:
    """Translate PredRNN, or PredRNN-v2 if the adapter of its decoupling loss is there."""
    only_one(facts)
    settings = read_sizes(tensors, facts)
    name = "predrnn_v2" if "adapter.weight" in tensors else "predrnn"
    return Translation(name, settings, rename(tensors, PREDRNN, source), {})


def _convlstm(tensors: Mapping[str, Tensor], facts: Facts, rule: str) -> Translation:
    only_one(facts, maths=True)
    settings = read_sizes(tensors, facts)
    if facts.by_rule("maths", rule) == "legacy":
        settings["hidden_from"] = "candidate"
    return Translation("convlstm", settings, rename(tensors, CONVLSTM, "OpenSTL's ConvLSTM"), {})


def _predrnnpp(tensors: Mapping[str, Tensor], facts: Facts, rule: str) -> Translation:
    only_one(facts, maths=True)
    settings = read_sizes(tensors, facts)
    if facts.by_rule("maths", rule) == "legacy":
        settings["temporal_from"] = "memory"
    return Translation("predrnnpp", settings, rename(tensors, PREDRNNPP, "OpenSTL's PredRNN++"), {})


def _e3d_lstm(tensors: Mapping[str, Tensor], facts: Facts) -> Translation:
    only_one(facts, memory=True, stride=True)
    settings = read_sizes(tensors, facts, "conv3d.weight")
    facts.require("stride")
    settings |= {"form": "stretched", "memory": facts.by_rule("memory", "frozen"), "stride": facts.get("stride")}
    renamed = rename(tensors, E3D_LSTM, "OpenSTL's E3D-LSTM")
    if settings["memory"] == "frozen":
        renamed = {name: tensor for name, tensor in renamed.items() if not name.endswith(".m.0.weight")}
    return Translation("e3d_lstm", settings, renamed, {})


def _tell(facts: Facts, told: Mapping[str, Any], e3d: bool) -> None:
    """Tell the facts that the hyper-parameters of a Lightning checkpoint hold."""
    where = "hyper_parameters of the file"
    for theirs, ours in _TOLD.items():
        if theirs in told and told[theirs] is not None and (ours != "stride" or e3d):
            facts.tell(ours, _number(theirs, told[theirs]), where)
    shape = told.get("in_shape")
    if isinstance(shape, Sequence) and len(shape) == 4:
        for ours, value in zip(("channels", "height", "width"), shape[1:], strict=True):
            facts.tell(ours, _number("in_shape", value), where)


def _check(told: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Refuse hyper-parameters that contradict the weights."""
    if "hidden" not in settings or "num_hidden" not in told or "patch_size" not in settings:
        return
    widths = [int(part) for part in str(told["num_hidden"]).split(",") if part.strip().isdecimal()]
    if widths and widths != list(settings["hidden"]):
        raise UserError(f"The file contradicts itself: num_hidden {told['num_hidden']}, but its weights are {settings['hidden']} wide")


def _normalisation(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return the mean and deviation with which a run on weather had scaled its frames; the predictor takes frames so scaled."""
    arrays = {name: told.get(f"test_{name}") for name in ("mean", "std")}
    return {
        f"scaled by {name}": array.ravel().tolist() for name, array in arrays.items() if isinstance(array, np.ndarray) and array.size < 1000
    }


def _number(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < 1:
        raise UserError(f"The hyper-parameter '{name}' of the file is {str(value)[:60]!r}, not a whole number from 1 up")
    return int(value)
