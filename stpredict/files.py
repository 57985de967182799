"""Files that are written whole or not at all, and the files that are shipped with the program."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from stpredict.errors import UserError, nearest

if TYPE_CHECKING:
    from torch import Tensor


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
        temporary.chmod(0o666 & ~_umask())  # some writers make files that nobody else may read
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except OSError as error:
        if error.filename == str(temporary) or (error.filename is None and error.errno in _FULL):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write tensors by name, with texts in the header, as ``.safetensors``, whole or not at all.

    Raises:
        OSError: the file could not be written, for instance because the disk is full.
    """
    import safetensors.torch

    # Copies, since the format refuses two names for one memory, as tied weights have.
    plain = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    with whole_file(path) as temporary:
        try:
            safetensors.torch.save_file(plain, temporary, dict(header))
        except safetensors.SafetensorError as error:
            raise OSError(f"{path} could not be written: {error}") from error


def refuse_full_disk(path: Path, size: int) -> None:
    """Take the room for a file and give it back, before a library writes it that crashes on a full disk, as HDF5 does.

    Raises:
        OSError: there is no room for ``size`` bytes.
    """
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):  # macOS has none
            os.posix_fallocate(file.fileno(), 0, size)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def shipped_folder(kind: str) -> Path:
    """Return the folder of shipped ``configs`` or ``datasets``.

    An installed wheel holds it inside the package; a checkout, and an editable install of one, beside the package.
    """
    package = Path(__file__).parent
    inside = package / kind
    return inside if inside.is_dir() else package.parent / kind


def shipped_names(kind: str) -> list[str]:
    """Return the names of the shipped YAML files of one kind, such as ``moving_mnist/predrnn``."""
    folder = shipped_folder(kind)
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def find_yaml(kind: str, name: str | Path) -> Path:
    """Find a config (``kind="configs"``) or a card (``kind="datasets"``) by path or by shipped name.

    Raises:
        UserError: there is neither such a file nor such a shipped name.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return path
    words = Path(name).with_suffix("").as_posix() if path.suffix in (".yaml", ".yml") else str(name)
    words = words.removeprefix(f"{kind}/")
    if words in shipped_names(kind):
        return shipped_folder(kind) / f"{words}.yaml"
    what = {"configs": "config", "datasets": "card"}[kind]
    raise UserError(f"There is no {what} '{name}': neither a YAML file nor a shipped name{nearest(words, shipped_names(kind))}")
