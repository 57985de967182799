"""Where curves and pictures go besides the run folder: TensorBoard and Weights & Biases, when asked for."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from stpredict.errors import import_optional


class Tracker(Protocol):
    """Takes what a run measures."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Take named numbers of one step."""

    def picture(self, step: int, name: str, path: Path) -> None:
        """Take a picture, a PNG file."""

    def film(self, step: int, name: str, path: Path) -> None:
        """Take a film, a GIF file."""

    def close(self) -> None:
        """Write out what waits."""


class TensorBoard:
    """Event files under ``tensorboard/`` of the run folder."""

    def __init__(self, folder: Path) -> None:
        import_optional("tensorboard", "track")
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(str(folder / "tensorboard"))

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

    def film(self, step: int, name: str, path: Path) -> None:
        """Take a film, a GIF file, as it is: TensorBoard sends an image to the browser in its own format, and a browser plays GIF."""
        from PIL import Image

        summary = import_optional("tensorboard.compat.proto.summary_pb2", "track").Summary
        with Image.open(path) as film:
            width, height = film.size
        # add_video of torch would encode frames anew, with moviepy.
        image = summary.Image(width=width, height=height, colorspace=3, encoded_image_string=path.read_bytes())
        self.writer.file_writer.add_summary(summary(value=[summary.Value(tag=name, image=image)]), step)

    def close(self) -> None:
        """Write out what waits."""
        self.writer.close()


class WandB:
    """A Weights & Biases run, which no dead network can stall.

    It is online when the user is logged in and the server answers, otherwise offline. Either way all that is logged lies under
    ``wandb/`` of the run folder, from where ``wandb sync`` uploads it.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], say: Callable[[str], None], seconds: float = 15.0) -> None:
        """Start.

        Args:
            folder: the run's folder.
            config: the run's settings.
            say: is told in a sentence when the run is not online, or not all of it was uploaded.
            seconds: how long to wait for the server, at the start and once more for the last uploads at the end.

        Raises:
            UserError: wandb is not installed.
        """
        # wandb's reports of its own errors go to the same server: where it does not answer, a process would wait 20 s for them to end.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self.wandb = import_optional("wandb", "track")
        self.folder, self.config, self.say, self.seconds = folder.resolve(), dict(config), say, seconds
        mode = os.environ.get("WANDB_MODE") or "online"
        self.run = self._start_online() if mode in ("online", "run") else self._start(mode)

    def _start_online(self) -> Any:
        """Start online if that can be done, otherwise offline."""
        self.wandb.setup(self.wandb.Settings(silent=True))
        try:
            # Verifying a login needs the server, and asking for one needs somebody who answers.
            if self.wandb.login(prompt=False, verify=False):
                return self._start("online")
            reason = "nobody is logged in"
        except (self.wandb.Error, TimeoutError) as error:
            reason = " ".join(str(error).split())
            # The run that did not start would keep its id to itself.
            self.wandb.teardown()
        self.say(f"wandb is offline: {reason}; upload later with: wandb sync {self.folder / 'wandb'}/offline-run-*")
        return self._start("offline")

    def _start(self, mode: str) -> Any:
        return self.wandb.init(
            project="stpredict",
            id=f"{self.folder.name}-{zlib.crc32(str(self.folder).encode())}",
            name=self.folder.name,
            dir=str(self.folder),
            config=self.config,
            mode=mode,
            resume="allow",
            settings=self.wandb.Settings(init_timeout=self.seconds, finish_timeout=self.seconds, finish_timeout_raises=True, silent=True),
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Take named numbers of one step."""
        self.run.log(dict(values), step=step)

    def picture(self, step: int, name: str, path: Path) -> None:
        """Take a picture, a PNG file."""
        self.run.log({name: self.wandb.Image(str(path))}, step=step)

    def film(self, step: int, name: str, path: Path) -> None:
        """Take a film, a GIF file, as it is."""
        self.run.log({name: self.wandb.Video(str(path), format="gif")}, step=step)

    def close(self) -> None:
        """Write out what waits."""
        written = Path(self.run.dir).parent
        try:
            self.run.finish()
        except TimeoutError:
            command = f"wandb sync --no-skip-online {written}"
            self.say(f"wandb could not upload all in {self.seconds:g} s; nothing is lost, upload later with: {command}")


def start_trackers(names: Sequence[str], folder: Path, config: Mapping[str, Any], say: Callable[[str], None] = print) -> list[Tracker]:
    """Start the trackers named; ``csv`` is always written and needs none.

    Args:
        names: ``tensorboard``, ``wandb``; other names are passed over.
        folder: the run's folder.
        config: the run's settings.
        say: is told in a sentence what a tracker cannot do.

    Raises:
        UserError: the library of one is not installed.
    """
    trackers: list[Tracker] = []
    if "tensorboard" in names:
        trackers.append(TensorBoard(folder))
    if "wandb" in names:
        trackers.append(WandB(folder, config, say))
    return trackers
