"""The libraries that stpredict needs or can use: which are there, and which are broken. Looking imports none before it is asked."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib import metadata

from stpredict.errors import UserError, import_optional

REQUIRED = ("torch", "numpy", "cv2", "h5py", "av", "rich", "yaml", "safetensors", "matplotlib", "PIL")
"""Modules that stpredict does not work without."""

EXTRAS = {
    "vision": ("torchvision", "lpips"),
    "track": ("wandb", "tensorboard"),
    "radar": ("xarray", "netCDF4", "pyproj", "tifffile", "zarr", "scipy", "wradlib"),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "hub": ("huggingface_hub",),
}
"""Modules of each extra."""


@dataclass(frozen=True)
class Library:
    """A library.

    Attributes:
        module: the name that is imported.
        version: of what is installed, or None if it cannot be used.
        reason: why not: that it is missing, with the command that installs it, or how it is broken.
    """

    module: str
    version: str | None
    reason: str = ""


def look_at_library(module: str, extra: str | None = None) -> Library:
    """Import a library; one that is there but broken, as a torchvision built for another torch is, says why."""
    try:
        loaded = importlib.import_module(module) if extra is None else import_optional(module, extra)
    except UserError as error:
        return Library(module, None, f"missing: {str(error).partition(': ')[2]}")
    except ModuleNotFoundError as error:
        return Library(module, None, "missing: pip install stpredict" if error.name == module else f"broken: {first_line(error)}")
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        return Library(module, None, f"broken: {first_line(error)}")
    return Library(module, str(getattr(loaded, "__version__", None) or metadata.version(module)))


def first_line(error: Exception) -> str:
    """Return the kind of an error and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
