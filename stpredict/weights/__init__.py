"""Foreign checkpoints: what others have published, read without running anything that they hold.

The names below are loaded when they are first used, so that the facts can be listed without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stpredict.weights.importing import SOURCES, import_cells, import_predictor

__all__ = ["SOURCES", "import_cells", "import_predictor"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'stpredict.weights' has no attribute '{name}'")
    from stpredict.weights import importing

    return getattr(importing, name)
