"""``stpredict info``."""

from __future__ import annotations

import argparse

from stpredict.cli.options import Commands, add_allow_code, add_command, table_console
from stpredict.errors import UserError


def add_commands(commands: Commands) -> None:
    """Add the commands of this module."""
    parser = add_command(
        commands,
        "info",
        "say what a predictor or a run is, or which predictors come with the program",
        "stpredict info runs/demo-1\n  stpredict info --shipped",
    )
    words = "a predictor file, a run folder, the name of a shipped predictor or of a baseline, or saved forecasts"
    parser.add_argument("predictor", metavar="PREDICTOR", nargs="?", help=words)
    parser.add_argument("--shipped", action="store_true", help="list the shipped predictors, which any PREDICTOR may name")
    add_allow_code(parser)
    parser.set_defaults(action=_info)


def _info(arguments: argparse.Namespace) -> int:
    if arguments.shipped == (arguments.predictor is not None):
        raise UserError("'stpredict info' wants either a PREDICTOR or --shipped")
    if arguments.shipped:
        _list_shipped()
        return 0
    from stpredict.showing import describe_predictor

    print(describe_predictor(arguments.predictor, allow=arguments.allow_code))
    return 0


def _list_shipped() -> None:
    from rich.table import Table
    from rich.text import Text

    from stpredict.shipped import read_index

    table = Table(title=Text("predictors that come with the program"), caption=Text("'stpredict info NAME' says more of one"))
    table.add_column("name", no_wrap=True)
    for heading in ("network", "weights", "size", "data", "score", "licence", "about"):
        table.add_column(heading, justify="right" if heading in ("weights", "size") else "left")
    for name, one in read_index().items():
        data = f"{one.data} {one.split}, {one.clips} clips"
        cells = (name, one.network, f"{one.weights:,}", f"{one.size / 1e6:.2f} MB", data, one.result(), one.licence, one.about)
        table.add_row(*map(Text, cells))
    table_console().print(table)
