"""Files are written whole or not at all; shipped configs and cards are found by name."""

import hashlib
import json
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch

from stpredict import files
from stpredict.errors import UserError


def test_a_body_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"), files.whole_file(path) as temporary:
        temporary.write_text("half of the n")
        raise OSError("disk full")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_new_file_is_flushed_before_it_takes_the_old_ones_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor: int) -> None:
        events.append("flush folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "flush file")
        fsync(descriptor)

    def note_replace(source: Path, target: Path) -> None:
        events.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    files.write_text(tmp_path / "a.txt", "grüße")
    assert events == ["flush file", "rename", "flush folder"]
    assert (tmp_path / "a.txt").read_bytes() == "grüße".encode()
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_the_temporary_file_lies_in_the_same_folder_and_keeps_the_suffix(tmp_path: Path) -> None:
    with files.whole_file(tmp_path / "film.mp4") as temporary:
        assert temporary.parent == tmp_path and temporary.suffix == ".mp4" and temporary.name != "film.mp4"
        temporary.write_bytes(b"1")


def tensors() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    transposed = torch.rand(3, 5, generator=draw).t()
    return {
        "b": torch.rand(2, 3, generator=draw, dtype=torch.float64),
        'ä "quoted"': transposed,
        "a": torch.rand(7, generator=draw, requires_grad=True),
        "scalar": torch.tensor(2.5, dtype=torch.bfloat16),
        "empty": torch.empty(0, 4, dtype=torch.bfloat16),
        "flags": torch.tensor([True, False, True]),
    }


def test_tensors_are_written_byte_for_byte_as_the_formats_library_writes_them(tmp_path: Path) -> None:
    header = {"stpredict": json.dumps({"units": "°C", "text": 'a "b" \\ \n'}, ensure_ascii=False)}
    files.write_tensors(tmp_path / "own.safetensors", tensors(), header)
    plain = {name: tensor.detach().contiguous() for name, tensor in tensors().items()}
    assert (tmp_path / "own.safetensors").read_bytes() == safetensors.torch.save(plain, header)


def test_every_type_is_named_as_the_formats_library_names_it() -> None:
    by_library = {str(kind): name for name, kind in safetensors.torch._TYPES.items()}
    assert files._TYPES.items() <= by_library.items()


def test_one_memory_with_two_names_is_written_twice(tmp_path: Path) -> None:
    weight = torch.rand(4, 3)
    files.write_tensors(tmp_path / "tied.safetensors", {"first": weight, "second": weight, "part": weight[1:, ::2]}, {})
    again = safetensors.torch.load_file(tmp_path / "tied.safetensors")
    assert torch.equal(again["first"], weight) and torch.equal(again["second"], weight) and torch.equal(again["part"], weight[1:, ::2])


def test_the_checksum_is_of_all_bytes_before_it(tmp_path: Path) -> None:
    path = tmp_path / "sure.safetensors"
    files.write_tensors(path, tensors(), {}, checksum=True)
    whole = path.read_bytes()
    assert (
        safetensors.torch.load_file(path)["checksum"].numpy().tobytes()
        == whole[-16:]
        == hashlib.blake2b(whole[:-16], digest_size=16).digest()
    )
    assert files.checksum_fits(path)
    for damaged in (b"", whole[-16:], whole[:-1], whole + b"\0", b"\0" + whole, whole[:-1] + bytes([whole[-1] ^ 1])):
        path.write_bytes(damaged)
        assert not files.checksum_fits(path)


def test_a_path_to_a_yaml_file_goes_before_a_shipped_name(tmp_path: Path) -> None:
    mine = tmp_path / "demo.yaml"
    mine.write_text("seed: 1\n")
    assert files.find_yaml("configs", mine) == mine


def test_shipped_files_are_found_by_name_and_a_misspelt_name_is_told_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs" / "moving_mnist").mkdir(parents=True)
    (tmp_path / "configs" / "moving_mnist" / "predrnn.yaml").write_text("seed: 0\n")
    monkeypatch.setattr(files, "shipped_folder", lambda kind: tmp_path / kind)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    expected = tmp_path / "configs" / "moving_mnist" / "predrnn.yaml"
    for name in ("moving_mnist/predrnn", "moving_mnist/predrnn.yaml", "configs/moving_mnist/predrnn.yaml"):
        assert files.find_yaml("configs", name) == expected
    with pytest.raises(UserError, match=r"no config 'moving_mnist/predrn'.*did you mean 'moving_mnist/predrnn'"):
        files.find_yaml("configs", "moving_mnist/predrn")
