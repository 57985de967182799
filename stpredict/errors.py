"""What a user is told when something that she asked for cannot be done."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class UserError(ValueError):
    """A mistake that the user can mend: one sentence that says what is wrong, where, and what to do."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint such as ``; did you mean 'hidden'?`` for a misspelt word, or the list of known words."""
    choices = sorted(known)
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(choices)}" if choices else ""


def import_optional(module: str, extra: str) -> ModuleType:
    """Import a library that belongs to an extra of stpredict.

    Raises:
        UserError: the library is not installed; the sentence holds the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        raise UserError(f"This needs the library '{module}': pip install 'stpredict[{extra}]'") from None
