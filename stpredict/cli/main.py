"""The command ``stpredict``.

Exit codes: 0 done, 1 failed (a full disk), 2 asked wrongly or unusable input, 3 a watch in which a fallback stood in, 75 interrupted and
resumable. A :class:`UserError` or an :class:`OSError` becomes one sentence on stderr; anything else is a bug and shows its traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import stpredict
from stpredict.cli import about, cards, doctor, elsewhere, films, gradients, importing, inside, report, runs, scoring, study, training
from stpredict.cli.options import Parser, kernels_as_asked
from stpredict.errors import UserError, nearest

FAILED, ASKED_WRONGLY = 1, 2


def run() -> None:
    """Run the command that the shell gave, and leave with its exit code."""
    sys.exit(main())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: the words after ``stpredict``; None takes them from the shell.
    """
    try:
        parsed = parse(sys.argv[1:] if arguments is None else arguments)
        with kernels_as_asked(parsed):
            code: int = parsed.action(parsed)
        sys.stdout.flush()
        return code
    except UserError as error:
        return _complain(str(error), ASKED_WRONGLY)
    except BrokenPipeError:
        # Who reads, such as `head`, has seen enough; what is left goes nowhere, so that Python does not complain when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        return _complain(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error), FAILED)
    except KeyboardInterrupt:
        return _complain("interrupted", FAILED)


def _complain(sentence: str, code: int) -> int:
    print(f"stpredict: {' '.join(sentence.split())}", file=sys.stderr)
    return code


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return what words on a command line ask for: ``action`` and what it takes.

    Raises:
        UserError: they ask for nothing that there is.
    """
    words, overrides = _split_overrides(arguments)
    parser = _parser()
    parsed = argparse.Namespace()
    _, unknown = parser.parse_known_args(words, parsed)
    command: Parser = parsed.parser
    if unknown:
        options = [word.partition("=")[0] for word in unknown if word.startswith("--")]
        if options:
            raise UserError(f"'{command.prog}' has no option '{options[0]}'{nearest(options[0], command.options)}")
        raise UserError(f"'{command.prog}' has no use for '{unknown[0]}': words that belong together stand together, before the options")
    if overrides and not parsed.takes_overrides:
        raise UserError(f"'{command.prog}' takes no overrides such as '{overrides[0]}'")
    parsed.overrides, parsed.words = overrides, list(arguments)
    return parsed


def _split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part plain words from dotted overrides with their values, wherever these stand."""
    words: list[str] = []
    overrides: list[str] = []
    waiting = False
    for word in arguments:
        dotted = word.startswith("--") and "." in word.partition("=")[0]
        (overrides if dotted or (waiting and not word.startswith("--")) else words).append(word)
        waiting = dotted and "=" not in word
    return words, overrides


def _parser() -> Parser:
    parser = Parser(
        prog="stpredict",
        description="Learns to continue a film: trains video predictors, scores them, and shows the predicted film beside the real one.",
        epilog="example:\n  stpredict train demo",
    )
    parser.add_argument("--version", action="version", version=f"stpredict {stpredict.__version__}")
    parser.set_defaults(takes_overrides=False)
    commands = parser.add_group()
    for group in (training, study, runs, scoring, films, report, gradients, inside, cards, importing, elsewhere, doctor, about):
        group.add_commands(commands)
    return parser
