"""Cards that join data sets, and cards that say what is known: from files to a training step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from stpredict.data import load_data
from stpredict.data.checking import check_data, describe
from stpredict.data.storing import prepare_archive
from stpredict.errors import UserError
from stpredict.processes import Processes
from stpredict.training import make_settings, train
from stpredict.training.rehearsal import rehearse
from stpredict.training.work import make_work

SPLITS = {"by": "time", "fractions": {"train": 0.5, "test": 0.5}}
NETWORK = {"name": "convlstm", "hidden": [4], "kernel_size": 3, "patch_size": 2}
DEAF = """
from stpredict.networks.convlstm import ConvLSTM

class Deaf(ConvLSTM):
    def __init__(self, channels: int, hidden: list[int]) -> None:
        super().__init__(channels=channels, hidden=hidden, kernel_size=3, patch_size=1)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two archives: one of floats, one of bytes that are tenths; 20 frames of 8 x 10 and of 12 x 10 pixels."""
    for name, height in (("floats", 8), ("bytes", 12)):
        (tmp_path / name).mkdir()
        film = np.arange(20 * height * 10).reshape(20, height, 10) % 200
        np.save(tmp_path / name / "film.npy", film.astype(np.float32) / 10 if name == "floats" else film.astype(np.uint8))
        card: dict[str, Any] = {"reader": "arrays", "settings": {"axes": "THW"}, "splits": SPLITS, "window": {"context": 2, "horizon": 2}}
        if name == "bytes":
            card["settings"]["scale"] = 0.1
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(card, sort_keys=False))
    return tmp_path


def joined(root: Path, **changes: Any) -> Path:
    sources = [
        {"card": str(root / "floats.yaml"), "root": "floats", "splits": {"train": "train", "validation": "test"}},
        {"card": str(root / "bytes.yaml"), "root": "bytes", "crop": [2, 0, 8, 10], "splits": {"train": "train"}},
    ]
    path = root / "joined.yaml"
    card = {"sources": sources, "frames": {"transform": {"high": 20.0}}, "window": {"context": 3, "horizon": 1}}
    path.write_text(yaml.safe_dump({**card, **changes}, sort_keys=False))
    return path


def test_the_whole_has_the_clips_of_its_sources(root: Path) -> None:
    whole = load_data(joined(root), root, split="train")
    floats = load_data(root / "floats.yaml", root / "floats", context=3, horizon=1)
    tenths = load_data(root / "bytes.yaml", root / "bytes", context=3, horizon=1, crop=[2, 0, 8, 10])
    assert len(whole) == len(floats) + len(tenths) == 14 and whole.spec.shape == (1, 8, 10) and whole.spec.transform.high == 20.0
    np.testing.assert_array_equal(whole[0].frames, floats[0].frames)
    np.testing.assert_allclose(whole[7].frames, tenths[0].frames * np.float32(0.1), rtol=1e-6)
    assert len(load_data(joined(root), root, split="validation")) == len(
        load_data(root / "floats.yaml", root / "floats", "test", context=3, horizon=1)
    )
    with pytest.raises(UserError, match="No source of 'joined' has a part in the split 'test'"):
        load_data(joined(root), root, split="test")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sources": [{"card": "knmi", "root": "../elsewhere", "splits": {"train": "train"}}]}, "outside of the folder"),
        ({"sources": [{"card": "moving_digits", "splits": {"train": "train"}}]}, "'moving_digits' has none"),
        ({"splits": SPLITS}, "has no splits"),
        ({"reader": "arrays"}, "either a 'reader' or 'clips' or 'sources'"),
    ],
)
def test_cards_that_cannot_be(root: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        load_data(joined(root, **changes), root)


def test_a_check_reads_all_that_a_card_joins(root: Path) -> None:
    path = joined(root)
    report = check_data(path, root)
    assert report.ok and (report.films, report.frames, report.clips) == (2, 40, {"train": 14, "validation": 3})
    assert str(report).splitlines() == [
        "joined: all is well",
        "  2 film(s), 40 frames, 0 gap(s) in time",
        "  split train: 14 clips",
        "  split validation: 3 clips",
    ]
    said = describe(path)
    assert f"joins:      {root / 'floats.yaml'} in floats (train train, validation test); " in said and "crop [2, 0, 8, 10]" in said
    assert "splits:     train, validation" in said and "made by" not in said
    film = np.load(root / "floats" / "film.npy")
    film[19, 0, 0] = np.nan
    np.save(root / "floats" / "film.npy", film)
    damaged = check_data(path, root)
    assert not damaged.ok and len(damaged.problems) == 1 and "film.npy" in damaged.problems[0]
    with pytest.raises(UserError, match="'joined' needs the folder of its files"):
        check_data(path, None)


def test_what_is_joined_may_be_prepared(root: Path) -> None:
    path = joined(root)
    plain = load_data(path, root)
    with pytest.raises(UserError, match="'joined' joins others: prepare each of them by its own card"):
        prepare_archive(path, root, root / "joined.h5")
    for name in ("floats", "bytes"):
        prepare_archive(root / f"{name}.yaml", root / name, root / f"{name}.h5")
    path.write_text(path.read_text().replace("root: floats", "root: floats.h5").replace("root: bytes", "root: bytes.h5"))
    prepared = load_data(path, root)
    assert len(prepared) == len(plain) == 14
    for index in range(len(plain)):
        np.testing.assert_array_equal(prepared[index].frames, plain[index].frames)


def settings(root: Path, card: Path, **network: Any) -> dict[str, Any]:
    return {
        "data": {"card": str(card), "root": str(root), "batch_size": 3, "workers": 0},
        "network": {**NETWORK, **network},
        "trainer": {"max_steps": 2, "validate_every": 1, "checkpoint_every": 2, "device": "cpu", "threads": 1},
        "run": {"folder": str(root / "run")},
    }


def test_a_network_trains_on_all_of_them(root: Path) -> None:
    assert train(make_settings(settings(root, joined(root))), progress=False).exit_code == 0


def test_what_is_known_reaches_the_network(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(root / "floats" / "height.npy", np.arange(80.0).reshape(8, 10))
    card = yaml.safe_load((root / "floats.yaml").read_text())
    card |= {"known": ["file:height.npy"], "splits": {"by": "time", "fractions": {"train": 0.5, "validation": 0.5}}}
    card["settings"]["leave_out"] = ["height.npy"]
    (root / "hills.yaml").write_text(yaml.safe_dump(card, sort_keys=False))
    plain = settings(root / "floats", root / "hills.yaml")
    work = make_work(make_settings(plain), Processes())
    assert work.clips.known_channels == 1 and work.settings.network["known_channels"] == 1
    known = work.clips[0].known
    assert known is not None and known.shape == (4, 1, 8, 10)
    assert "3 clips" in rehearse(make_settings(plain))
    with pytest.raises(UserError, match=r"network\.known_channels is 2, and the clips of 'hills' have 1"):
        make_work(make_settings(settings(root / "floats", root / "hills.yaml", known_channels=2)), Processes())
    (root / "deaf_networks.py").write_text(DEAF)
    monkeypatch.chdir(root)
    deaf = settings(root / "floats", root / "hills.yaml") | {"network": {"name": "deaf_networks:Deaf"}}
    with pytest.raises(UserError, match="'deaf_networks:Deaf' takes no known inputs"):
        make_work(make_settings(deaf), Processes())
