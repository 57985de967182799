"""What a page tells of a run: its facts, its curves, and the commands that make it again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors

from stpredict.checkpoint import checkpoints
from stpredict.configuration import dump_config, read_config
from stpredict.errors import UserError
from stpredict.page.story import Run
from stpredict.showing.maps import span
from stpredict.training.elapsed import elapsed
from stpredict.training.overview import RunRow, read_log, survey_runs
from stpredict.training.settings import make_settings

CURVES = ("loss", "validation_loss", "validation_mse", "learning_rate", "gradient_norm")
"""Columns of a log that are drawn."""

_BEST = "best validation mse (of scaled values)"


@dataclass(frozen=True)
class RunFolder:
    """A run as a source of a page.

    Attributes:
        folder: its folder.
        name: what the page calls it.
        row: what is known of it.
        data: the ``data`` section of its config, whole; empty where it cannot be read.
    """

    folder: Path
    name: str
    row: RunRow
    data: Mapping[str, Any]

    @property
    def has_predictor(self) -> bool:
        """Whether there is a predictor to score."""
        return any((self.folder / name).is_file() for name in ("best.safetensors", "last.safetensors"))

    @property
    def problem(self) -> str:
        """Return in a sentence why the run is not whole, or nothing."""
        row = self.row
        if row.problem:
            return f"The run '{self.name}' cannot be read whole: {row.problem}"
        if not self.has_predictor:
            return f"The run '{self.name}' has no predictor yet ({row.state}, {_steps(row)}): only its curves are shown"
        return "" if row.state == "done" else f"The run '{self.name}' is {row.state}, {_steps(row)}: its predictor so far is shown"


def is_run(path: Path) -> bool:
    """Whether a path is the folder of a run, be it broken."""
    return any((path / name).is_file() for name in ("config.yaml", "log.csv")) or (path / "checkpoints").is_dir()


def open_run(folder: Path, name: str) -> RunFolder:
    """Look at a run; what is broken is told by :attr:`RunFolder.problem`."""
    row = survey_runs(folder).runs[0]
    try:
        data = make_settings(read_config(folder / "config.yaml")).to_dict()["data"]
    except (UserError, OSError):  # the row says it
        data = {}
    return RunFolder(folder, name, row, data)


def tell_run(run: RunFolder, commands: Sequence[str], config_file: str) -> Run:
    """Return a run as the page shows it."""
    numbers = {"state": run.row.step, "parameters": _parameters(run), _BEST: run.row.best, "training time": run.row.seconds}
    known = {label: number for label, number in numbers.items() if number is not None}
    return Run(run.name, config_text(run), _facts(run), known, _curves(run), tuple(commands), config_file)


def config_text(run: RunFolder) -> str:
    """Return the config as YAML, without the folder that the run was written to, or as it stands where it cannot be read."""
    path = run.folder / "config.yaml"
    if not path.is_file():
        return ""
    if not run.data:
        return path.read_text(encoding="utf-8", errors="replace")
    config = read_config(path)
    config["run"] = {key: value for key, value in (config.get("run") or {}).items() if key != "folder"}
    return dump_config(config)


def _facts(run: RunFolder) -> dict[str, str]:
    row, config = run.row, run.row.config
    header = _header(run)
    said = header.get("provenance")
    step = said.get("step") if isinstance(said, Mapping) else None
    facts = {
        "problem": row.problem,
        "state": f"{row.state}, {_steps(row)}",
        "network": _network(config),
        "parameters": "" if (count := _parameters(run)) is None else f"{count:,}",
        "data": f"{config['data.card']} train" if "data.card" in config else "",
        "frames": _frames(header),
        _BEST: "" if row.best is None else f"{row.best:.4g} at step {row.best_step:,}",
        "scored predictor": f"of step {step:,}" if isinstance(step, int) else "",
        "training time": "" if row.seconds is None else elapsed(row.seconds, ".3g"),
        "batch": f"{config['data.batch_size']} clips" if "data.batch_size" in config else "",
        "precision": str(config.get("trainer.precision", "")),
        "seed": str(config.get("seed", "")),
        **_machine(run),
    }
    return {label: text for label, text in facts.items() if text}


def _steps(row: RunRow) -> str:
    done = row.step or 0
    whole = row.max_steps is None or done == row.max_steps
    return f"{done:,} step{'' if done == 1 else 's'}" if whole else f"{done:,} of {row.max_steps:,} steps"


def _network(config: Mapping[str, Any]) -> str:
    settings = [f"{key.removeprefix('network.')} {value}" for key, value in config.items() if key.startswith("network.")]
    own = [words for words in settings if not words.startswith("name ")]
    name = str(config.get("network.name", ""))
    return f"{name} ({', '.join(own)})" if name and own else name


def _predictor_file(run: RunFolder) -> Path | None:
    files = (run.folder / name for name in ("best.safetensors", "last.safetensors"))
    return next((file for file in files if file.is_file()), None)


def _metadata(path: Path | None, key: str) -> dict[str, Any]:
    """Return JSON from the header of a file, or nothing where there is none; whether the file is whole is not looked at."""
    try:
        if path is None:
            return {}
        with safetensors.safe_open(path, framework="pt") as file:
            said = json.loads((file.metadata() or {}).get(key, "{}"))
    except (safetensors.SafetensorError, ValueError, OSError):
        return {}
    return said if isinstance(said, dict) else {}


def _header(run: RunFolder) -> dict[str, Any]:
    return _metadata(_predictor_file(run), "stpredict")


def _parameters(run: RunFolder) -> int | None:
    try:
        path = _predictor_file(run)
        if path is None:
            return None
        with safetensors.safe_open(path, framework="pt") as file:
            count: int = sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118  # not a dict
            return count
    except (safetensors.SafetensorError, OSError):
        return None


def _frames(header: Mapping[str, Any]) -> str:
    spec = header.get("spec")
    if not isinstance(spec, Mapping) or not {"channels", "height", "width", "units"} <= set(spec):
        return ""
    channels, units = spec["channels"], "" if spec["units"] == "1" else f", {spec['units']}"
    shape = f"{spec['height']} x {spec['width']} pixels{'' if channels == 1 else f', {channels} channels'}{units}"
    clock = f", every {span(spec['time_step'])}" if isinstance(spec.get("time_step"), int | float) else ""
    return f"{shape}{clock}; {header.get('context')} observed, {header.get('horizon')} forecast"


def _machine(run: RunFolder) -> dict[str, str]:
    """Return where it was computed and with what, as its newest checkpoint or its predictor says."""
    saved = checkpoints(run.folder / "checkpoints")
    facts = _metadata(saved[-1] if saved else None, "checkpoint").get("facts")
    facts = facts if isinstance(facts, Mapping) else {}
    several = {"process": "processes", "thread": "threads"}
    counted = {"process": facts.get("processes"), "thread": facts.get("threads")}
    device = [str(facts[name]) for name in ("device", "kernels for", "kernels") if facts.get(name)]
    device += [f"1 {word}" if count == 1 else f"{count} {several[word]}" for word, count in counted.items() if count]
    versions = [f"{name} {facts[name]}" for name in ("stpredict", "torch", "numpy") if facts.get(name)]
    if not versions and (version := _header(run).get("version")):
        versions = [f"stpredict {version}"]
    return {"machine": ", ".join(device), "versions": ", ".join(versions)}


def _curves(run: RunFolder) -> dict[str, tuple[tuple[int, float], ...]]:
    """Return the curves of a log, if it can be read."""
    try:
        rows = read_log(run.folder / "log.csv")
    except (UserError, OSError):  # the row says it
        return {}
    columns = {name: [(int(row["step"]), row[name]) for row in rows if name in row] for name in CURVES}
    return {name: tuple(points) for name, points in columns.items() if points}
