"""``stpredict info``."""

from __future__ import annotations

import argparse

from stpredict.cli.options import Commands, add_command, add_predictors


def add_commands(commands: Commands) -> None:
    """Add the commands of this module."""
    parser = add_command(commands, "info", "say what a predictor or a run is", "stpredict info runs/demo-1")
    add_predictors(parser, several=False)
    parser.set_defaults(action=_info)


def _info(arguments: argparse.Namespace) -> int:
    from stpredict.showing import describe_predictor

    print(describe_predictor(arguments.predictor, allow=arguments.allow_code))
    return 0
