"""From a foreign checkpoint to a predictor of ours: recognised, translated, checked, whole or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from stpredict.errors import UserError, nearest
from stpredict.frames import FrameSpec
from stpredict.networks import make_network
from stpredict.predictor import Predictor, differences
from stpredict.weights import convlstm_pytorch, e3d_lstm, openstl, predrnn_pp, predrnn_pytorch
from stpredict.weights.catalogue import Published
from stpredict.weights.container import Container, read_container
from stpredict.weights.facts import Facts
from stpredict.weights.translation import Source, Translation

SOURCES: dict[str, Source] = {
    "predrnn-pytorch": cast(Source, predrnn_pytorch),
    "openstl": cast(Source, openstl),
    "predrnn-pp": cast(Source, predrnn_pp),
    "e3d_lstm": cast(Source, e3d_lstm),
}
"""The sources by name; ``auto`` asks them in this order."""


def import_predictor(path: str | Path, source: str = "auto", published: Published | None = None, **facts: Any) -> Predictor:
    """Make a predictor of a foreign checkpoint; nothing that it holds is run.

    Args:
        path: a ``.pth``, ``.ckpt`` or other file of ``torch.save``; or a TensorFlow 1 checkpoint: its prefix, a file of it, or its folder.
        source: ``openstl``, ``predrnn-pytorch``, ``predrnn-pp`` or ``e3d_lstm``; ``auto`` recognises it by the names in it.
        published: the entry of the catalogue whose file it is; what that tells need not be given, and must agree.
        **facts: what the file may not tell: ``patch_size``, ``channels``, ``context``, ``stride``, ``maths``, ``memory``, ``weights``,
            ``horizon``, ``height``, ``width`` (:data:`stpredict.weights.facts.EXPLAINED`). What the file tells too must agree.

    Returns:
        a predictor that gives the outputs that the checkpoint gave where it is from; frames are scaled as there, in general to [0, 1].
        Its provenance tells origin, hash, and each fact with where it is from.

    Raises:
        UserError: the file is unreadable or of no known source, a tensor is unknown or missing, or facts are missing or contradict it.
    """
    container = read_container(path)
    name = recognise(container, source, Path(path))
    known = Facts(facts)
    for fact, value in published.facts.items() if published else ():
        known.tell(fact, value, "catalogue")
    try:
        translation = SOURCES[name].translate(container, known)
    except UserError as error:
        raise UserError(f"{path} ({name}): {error}") from None
    if published and translation.network != published.network:
        raise UserError(f"{path} holds the weights of a '{translation.network}', not of '{published.network}' as {published.name} does")
    context = known.get("context")
    horizon = known.by_rule("horizon", context)
    height, width = known.frame_size()
    spec = FrameSpec(known.get("channels"), height, width)
    network = fill(translation, spec, context, Path(path))
    provenance = {
        "origin": name,
        "catalogue": published.name if published else None,
        "file": Path(path).name,
        "sha256": {file.name: _hash(file) for file in container.files},
        "facts": known.plain(),
        **translation.notes,
        **container.progress,
    }
    return Predictor(
        network,
        spec,
        context,
        horizon,
        network_name=translation.network,
        network_settings=translation.settings,
        provenance=provenance,
        name=Path(path).name,
    )


def import_cells(path: str | Path) -> nn.ModuleList:
    """Make ConvLSTM cells of a layer stack of ConvLSTM_pytorch, which has no readout and so is no predictor.

    Returns:
        :class:`stpredict.cells.convlstm.ConvLSTMCell` of each layer, the lowest first.

    Raises:
        UserError: the file is unreadable, or something else.
    """
    container = read_container(path)
    if not convlstm_pytorch.recognises(container):
        raise UserError(f"{path} is no layer stack of ConvLSTM_pytorch: there is no 'cell_list.0.conv.weight'")
    return convlstm_pytorch.make_cells(container)


def recognise(container: Container, source: str, path: Path) -> str:
    """Return the name of a checkpoint's source.

    Raises:
        UserError: none knows it, or the one that is named does not.
    """
    if source != "auto" and source not in SOURCES:
        raise UserError(f"There is no source '{source}'{nearest(source, ['auto', *SOURCES])}")
    if convlstm_pytorch.recognises(container):
        raise UserError(
            f"{path} is a stack of ConvLSTM layers without a readout, so it predicts no frames; its cells are to be had in Python by "
            "stpredict.weights.import_cells"
        )
    found = [name for name, one in SOURCES.items() if one.recognises(container)]
    if source in found:
        return source
    if source == "predrnn-pytorch" and container.kind == "state dict" and "openstl" in found:
        return source
    shown = ", ".join(list(container.tensors)[:4])
    if source != "auto":
        raise UserError(f"{path} is no checkpoint of {source}: it holds {shown}, ...{f' ({found[0]})' if found else ''}")
    if not found:
        raise UserError(f"{path} is a {container.kind} of no source that is known here ({', '.join(SOURCES)}): it holds {shown}, ...")
    return found[0]


def fill(translation: Translation, spec: FrameSpec, context: int, path: Path) -> Any:
    """Return the network with the translated weights, all of them and nothing else.

    Raises:
        UserError: tensors are missing, left over or of another shape; they are listed.
    """
    with torch.device("meta"):  # the memory of the weights is taken once: by the tensors that were read
        network = make_network(
            translation.network, translation.settings, channels=spec.channels, frame_size=(spec.height, spec.width), context=context
        )
    wanted, given = network.state_dict(), {name: _as_weight(value) for name, value in translation.tensors.items()}
    differing = differences(_shapes(given), _shapes(wanted))
    if differing:
        raise UserError(f"{path} does not hold the weights of '{translation.network}': {'; '.join(differing)}")
    network.load_state_dict(given, assign=True)
    return network.requires_grad_()


def _as_weight(tensor: Tensor) -> Tensor:
    return tensor.float().contiguous() if tensor.is_floating_point() else tensor


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
