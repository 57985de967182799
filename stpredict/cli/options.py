"""What the commands have in common: the parser, options that mean the same everywhere, and loading what they name."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from stpredict.errors import UserError, nearest

if TYPE_CHECKING:
    from rich.console import Console

    from stpredict.data.clips import ClipSet
    from stpredict.predictor import Predictor

DEVICES = ("auto", "cpu", "cuda")
KERNELS = ("auto", "reference")


class Parser(argparse.ArgumentParser):
    """A parser that takes no abbreviations, and whose complaints are a :class:`UserError`."""

    commands: Commands | None = None

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **settings)

    @property
    def options(self) -> list[str]:
        """Return the options that there are."""
        return [name for action in self._actions for name in action.option_strings]

    def add_group(self) -> Commands:
        """Let a command follow; :func:`add_command` adds those that there are."""
        self.commands = self.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
        return self.commands

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse, but first see to it that a misspelt command is told of its nearest neighbour."""
        if self.commands and args and not args[0].startswith("-") and args[0] not in self.commands.choices:
            raise UserError(f"'{self.prog}' has no command '{args[0]}'{nearest(args[0], self.commands.choices)}")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Refuse the command line."""
        raise UserError(f"{message} ({self.prog} --help says more)")


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


def add_command(commands: Commands, name: str, summary: str, example: str) -> Parser:
    """Add a command and return its parser."""
    parser = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", epilog=f"example:\n  {example}")
    parser.set_defaults(parser=parser)
    return parser


def whole_number(text: str) -> int:
    """Read a number of things, from 1 up."""
    return _at_least(1, text)


def index(text: str) -> int:
    """Read a position, from 0 up."""
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"wants a whole number from {least} up, not '{text}'")
    return int(text)


def rate(text: str) -> float:
    """Read a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"wants a number above 0, not '{text}'")
    return value


def new_file(text: str) -> Path:
    """Read the path of a file to write, whose folder must take files before hours are spent on what goes into it."""
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder '{path.parent}' to write '{path.name}' in; make it first")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"'{path}' is a folder; name a file")
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise argparse.ArgumentTypeError(
            f"'{path.name}' cannot be written in the folder '{path.parent}' ({error.strerror}); name another"
        ) from None
    return path


def add_predictors(parser: Parser, several: bool) -> None:
    """Add PREDICTOR, or PREDICTOR..., and what may be needed to load one."""
    words = (
        "a predictor file, a run folder, the name of a shipped predictor or of a baseline, or saved forecasts: a forecast file "
        "(.npz, .h5), preds.npy or its folder, a nowcast (.nc, .npz, .h5) or a folder of nowcasts"
    )
    if several:
        parser.add_argument("predictors", metavar="PREDICTOR", nargs="+", help=words)
    else:
        parser.add_argument("predictor", metavar="PREDICTOR", help=words)
    add_allow_code(parser)


def add_allow_code(parser: Parser) -> None:
    """Add --allow-code."""
    parser.add_argument(
        "--allow-code",
        metavar="NAME",
        nargs="+",
        action="extend",
        default=[],
        help="code (package.module:Class) that a predictor file may import; without it only stpredict's own and installed entry points",
    )


def add_device(parser: Parser) -> None:
    """Add --device."""
    parser.add_argument("--device", choices=DEVICES, default="auto", help="where to compute; auto: cuda where there is one (default: auto)")


def add_computing(parser: Parser) -> None:
    """Add --device and --kernels."""
    add_device(parser)
    words = "convolutions on the CPU: in their fastest form, the same within rounding, or as torch has them (default: auto)"
    parser.add_argument("--kernels", choices=KERNELS, help=words)


@contextmanager
def kernels_as_asked(arguments: argparse.Namespace) -> Iterator[None]:
    """Compute with --kernels, if it is given, while a command runs."""
    if getattr(arguments, "kernels", None) is None:
        yield
        return
    from stpredict.kernels import using

    with using(arguments.kernels):
        yield


def add_card(parser: Parser, positional: bool = False) -> None:
    """Add CARD, or --data CARD, and --root."""
    words = "the data: the name of a shipped card ('stpredict data list' shows them) or a YAML file"
    if positional:
        parser.add_argument("card", metavar="CARD", help=words)
    else:
        parser.add_argument("--data", dest="card", metavar="CARD", required=True, help=words)
    parser.add_argument("--root", metavar="FOLDER", type=Path, help="where its files are (default: where the card says)")


def add_clips(parser: Parser, split: str = "test") -> None:
    """Add --split, --context and --horizon."""
    parser.add_argument("--split", metavar="NAME", default=split, help=f"which split of the data (default: {split})")
    for name, words in {"context": "observed frames", "horizon": "frames to forecast"}.items():
        parser.add_argument(f"--{name}", metavar="N", type=whole_number, help=f"{words} (default: the predictor's own, else the card's)")


def add_tile(parser: Parser) -> None:
    """Add --tile."""
    parser.add_argument("--tile", metavar="N", type=whole_number, help="forecast in blended tiles of N x N pixels, where memory is short")


def in_tiles(predictors: list[Predictor], tile: int | None) -> list[Predictor]:
    """Return predictors that forecast in tiles, if that is asked for; baselines and forecast files stay as they are.

    Raises:
        UserError: none of them is a trained predictor, or tiles are too small for one.
    """
    from stpredict.predictor import Predictor
    from stpredict.tiling import TiledPredictor

    if tile is None:
        return predictors
    if not any(isinstance(one, Predictor) for one in predictors):
        raise UserError("--tile is for trained predictors, and there is none: leave it out")
    return [TiledPredictor(one, tile) if isinstance(one, Predictor) else one for one in predictors]


def load_predictors(arguments: argparse.Namespace) -> list[Predictor]:
    """Load what PREDICTOR... names onto --device, in tiles if --tile asks for them."""
    from stpredict.devices import choose_device
    from stpredict.predictor import load_predictor

    device = choose_device(arguments.device)
    predictors = [load_predictor(name, allow=arguments.allow_code, device=device) for name in arguments.predictors]
    return in_tiles(predictors, getattr(arguments, "tile", None))


def load_clips(arguments: argparse.Namespace, predictors: Sequence[Predictor]) -> ClipSet:
    """Load the clips of --data, as long as asked for, else as the first trained predictor is used to, else as the card says.

    What that predictor's config changed in the same card (crop, size, settings) is changed here too; without a trained predictor, what was
    changed for the first saved forecasts.
    """
    from stpredict.data import load_data
    from stpredict.data.card import read_card
    from stpredict.forecasts import SavedForecasts
    from stpredict.predictor import Predictor

    kinds: tuple[type, ...] = (Predictor, SavedForecasts)
    predictor = next((one for kind in kinds for one in predictors if isinstance(one, kind)), predictors[0])
    window: dict[str, Any] = {}
    if isinstance(predictor, Predictor):
        window = predictor.data_changes(arguments.card)
    elif isinstance(predictor, SavedForecasts) and predictor.card == read_card(arguments.card).name:
        window = dict(predictor.changes)
    window |= {name: getattr(arguments, name) or getattr(predictor, name, None) for name in ("context", "horizon")}
    return load_data(arguments.card, arguments.root, arguments.split, **window)


def table_console() -> Console:
    """Return where tables are printed: as wide as the terminal, and in a file or a pipe, which have no edge to break lines at, in full."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=10_000)
