"""Published weights fetched into a cache, over HTTP, in pieces that go on where they stopped."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

import stpredict
from stpredict import files
from stpredict.errors import UserError
from stpredict.files import write_text
from stpredict.weights.catalogue import Published

TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as cut."""

_PIECE = 1 << 20
_ATTEMPTS = 5


def cache_folder() -> Path:
    """Return where downloads are kept: ``$STPREDICT_CACHE``, else ``stpredict/weights`` in the user's cache folder."""
    return files.cache_folder("weights", "STPREDICT_CACHE")


def download(published: Published, mirror: str | None = None, progress: bool = False) -> Path:
    """Return the file of published weights, from the cache or, whole or not at all, from where it was published.

    What a cut connection leaves is kept, and the next call goes on from there if the server still has the same file.

    Args:
        published: the entry of the catalogue.
        mirror: an address that stands for that of the releases, ``https://...``.
        progress: whether to show a progress bar where stderr is a terminal.

    Raises:
        UserError: the server cannot be reached or has no such file, or the file is not of the size that it can have.
        OSError: the cache cannot be written.
    """
    url = published.url(mirror)
    if re.fullmatch(r"https?://[A-Za-z0-9.-]+(:\d+)?(/[!-~]*)?", url) is None:
        raise UserError(f"A mirror is an address such as https://host/folder, not '{mirror}'")
    path = cache_folder() / published.file
    if path.is_file():
        _refuse_size(published, url, path.stat().st_size)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path.with_name(f"{path.name}.part")) as part, _bar(published.file, progress) as bar:
        for attempt in range(_ATTEMPTS):
            before = part.stat().st_size
            try:
                if _fetch(url, part, published, bar):
                    break
            except _Cut as cut:
                got = part.stat().st_size
                if attempt + 1 == _ATTEMPTS or got <= before:
                    kept = f"; {got} bytes of it are kept, and the same command goes on from there" if got else ""
                    raise UserError(f"{url} cannot be fetched: {cut}{kept}; {_by_hand(published, url)}") from None
        else:
            raise UserError(f"{url} changes while it is fetched; {_by_hand(published, url)}")
        _refuse_size(published, url, part.stat().st_size)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
        _notes(part).unlink(missing_ok=True)
    return path


class _Cut(Exception):
    """The connection failed, in words."""


@dataclass(frozen=True)
class _Origin:
    """What tells one version of a file on a server from another."""

    url: str
    tag: str | None
    total: int

    def write(self, part: Path) -> None:
        write_text(_notes(part), json.dumps({"url": self.url, "tag": self.tag, "total": self.total}))

    @staticmethod
    def read(part: Path) -> _Origin | None:
        try:
            told = json.loads(_notes(part).read_text(encoding="utf-8"))
            return _Origin(str(told["url"]), None if told["tag"] is None else str(told["tag"]), int(told["total"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None


def _notes(part: Path) -> Path:
    return part.with_suffix(".part-origin")


def _fetch(url: str, part: Path, published: Published, bar: _Bar) -> bool:
    """Fetch what is missing of a file; return False if what was there was of another file and has been thrown away.

    Raises:
        _Cut: the connection failed; what came is in ``part``.
        UserError: there is no such file, or it is not of the size that it can have.
    """
    start, known = part.stat().st_size, _Origin.read(part)
    if start and (known is None or known.url != url or known.tag is None or start >= known.total):
        if known is not None and known.url == url and start == known.total:
            return True
        start = 0
    headers = {"User-Agent": f"stpredict/{stpredict.__version__}", "Accept-Encoding": "identity"}
    if start and known is not None and known.tag is not None:
        headers |= {"Range": f"bytes={start}-", "If-Range": known.tag}
    try:
        answer = _OPENER.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and start:
            os.truncate(part, 0)
            return False
        if error.code >= 500 or error.code == 429:
            raise _Cut(f"the server answers {error.code} {error.reason}") from None
        raise UserError(f"{url} is not to be had: the server answers {error.code} {error.reason}") from None
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise _Cut(str(getattr(error, "reason", error)) or type(error).__name__) from None
    with answer:
        here = _origin(answer, url, start)
        if start and (answer.status != 206 or known is None or (here.tag, here.total) != (known.tag, known.total)):
            os.truncate(part, 0)
            if answer.status == 206:
                return False
            start = 0
        elif answer.status == 206 and not start:
            raise _Cut("the server sends a part of the file that was not asked for")
        _refuse_size(published, url, here.total)
        here.write(part)
        with part.open("r+b") as file:
            file.truncate(start)
            file.seek(start)
            _copy(answer, file, here.total, bar)
    return True


def _origin(answer: Any, url: str, start: int) -> _Origin:
    """Return which file a server sends, and that it sends it from ``start`` on.

    Raises:
        _Cut: it does not say how long the file is, or sends another part of it.
    """
    tag = answer.headers.get("ETag")
    tag = None if tag is None or tag.startswith("W/") else tag  # a weak tag does not promise the same bytes
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise _Cut("the server sends it compressed, which was not asked for")
    if answer.status == 206:
        told = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
        if told is None or int(told[1]) != start:
            raise _Cut("the server sends another part of the file than was asked for")
        return _Origin(url, tag, int(told[2]))
    length = answer.headers.get("Content-Length", "")
    if answer.status != 200 or not length.isdecimal():
        raise _Cut(f"the server answers {answer.status} and does not say how long the file is")
    return _Origin(url, tag, int(length))


def _copy(answer: Any, file: IO[bytes], total: int, bar: _Bar) -> None:
    """Copy up to ``total`` bytes, at which the file ends.

    Raises:
        _Cut: the connection ended before, or did not end there.
    """
    while True:
        bar.show(file.tell(), total)
        try:
            piece = answer.read(_PIECE)
        except (http.client.HTTPException, OSError) as error:
            raise _Cut(str(error) or type(error).__name__) from None
        if not piece:
            break
        if file.tell() + len(piece) > total:
            file.truncate(0)
            raise _Cut(f"the server sends more than the {total} bytes that it said")
        file.write(piece)
    if file.tell() != total:
        raise _Cut(f"the connection ended after {file.tell()} of {total} bytes")


def _refuse_size(published: Published, url: str, size: int) -> None:
    least, most = published.bytes_expected
    if not published.can_have(size):
        raise UserError(
            f"{published.file} cannot have {size} bytes: {published.parameters:g} million parameters take {least} to {most}; "
            f"what is at {url} or in {cache_folder()} is something else: look at it and remove it"
        )


def _by_hand(published: Published, url: str) -> str:
    return f"fetch {url} by hand, and 'stpredict import {published.file} --out FILE.safetensors' does the rest"


class _SafeRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect from an encrypted address to one that is not."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        schemes = ("https",) if req.type == "https" else ("https", "http")
        if urllib.parse.urlsplit(newurl).scheme not in schemes:
            raise urllib.error.URLError(f"it leads on to {newurl}, which is not encrypted")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_SafeRedirect)


@contextmanager
def _alone(part: Path) -> Iterator[Path]:
    """Yield the partial file, made if need be, as long as no other process fetches the same.

    Raises:
        UserError: another one does.
    """
    with part.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"Another stpredict is fetching {part.stem}; wait for it") from None
        try:
            yield part
        finally:
            if part.exists() and not part.stat().st_size:
                part.unlink()


class _Bar:
    """A progress bar, or none."""

    def __init__(self, progress: Progress, name: str) -> None:
        self.progress, self.task = progress, progress.add_task(name)

    def show(self, done: int, total: int) -> None:
        self.progress.update(self.task, completed=done, total=total)


@contextmanager
def _bar(name: str, wanted: bool) -> Iterator[_Bar]:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not (wanted and console.is_terminal)) as progress:
        yield _Bar(progress, name)
