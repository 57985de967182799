"""Downloads: from a server of the test, which can cut the connection, change the file, or lie about it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from stpredict.errors import UserError
from stpredict.weights import download as module
from stpredict.weights.catalogue import Benchmark, Published
from stpredict.weights.download import cache_folder, download

CONTENT = np.random.default_rng(3).bytes(3_300_000)
CHANGED = np.random.default_rng(4).bytes(3_300_000)
ENTRY = Published("some_weights", Benchmark("films", "tag", "https://example.org", 3, 2, (1, 16, 16)), "convlstm", 0.8, 1)


class Handler(BaseHTTPRequestHandler):
    """Serves ``content``; ``cuts`` are how many bytes the next answers stop after."""

    content, tag = CONTENT, '"one"'
    ranges, heeds = True, True
    said: int | None = None
    cuts: ClassVar[list[int]] = []
    asked: ClassVar[list[str | None]] = []
    status, leads_to = 200, ""

    def do_GET(self) -> None:
        kind = type(self)
        kind.asked.append(self.headers.get("Range"))
        if kind.status != 200:
            status, kind.status = kind.status, 200 if kind.status == 302 else kind.status
            self.send_response(status)
            if kind.leads_to:
                self.send_header("Location", kind.leads_to)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        assert self.path == "/mirror/tag/some_weights.pth" or self.path == "/elsewhere"
        wanted, start = self.headers.get("Range"), 0
        if wanted and kind.ranges and (self.headers.get("If-Range") == kind.tag or not kind.heeds):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(kind.content) - 1}/{len(kind.content)}")
        else:
            self.send_response(200)
        body = kind.content[start:]
        self.send_header("Content-Length", str(len(body) if kind.said is None else kind.said))
        if kind.tag:
            self.send_header("ETag", kind.tag)
        self.end_headers()
        cut = kind.cuts.pop(0) if kind.cuts else len(body)
        with contextlib.suppress(ConnectionError):  # who asked has seen enough
            self.wfile.write(body[:cut])
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[type[Handler], str]]:
    monkeypatch.setenv("STPREDICT_CACHE", str(tmp_path / "cache"))
    kind = type("Fresh", (Handler,), {"cuts": [], "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield kind, f"http://127.0.0.1:{running.server_address[1]}/mirror/"
        running.shutdown()
        thread.join()


def left() -> list[str]:
    return sorted(path.name for path in cache_folder().iterdir()) if cache_folder().is_dir() else []


def test_a_file_is_fetched_once(server: tuple[type[Handler], str]) -> None:
    kind, mirror = server
    path = download(ENTRY, mirror)
    assert path.read_bytes() == CONTENT and left() == ["some_weights.pth"]
    assert download(ENTRY, mirror) == path and kind.asked == [None]


def test_a_cut_connection_goes_on_by_itself(server: tuple[type[Handler], str]) -> None:
    kind, mirror = server
    kind.cuts += [1_100_000, 500_000]
    assert download(ENTRY, mirror).read_bytes() == CONTENT
    assert kind.asked == [None, "bytes=1100000-", "bytes=1600000-"] and left() == ["some_weights.pth"]


def test_the_next_command_goes_on(server: tuple[type[Handler], str]) -> None:
    kind, mirror = server
    kind.cuts += [2_000_000, 0]
    with pytest.raises(UserError, match="2000000 bytes of it are kept, and the same command goes on"):
        download(ENTRY, mirror)
    assert left() == ["some_weights.pth.part", "some_weights.pth.part-origin"]
    assert download(ENTRY, mirror).read_bytes() == CONTENT
    assert kind.asked[-1] == "bytes=2000000-"


@pytest.mark.parametrize("tag", ['"two"', 'W/"one"', ""])
def test_a_changed_file_is_not_glued(tag: str, server: tuple[type[Handler], str]) -> None:
    kind, mirror = server
    kind.cuts += [2_000_000, 0]
    with pytest.raises(UserError):
        download(ENTRY, mirror)
    kind.content, kind.tag = CHANGED, tag
    assert download(ENTRY, mirror).read_bytes() == CHANGED


@pytest.mark.parametrize(("tag", "content"), [('"two"', CHANGED), ('"one"', CHANGED + b"longer"), ("", CHANGED)])
def test_a_changed_file_is_not_glued_by_a_server_without_if_range(tag: str, content: bytes, server: tuple[type[Handler], str]) -> None:
    kind, mirror = server
    kind.cuts += [2_000_000, 0]
    with pytest.raises(UserError):
        download(ENTRY, mirror)
    kind.content, kind.tag, kind.heeds = content, tag, False
    assert download(ENTRY, mirror).read_bytes() == content
    assert kind.asked[-2:] == ["bytes=2000000-", None]


def test_what_came_from_another_address_is_not_glued(server: tuple[type[Handler], str]) -> None:
    kind, mirror = server
    kind.cuts += [2_000_000, 0]
    with pytest.raises(UserError):
        download(ENTRY, mirror)
    notes = cache_folder() / "some_weights.pth.part-origin"
    notes.write_text(notes.read_text().replace("/mirror/", "/another/"))
    assert download(ENTRY, mirror).read_bytes() == CONTENT and kind.asked[-1] is None


def test_a_server_without_ranges(server: tuple[type[Handler], str]) -> None:
    kind, mirror = server
    kind.ranges = False
    kind.cuts += [2_000_000]
    assert download(ENTRY, mirror).read_bytes() == CONTENT


def test_a_whole_part_needs_no_server(server: tuple[type[Handler], str], monkeypatch: pytest.MonkeyPatch) -> None:
    kind, mirror = server
    rename = os.replace

    def fail(here: Any, there: Any) -> None:
        if str(there).endswith(".pth"):
            raise OSError(28, "No space left on device")
        rename(here, there)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="No space"):
            download(ENTRY, mirror)
    assert download(ENTRY, mirror).read_bytes() == CONTENT and len(kind.asked) == 1


@pytest.mark.parametrize(
    ("content", "said", "sentence"),
    [
        (b"<html>sign in</html>", None, "cannot have 20 bytes: 0.8 million parameters take 2080000 to"),
        (b"x" * 20_000_000, None, "cannot have 20000000 bytes"),
        (CONTENT + b"more", len(CONTENT) - 1_000_000, None),
    ],
)
def test_a_file_that_is_something_else(content: bytes, said: int | None, sentence: str | None, server: tuple[type[Handler], str]) -> None:
    """What is longer than its server says is cut there, as HTTP has it; the import then sees that it is damaged."""
    kind, mirror = server
    kind.content, kind.said = content, said
    if sentence is None:
        assert download(ENTRY, mirror).stat().st_size == said
        return
    with pytest.raises(UserError, match=sentence):
        download(ENTRY, mirror)
    assert left() == []


def test_a_wrong_file_in_the_cache_is_told(server: tuple[type[Handler], str]) -> None:
    cache_folder().mkdir(parents=True)
    (cache_folder() / "some_weights.pth").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"cannot have 7 bytes.*look at it and remove it"):
        download(ENTRY, server[1])


@pytest.mark.parametrize(("status", "sentence"), [(404, "the server answers 404 Not Found"), (503, "answers 503 .*fetch http.* by hand")])
def test_a_server_that_refuses(status: int, sentence: str, server: tuple[type[Handler], str]) -> None:
    kind, mirror = server
    kind.status = status
    with pytest.raises(UserError, match=sentence):
        download(ENTRY, mirror)


def test_redirects(server: tuple[type[Handler], str]) -> None:
    kind, mirror = server
    kind.status, kind.leads_to = 302, "/elsewhere"
    kind.cuts += [1_500_000]
    assert download(ENTRY, mirror).read_bytes() == CONTENT
    assert kind.asked == [None, None, "bytes=1500000-"]


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://host/file"])
def test_redirects_elsewhere_are_not_followed(address: str, server: tuple[type[Handler], str]) -> None:
    kind, mirror = server
    kind.status, kind.leads_to = 302, address
    with pytest.raises(UserError):
        download(ENTRY, mirror)


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STPREDICT_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"fetch http://127.0.0.1:9/tag/some_weights.pth by hand, and 'stpredict import some_weights.pth"):
        download(ENTRY, "http://127.0.0.1:9")


@pytest.mark.parametrize("mirror", ["ftp://host", "host/folder", "http://a b", "file:///tmp", "http://[1"])
def test_mirrors_that_are_none(mirror: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STPREDICT_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="A mirror is an address such as https://host/folder"):
        download(ENTRY, mirror)


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STPREDICT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "stpredict" / "weights"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "stpredict" / "weights"


def test_two_at_once(server: tuple[type[Handler], str]) -> None:
    cache_folder().mkdir(parents=True)
    with module._alone(cache_folder() / "some_weights.pth.part"), pytest.raises(UserError, match="Another stpredict is fetching"):
        download(ENTRY, server[1])
