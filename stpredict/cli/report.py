"""``stpredict report``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from stpredict.cli.options import Commands, add_allow_code, add_command, add_computing, index
from stpredict.cli.scoring import add_questions


def add_commands(commands: Commands) -> None:
    """Add the commands of this module."""
    parser = add_command(
        commands,
        "report",
        "make a page of runs, scores and films that opens in a browser",
        "stpredict report runs/demo-1 --limit 100 --out demo",
    )
    words = "a run folder, a predictor file, a baseline, saved forecasts, scores that evaluate wrote (.json), or the folder of a study"
    parser.add_argument("sources", metavar="SOURCE", nargs="+", help=words)
    parser.add_argument("--out", metavar="FOLDER", required=True, type=Path, help="the folder of the page, new or of an earlier report")
    parser.add_argument("--data", dest="card", metavar="CARD", help="the data that all are scored on (default: what each was trained on)")
    parser.add_argument("--root", metavar="FOLDER", type=Path, help="where its files are (default: as in the config of the run)")
    add_questions(parser)
    parser.add_argument(
        "--clips", metavar="N", type=index, default=4, help="clips whose films are shown: worst, median, best, first, ... (default: 4)"
    )
    parser.add_argument("--by", metavar="SCORE", help="the score that tells the worst clip from the best (default: the first)")
    parser.add_argument("--title", metavar="TEXT", help="of the page")
    parser.add_argument("--single-file", action="store_true", help="one page that holds its films; --out may then name it, page.html")
    add_allow_code(parser)
    add_computing(parser)
    parser.set_defaults(action=_report)


def _report(arguments: argparse.Namespace) -> int:
    from stpredict.page import report

    page = report(
        arguments.sources,
        arguments.out,
        data=arguments.card,
        root=arguments.root,
        split=arguments.split,
        context=arguments.context,
        horizon=arguments.horizon,
        protocol=arguments.protocol,
        scores=arguments.scores,
        units=arguments.units,
        thresholds=arguments.thresholds,
        limit=arguments.limit,
        baselines=arguments.baselines,
        skill=arguments.skill,
        resample=arguments.resample,
        clips=arguments.clips,
        by=arguments.by,
        title=arguments.title,
        single_file=arguments.single_file,
        allow=arguments.allow_code,
        device=arguments.device,
        progress=True,
        warn=lambda words: print(f"stpredict: {words}", file=sys.stderr),
    )
    print(page)
    return 0
