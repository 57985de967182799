"""Pickles are read as data: the standard library agrees on plain values, and nothing is ever called."""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import pickle
import sys
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from stpredict.errors import UserError
from stpredict.weights.inert import Inert, read_pickle
from stpredict.weights.plain import plain_facts

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=20,
)


def read(data: bytes) -> Any:
    return read_pickle(io.BytesIO(data), Path("some.pth"), lambda identifier: ("persistent", identifier))


class Caller:
    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


@given(PLAIN, st.integers(3, 5))
def test_plain_values_as_the_standard_library_reads_them(value: object, protocol: int) -> None:
    assert read(pickle.dumps(value, protocol)) == value


@given(PLAIN.filter(lambda value: "b'" not in repr(value) and 'b"' not in repr(value)), st.integers(0, 2))
def test_plain_values_of_old_protocols(value: object, protocol: int) -> None:
    assert read(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", range(6))
def test_containers(protocol: int) -> None:
    ordered = collections.OrderedDict([("b", 1), ("a", [2])])
    assert list(read(pickle.dumps(ordered, protocol)).items()) == [("b", 1), ("a", [2])]
    assert read(pickle.dumps(collections.defaultdict(dict, {3: 4}), protocol)) == {3: 4}
    assert sorted(read(pickle.dumps({1, 2}, protocol))) == [1, 2]
    itself: list[Any] = []
    itself.append(itself)
    found = read(pickle.dumps(itself, protocol))
    assert found[0] is found


@pytest.mark.parametrize("protocol", range(6))
def test_other_names_are_noted_and_not_imported(protocol: int) -> None:
    module = "tabnanny"  # any that nothing here has imported
    assert module not in sys.modules
    made = read(b"c" + module.encode() + b"\nNannyNag\n(I1\nVx\ntR.")
    assert isinstance(made, Inert) and (made.name, made.args) == ("tabnanny.NannyNag", (1, "x"))
    assert module not in sys.modules
    found = read(pickle.dumps(argparse.Namespace(lr=0.5, hidden="8,8"), protocol))
    assert found.name == "argparse.Namespace" and found.state == {"lr": 0.5, "hidden": "8,8"}
    annealing = read(pickle.dumps(Caller(getattr, collections.Counter, "most_common"), protocol))
    assert annealing.name == "collections.Counter.most_common" and annealing.args is None


RUN_CODE = """os system, posix system, nt system, os.path join, subprocess Popen, builtins eval, __builtin__ eval, builtins exec,
__builtin__ execfile, builtins open, builtins __import__, builtins compile, importlib import_module, runpy run_path, shutil rmtree,
socket socket, pty spawn, ctypes CDLL, webbrowser open, pip main, sys modules, torch.hub load, torch.serialization load,
numpy.testing._private.utils runstring, concurrent.futures ThreadPoolExecutor, operator attrgetter, _pickle loads"""


@pytest.mark.parametrize("name", [name.strip() for name in RUN_CODE.split(",")])
def test_what_runs_programs_is_refused(name: str) -> None:
    module, _, function = name.partition(" ")
    texts = b"".join(b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, function))
    for data in (f"c{module}\n{function}\n.".encode(), b"\x80\x04" + texts + b"\x93.", f"(i{module}\n{function}\n.".encode()):
        with pytest.raises(UserError, match=rf"some.pth is refused, and nothing of it was run.*'{module}.{function}'"):
            read(data)


def test_ways_around_are_refused() -> None:
    nested = b"\x80\x04\x8c\x05torch\x8c\x17serialization.os.system\x93."  # GLOBAL with a dotted name
    with pytest.raises(UserError, match=r"nothing of it was run.*'torch.serialization.os.system'"):
        read(nested)
    for attribute in ("os", "sys", "subprocess"):
        with pytest.raises(UserError, match="nothing of it was run"):
            read(f"cbuiltins\ngetattr\n(crandom\nRandom\nV{attribute}\ntR.".encode())


def test_setting_the_state_of_what_is_named_changes_nothing() -> None:
    before = read_pickle.__defaults__, dict(vars(Inert))
    for made in (b"ccollections\nOrderedDict\n", b"cstpredict.weights.inert\nread_pickle\n", b"}"):
        read(made + b"(N}V__defaults__\n(I1\ntsV__code__\nI2\nstb.")
    assert (read_pickle.__defaults__, dict(vars(Inert))) == before


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b".",
        b"N",
        b"h\x05.",
        b"0.",
        b"R.",
        b"NNR.",
        b"(t(u.",
        b"}(I1\nu.",
        b"NI1\na.",
        b"NI1\nI2\ns.",
        b"\x85.",
        b"1.",
        b"\x82\x01.",
        b"Pabc\n.",
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fa.",
        b"\x8b\xff\xff\xff\x7fa.",
        b"r\xff\xff\xff\xff.",
        b"I9" + b"9" * 5000 + b"\n.",
        b"\x8a\xff" + b"\x01" * 255 + b".",
        b"\xff.",
        b"c\xff\n\xff\n.",
        b"\x8c\x01a\x8c\x01b\x8c\x01c\x93\x93.",
        b"c" + b"a" * 2000 + b"\nb\n.",
        b"ccollections\nOrderedDict\n(](I1\natR.",
    ],
    ids=repr,
)
def test_broken_pickles_are_refused(data: bytes) -> None:
    with pytest.raises((ValueError, IndexError)):
        read(data)


def test_a_pickle_out_of_proportion_is_refused() -> None:
    with pytest.raises(ValueError, match=r"more than 2,000,000 steps"):
        read(b"\x80\x02" + b"N" * 2_000_001 + b".")


def test_a_huge_memo_number_takes_no_memory() -> None:
    assert read(b"Nr\xff\xff\xff\xffj\xff\xff\xff\xff.") is None


def test_nested_tuples_as_keys_are_not_hashed() -> None:
    doubled = b"I1\n" + b"2\x86" * 60  # a pair of pairs of pairs; hashing it would take 2 ** 60 steps
    assert len(read(b"}" + doubled + b"I1\ns.")) == 1
    assert len(read(b"\x8f(" + doubled + b"\x90.")) == 1


@given(PLAIN, st.data())
def test_damage_is_a_value_or_a_refusal(value: object, draw: st.DataObject) -> None:
    data = bytearray(pickle.dumps([value, np.arange(3), Caller(getattr, collections.Counter, "most_common")], 2))
    data[draw.draw(st.integers(0, len(data) - 1))] ^= 1 << draw.draw(st.integers(0, 7))
    with contextlib.suppress(ValueError, IndexError):
        read(bytes(data[: draw.draw(st.integers(1, len(data)))]))


ARRAYS = [
    np.arange(6, dtype=np.float32).reshape(1, 2, 3),
    np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
    np.arange(4, dtype=">f8"),
    np.array([True, False]),
    np.array(2.5),
    np.zeros((0, 3), np.complex64),
]


@pytest.mark.parametrize("protocol", range(5))
@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{array.shape}")
def test_arrays(array: np.ndarray[Any, Any], protocol: int) -> None:
    found = plain_facts(read(pickle.dumps({"mean": array}, protocol)))["mean"]
    assert found.dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(found, array, strict=found.dtype == array.dtype)


@pytest.mark.parametrize("protocol", range(5))
def test_plain_facts(protocol: int) -> None:
    given_facts = {
        "lr": 1e-3,
        "hidden": "8,8",
        "shape": (4, 1, [2, None]),
        "inner": {"a": True},
        "scalar": np.float32(0.5),
        "count": np.int64(7),
        "object": np.array([None, "x"], dtype=object),
        "text": np.array(["x"]),
        "class": collections.Counter,
        "with a class": [1, collections.Counter],
        "namespace": argparse.Namespace(deep=1),
        5: 6,
    }
    found = plain_facts(read(pickle.dumps(given_facts, protocol)))
    assert found == {
        "lr": 1e-3,
        "hidden": "8,8",
        "shape": (4, 1, [2, None]),
        "inner": {"a": True},
        "scalar": 0.5,
        "count": 7,
        "namespace": {"deep": 1},
    }
    assert type(found["count"]) is int and type(found["scalar"]) is float


def test_facts_out_of_proportion_are_refused() -> None:
    wide: Any = 1
    for _ in range(7):
        wide = [wide] * 50
    with pytest.raises(ValueError, match="more than 100,000 hyper-parameters"):
        plain_facts(read(pickle.dumps({"wide": wide}, 2)))
    text = "x" * (40 << 20)
    with pytest.raises(ValueError, match="more than 64 MiB"):
        plain_facts(read(pickle.dumps({"a": text, "b": text}, 2)))
    itself: dict[str, Any] = {}
    itself["again"] = itself
    assert plain_facts(read(pickle.dumps({"lr": 1, "itself": itself}, 2))) == {"lr": 1}


def test_a_damaged_array_is_refused() -> None:
    data = pickle.dumps({"mean": np.arange(6, dtype=np.float32)}, 4).replace(b"K\x06\x85", b"K\x07\x85")
    with pytest.raises(ValueError, match="does not have the size"):
        plain_facts(read(data))
