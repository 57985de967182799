"""Predictors that come with the program: found by name, and read only from a file that is as it was when it was shipped.

Beside this module lie, for each of them, the predictor file (its weights are stored as bf16), its model card (``.md``) and a film
(``.gif``). ``index.json`` holds the facts below by name; ``tools/ship.py`` writes all four.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from pathlib import Path

from stpredict.errors import UserError, nearest

FOLDER = Path(__file__).parent
"""Where they lie."""

LARGEST = 3_000_000
"""The most bytes that the file of one may have."""

_AGAIN = "install stpredict again"


@dataclass(frozen=True)
class Shipped:
    """What is known of a shipped predictor without opening its file.

    Attributes:
        about: what it is, in one line.
        sha256: of the file.
        size: of the file, in bytes.
        network: the network's name.
        weights: how many it has.
        data: the card that it was trained on, and of whose ``split`` the ``clips`` are that it was scored on.
        split: see ``data``.
        clips: see ``data``.
        protocol: the convention of scoring.
        score: the name of the score that the next four are of.
        mean: its own, over all clips and leads.
        interval: the ends of the 95 % interval of ``mean``.
        baseline: the best of the no-skill baselines by that score.
        baseline_mean: its mean.
        steps: that it was trained for.
        seconds: that its training took, on the clock.
        licence: of the weights.
    """

    about: str
    sha256: str
    size: int
    network: str
    weights: int
    data: str
    split: str
    clips: int
    protocol: str
    score: str
    mean: float
    interval: tuple[float, float]
    baseline: str
    baseline_mean: float
    steps: int
    seconds: float
    licence: str

    def result(self) -> str:
        """Say how good it is, beside the best baseline."""
        low, high = self.interval
        return f"{self.score} {self.mean:.4g} [{low:.4g}, {high:.4g}]; {self.baseline}: {self.baseline_mean:.4g}"


def read_index(folder: Path | None = None) -> dict[str, Shipped]:
    """Return the shipped predictors by name, in the order of their names.

    Raises:
        UserError: the index is damaged.
    """
    path = (folder or FOLDER) / "index.json"
    wanted = {field.name for field in fields(Shipped)}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        for name, entry in entries.items():
            if set(entry) != wanted or Path(name).name != name:
                raise ValueError(f"'{name}' is no entry")
        return {name: Shipped(**{**entries[name], "interval": tuple(entries[name]["interval"])}) for name in sorted(entries)}
    except (FileNotFoundError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"The index of the shipped predictors {path} is damaged ({error}): {_AGAIN}") from None


def find_shipped(name: str) -> Path:
    """Return the file of a shipped predictor, once it has been seen to be the one that was shipped.

    Raises:
        UserError: there is none of that name, or its file is missing or was altered.
    """
    index = read_index()
    if name not in index:
        raise UserError(f"There is no shipped predictor '{name}'{nearest(name, index)}")
    path, about = FOLDER / f"{name}.safetensors", index[name]
    if not path.is_file():
        raise UserError(f"The file of the shipped predictor '{name}' is missing, {path}: {_AGAIN}")
    same_size = path.stat().st_size == about.size
    if not same_size or hashlib.sha256(path.read_bytes()).hexdigest() != about.sha256:
        why = "its SHA-256 is not that of the index" if same_size else f"it has {path.stat().st_size:,} bytes, not {about.size:,}"
        raise UserError(f"The file of the shipped predictor '{name}' was altered, {path}: {why}, so it is not used; {_AGAIN}")
    return path
