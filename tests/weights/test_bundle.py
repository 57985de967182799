"""Checkpoints of TensorFlow 1, as TensorFlow wrote them and as a small writer of our own writes them."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

from stpredict.errors import UserError
from stpredict.weights.bundle import read_bundle
from stpredict.weights.crc32c import crc32c, masked

GOLDENS = Path(__file__).resolve().parents[2] / ".." / "shared" / "goldens"
needs_goldens = pytest.mark.skipif(not GOLDENS.is_dir(), reason="the golden checkpoints of other implementations are not here")

NUMBERS = {torch.float32: 1, torch.float64: 2, torch.int32: 3, torch.int64: 9, torch.bool: 10, torch.bfloat16: 14, torch.float16: 19}
TENSORS = {
    "beta1_power": torch.tensor(0.9),
    "cell/conv/bias": torch.arange(4, dtype=torch.float32),
    "cell/conv/kernel": torch.randn(5, 5, 3, 4, generator=torch.Generator().manual_seed(0)),
    "cell/half": torch.arange(6).to(torch.bfloat16).reshape(2, 3),
    "cell/nothing": torch.zeros(0, 3),
    "global_step": torch.tensor(80_000),
}


def varint(number: int) -> bytes:
    return bytes([number & 0x7F | 0x80]) + varint(number >> 7) if number > 0x7F else bytes([number])


def message(*fields: tuple[int, int | bytes]) -> bytes:
    """Write a protocol buffer; field 6 is a fixed 32-bit number."""
    parts = []
    for number, value in fields:
        if isinstance(value, int):
            parts.append(varint(number << 3) + varint(value))
        elif number == 6:
            parts.append(varint(number << 3 | 5) + value)
        else:
            parts.append(varint(number << 3 | 2) + varint(len(value)) + value)
    return b"".join(parts)


def block(entries: list[tuple[bytes, bytes]], compression: int = 0) -> bytes:
    """Write a block with its trailer, each key as what differs from the one before."""
    data, before = b"", b""
    for key, value in entries:
        shared = next((place for place, (a, b) in enumerate(zip(key, before, strict=False)) if a != b), min(len(key), len(before)))
        data += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    data += struct.pack("<II", 0, 1) + bytes([compression])
    return data + struct.pack("<I", masked(crc32c(data)))


def describe(tensor: Tensor, changed: dict[str, Any]) -> bytes:
    stored = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    shape = b"".join(message((2, message((1, size)))) for size in changed.get("shape", tensor.shape))
    told = [
        (1, changed.get("dtype", NUMBERS[tensor.dtype])),
        (2, shape),
        (3, changed["shard"]),
        (4, changed["offset"]),
    ]
    told += [
        (5, changed.get("size", len(stored))),
        (6, struct.pack("<I", changed.get("crc", masked(crc32c(stored))))),
        *changed.get("more", []),
    ]
    return message(*told)


def write(prefix: Path, shards: int = 1, header: bytes | None = None, compression: int = 0, **changes: dict[str, Any]) -> Path:
    """Write ``TENSORS`` as a bundle; ``changes`` alter what the index tells of a tensor (``_`` stands for ``/``)."""
    data = [b""] * shards
    entries = [(b"", message((1, shards), (3, message((1, 1)))) if header is None else header)]
    for number, (name, tensor) in enumerate(TENSORS.items()):
        shard = number % shards
        place = {"shard": shard, "offset": len(data[shard])}
        entries.append((name.encode(), describe(tensor, place | changes.get(name.replace("/", "_"), {}))))
        data[shard] += tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    first, second = block(entries[:3], compression), block(entries[3:], compression)
    handles = [varint(0) + varint(len(first) - 5), varint(len(first)) + varint(len(second) - 5)]
    index = block([(entries[2][0], handles[0]), (b"zz", handles[1])])
    body = first + second + block([])
    footer = varint(len(first) + len(second)) + varint(8) + varint(len(body)) + varint(len(index) - 5)
    table = body + index + footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    prefix.with_name(f"{prefix.name}.index").write_bytes(table)
    for shard, stored in enumerate(data):
        prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{shards:05d}").write_bytes(stored)
    return prefix


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape, name
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("shards", [1, 2, 7])
def test_what_was_written(tmp_path: Path, shards: int) -> None:
    found, files = read_bundle(write(tmp_path / "model.ckpt-80000", shards))
    assert_equal(found, TENSORS)
    assert [file.name for file in files[:2]] == ["model.ckpt-80000.index", f"model.ckpt-80000.data-00000-of-{shards:05d}"]
    assert len(files) == shards + 1


@needs_goldens
@pytest.mark.parametrize("case", ["tf_e3d", "tf_predrnnpp"])
def test_what_tensorflow_wrote(case: str) -> None:
    meta = json.loads((GOLDENS / case / "meta.json").read_text())
    found, files = read_bundle(GOLDENS / case / meta["checkpoint"])
    assert len(found) == meta["variables"]
    # The data file is the tensors in order of their names: nothing between them, nothing left over.
    assert b"".join(tensor.numpy().tobytes() for tensor in found.values()) == files[1].read_bytes()
    weights = {name: tensor for name, tensor in found.items() if name.endswith(("kernel", "gamma")) and name.startswith(meta["key_prefix"])}
    assert len(weights) > 10 and all(0 < float(tensor.abs().max()) < 10 for tensor in weights.values())
    if case == "tf_e3d":
        assert found["generator/e3d-lstm/e3d0/conv3d/kernel"].shape == (2, 5, 5, 6, 24)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"header": b""}, r"does not tell how many data files"),
        ({"header": message((1, 1), (2, 1))}, r"big-endian"),
        ({"header": message((1, 2))}, r"data-00000-of-00002 is missing"),
        ({"compression": 1}, r"index is compressed \(with Snappy\)"),
        ({"global_step": {"dtype": 7}}, r"'global_step' holds no plain numbers \(type 7"),
        ({"global_step": {"dtype": 1}}, r"'global_step' of shape \(\) cannot take 8 bytes"),
        ({"global_step": {"shape": (2,)}}, r"'global_step' of shape \(2,\) cannot take 8 bytes"),
        ({"cell_nothing": {"shape": (0, 2**62, 2**62)}}, r"cannot take 0 bytes"),
        ({"cell_conv_kernel": {"shape": (2**40, 2**40)}}, r"cannot take 1200 bytes"),
        ({"cell_conv_kernel": {"shape": (2**38,), "size": 2**40}}, r"data-00000-of-00001 is cut off: the .index file tells of 1\d+ bytes"),
        ({"global_step": {"offset": 10**9}}, r"data-00000-of-00001 is cut off: .* of 1000000008 bytes, \d+ are there"),
        ({"global_step": {"offset": 2**64 - 1}}, r"a number in it is none"),
        ({"global_step": {"shard": 3}}, r"'global_step' is in data file 3 of 1"),
        ({"global_step": {"crc": 5}}, r"damaged: the checksum of 'global_step' does not fit"),
        ({"global_step": {"more": [(7, b"")]}}, r"'global_step' is partitioned"),
    ],
    ids=str,
)
def test_an_index_that_does_not_fit(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=rf"model.ckpt-8.*{sentence}"):
        read_bundle(write(tmp_path / "model.ckpt-8", **changes))


def test_tensors_that_share_their_bytes_take_no_more_memory_than_there_are(tmp_path: Path) -> None:
    kernel = TENSORS["cell/conv/kernel"]
    twice = {"shape": kernel.shape, "offset": 20, "size": 1200, "dtype": 1}
    with pytest.raises(UserError, match=r"is too small for what the .index file tells"):
        read_bundle(write(tmp_path / "model.ckpt-8", beta1_power=twice))


def test_object_graphs_are_of_tensorflow_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TENSORS, "_CHECKPOINTABLE_OBJECT_GRAPH", torch.tensor(1.0))
    with pytest.raises(UserError, match=r"is of TensorFlow 2"):
        read_bundle(write(tmp_path / "model.ckpt-8"))


@pytest.mark.parametrize("missing", ["index", "data-00001-of-00002"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    prefix = write(tmp_path / "model.ckpt-8", 2)
    (tmp_path / f"model.ckpt-8.{missing}").unlink()
    with pytest.raises(UserError, match=rf"model.ckpt-8.{missing} is missing"):
        read_bundle(prefix)


def test_a_data_file_that_is_cut_off(tmp_path: Path) -> None:
    prefix = write(tmp_path / "model.ckpt-8")
    data = tmp_path / "model.ckpt-8.data-00000-of-00001"
    for left in (len(data.read_bytes()) - 1, 0):
        data.write_bytes(data.read_bytes()[:left])
        with pytest.raises(UserError, match=rf"{data.name} is cut off: the .index file tells of 1240 bytes, {left} are there"):
            read_bundle(prefix)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draw=st.data())
def test_damage_anywhere(tmp_path: Path, draw: st.DataObject) -> None:
    prefix = write(tmp_path / "model.ckpt-8")
    path = tmp_path / f"model.ckpt-8.{draw.draw(st.sampled_from(['index', 'data-00000-of-00001']))}"
    data = bytearray(path.read_bytes())
    if draw.draw(st.booleans()):
        data[draw.draw(st.integers(0, len(data) - 1))] ^= 1 << draw.draw(st.integers(0, 7))
    else:
        del data[draw.draw(st.integers(0, len(data) - 1)) :]
    path.write_bytes(data)
    try:
        found, _ = read_bundle(prefix)
    except UserError as error:
        assert str(prefix) in str(error)
    else:
        assert_equal(found, TENSORS)


@needs_goldens
def test_damaged_copies_of_what_tensorflow_wrote(tmp_path: Path) -> None:
    for file in (GOLDENS / "tf_predrnnpp").glob("model.ckpt-80000*"):
        shutil.copyfile(file, tmp_path / file.name)
    index = tmp_path / "model.ckpt-80000.index"
    whole = index.read_bytes()
    places = np.random.default_rng(0).integers(0, len(whole) - 100, 20)
    for place in places:
        index.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(UserError, match=r"index is damaged or no index of a TensorFlow checkpoint: a checksum does not fit"):
            read_bundle(tmp_path / "model.ckpt-80000")
    index.write_bytes(whole)
    data = tmp_path / "model.ckpt-80000.data-00000-of-00001"
    stored = bytearray(data.read_bytes())
    stored[500_000] ^= 1
    data.write_bytes(stored)
    with pytest.raises(UserError, match=r"data-00000-of-00001 is damaged: the checksum of 'predrnn_pp"):
        read_bundle(tmp_path / "model.ckpt-80000")
