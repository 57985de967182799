"""``stpredict evaluate``."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stpredict.cli.options import (
    Commands,
    Parser,
    add_card,
    add_clips,
    add_command,
    add_computing,
    add_predictors,
    add_tile,
    load_clips,
    load_predictors,
    new_file,
    whole_number,
)
from stpredict.errors import UserError

if TYPE_CHECKING:
    from stpredict.results import Scores

KNOWN = (
    "mse mae mse_sum mae_sum ssim psnr (the default, with csi where there are thresholds); rmse rmse_sum ssim_uniform ssim_range2 "
    "gradient_difference lpips lpips_unscaled; of events at thresholds csi csi_per_lead csi_pool4 csi_pool16 pod far sucr bias hss "
    "hss_per_lead fss; of rain balanced_mse balanced_mae rain_mse rain_mae; of detail log_spectral_distance small_scale_power "
    "power_ratio; of ensembles crps crps_fair rank_histogram spread spread_skill brier reliability calibration power_ratio_members; "
    "or package.module:Class"
)


PROTOCOLS = "per-pixel openstl predrnn sevir hko7 meteonet shanghai"
"""The names of the protocols, which stand here too, so that --help need not import them."""


def add_questions(parser: Parser) -> None:
    """Add which clips are scored, by what, and what is said of it."""
    add_clips(parser, split="the protocol's for this card, else test")
    parser.set_defaults(split=None)
    parser.add_argument("--protocol", metavar="P", help=f"the convention of scoring: {PROTOCOLS} (default: per-pixel)")
    parser.add_argument("--score", dest="scores", metavar="NAME", nargs="+", action="extend", help=f"only these: {KNOWN}")
    parser.add_argument("--units", metavar="U", help="score in these units: mm/h, mm or dBZ (default: the protocol's, else the card's)")
    parser.add_argument(
        "--threshold",
        dest="thresholds",
        metavar="X",
        type=float,
        nargs="+",
        help="those of events (default: the protocol's, or the card's)",
    )
    parser.add_argument(
        "--skill", metavar="NAME", help="also the skill over this predictor, such as persistence, and the paired differences from it"
    )
    parser.add_argument("--resample", choices=["clips", "films"], default="clips", help="what intervals draw again (default: clips)")
    parser.add_argument("--no-baselines", dest="baselines", action="store_false", help="leave the baselines out")
    parser.add_argument("--limit", metavar="N", type=whole_number, help="only the first N clips")


def add_commands(commands: Commands) -> None:
    """Add the commands of this module."""
    parser = add_command(
        commands,
        "evaluate",
        "score predictors beside the no-skill baselines",
        "stpredict evaluate runs/demo-1 --data moving_digits --split test --out scores.json",
    )
    add_predictors(parser, several=True)
    add_card(parser)
    add_questions(parser)
    parser.add_argument("--members", metavar="M", type=whole_number, help="score ensembles of M members")
    parser.add_argument("--batch-size", metavar="N", type=whole_number, default=16, help="clips at a time (default: 16)")
    parser.add_argument("--devices", metavar="N", type=whole_number, default=1, help="processes that share the clips (default: 1)")
    add_tile(parser)
    parser.add_argument("--save-forecasts", metavar="FILE", type=new_file, help="write the forecasts of the one predictor (.npz or .h5)")
    parser.add_argument(
        "--out", metavar="FILE", type=new_file, action="append", default=[], help="write the scores (.json, .csv, .md or .tex); repeatable"
    )
    parser.add_argument("--per-clip", metavar="FILE.csv", type=new_file, help="write the scores of each clip")
    add_computing(parser)
    parser.set_defaults(action=_evaluate)


def _evaluate(arguments: argparse.Namespace) -> int:
    from stpredict.devices import choose_device
    from stpredict.evaluation import evaluate
    from stpredict.processes import join
    from stpredict.results import writer_of
    from stpredict.training.launching import end, launched

    for path in arguments.out:
        writer_of(path)  # refuses a name before hours are spent
    if arguments.per_clip is not None and arguments.per_clip.suffix != ".csv":
        raise UserError(f"The scores of each clip are written as .csv, not as '{arguments.per_clip.suffix}': {arguments.per_clip}")
    if arguments.devices > 1 and not launched():
        return _launch(arguments)
    try:
        with join(choose_device(arguments.device)):  # before a predictor goes to the GPU of its process
            scores = evaluate(**_asked(arguments), batch_size=arguments.batch_size, progress=True)
    except KeyboardInterrupt:
        if not launched():
            raise
        return 1  # who started the processes says it for all of them
    if os.environ.get("RANK", "0") == "0":
        _tell(scores, arguments.out, arguments.per_clip)
    return end(0)


def _asked(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what is to be evaluated and how, as :func:`stpredict.evaluation.prepare` takes it."""
    from stpredict.data.card import read_card
    from stpredict.protocols import find_protocol

    rules = find_protocol(arguments.protocol)
    predictors = load_predictors(arguments)
    if arguments.split is None:
        arguments.split = rules.splits.get(read_card(arguments.card).name, "test")
    for name in ("context", "horizon"):
        setattr(arguments, name, getattr(arguments, name) or getattr(rules, name))
    asked = {"predictors": predictors, "data": load_clips(arguments, predictors)}
    same = ("protocol", "scores", "baselines", "limit", "units", "thresholds", "members", "skill", "resample", "save_forecasts", "device")
    return asked | {name: getattr(arguments, name) for name in same}


def _launch(arguments: argparse.Namespace) -> int:
    """Evaluate in several processes, which this one starts once it knows that they can."""
    import torch

    from stpredict.devices import choose_device
    from stpredict.evaluation import prepare
    from stpredict.evaluation.saving import clear_parts
    from stpredict.training.launching import launch

    if choose_device(arguments.device).type == "cuda" and torch.cuda.device_count() < arguments.devices:
        raise UserError(f"--devices is {arguments.devices}, but this machine has {torch.cuda.device_count()} GPU(s) that torch can use")
    # What is wrong is said once here, and not once in each process; the GPUs are left to those.
    prepare(**_asked(argparse.Namespace(**{**vars(arguments), "device": "cpu"})))
    code = 1
    logging.disable(logging.ERROR)  # torch's launcher tells how it ends its processes
    try:
        code = launch(arguments.words, arguments.devices)
    finally:
        logging.disable(logging.NOTSET)
        if code and arguments.save_forecasts is not None:
            clear_parts(arguments.save_forecasts)
    if code > 128:
        killed = f"one of the {arguments.devices} processes was killed ({signal.Signals(code - 128).name})"
        print(f"stpredict: {killed}: if memory is short, ask for fewer --devices or a smaller --batch-size", file=sys.stderr)
    return code


def _tell(scores: Scores, out: list[Path], per_clip: Path | None) -> None:
    """Write and print what was found."""
    from rich.console import Console

    try:
        for path in out:
            scores.write(path)
        if per_clip is not None:
            scores.write_clips(per_clip)
    finally:  # what took hours is told even where it could not be written
        for warning in scores.warnings:
            print(f"stpredict: {warning}", file=sys.stderr)
        console = Console()
        for table in scores.tables():
            console.print(table)
