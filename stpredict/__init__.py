"""stpredict learns to continue a film: video predictors, trained, scored, rendered, imported.

The names below are loaded when they are first used, so that ``import stpredict`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "UserError": "stpredict.errors",
    "FrameSpec": "stpredict.frames",
    "Grid": "stpredict.frames",
    "Packing": "stpredict.frames",
    "Transform": "stpredict.frames",
    "RecurrentNetwork": "stpredict.networks",
    "DirectNetwork": "stpredict.networks",
    "Step": "stpredict.networks",
    "list_networks": "stpredict.networks",
    "create_network": "stpredict.networks",
    "rollout": "stpredict.unroll",
    "Predictor": "stpredict.predictor",
    "load_predictor": "stpredict.predictor",
    "import_predictor": "stpredict.weights",
    "export_predictor": "stpredict.export",
    "push_predictor": "stpredict.hub",
    "pull_predictor": "stpredict.hub",
    "load_data": "stpredict.data",
    "train": "stpredict.training",
    "evaluate": "stpredict.evaluation",
    "save_film": "stpredict.render",
    "render_clips": "stpredict.showing",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'stpredict' has no attribute '{name}'")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
