"""The networks of the benchmarks that take no config: each as large as the options say."""

from __future__ import annotations

import argparse
from typing import Any

SIZES = {"hidden": [64, 64], "kernel_size": 5, "patch_size": 4, "size": 64, "context": 10, "horizon": 10, "batch_size": 8}
"""How large a network, its frames and its clips are where nothing else is asked for."""


def network_section(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return what the ``network`` section of a config would say besides the name."""
    if name == "simvp":  # an encoder as wide as the first layer, a translator eight times as wide, as published
        return {"hidden": [options.hidden[0], 8 * options.hidden[0]], "layers": [4, 8], "kernel_size": options.kernel_size}
    if name == "residual":
        return {"of": {"name": "predrnn", **network_section("predrnn", options)}}
    return {"hidden": options.hidden, "kernel_size": options.kernel_size, "patch_size": options.patch_size}
