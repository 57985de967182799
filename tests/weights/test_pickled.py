"""Files of torch.save: the same tensors as torch reads, and a sentence for everything that is wrong with a file."""

from __future__ import annotations

import io
import os
import pickle
import re
import subprocess
import sys
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

from stpredict.errors import UserError
from stpredict.weights.pickled import is_tensor, read_torch

ROWS = torch.arange(24, dtype=torch.float32).reshape(4, 6)
KINDS = {
    **{str(dtype): (torch.arange(6) - 2).to(dtype) for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32)},
    **{str(dtype): torch.arange(6).to(dtype) for dtype in (torch.int16, torch.int8, torch.uint8, torch.complex64, torch.complex128)},
    "new kinds": torch.arange(6).to(torch.uint16),
    "bool": torch.tensor([True, False, True]),
    "no axis": torch.tensor(2.5),
    "empty": torch.zeros(0),
    "empty axes": torch.zeros(3, 0, 2),
    "whole": ROWS,
    "transposed": ROWS.T,
    "part": ROWS[1:3, ::2],
    "last": ROWS[3, 5],
    "parameter": torch.nn.Parameter(ROWS + 1),
    "many axes": ROWS.view(1, 2, 1, 2, 3, 1, 2),
}


def read(path: Path) -> dict[str, Tensor]:
    file = read_torch(path)
    return file.tensors({name: node for name, node in file.content.items() if is_tensor(node)})


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape, name
        assert torch.equal(found[name], tensor), name


def entries(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


@pytest.fixture
def small(tmp_path: Path) -> Path:
    torch.save({"a": ROWS, "b": ROWS[1:]}, tmp_path / "net.pth")
    return tmp_path / "net.pth"


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_saved(tmp_path: Path, zipped: bool, protocol: int) -> None:
    path = tmp_path / "net.pth"
    expected = {name: value for name, value in KINDS.items() if zipped or name != "new kinds"}  # the older format has no such dtypes
    state = OrderedDict(expected)
    state._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]  # as Module.state_dict adds it
    torch.save(state, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read(path)
    assert_equal(found, expected)
    if protocol == 2:  # what torch reads without unpickling
        assert_equal(found, {name: value.detach() for name, value in torch.load(path, weights_only=True).items()})
    assert found["transposed"].stride() == ROWS.T.stride()
    assert found["whole"].untyped_storage().data_ptr() == found["part"].untyped_storage().data_ptr()
    assert not found["parameter"].requires_grad
    path.write_bytes(b"")
    assert_equal(found, expected)  # they do not lie in the file


def test_storages_on_a_device_that_is_not_here(small: Path) -> None:
    files = entries(small)
    files["net/data.pkl"] = files["net/data.pkl"].replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
    assert_equal(read(write(small, files)), {"a": ROWS, "b": ROWS[1:]})


class Attack:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.target}",)


class Opening(Attack):
    def __reduce__(self) -> Any:
        return open, (str(self.target), "w")


@pytest.mark.parametrize("attack", [Attack, Opening])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_would_run_a_program(tmp_path: Path, attack: type[Attack], zipped: bool) -> None:
    target, path = tmp_path / "ran", tmp_path / "net.pth"
    torch.save({"a": ROWS, "b": attack(target)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"net.pth is refused, and nothing of it was run.*'(posix.system|io.open|_io.open)'"):
        read(path)
    assert not target.exists()
    torch.load(path, weights_only=False)
    assert target.exists(), "the file is not what it should be"


def test_a_plain_pickle(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    path.write_bytes(pickle.dumps({"a": [1.0]}, 2))
    with pytest.raises(UserError, match=r"net.pth is a pickle, but not of torch.save"):
        read(path)
    path.write_bytes(pickle.dumps(Attack(tmp_path / "ran"), 2))
    with pytest.raises(UserError, match=r"nothing of it was run"):
        read(path)


def test_nothing_is_imported(tmp_path: Path) -> None:
    (tmp_path / "spying.py").write_text("class Net: pass\nprint('imported')\n")
    program = (
        "import torch, sys; sys.path.insert(0, '.'); import spying; spying.Net.__module__ = 'spying';"
        "torch.save({'a': torch.ones(2), 'b': spying.Net()}, 'net.pth')"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True)
    program = (
        "import sys; sys.path.insert(0, '.'); from pathlib import Path; from stpredict.weights.pickled import read_torch;"
        "f = read_torch(Path('net.pth')); print(f.content['b'].name, 'spying' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["spying.Net", "False"]


@pytest.mark.parametrize("zipped", [True, False])
def test_what_is_no_dense_tensor(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "net.pth"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # quantisation is on its way out
        quantised = torch.quantize_per_tensor(ROWS, 0.1, 0, torch.qint8)
        sparse = ROWS.to_sparse()
        torch.save({"sparse": sparse, "meta": torch.zeros(2, device="meta"), "number": 1, "dense": ROWS}, path)
        assert list(read(path)) == ["dense"]
        torch.save({"quantised": quantised, "dense": ROWS}, path, _use_new_zipfile_serialization=zipped)
    if zipped:
        assert list(read(path)) == ["dense"]
    else:
        with pytest.raises(UserError, match=r"net.pth holds a QInt8Storage, which is not read"):
            read(path)


def test_a_conjugated_tensor(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2, dtype=torch.complex64).conj()}, tmp_path / "net.pth")
    with pytest.raises(UserError, match=r"the tensor 'a' .* conjugated"):
        read(tmp_path / "net.pth")


def replaced(old: bytes, new: bytes) -> Any:
    def change(files: dict[str, bytes]) -> None:
        assert old in files["net/data.pkl"]
        files["net/data.pkl"] = files["net/data.pkl"].replace(old, new)

    return change


def without(name: str) -> Any:
    return lambda files: files.pop(name)


def with_entry(name: str, data: bytes) -> Any:
    return lambda files: files.update({name: data})


SHAPE, STRIDE = b"K\x04K\x06\x86", b"K\x06K\x01\x86"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replaced(SHAPE, b"K\x05K\x06\x86"), r"tensor 'a' of shape \(5, 6\) does not fit its memory of 24 elements"),
        (replaced(SHAPE, b"K\x04K\x07\x86"), r"does not fit its memory"),
        (replaced(SHAPE, b"J\xff\xff\xff\xffK\x06\x86"), r"a shape, stride or offset in it is none"),
        (replaced(SHAPE, b"K\x00\x8a\x08" + b"\xff" * 7 + b"\x00\x86"), r"a shape, stride or offset in it is none"),
        (replaced(SHAPE, b"K\x04\x85"), r"does not fit its memory"),
        (replaced(STRIDE, b"K\x07K\x01\x86"), r"tensor 'a' of shape \(4, 6\) reaches beyond its memory of 24 elements"),
        (replaced(SHAPE + b"q\x08" + STRIDE, b"J\xff\xff\xff\x7fK\x06\x86q\x08K\x00K\x00\x86"), r"does not fit its memory"),
        (replaced(b"K\x18", b"K\x19"), r"the memory '0' has 96 bytes, not the 100"),
        (replaced(b"K\x18", b"J\xff\xff\xff\x7f"), r"has 96 bytes, not the"),
        (replaced(b"FloatStorage", b"DoubleStorage"), r"has 96 bytes, not the 192"),
        (replaced(b"FloatStorage", b"QInt8Storage"), r"QInt8Storage\) is quantised"),
        (replaced(b"torch\nFloatStorage", b"other\nFloatStorage"), r"of an unknown kind"),
        (replaced(b"storage", b"storeys"), r"in an unknown way"),
        (without("net/data/0"), r"lacks the memory '0'"),
        (without("net/data.pkl"), r"without the 'data.pkl' of torch"),
        (with_entry("net/data/0", bytes(95)), r"has 95 bytes, not the 96"),
        (with_entry("net/byteorder", b"big"), r"saved on a big-endian machine"),
        (with_entry("net/code/net.py", b""), r"is a TorchScript program"),
        (with_entry("other/data.pkl", b""), r"without the 'data.pkl' of torch"),
        (with_entry("../../evil", b""), r"'../../evil' is there twice, or has a name that leads out"),
        (with_entry("/evil", b""), r"leads out"),
        (with_entry("net/data.pkl", b"N" * (65 << 20)), r"longer than 64 MiB"),
        (with_entry("net/data.pkl", b"N." * 1), r"NoneType"),
    ],
)
def test_a_zip_that_does_not_fit_together(small: Path, change: Any, message: str) -> None:
    files = entries(small)
    change(files)
    write(small, files)
    if message == "NoneType":
        assert read_torch(small).content is None
        return
    with pytest.raises(UserError, match=rf"net.pth.*{message}"):
        read(small)


def test_a_zip_bomb(small: Path) -> None:
    files = {**entries(small), "net/data/1": bytes(50 << 20)}
    write(small, files, zipfile.ZIP_DEFLATED)
    assert small.stat().st_size < 1 << 20
    with pytest.raises(UserError, match=r"net.pth is damaged or no torch checkpoint: its entry 'net/data.pkl' is compressed"):
        read(small)


def test_entries_that_share_their_bytes(small: Path) -> None:
    data = bytearray(small.read_bytes())
    offsets = [match.start() for match in re.finditer(b"PK\x01\x02", data)]
    with zipfile.ZipFile(small) as archive:
        places = [entry.header_offset for entry in archive.infolist()]
    data[offsets[1] + 42 : offsets[1] + 46] = places[0].to_bytes(4, "little")
    small.write_bytes(data)
    with pytest.raises(UserError, match=r"its entries overlap"):
        read(small)


def test_two_entries_of_one_name(small: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(small, "a") as archive:
            archive.writestr("net/data/0", bytes(96))
    with pytest.raises(UserError, match=r"is there twice"):
        read(small)


def test_a_flipped_bit_in_the_weights(small: Path) -> None:
    data = bytearray(small.read_bytes())
    data[data.index(ROWS.numpy().tobytes()) + 50] ^= 1
    small.write_bytes(data)
    with pytest.raises(UserError, match=r"net.pth is damaged or no torch checkpoint: a checksum does not fit"):
        read(small)


def test_a_zip_that_is_cut_off(small: Path) -> None:
    small.write_bytes(small.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"net.pth is damaged .* it may not have been copied whole"):
        read(small)


def legacy(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"K\x18N", b"J\xff\xff\xff\x7fN", r"not of the size that it should have"),
        (b"little_endianq\x02\x88", b"little_endianq\x02\x89", r"saved on a big-endian machine"),
        (b"FloatStorage", b"QInt8Storage", r"holds a QInt8Storage"),
        (b"M\xe9\x03", b"M\xe8\x03", r"unknown version"),
        (SHAPE, b"K\x04K\x07\x86", r"does not fit its memory"),
        (ROWS.numpy().tobytes(), ROWS.numpy().tobytes()[:-1], r"is cut off: \d+ bytes are told, \d+ are there"),
        (b"\x18" + bytes(7) + ROWS.numpy().tobytes(), b"", r"is cut off, or not of the size"),
        (b"l\xfc\x9cF\xf9", b"l\xfc\x9cF\xf8", r"a pickle, but not of torch.save"),
    ],
)
def test_an_old_file_that_does_not_fit_together(tmp_path: Path, old: bytes, new: bytes, message: str) -> None:
    path = tmp_path / "net.pth"
    data = legacy({"a": ROWS})
    assert old in data
    path.write_bytes(data.replace(old, new))
    with pytest.raises(UserError, match=rf"net.pth.*{message}"):
        read(path)


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x03\x04", b"\x80", b"text", bytes(1000)])
def test_what_is_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "net.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"net.pth is damaged or no torch checkpoint: "):
        read(path)


@pytest.mark.parametrize("zipped", [True, False])
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draw=st.data())
def test_damage_anywhere(tmp_path: Path, zipped: bool, draw: st.DataObject) -> None:
    path = tmp_path / "net.pth"
    torch.save({"a": ROWS, "b": ROWS[1:], "epoch": 3}, path, _use_new_zipfile_serialization=zipped)
    data = bytearray(path.read_bytes())
    if draw.draw(st.booleans()):
        position = draw.draw(st.integers(0, len(data) - 1))
        data[position] = draw.draw(st.integers(0, 255))
    else:
        del data[draw.draw(st.integers(0, len(data) - 1)) :]
    path.write_bytes(data)
    try:
        file = read_torch(path)
        found = file.tensors({name: node for name, node in file.content.items() if is_tensor(node)}) if type(file.content) is dict else {}
    except UserError as error:
        assert str(path) in str(error)
        return
    if zipped:  # every byte that counts has a checksum
        assert all(torch.equal(found[name], tensor) for name, tensor in {"a": ROWS, "b": ROWS[1:]}.items())
    assert all(tensor.numel() <= 24 and len(tensor.flatten().tolist()) == tensor.numel() for tensor in found.values())
