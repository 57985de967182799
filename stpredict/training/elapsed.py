"""How long something took, or will take, as people say it."""

from __future__ import annotations


def elapsed(seconds: float, form: str = ".0f") -> str:
    """Return seconds, as ``form`` says, below two minutes; minutes below two hours; then hours."""
    if seconds < 120:
        return f"{seconds:{form}} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
