"""Where curves and pictures go besides the run folder: TensorBoard and Weights & Biases, when asked for."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from stpredict.errors import import_optional


class Tracker(Protocol):
    """Takes what a run measures."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Take named numbers of one step."""

    def picture(self, step: int, name: str, path: Path) -> None:
        """Take a picture, a PNG file."""

    def close(self) -> None:
        """Write out what waits."""


class TensorBoard:
    """Event files under ``tensorboard/`` of the run folder."""

    def __init__(self, folder: Path) -> None:
        import_optional("tensorboard", "track")
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Take named numbers of one step."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, path: Path) -> None:
        """Take a picture, a PNG file."""
        import cv2

        image = cv2.imread(str(path))
        if image is not None:
            self.writer.add_image(name, image[..., ::-1].copy(), step, dataformats="HWC")

    def close(self) -> None:
        """Write out what waits."""
        self.writer.close()


class WandB:
    """A Weights & Biases run: online when the user is logged in, otherwise offline under ``wandb/`` of the run folder."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.wandb = import_optional("wandb", "track")
        mode = os.environ.get("WANDB_MODE") or ("online" if self.wandb.api.api_key else "offline")
        self.run = self.wandb.init(
            project="stpredict",
            id=f"{folder.resolve().name}-{zlib.crc32(str(folder.resolve()).encode())}",
            name=folder.resolve().name,
            dir=str(folder),
            config=dict(config),
            mode=mode,
            resume="allow",
            settings=self.wandb.Settings(init_timeout=20, silent=True),
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Take named numbers of one step."""
        self.run.log(dict(values), step=step)

    def picture(self, step: int, name: str, path: Path) -> None:
        """Take a picture, a PNG file."""
        self.run.log({name: self.wandb.Image(str(path))}, step=step)

    def close(self) -> None:
        """Write out what waits."""
        self.run.finish()


def start_trackers(names: Sequence[str], folder: Path, config: Mapping[str, Any]) -> list[Tracker]:
    """Start the trackers named; ``csv`` is always written and needs none.

    Raises:
        UserError: the library of one is not installed.
    """
    trackers: list[Tracker] = []
    if "tensorboard" in names:
        trackers.append(TensorBoard(folder))
    if "wandb" in names:
        trackers.append(WandB(folder, config))
    return trackers
