"""``stpredict train`` and ``stpredict resume``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from stpredict.cli.options import DEVICES, KERNELS, Commands, Parser, add_command, index
from stpredict.errors import UserError

if TYPE_CHECKING:
    from stpredict.training import Run, Settings


def add_commands(commands: Commands) -> None:
    """Add the commands of this module."""
    parser = add_command(
        commands,
        "train",
        "train a predictor as a config says",
        "stpredict train moving_mnist/predrnn --data.root ~/mnist --trainer.max_steps 2000 --device cpu",
    )
    parser.add_argument("config", metavar="CONFIG", help="the name of a shipped config, or a YAML file")
    _add_overrides(parser, "CONFIG")
    parser.add_argument("--precision", metavar="P", help="short for --trainer.precision")
    parser.add_argument("--seed", metavar="N", help="of every random draw")
    parser.add_argument("--dry-run", action="store_true", help="take a few steps, write nothing, and say what the whole run will take")
    parser.set_defaults(action=_train)

    parser = add_command(commands, "resume", "go on with a run that was interrupted", "stpredict resume runs/demo-1")
    parser.add_argument("run", metavar="RUN", type=Path, help="the folder of the run")
    _add_overrides(parser, "RUN")
    parser.set_defaults(action=_resume)


def _add_overrides(parser: Parser, named: str) -> None:
    # Dotted overrides are taken off the command line before argparse sees it, so it cannot tell of them itself.
    parser.usage = f"{parser.prog} [options] {named} [--section.key VALUE ...]"
    parser.description = f"{parser.description} --section.key VALUE, wherever it stands, overrides a key of the config."
    parser.add_argument("--device", choices=DEVICES, help="short for --trainer.device")
    parser.add_argument("--kernels", choices=KERNELS, help="short for --trainer.kernels")
    parser.add_argument(
        "--max-restarts", metavar="N", type=index, default=0, help="start all processes again up to N times when one dies (default: 0)"
    )
    parser.set_defaults(takes_overrides=True)


def _train(arguments: argparse.Namespace) -> int:
    from stpredict.training import load_settings, train

    settings = load_settings(arguments.config, _overrides(arguments))
    if arguments.dry_run:
        from stpredict.training.rehearsal import rehearse

        print(rehearse(settings))
        return 0
    return _launch(arguments, arguments.config, settings) if _is_to_launch(arguments, settings) else _end(train(settings))


def _resume(arguments: argparse.Namespace) -> int:
    from stpredict.configuration import read_config
    from stpredict.training import Run, make_settings, resume

    run, _ = Run.open(arguments.run)
    overrides = _overrides(arguments)
    settings = make_settings(read_config(run.folder / "config.yaml", overrides))
    return _launch(arguments, str(run.folder), settings) if _is_to_launch(arguments, settings) else _end(resume(run.folder, overrides))


def _is_to_launch(arguments: argparse.Namespace, settings: Settings) -> bool:
    from stpredict.training.launching import launched

    if not launched():
        return settings.trainer.devices > 1 or arguments.max_restarts > 0
    if arguments.max_restarts:
        raise UserError("torchrun has started this process, so it is torchrun that needs --max-restarts, before its -m")
    return False


def _launch(arguments: argparse.Namespace, named: str, settings: Settings) -> int:
    from stpredict.training.launching import check_launch, launch

    check_launch(settings)
    command = arguments.parser.prog.split()[-1]
    return launch([command, named, *_overrides(arguments)], settings.trainer.devices, arguments.max_restarts)


def _overrides(arguments: argparse.Namespace) -> list[str]:
    short = {"trainer.device": "device", "trainer.precision": "precision", "trainer.kernels": "kernels", "seed": "seed"}
    given = {key: getattr(arguments, name, None) for key, name in short.items()}
    return [*(f"--{key}={value}" for key, value in given.items() if value is not None), *arguments.overrides]


def _end(run: Run) -> int:
    """Say on stdout, for scripts, where the run is; of several processes the first does."""
    from stpredict.training.launching import end

    if os.environ.get("RANK", "0") == "0":
        print(run.folder)
    return end(run.exit_code)
