"""Files are written whole or not at all; shipped configs and cards are found by name."""

import os
from pathlib import Path

import pytest

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
