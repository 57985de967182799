"""``stpredict doctor``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from stpredict.cli.options import Commands, add_command, add_device, new_file

if TYPE_CHECKING:
    from stpredict.doctor import Machine, Report, Trial
    from stpredict.libraries import Library


def add_commands(commands: Commands) -> None:
    """Add the commands of this module."""
    parser = add_command(
        commands, "doctor", "say what this machine has, and try what stpredict needs of it", "stpredict doctor --json machine.json"
    )
    add_device(parser)
    parser.add_argument("--json", metavar="FILE", type=new_file, help="write what was found")
    parser.set_defaults(action=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    from stpredict.libraries import REQUIRED, look_at_library

    unusable = [library for library in map(look_at_library, REQUIRED) if library.version is None]
    if unusable:
        # Nothing else of stpredict could be imported to look further.
        return _give_up(unusable, arguments.json)
    from stpredict.devices import choose_device
    from stpredict.doctor import examine

    report = examine(choose_device(arguments.device))
    if arguments.json is not None:
        report.write(arguments.json)
    print("\n".join(_lines(report)))
    return 1 if report.failures else 0


def _give_up(unusable: Sequence[Library], path: Path | None) -> int:
    """Say which libraries are missing or broken."""
    from stpredict.files import write_text

    failures = [f"{library.module} ({library.reason})" for library in unusable]
    if path is not None:
        write_text(path, json.dumps({"required": [asdict(library) for library in unusable], "failures": failures}, indent=2) + "\n")
    print("\n".join([*(_library("library", library) for library in unusable), f"fails: {'; '.join(failures)}"]))
    return 1


def _lines(report: Report) -> list[str]:
    """Return the report for people; the last line is the verdict."""
    lines = _machine(report.machine)
    lines += [_library("library", library) for library in report.required]
    lines += [_library(f"extra {extra}", library) for extra, libraries in report.extras.items() for library in libraries]
    lines.append(_trial("gloo", report.processes))
    lines.append(_trial("memory", report.copy))
    lines.append(_line("kernels", report.kernels + (f" alone, because {report.no_faster}" if report.no_faster else "")))
    lines += [_trial("precision", trial) for trial in report.precisions]
    lines += [_trial("render", trial) for trial in report.films]
    return [*lines, f"fails: {'; '.join(report.failures)}" if report.failures else "all that stpredict needs works"]


def _machine(machine: Machine) -> list[str]:
    gpus = [
        f"{gpu['name']}, {_size(gpu['memory'])}, of which {_size(gpu['memory_free'])} free, compute capability {gpu['capability']}"
        for gpu in machine.gpus
    ]
    groups = ", ".join(f"{name} {'yes' if there else 'no'}" for name, there in {"gloo": machine.gloo, "NCCL": machine.nccl}.items())
    return [
        _line("processor", f"{machine.processor}, {machine.cores} of {machine.all_cores} cores, {machine.threads} threads of torch"),
        _line("memory", f"{_size(machine.memory)}, of which {_size(machine.memory_free)} free"),
        _line("disk", f"{_size(machine.disk_free)} free here"),
        *(_line("GPU", words) for words in gpus or ["none that torch can use"]),
        _line("groups", groups),
        *(_line(name, version) for name, version in machine.versions.items()),
    ]


def _library(what: str, library: Library) -> str:
    return _line(what, f"{library.module} {library.version or 'cannot be used'}" + (f" ({library.reason})" if library.reason else ""))


def _trial(what: str, trial: Trial) -> str:
    figures = ", ".join(f"{name} {value:.6g}" for name, value in trial.figures.items() if name != "error")
    return _line(
        what, f"{trial.name} " + (f"works{f', {figures}' if figures else ''}" if trial.works else f"does not work ({trial.reason})")
    )


def _line(what: str, words: str) -> str:
    return f"{what:14}{words}"


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
