"""Code of one's own by name: our table, an installed entry point, or package.module:Class; and what a file may not do."""

from pathlib import Path

import pytest

from stpredict import extensions
from stpredict.errors import UserError

OURS = {"ordered": "collections:OrderedDict"}


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed distribution that offers the network 'echo', and a module that is installed without an entry point."""
    (tmp_path / "stranger_package.py").write_text("class Echo:\n    pass\n")
    (tmp_path / "stranger_loose.py").write_text("class Loose:\n    pass\n")
    metadata = tmp_path / "stranger-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[stpredict.networks]\necho = stranger_package:Echo\n")
    monkeypatch.syspath_prepend(tmp_path)


def test_our_own_names_come_from_the_table() -> None:
    from collections import OrderedDict

    assert extensions.find("networks", "ordered", OURS) is OrderedDict


def test_an_entry_point_is_found_by_its_short_name(stranger: None) -> None:
    found = extensions.find("networks", "echo", OURS)
    assert (found.__module__, found.__name__) == ("stranger_package", "Echo")
    assert extensions.installed_names("networks")["echo"] == "stranger_package:Echo"
    assert "echo" not in extensions.installed_names("losses")


def test_code_is_found_by_module_and_class(stranger: None) -> None:
    assert extensions.find("losses", "stranger_loose:Loose", OURS).__name__ == "Loose"


def test_a_module_in_the_working_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "module_of_my_own.py").write_text("class Mine:\n    pass\n")
    monkeypatch.chdir(tmp_path)
    assert extensions.find("scores", "module_of_my_own:Mine", OURS).__name__ == "Mine"


@pytest.mark.parametrize(
    ("kind", "name", "sentence"),
    [
        ("networks", "ordred", "There is no network 'ordred'; did you mean 'ordered'"),
        ("losses", "ordred", "There is no loss 'ordred'"),
        ("networks", "no_such_package.module:Class", "there is no module 'no_such_package'"),
        ("networks", "collections.no_such:Class", "there is no module 'collections.no_such'"),
        ("networks", "collections:OrderdDict", "has no 'OrderdDict'; did you mean 'OrderedDict'"),
        ("networks", "collections:", "write package.module:Class"),
    ],
)
def test_what_cannot_be_found_is_named(kind: str, name: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        extensions.find(kind, name, OURS)


def test_a_fault_inside_the_users_module_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "module_with_a_fault.py").write_text("import no_such_library_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_library_at_all"):
        extensions.find("networks", "module_with_a_fault:Anything", OURS)


def test_a_file_may_name_only_what_somebody_asked_for(stranger: None) -> None:
    path = Path("gift.safetensors")
    for name in ("ordered", "echo", "stranger_package:Echo"):
        extensions.refuse_unnamed_code("networks", name, OURS, allowed=[], path=path)
    with pytest.raises(UserError) as refusal:
        extensions.refuse_unnamed_code("networks", "stranger_loose:Loose", OURS, allowed=[], path=path)
    sentence = str(refusal.value)
    assert "gift.safetensors" in sentence and "--allow-code stranger_loose:Loose" in sentence and "stpredict.networks" in sentence
    extensions.refuse_unnamed_code("networks", "stranger_loose:Loose", OURS, allowed=["stranger_loose:Loose"], path=path)
