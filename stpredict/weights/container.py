"""What holds foreign weights: files of torch and of TensorFlow 1, told apart by their content."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from stpredict.errors import UserError
from stpredict.weights.bundle import read_bundle
from stpredict.weights.inert import Inert
from stpredict.weights.pickled import TorchFile, is_tensor, read_torch
from stpredict.weights.plain import mapping, plain_facts

_PREFIXES = ("module.", "model.", "_orig_mod.")
_PROGRESS = ("epoch", "global_step", "step", "iteration", "itr")
_PARTS_OF_BUNDLES = re.compile(r"(?P<prefix>.+)\.(index|meta|data-\d{5}-of-\d{5})")
_LONGEST_POINTER = 1 << 20


@dataclass(frozen=True)
class Container:
    """A foreign checkpoint, read but not understood.

    Attributes:
        tensors: by the file's own names, on the CPU; ``module.``, ``model.`` and ``_orig_mod.`` in front of all names are taken off.
        kind: ``state dict``, ``net_param``, ``training checkpoint``, ``Lightning checkpoint`` or ``TensorFlow bundle``.
        files: what was read.
        facts: hyper-parameters that a Lightning checkpoint tells and that are plain data or numpy arrays; others are left out.
        progress: counts such as ``epoch`` and ``global_step``, where told.
    """

    tensors: dict[str, Tensor]
    kind: str
    files: tuple[Path, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    progress: dict[str, int] = field(default_factory=dict)


def read_container(path: str | Path) -> Container:
    """Read a foreign checkpoint without running anything that it holds.

    Args:
        path: a file of ``torch.save``; or, of TensorFlow 1, the prefix, one of its files, their folder, or its ``checkpoint`` file.

    Raises:
        UserError: there is none, it is damaged, it holds no weights, or it names something that would run a program.
    """
    path = Path(path)
    prefix = _bundle_prefix(path)
    if prefix is not None:
        tensors, files = read_bundle(prefix)
        if not tensors:
            raise UserError(f"{prefix}.index tells of no variable")
        step = tensors.get("global_step")
        counts = {} if step is None or step.numel() != 1 or step.is_floating_point() else {"global_step": int(step)}
        return Container(tensors, "TensorFlow bundle", files, progress=counts)
    _refuse_others(path)
    return _from_torch(read_torch(path))


def _bundle_prefix(path: Path) -> Path | None:
    """Return the prefix of the TensorFlow checkpoint that a path means, or None if it is another file."""
    if path.is_dir():
        if (path / "checkpoint").is_file():
            return _follow(path / "checkpoint")
        found = sorted(path.glob("*.index"))
        if len(found) != 1:
            raise UserError(
                f"The folder {path} holds {len(found) or 'no'} TensorFlow checkpoints and no file 'checkpoint' that names one; "
                "give the checkpoint itself"
            )
        return found[0].with_suffix("")
    part = _PARTS_OF_BUNDLES.fullmatch(path.name)
    if part is not None and (path.with_name(f"{part['prefix']}.index").is_file() or path.suffix == ".index"):
        return path.with_name(part["prefix"])
    if not path.is_file():
        if path.name and path.with_name(f"{path.name}.index").is_file():
            return path
        raise UserError(f"There is no checkpoint {path}: neither a file nor the prefix of a TensorFlow checkpoint ({path}.index)")
    with path.open("rb") as file:
        begin = file.read(64)
    return _follow(path) if begin.startswith(b"model_checkpoint_path:") else None


def _follow(pointer: Path) -> Path:
    """Return the prefix that a file ``checkpoint`` of TensorFlow names.

    Raises:
        UserError: it names none, or one in another folder.
    """
    if pointer.stat().st_size > _LONGEST_POINTER:
        raise UserError(f"{pointer} is too long for a 'checkpoint' file of TensorFlow; give the prefix of the checkpoint itself")
    named = re.match(r'\s*model_checkpoint_path:\s*"([^"\\\0]+)"', pointer.read_text(encoding="utf-8", errors="replace"))
    if named is None:
        raise UserError(f"{pointer} names no checkpoint of TensorFlow; give the prefix of the checkpoint itself")
    prefix = pointer.parent / named[1]
    if not prefix.name or not prefix.parent.resolve().is_relative_to(pointer.parent.resolve()):
        raise UserError(
            f"{pointer} names {named[1]}, which is outside of its folder and is not followed; give the prefix of the checkpoint itself"
        )
    return prefix


def _refuse_others(path: Path) -> None:
    """Raise a UserError for what is known not to be of torch."""
    with path.open("rb") as file:
        begin = file.read(16)
    if begin[8:9] == b"{" and int.from_bytes(begin[:8], "little") < path.stat().st_size:
        raise UserError(
            f"{path} is a safetensors file, not a foreign checkpoint; a predictor of stpredict is used as it is, without an import"
        )
    if begin.startswith(b"\x89HDF\r\n\x1a\n"):
        raise UserError(f"{path} is an HDF5 file, as Keras writes, not a checkpoint of torch or of TensorFlow 1")


def _from_torch(file: TorchFile) -> Container:
    content = mapping(file.content)
    if content is None:
        name = file.content.name if isinstance(file.content, Inert) else type(file.content).__name__
        raise UserError(f"{file.path} holds a whole '{name}', not weights; save its state_dict() with torch.save")
    facts: dict[str, Any] = {}
    kind, state = "state dict", content
    if (inner := mapping(content.get("state_dict"))) is not None:
        lightning = "pytorch-lightning_version" in content or "hyper_parameters" in content
        kind, state = "Lightning checkpoint" if lightning else "training checkpoint", inner
        try:
            facts = plain_facts(content.get("hyper_parameters"))
        except ValueError as error:
            raise UserError(f"{file.path} is damaged: {error}") from None
    elif (inner := mapping(content.get("net_param"))) is not None:
        kind, state = "net_param", inner
    progress = {name: content[name] for name in _PROGRESS if type(content.get(name)) is int}
    _refuse_no_tensors(file.path, state)
    return Container(_without_prefixes(file.tensors(state)), kind, (file.path,), facts, progress)


def _refuse_no_tensors(path: Path, state: Mapping[Any, Any]) -> None:
    others = {str(name)[:200]: node for name, node in state.items() if not isinstance(name, str) or not is_tensor(node)}
    if len(others) == len(state):
        raise UserError(
            f"{path} holds no weights where they are looked for (at the top, or under 'state_dict' or 'net_param'); "
            f"its entries are: {', '.join(list(others)[:20]) or 'none'}"
        )
    if others:
        told = [f"'{name}' ({node.name if isinstance(node, Inert) else type(node).__name__})" for name, node in list(others.items())[:5]]
        raise UserError(
            f"{path}: its state dict holds {len(others)} entries that are no dense tensor: {', '.join(told)}; save it without them"
        )


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    while (prefix := next((one for one in _PREFIXES if all(name.startswith(one) for name in tensors)), None)) is not None:
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors
