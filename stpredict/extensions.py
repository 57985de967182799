"""Networks, losses, readers and scores by name: ours, a user's ``package.module:Class``, or an installed entry point.

Naming code in a config, or installing a package with an entry point, is what allows it to be imported. A predictor
file may only name code that has been allowed in one of these two ways.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Collection, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from stpredict.errors import UserError, nearest


def installed_names(kind: str) -> dict[str, str]:
    """Return the entry points of the group ``stpredict.<kind>`` as name -> ``package.module:Class``."""
    return {entry.name: entry.value for entry in entry_points(group=f"stpredict.{kind}")}


def find(kind: str, name: str, ours: Mapping[str, str]) -> Any:
    """Return the object that ``name`` stands for.

    Args:
        kind: ``networks``, ``losses``, ``readers`` or ``scores``.
        name: one of ours, an entry point, or ``package.module:Class``.
        ours: the built-in names, each with its ``package.module:attribute``.

    Raises:
        UserError: the name is unknown, or what it names cannot be imported.
    """
    if name in ours:
        return _load(ours[name])
    installed = installed_names(kind)
    if name in installed:
        return _load(installed[name])
    if ":" in name:
        return _load(name)
    known = [*ours, *installed]
    raise UserError(f"There is no {kind[:-1] if kind != 'losses' else 'loss'} '{name}'{nearest(name, known)}")


def refuse_unnamed_code(kind: str, name: str, ours: Mapping[str, str], allowed: Collection[str], path: Path) -> None:
    """Refuse a file that names code which neither the user nor an installed entry point has named.

    Raises:
        UserError: ``name`` is neither ours, nor installed, nor among ``allowed``.
    """
    installed = installed_names(kind)
    if name in ours or name in installed or name in installed.values() or name in allowed:
        return
    raise UserError(
        f"{path} names the code '{name}', which nothing here asked for; if you trust it, install it with an entry point in "
        f"'stpredict.{kind}' or allow it by name (--allow-code {name}, or allow=['{name}'] in Python)"
    )


def _load(target: str) -> Any:
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute:
        raise UserError(f"'{target}' is no name of code: write package.module:Class")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise
        raise UserError(f"'{target}' cannot be imported: there is no module '{error.name}'") from None
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise UserError(f"The module '{module_name}' has no '{attribute}'{nearest(attribute, vars(module))}") from None
