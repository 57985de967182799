"""What a study asks, and every study that is shipped."""

from __future__ import annotations

import re
import struct
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from stpredict.data import load_data
from stpredict.errors import UserError
from stpredict.files import shipped_names
from stpredict.processes import Processes
from stpredict.study import Study, load_study
from stpredict.training import Settings, load_settings, work

COMMON = "common"
NAMES = [name for name in shipped_names("studies") if name != COMMON]

SETTINGS: dict[str, Any] = {
    "data": {"card": "moving_digits"},
    "network": {"name": "convlstm", "hidden": [4], "kernel_size": 3, "patch_size": 4},
    "trainer": {"max_steps": 5},
}


def study_of(**changes: Any) -> Study:
    return Study(**{"settings": SETTINGS, "variants": {"plain": {}, "wide": {"network": {"hidden": [8]}}}, **changes})


@pytest.fixture(scope="module")
def mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As large as MNIST, but empty of digits."""
    folder = tmp_path_factory.mktemp("mnist")
    for name, count in {"train": 60000, "t10k": 10000}.items():
        with (folder / f"{name}-images-idx3-ubyte").open("wb") as file:
            file.write(struct.pack(">4I", 0x803, count, 28, 28))
            file.truncate(16 + count * 28 * 28)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_study_can_be_made(name: str, mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @cache
    def load(split: str) -> Any:
        return load_data("moving_mnist", mnist, split, context=10, horizon=10)

    def load_once(settings: Settings, split: str) -> Any:
        assert (settings.data.card, settings.data.context, settings.data.horizon, settings.data.batch_size) == ("moving_mnist", 10, 10, 8)
        return load(split)

    monkeypatch.setattr(work, "_load", load_once)
    study = load_study(name, [f"--data.root={mnist}", "--trainer.device=cpu"])
    assert study.question.endswith("?") and study.seeds == (0, 1, 2) and study.score.split == "generated"
    threads = torch.get_num_threads()
    for variant in study.variants:
        made = work.make_work(study.settings_of(variant, 0), Processes())
        assert sum(weight.numel() for weight in made.network.parameters()) < 10**6
    assert torch.get_num_threads() == threads
    assert not study.unequal(), "all variants take the same steps on the same clips"
    assert len({repr(settings) for settings in study.differing().values()}) == len(study.variants), "no two variants are the same"
    assert len(load(study.score.split)) >= (study.score.clips or 0)


def test_the_three_questions_have_two_sizes_of_two_variants() -> None:
    for name, key in {"convlstm-output": "hidden_from", "predrnnpp-highway": "highway", "e3d-memory": "memory"}.items():
        study = load_study(name)
        differing = study.differing()
        assert len(study.variants) == 4 and len(study.pairs) == 2
        for variant, against in study.pairs:
            odd = [full for full in differing[variant] if differing[variant][full] != differing[against].get(full)]
            assert odd == [f"network.{key}"], "what is compared differs in one thing"


def test_what_studies_have_in_common_is_none() -> None:
    with pytest.raises(UserError, match="common is no study: it names no variants"):
        load_study(COMMON)
    with pytest.raises(UserError, match="did you mean 'e3d-memory'"):
        load_study("e3d-memori")
    with pytest.raises(UserError, match="There is no config 'study/norm'"):
        load_settings("study/norm")


def test_runs_come_seed_by_seed() -> None:
    study = study_of(seeds=(0, 3))
    assert list(study.runs) == ["plain-0", "wide-0", "plain-3", "wide-3"]
    assert study.runs["wide-3"] == ("wide", 3) and study.pairs == (("wide", "plain"),)
    settings = study.settings_of("wide", 3, "there/wide-3")
    assert (settings.seed, settings.name, settings.run.folder, settings.network["hidden"]) == (3, "wide", "there/wide-3", [8])


def test_a_study_reads_back_equal(tmp_path: Path) -> None:
    study = study_of(question="Yes: or no?", compare=(("wide", "plain"),), always={"trainer": {"max_steps": 7}}, name="mine")
    (tmp_path / "study.yaml").write_text(study.to_text())
    assert load_study(tmp_path) == study == load_study(tmp_path / "study.yaml")


def test_overrides_reach_every_run_and_those_of_the_score_the_study(tmp_path: Path) -> None:
    plain = {"settings": {**SETTINGS, "base": "demo"}, "variants": {"a": {"trainer": {"max_steps": 9}}, "b": {}}}
    (tmp_path / "mine.yaml").write_text(yaml.dump(plain))
    study = load_study(tmp_path / "mine.yaml", ["--trainer.max_steps", "3", "--score.clips=7", "--network.hidden=[6]"], seeds=[4])
    assert study.name == "mine" and study.seeds == (4,) and study.score.clips == 7
    for variant in study.variants:
        settings = study.settings_of(variant, 4)
        assert settings.trainer.max_steps == 3 and settings.network["hidden"] == [6]
        assert settings.optimizer.learning_rate == 4e-3, "the base's"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"variants": {}}, "names its variants"),
        ({"variants": {"a/b": {}}}, "variants.a/b: a variant's name"),
        ({"seeds": ()}, "at least one"),
        ({"seeds": (1, 1)}, "different whole numbers"),
        ({"variants": {"a": {"seed": 1}}}, "'a' may not set 'seed'"),
        ({"always": {"run": {"folder": "x"}}}, "'always' may not set 'run'"),
        ({"compare": (("wyde", "plain"),)}, "no variant 'wyde'; did you mean 'wide'"),
        ({"compare": (("wide", "wide"),)}, "set against itself"),
    ],
)
def test_what_is_wrong_is_said(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        study_of(**changes)


def test_a_variant_that_is_wrong_is_named() -> None:
    study = study_of(variants={"plain": {}, "odd": {"trainer": {"max_step": 3}}}, name="mine")
    with pytest.raises(UserError, match=r"Variant 'odd' of the study 'mine': There is no key 'trainer.max_step'; did you mean"):
        study.settings_of("odd", 0)


def test_unequal_costs_are_told() -> None:
    assert study_of().unequal() == []
    longer = study_of(variants={"plain": {}, "long": {"trainer": {"max_steps": 10}}, "many": {"data": {"batch_size": 2}}})
    told = longer.unequal()
    assert len(told) == 2 and "trainer.max_steps: plain 5, long 10, many 5" in told[1] and "data.batch_size" in told[0]
    assert study_of(variants={"plain": {}, "apart": {"data": {"workers": 3}}}).unequal() == [], "that changes no result"


def test_a_study_goes_on_with_the_runs_it_made_only() -> None:
    before, root = study_of(), {"data": {"root": "elsewhere"}, "trainer": {"threads": 3}}
    study_of(seeds=(0, 1, 2, 3), always=root).check_continues(before, ["plain-0"])
    longer = study_of(always={"trainer": {"max_steps": 9}})
    longer.check_continues(before, [])
    with pytest.raises(UserError, match=r"The run 'plain-0' was made with trainer\.max_steps 5, and is now to have 9"):
        longer.check_continues(before, ["plain-0"])
