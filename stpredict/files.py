"""Files that are written whole or not at all, and the files that are shipped with the program."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stpredict.errors import UserError, nearest

if TYPE_CHECKING:
    from torch import Tensor


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

CHECKSUM = "checksum"
"""The name of the tensor that holds a file's checksum."""

_DIGEST = 16
"""Bytes of a checksum."""

_TYPES = {
    "torch.bool": "BOOL",
    "torch.uint8": "U8",
    "torch.int8": "I8",
    "torch.uint16": "U16",
    "torch.int16": "I16",
    "torch.uint32": "U32",
    "torch.int32": "I32",
    "torch.uint64": "U64",
    "torch.int64": "I64",
    "torch.float8_e4m3fn": "F8_E4M3",
    "torch.float8_e5m2": "F8_E5M2",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.float32": "F32",
    "torch.float64": "F64",
    "torch.complex64": "C64",
}
"""What ``.safetensors`` calls the types of torch; tested against its library."""


def cache_folder(name: str, variable: str) -> Path:
    """Return the folder that an environment variable names, else ``stpredict/<name>`` in the user's cache folder.

    Raises:
        RuntimeError: neither the variable nor the system says where the user's files are.
    """
    own, shared = os.environ.get(variable), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own).expanduser()
    return (Path(shared) if shared else Path.home() / ".cache") / "stpredict" / name


def _read_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_UMASK = _read_umask()
"""Read once, while there is one thread: reading it sets it, and a file that another thread makes then is anybody's to write."""


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is flushed to disk and renamed to ``path``.

    The temporary file keeps the suffix of ``path``, since writers choose their format by it. When the body raises,
    nothing is left behind and an older file at ``path`` stays as it was.

    Raises:
        OSError: the file could not be written; it names ``path``, also where the system names the temporary file or, as for a
            full disk, none.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_UMASK)  # some writers make files that nobody else may read
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except OSError as error:
        if error.filename == str(temporary) or (error.filename is None and error.errno in _FULL):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        with suppress(OSError):  # where nothing can be removed, what could not be written is the news
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def append_text(path: str | Path, text: str) -> None:
    """Append ``text`` as UTF-8; it may be cut off when the disk is full.

    Raises:
        OSError: it could not be written; it names ``path``, also where the system names no file.
    """
    try:
        with Path(path).open("a", encoding="utf-8", newline="") as file:
            file.write(text)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, str], *, checksum: bool = False) -> None:
    """Write tensors by name, with texts in the header, as ``.safetensors``, whole or not at all.

    The bytes go from the tensors' memory to the file without a copy between, and one memory may have two names, as tied weights
    have; the format's own library refuses that. With ``checksum`` the last tensor of the file, :data:`CHECKSUM`, is the BLAKE2b
    hash of every byte before it; :func:`checksum_fits` compares.

    Source: the format, https://github.com/huggingface/safetensors#format

    Raises:
        OSError: the file could not be written, for instance because the disk is full.
    """
    assert CHECKSUM not in tensors
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # so each one is aligned
    described: dict[str, Any] = {"__metadata__": dict(header)}
    end = 0
    for name in names:
        tensor, start = tensors[name], end
        end += tensor.numel() * tensor.element_size()
        described[name] = {"dtype": _TYPES[str(tensor.dtype)], "shape": list(tensor.shape), "data_offsets": [start, end]}
    if checksum:
        described[CHECKSUM] = {"dtype": "U8", "shape": [_DIGEST], "data_offsets": [end, end + _DIGEST]}
    text = json.dumps(described, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.blake2b(digest_size=_DIGEST)
    start_and_text = memoryview(len(text).to_bytes(8, "little") + text)
    with whole_file(path) as temporary, temporary.open("wb") as file:
        for part in chain([start_and_text], (_bytes(tensors[name]) for name in names)):
            file.write(part)
            if checksum:
                digest.update(part)
        if checksum:
            file.write(digest.digest())


def checksum_fits(path: Path) -> bool:
    """Whether a file ends with the checksum of all bytes before it."""
    digest, buffer = hashlib.blake2b(digest_size=_DIGEST), memoryview(bytearray(1 << 20))
    with path.open("rb") as file:
        left = os.fstat(file.fileno()).st_size - _DIGEST
        while left > 0:
            count = file.readinto(buffer[: min(left, len(buffer))])
            if count == 0:
                return False
            digest.update(buffer[:count])
            left -= count
        return file.read() == digest.digest()


def remove_leftovers(folder: Path, stem: str) -> list[Path]:
    """Remove, and return, the temporary files of :func:`whole_file` that killed processes left for files whose stem fits a pattern.

    Those of another process that lives are left alone; those of this one's number are of one before it, since containers count
    processes anew, so call it before this process writes there.
    """
    removed = []
    for path in sorted(folder.iterdir()):
        named = re.fullmatch(rf"\.(?:{stem})\.(\d+)\.part\.\w+", path.name)
        if named and (int(named[1]) == os.getpid() or not lives(int(named[1]))):
            path.unlink()
            removed.append(path)
    return removed


def refuse_full_disk(path: Path, size: int) -> None:
    """Take the room for a file and give it back, before a library writes it that crashes on a full disk, as HDF5 does.

    Raises:
        OSError: there is no room for ``size`` bytes.
    """
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):  # macOS has none
            os.posix_fallocate(file.fileno(), 0, size)


def _bytes(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor, which are its own memory if it is contiguous and on the CPU."""
    import torch

    return tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data


def lives(process: int) -> bool:
    """Return whether there is a process of this number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


STUDIES = "study"
"""The folder of studies inside that of configs; they are no configs of runs."""


def shipped_folder(kind: str) -> Path:
    """Return the folder of shipped ``configs``, ``datasets`` or ``studies``.

    An installed wheel holds it inside the package; a checkout, and an editable install of one, beside the package.
    """
    package = Path(__file__).parent
    if kind == "studies":
        return shipped_folder("configs") / STUDIES
    inside = package / kind
    return inside if inside.is_dir() else package.parent / kind


def shipped_names(kind: str) -> list[str]:
    """Return the names of the shipped YAML files of one kind, such as ``moving_mnist/predrnn``."""
    folder = shipped_folder(kind)
    names = sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))
    return [name for name in names if kind != "configs" or not name.startswith(f"{STUDIES}/")]


def find_yaml(kind: str, name: str | Path) -> Path:
    """Find a config (``kind="configs"``), a card (``"datasets"``) or a study (``"studies"``) by path or by shipped name.

    Raises:
        UserError: there is neither such a file nor such a shipped name.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return path
    words = Path(name).with_suffix("").as_posix() if path.suffix in (".yaml", ".yml") else str(name)
    words = words.removeprefix("configs/study/").removeprefix("study/") if kind == "studies" else words.removeprefix(f"{kind}/")
    if words in shipped_names(kind):
        return shipped_folder(kind) / f"{words}.yaml"
    what = {"configs": "config", "datasets": "card", "studies": "study"}[kind]
    raise UserError(f"There is no {what} '{name}': neither a YAML file nor a shipped name{nearest(words, shipped_names(kind))}")
