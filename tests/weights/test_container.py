"""Foreign checkpoints of every kind: told apart, read as their own libraries read them, or refused with a sentence."""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
import shutil
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from stpredict.errors import UserError
from stpredict.weights.container import read_container

GOLDENS = Path(__file__).resolve().parents[2] / ".." / "shared" / "goldens"
needs_goldens = pytest.mark.skipif(not GOLDENS.is_dir(), reason="the golden checkpoints of other implementations are not here")
CASES = sorted(path.parent.name for path in GOLDENS.glob("*/meta.json"))
TORCH_CASES = [case for case in CASES if not case.startswith("tf_")]
STATE = {"cell.weight": torch.arange(6.0).reshape(2, 3), "cell.bias": torch.ones(2)}


class _Known(pickle.Unpickler):
    """Imports nothing but what one of the files is known to hold, which torch's own restricted reader cannot take."""

    def find_class(self, module: str, name: str) -> Any:
        known = {"dict", "getattr", "OrderedDict", "defaultdict", "_rebuild_tensor_v2", "_rebuild_parameter", "Adam", "OneCycleLR"}
        assert name in known, f"{module}.{name}"
        return super().find_class(module, name)


def by_torch(path: Path) -> dict[str, Any]:
    """Return what torch itself reads, with the few names that these files are known to hold."""
    if path.name == "latest.pth":
        known = types.SimpleNamespace(__name__="pickle", Unpickler=_Known, load=pickle.load)
        return dict(torch.load(path, map_location="cpu", weights_only=False, pickle_module=known))
    reconstruct = np.zeros(1).__reduce__()[0]
    arrays = [np.ndarray, np.dtype, *(type(np.dtype(kind)) for kind in ("f4", "f8", "i8"))]
    names = [(reconstruct, "numpy.core.multiarray._reconstruct"), (reconstruct, "numpy._core.multiarray._reconstruct")]
    with torch.serialization.safe_globals([getattr, torch.optim.lr_scheduler.OneCycleLR, *arrays, *names]):
        return dict(torch.load(path, map_location="cpu", weights_only=True))


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


@needs_goldens
@pytest.mark.parametrize("case", TORCH_CASES)
def test_golden_checkpoints(case: str) -> None:
    meta = json.loads((GOLDENS / case / "meta.json").read_text())
    path = GOLDENS / case / meta["checkpoint"]
    found = read_container(path)
    content = by_torch(path)
    state = content.get("state_dict", content.get("net_param", content))
    assert_equal(found.tensors, {name.removeprefix("module.").removeprefix("model."): tensor for name, tensor in state.items()})
    assert len(found.tensors) == meta.get("tensors", len(state))
    kinds = {"Lightning": "Lightning checkpoint", "dict with the single": "net_param", "dict: epoch": "training checkpoint"}
    wanted = next((kind for words, kind in kinds.items() if meta["container"].startswith(words)), "state dict")
    assert found.kind == wanted
    assert found.progress == {name: content[name] for name in ("epoch", "global_step") if type(content.get(name)) is int}
    hyper_parameters = dict(content.get("hyper_parameters", {}))
    assert list(found.facts) == list(hyper_parameters)
    for name, value in hyper_parameters.items():
        np.testing.assert_array_equal(found.facts[name], value, strict=isinstance(value, np.ndarray))
    assert {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in found.files} == meta["sha256"]


@needs_goldens
@pytest.mark.parametrize("case", ["tf_e3d", "tf_predrnnpp"])
def test_golden_bundles(case: str, tmp_path: Path) -> None:
    meta = json.loads((GOLDENS / case / "meta.json").read_text())
    folder = GOLDENS / case
    first = read_container(folder / meta["checkpoint"])
    assert first.kind == "TensorFlow bundle" and len(first.tensors) == meta["variables"] and first.facts == {}
    assert all(meta["sha256"][file.name] == hashlib.sha256(file.read_bytes()).hexdigest() for file in first.files)
    for way in (folder, folder / "checkpoint", folder / "model.ckpt-80000.index", folder / "model.ckpt-80000.data-00000-of-00001"):
        assert_equal(read_container(way).tensors, first.tensors)
    for file in first.files:
        shutil.copyfile(file, tmp_path / file.name)
    assert_equal(read_container(tmp_path).tensors, first.tensors)  # without the file 'checkpoint'


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("content", "kind", "progress"),
    [
        (STATE, "state dict", {}),
        ({"net_param": STATE}, "net_param", {}),
        ({"epoch": 3, "state_dict": STATE, "optimizer": {"state": {0: {"step": 1}}}}, "training checkpoint", {"epoch": 3}),
        (
            {"epoch": 3, "global_step": 40, "pytorch-lightning_version": "1.9", "state_dict": STATE, "hyper_parameters": {"lr": 0.5}},
            "Lightning checkpoint",
            {"epoch": 3, "global_step": 40},
        ),
    ],
)
def test_kinds(tmp_path: Path, content: Any, kind: str, progress: dict[str, int], zipped: bool) -> None:
    path = tmp_path / "model.ckpt-80000"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    found = read_container(str(path))
    assert_equal(found.tensors, STATE)
    assert (found.kind, found.progress, found.files) == (kind, progress, (path,))
    assert found.facts == ({"lr": 0.5} if kind == "Lightning checkpoint" else {})


def test_facts_in_a_namespace_and_what_is_left_out(tmp_path: Path) -> None:
    told = argparse.Namespace(lr=0.5, hidden=[8, 8], mean=np.ones((1, 2), np.float32), kind=nn.Conv2d)
    torch.save({"state_dict": STATE, "hyper_parameters": told}, tmp_path / "best.ckpt")
    facts = read_container(tmp_path / "best.ckpt").facts
    assert {name: facts[name] for name in ("lr", "hidden")} == {"lr": 0.5, "hidden": [8, 8]}
    np.testing.assert_array_equal(facts["mean"], np.ones((1, 2), np.float32), strict=True)
    assert "kind" not in facts


@pytest.mark.parametrize(
    ("prefix", "left"), [("module.", ""), ("model.module.", ""), ("module._orig_mod.model.", ""), ("net.", "net."), ("amodel.", "amodel.")]
)
def test_prefixes(tmp_path: Path, prefix: str, left: str) -> None:
    torch.save({f"{prefix}{name}": tensor for name, tensor in STATE.items()}, tmp_path / "net.pth")
    assert_equal(read_container(tmp_path / "net.pth").tensors, {f"{left}{name}": tensor for name, tensor in STATE.items()})


def test_a_prefix_of_some_names_stays(tmp_path: Path) -> None:
    torch.save(STATE | {"model.x": torch.ones(1)}, tmp_path / "net.pth")
    assert list(read_container(tmp_path / "net.pth").tensors) == [*STATE, "model.x"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({}, r"holds no weights .* its entries are: none"),
        ({"net": STATE, "epoch": 3}, r"holds no weights .* its entries are: net, epoch"),
        ([torch.ones(1)], r"holds a whole 'list', not weights"),
        (torch.ones(1), r"holds a whole 'torch._utils._rebuild_tensor_v2', not weights"),
        (nn.Linear(2, 2), r"holds a whole 'torch.nn.modules.linear.Linear', not weights; save its state_dict\(\)"),
        (STATE | {"extra": 3, "more": "x"}, r"2 entries that are no dense tensor: 'extra' \(int\), 'more' \(str\)"),
        ({"state_dict": STATE | {"a": torch.eye(2).to_sparse()}}, r"1 entries .*'a' \(torch._utils._rebuild_sparse_tensor\)"),
        (STATE | {5: torch.ones(1)}, r"1 entries that are no dense tensor: '5'"),
        ({"state_dict": {}}, r"holds no weights"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_holds_no_weights(tmp_path: Path, content: Any, sentence: str) -> None:
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(UserError, match=rf"net.pth.*{sentence}"):
        read_container(tmp_path / "net.pth")


def test_a_quantised_tensor_is_named(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # quantisation is on its way out
        torch.save({**STATE, "a": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}, tmp_path / "net.pth")
    with pytest.raises(UserError, match=r"'a' \(torch._utils._rebuild_qtensor\)"):
        read_container(tmp_path / "net.pth")


def test_other_files(tmp_path: Path) -> None:
    import h5py

    save_file(STATE, tmp_path / "net.safetensors")
    with h5py.File(tmp_path / "net.h5", "w") as file:
        file["a"] = 1
    np.savez(tmp_path / "net.npz", a=np.ones(2))
    (tmp_path / "net.txt").write_text("weights")
    (tmp_path / "net.meta").write_text("graph")
    for name, sentence in {
        "net.safetensors": "is a safetensors file, not a foreign checkpoint",
        "net.h5": "is an HDF5 file, as Keras writes",
        "net.npz": "such as numpy and Keras write",
        "net.txt": "is damaged or no torch checkpoint",
        "net.meta": "is damaged or no torch checkpoint",
        "nothing": "neither a file nor the prefix of a TensorFlow checkpoint",
        "net.index": r"net.index is missing",
    }.items():
        with pytest.raises(UserError, match=rf"{tmp_path.name}/{name}.*{sentence}|{sentence}"):
            read_container(tmp_path / name)


def test_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no TensorFlow checkpoints"):
        read_container(tmp_path)
    for name in ("a.index", "b.index"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"holds 2 TensorFlow checkpoints"):
        read_container(tmp_path)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "b"\n')
    with pytest.raises(UserError, match=r"b.index is damaged"):
        read_container(tmp_path)


@pytest.mark.parametrize("told", ["../outside", "/outside", "{parent}/outside", "a/../../outside", "link/outside", "..", "."])
def test_a_path_in_a_file_is_not_followed_out_of_its_folder(tmp_path: Path, told: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link").symlink_to(tmp_path)
    told = told.format(parent=tmp_path)
    (tmp_path / "outside.index").write_bytes(b"")
    (inside / "checkpoint").write_text(f'model_checkpoint_path: "{told}"\nall_model_checkpoint_paths: "x"\n')
    for way in (inside, inside / "checkpoint"):
        with pytest.raises(UserError, match=r"outside of its folder and is not followed|\.index is missing"):
            read_container(way)


@pytest.mark.parametrize("text", ["", "model_checkpoint_path: b", 'model_checkpoint_path: ""', "model_checkpoint_path:" + " " * (2 << 20)])
def test_a_checkpoint_file_that_names_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "checkpoint").write_text(text)
    with pytest.raises(UserError, match=r"checkpoint (names no checkpoint|is too long)"):
        read_container(tmp_path)
