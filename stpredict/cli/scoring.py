"""``stpredict evaluate``."""

from __future__ import annotations

import argparse

from stpredict.cli.options import (
    Commands,
    add_card,
    add_clips,
    add_command,
    add_device,
    add_predictors,
    add_tile,
    load_clips,
    load_predictors,
    new_file,
    whole_number,
)

KNOWN = (
    "mse mae mse_sum mae_sum ssim psnr (the default, with csi where there are thresholds); of events at thresholds csi csi_per_lead "
    "csi_pool4 csi_pool16 pod far sucr bias hss fss; of rain balanced_mse balanced_mae rain_mse rain_mae; of detail "
    "log_spectral_distance small_scale_power; of ensembles crps crps_fair rank_histogram; or package.module:Class"
)


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
    add_clips(parser)
    parser.add_argument("--protocol", metavar="P", help="the convention of scoring (default: per-pixel)")
    parser.add_argument("--score", dest="scores", metavar="NAME", nargs="+", action="extend", help=f"only these: {KNOWN}")
    parser.add_argument("--units", metavar="U", help="score in these units: mm/h, mm or dBZ (default: the card's)")
    parser.add_argument("--threshold", dest="thresholds", metavar="X", type=float, nargs="+", help="those of events (default: the card's)")
    parser.add_argument("--members", metavar="M", type=whole_number, help="score ensembles of M members")
    parser.add_argument("--skill", metavar="NAME", help="also the skill over this predictor, with 95 %% intervals, such as persistence")
    parser.add_argument("--resample", choices=["clips", "films"], default="clips", help="what intervals draw again (default: clips)")
    parser.add_argument("--no-baselines", dest="baselines", action="store_false", help="leave the baselines out")
    parser.add_argument("--batch-size", metavar="N", type=whole_number, default=16, help="clips at a time (default: 16)")
    add_tile(parser)
    parser.add_argument("--limit", metavar="N", type=whole_number, help="only the first N clips")
    parser.add_argument("--save-forecasts", metavar="FILE", type=new_file, help="write the forecasts of the one predictor (.npz or .h5)")
    parser.add_argument("--out", metavar="FILE.json", type=new_file, help="write the scores")
    add_device(parser)
    parser.set_defaults(action=_evaluate)


def _evaluate(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from stpredict.evaluation import evaluate

    predictors = load_predictors(arguments)
    scores = evaluate(
        predictors,
        load_clips(arguments, predictors),
        arguments.protocol,
        scores=arguments.scores,
        baselines=arguments.baselines,
        batch_size=arguments.batch_size,
        limit=arguments.limit,
        units=arguments.units,
        thresholds=arguments.thresholds,
        members=arguments.members,
        skill=arguments.skill,
        resample=arguments.resample,
        save_forecasts=arguments.save_forecasts,
        device=arguments.device,
        progress=True,
    )
    if arguments.out is not None:
        scores.write(arguments.out)
    console = Console()
    for table in scores.tables():
        console.print(table)
    return 0
