"""The page that tells what was trained, how good it is, and what it looks like."""

from __future__ import annotations

from stpredict.page.reporting import report

__all__ = ["report"]
