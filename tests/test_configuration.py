"""Configs: what YAML and overrides become, and the sentence for each mistake."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from stpredict.configuration import build, convert, dump_config, read_config, read_yaml
from stpredict.errors import UserError


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


# ---- YAML in and out

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["1e-3", "no", "On", "2010-08-26", "1:30", "007", "0x1F", "null", "~", "", "<<", "=", "true", ".5", "1_000", "- a", "a: b", "#", "5."]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=12)


@given(st.dictionaries(TEXTS, VALUES, max_size=4))
def test_what_is_dumped_reads_back_equal(tmp_path_factory: pytest.TempPathFactory, mapping: dict[str, Any]) -> None:
    path = write(tmp_path_factory.getbasetemp() / "dumped.yaml", dump_config(mapping))
    read = read_yaml(path)
    assert read == mapping
    assert repr(read) == repr(mapping)  # 1, 1.0 and True compare equal


@given(st.dictionaries(TEXTS, VALUES, max_size=4))
def test_what_is_dumped_means_the_same_to_readers_of_yaml_1_1(mapping: dict[str, Any]) -> None:
    assert yaml.safe_load(dump_config(mapping)) == mapping


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E+3", 1000.0),
        ("-.5", -0.5),
        ("5.", 5.0),
        (".inf", float("inf")),
        ("12", 12),
        ("-0", 0),
        ("true", True),
        ("null", None),
        ("~", None),
        ("no", "no"),
        ("on", "on"),
        ("2010-08-26", "2010-08-26"),
        ("1:30", "1:30"),
        ("007", "007"),
        ("1_000", "1_000"),
    ],
)
def test_a_plain_word_means_the_same_in_a_file_and_in_an_override(tmp_path: Path, text: str, value: Any) -> None:
    path = write(tmp_path / "a.yaml", f"section:\n  key: {text}\n")
    for read in (read_config(path), read_config(write(tmp_path / "b.yaml", ""), ["--section.key", text])):
        got = read["section"]["key"]
        assert got == value and type(got) is type(value)


def test_paths_and_tuples_are_dumped_as_plain_data(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", dump_config({"root": Path("/data/knmi"), "hidden": (64, 32)}))
    assert read_yaml(path) == {"root": "/data/knmi", "hidden": [64, 32]}
    assert "hidden: [64, 32]" in path.read_text()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("seed: 0\ndata: [1, 2\n", r"mine\.yaml, line 3, is no YAML"),
        ("seed: 0\n  data: 1\n", r"mine\.yaml, line 2, is no YAML"),
        ("data:\n  card: a\n  root: b\n  card: c\n", r"line 4, .*the key 'card' stands twice"),
        ("data:\n  3: a\n", r"line 2, .*the key 3 is not text"),
        ("- a\n- b\n", r"wants keys with values, such as 'seed: 0', not \[a, b\]"),
        ("just words\n", "wants keys with values"),
        ("a: !!python/object/apply:os.system [echo]\n", "line 1, is no YAML"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        read_config(write(tmp_path / "mine.yaml", text))


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff")
    with pytest.raises(UserError, match=r"mine\.yaml is no YAML"):
        read_config(tmp_path / "mine.yaml")


# ---- base


def test_a_base_lies_under_the_config_key_by_key(tmp_path: Path) -> None:
    write(tmp_path / "low.yaml", "seed: 1\nnetwork: {name: predrnn, hidden: [128, 128]}\ndata: {card: a}\n")
    write(tmp_path / "sub" / "mid.yaml", "base: ../low.yaml\nnetwork: {kernel_size: 5}\n")
    top = write(tmp_path / "top.yaml", "base: [sub/mid.yaml]\nnetwork: {hidden: [8]}\n")
    assert read_config(top) == {"seed": 1, "network": {"name": "predrnn", "hidden": [8], "kernel_size": 5}, "data": {"card": "a"}}


def test_the_last_of_several_bases_wins(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "x: 1\ny: 1\n")
    write(tmp_path / "b.yaml", "y: 2\n")
    assert read_config(write(tmp_path / "c.yaml", "base: [a.yaml, b.yaml]\n")) == {"x": 1, "y": 2}


def test_a_circle_of_bases_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "base: b.yaml\n")
    path = write(tmp_path / "b.yaml", "base: a.yaml\n")
    with pytest.raises(UserError, match=r"b\.yaml is its own base, by way of .*a\.yaml"):
        read_config(path)


def test_a_missing_base_is_told_with_the_file_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mine\.yaml: base: There is no config 'nowhere'"):
        read_config(write(tmp_path / "mine.yaml", "base: nowhere\n"))


# ---- overrides

KEYS = st.lists(st.sampled_from(["a", "b", "c"]), min_size=2, max_size=3).map(".".join)


@given(st.lists(st.tuples(KEYS, st.integers() | st.floats(allow_nan=False) | st.booleans(), st.booleans()), max_size=6))
def test_overrides_win_over_the_file_and_the_last_over_the_first(
    tmp_path_factory: pytest.TempPathFactory, given: list[tuple[str, Any, bool]]
) -> None:
    path = write(tmp_path_factory.getbasetemp() / "over.yaml", "a: {b: {c: file}}\nkept: {key: file}\n")
    words: list[str] = []
    expected: dict[str, Any] = {"a": {"b": {"c": "file"}}, "kept": {"key": "file"}}
    for key, value, joined in given:
        *sections, last = key.split(".")
        place: Any = expected
        for section in sections:
            place = place.setdefault(section, {}) if isinstance(place, dict) else None
        if not isinstance(place, dict):
            continue  # a value stands where a section would have to: refused, and tested below
        place[last] = value
        text = dump_config({"x": value}).removeprefix("x: ").strip()
        words += [f"--{key}={text}"] if joined else [f"--{key}", text]
    assert read_config(path, words) == expected


def test_values_of_overrides(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "")
    words = ["--n.hidden", "[64, 64]", "--n.rate=1e-3", "--d.root", "/data/set #2: new", "--d.name", "'12'", "--shift", "-3", "--e=a=b"]
    assert read_config(path, words) == {
        "n": {"hidden": [64, 64], "rate": 0.001},
        "d": {"root": "/data/set #2: new", "name": "12"},
        "shift": -3,
        "e": "a=b",
    }


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--data.card"], "--data.card has no value"),
        (["--data.card", "--seed", "1"], "--data.card has no value"),
        (["--data.card="], "--data.card has no value"),
        (["stray"], "'stray' is no override"),
        (["--seed", "1", "2"], "'2' is no override"),
        (["-seed", "1"], "'-seed' is no override"),
        (["--data..card", "1"], "'--data..card' is no override"),
        (["--seed.x", "1"], "--seed.x cannot be set: 'seed' is 7, not a section"),
        (["--n.hidden", "[64,"], r"The value of --n.hidden is no YAML: \[64,"),
    ],
)
def test_overrides_that_are_none(tmp_path: Path, words: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        read_config(write(tmp_path / "a.yaml", "seed: 7\n"), words)


# ---- signatures


@dataclass(frozen=True)
class Window:
    context: int
    horizon: int = 10


@dataclass(frozen=True)
class Settings:
    hidden: tuple[int, ...]
    size: tuple[int, int] = (64, 64)
    rate: float = 1e-3
    steps: int = 100
    device: Literal["auto", "cpu", "cuda"] = "auto"
    limit: int | None = None
    root: Path | None = None
    fast: bool = False
    name: str = ""
    window: Window = Window(10)
    track: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    scales: Mapping[str, float] = field(default_factory=dict)
    weights: Sequence[float] = ()
    every: int | Literal["epoch"] = "epoch"


def test_settings_are_coerced_by_their_annotations() -> None:
    built = build(
        Settings,
        {
            "hidden": [64, 1e2],
            "rate": 1,
            "steps": 1e5,
            "device": "cuda",
            "limit": 3,
            "root": "data",
            "fast": True,
            "name": 2010,
            "window": {"context": 4},
            "track": ["csv"],
            "extra": {"anything": [1, {"goes": None}]},
            "scales": {"a": 1},
            "weights": [1, 0.5],
            "every": 5.0,
        },
    )
    assert built == Settings(
        hidden=(64, 100),
        rate=1.0,
        steps=100000,
        device="cuda",
        limit=3,
        root=Path("data"),
        fast=True,
        name="2010",
        window=Window(4),
        track=["csv"],
        extra={"anything": [1, {"goes": None}]},
        scales={"a": 1.0},
        weights=(1.0, 0.5),
        every=5,
    )
    for value in (built.hidden[1], built.steps, built.every):
        assert type(value) is int
    assert type(built.rate) is float and type(built.scales["a"]) is float and type(built.weights[0]) is float


def test_null_serves_where_it_is_named_and_as_an_empty_section() -> None:
    assert build(Settings, {"hidden": [], "limit": None, "root": None, "extra": None}) == Settings(hidden=())
    assert build(Window, {"context": 2}) == build(Window, {"context": 2.0})
    with pytest.raises(UserError, match=r"window\.context' is missing"):
        build(Settings, {"hidden": [], "window": None})


@pytest.mark.parametrize(
    ("mapping", "sentence"),
    [
        ({"hiden": [1]}, "There is no key 'trainer.hiden'; did you mean 'hidden'?"),
        ({"hid": [1]}, "There is no key 'trainer.hid'; did you mean 'hidden'?"),
        ({}, "The key 'trainer.hidden' is missing; it wants a list of whole numbers, such as [64, 64]"),
        ({"hidden": 64}, "trainer.hidden wants a list of whole numbers, such as [64, 64], not 64"),
        ({"hidden": "64,64"}, "trainer.hidden wants a list of whole numbers, such as [64, 64], not '64,64'"),
        ({"hidden": [64, "x"]}, "trainer.hidden[1] wants a whole number, not 'x'"),
        ({"size": [64]}, "trainer.size wants a list of 2 whole numbers, not [64]"),
        ({"steps": 1.5}, "trainer.steps wants a whole number, not 1.5"),
        ({"steps": True}, "trainer.steps wants a whole number, not true"),
        ({"steps": None}, "trainer.steps wants a whole number, not null"),
        ({"steps": "many"}, "trainer.steps wants a whole number, not 'many'"),
        ({"rate": "fast"}, "trainer.rate wants a number, not 'fast'"),
        ({"rate": False}, "trainer.rate wants a number, not false"),
        ({"fast": 1}, "trainer.fast wants true or false, not 1"),
        ({"fast": "yes"}, "trainer.fast wants true or false, not 'yes'"),
        ({"name": 1.5}, "trainer.name wants text, not 1.5"),
        ({"device": "metal"}, "trainer.device cannot be 'metal'; known: auto, cpu, cuda"),
        ({"device": "cudaa"}, "trainer.device cannot be 'cudaa'; did you mean 'cuda'?"),
        ({"device": 3}, "trainer.device wants 'auto' or 'cpu' or 'cuda', not 3"),
        ({"limit": "x"}, "trainer.limit wants a whole number, not 'x'"),
        ({"window": 3}, "trainer.window wants a section with the keys context, horizon, not 3"),
        ({"window": {"context": 3, "horizn": 2}}, "There is no key 'trainer.window.horizn'; did you mean 'horizon'?"),
        ({"window": {}}, "The key 'trainer.window.context' is missing; it wants a whole number"),
        ({"extra": [1]}, "trainer.extra wants a section of keys with values, not [1]"),
        ({"scales": {"a": "b"}}, "trainer.scales.a wants a number, not 'b'"),
        ({"track": "csv"}, "trainer.track wants a list of texts, such as [a, b], not 'csv'"),
        ({"every": 1.5}, "trainer.every wants a whole number or 'epoch', not 1.5"),
        ({"root": [1]}, "trainer.root wants a path, not [1]"),
    ],
)
def test_each_mistake_has_its_sentence(mapping: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as refusal:
        build(Settings, mapping, "trainer")
    assert str(refusal.value) == sentence


def test_a_section_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match="trainer wants a section of keys with values, not 5"):
        build(Settings, 5, "trainer")  # type: ignore[arg-type]


def test_the_signature_of_any_callable_is_a_schema() -> None:
    class Network:
        def __init__(self, channels: int, *, hidden: tuple[int, ...], norm: bool = False) -> None:
            self.made = (channels, hidden, norm)

    assert build(Network, {"hidden": [3]}, "network", channels=1).made == (1, (3,), False)
    assert build(lambda a, b=2: (a, b), {"a": "anything"}) == ("anything", 2)
    with pytest.raises(UserError, match=re.escape("There is no key 'network.channels'; known: hidden, norm")):
        build(Network, {"hidden": [3], "channels": 1}, "network", channels=1)


def test_an_open_end_takes_any_name_but_not_those_that_the_program_gives() -> None:
    def create(name: str, *, channels: int, **settings: Any) -> tuple[Any, ...]:
        return name, channels, settings

    assert build(create, {"name": "a", "depth": 3}, channels=2) == ("a", 2, {"depth": 3})
    with pytest.raises(UserError, match="no key 'channels'"):
        build(create, {"name": "a", "channels": 3}, channels=2)


def test_a_signature_that_says_nothing_takes_nothing() -> None:
    def pass_through(*arguments: Any, **settings: Any) -> None: ...

    with pytest.raises(UserError, match="no key 'depth'"):
        build(pass_through, {"depth": 3})


def test_types_that_cannot_be_read_are_told() -> None:
    def stranger(x: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(UserError, match="'Nowhere' is not defined"):
        build(stranger, {"x": 1})


@given(st.integers(-(10**15), 10**15))
def test_an_integral_float_is_the_same_int(number: int) -> None:
    assert convert(int, float(number), "n") == number
    assert convert(float, number, "n") == float(number)
