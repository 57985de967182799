"""``stpredict forecast`` and ``stpredict render``."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
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
    in_tiles,
    index,
    load_clips,
    load_predictors,
    new_file,
    rate,
    whole_number,
)
from stpredict.errors import UserError

if TYPE_CHECKING:
    from stpredict.data.clips import ClipSet


def add_commands(commands: Commands) -> None:
    """Add the commands of this module."""
    parser = add_command(
        commands,
        "forecast",
        "forecast what follows the newest frames of new files",
        "stpredict forecast runs/video-1 holiday.mp4 --horizon 20 --out next.mp4",
    )
    add_predictors(parser, several=False)
    parser.add_argument("inputs", metavar="INPUT", nargs="+", type=Path, help="films, arrays or frames, as the card's reader takes them")
    parser.add_argument("--data", dest="card", metavar="CARD", help="how to read INPUT (default: as what the predictor was trained on)")
    parser.add_argument("--horizon", metavar="N", type=whole_number, help="frames to forecast (default: the predictor's own)")
    parser.add_argument(
        "--fill-gaps", choices=("persistence", "linear"), help="make up frames that are missing among the newest (default: refuse them)"
    )
    parser.add_argument(
        "--also", metavar="PREDICTOR", nargs="+", action="extend", default=[], help="more predictors, whose forecasts are further members"
    )
    parser.add_argument("--members", metavar="N", type=whole_number, help="forecasts of each predictor, an ensemble (default: one)")
    parser.add_argument(
        "--perturb", metavar="RULE=SIZE", help="what members but the first see: gain=0.2 (a smooth field of factors) or noise=0.5 (white)"
    )
    parser.add_argument("--seed", metavar="N", type=index, help="of what the members draw (default: 0)")
    parser.add_argument(
        "--exceed", metavar="X", type=float, nargs="+", default=[], help="write the share of members that reach each of these values"
    )
    parser.add_argument("--institution", metavar="TEXT", default="", help="who makes the product, as the product is to say")
    endings = ".nc (CF), .tif (GeoTIFF), .odim.h5 (ODIM_H5), .npz, .h5, or a film: .mp4, .gif, .png, ..."
    parser.add_argument("--out", metavar="FILE", required=True, help=f"what to write: {endings}; with --watch the folder of products")
    add_computing(parser)
    add_tile(parser)
    _add_watch(parser)
    parser.set_defaults(action=_forecast)

    parser = add_command(
        commands,
        "render",
        "show predicted films beside the real one",
        "stpredict render runs/demo-1 persistence --data moving_digits --clip 3 --out film.mp4",
    )
    add_predictors(parser, several=True)
    add_card(parser)
    add_clips(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--clip", dest="clips", metavar="I", type=index, nargs="+", help="clips of the split, from 0 (default: 0)")
    which.add_argument("--worst", metavar="N", type=whole_number, help="the N clips that the first PREDICTOR does worst by --by")
    which.add_argument("--best", metavar="N", type=whole_number, help="the N clips that it does best")
    parser.add_argument("--by", metavar="SCORE", help="a score that 'stpredict evaluate' knows (default: mse)")
    parser.add_argument("--limit", metavar="N", type=whole_number, help="choose among the first N clips (default: all)")
    parser.add_argument("--score", metavar="NAME", help="write this score of each forecast frame under it")
    parser.add_argument("--error", action=argparse.BooleanOptionalAction, default=True, help="show the errors too (default: yes)")
    parser.add_argument("--scale", metavar="N", type=whole_number, help="enlarge each pixel N times (default: as fits)")
    parser.add_argument(
        "--colours", metavar="NAME", default="auto", help="gray, viridis, rain, ...; safe for the colour-blind (default: by units)"
    )
    parser.add_argument("--theme", choices=("dark", "light"), help="colour of the paper (default: a film dark, a .png light)")
    parser.add_argument("--frames-per-second", metavar="X", type=rate, default=5.0, help="of the film; 1 is slow motion (default: 5)")
    parser.add_argument("--hold", metavar="S", type=rate, default=0.0, help="seconds that the last observed frame stands (default: 0)")
    endings = ".mp4, .webm, .gif, .webp, or .png: a strip, of several clips a contact sheet"
    parser.add_argument("--out", metavar="FILE", type=new_file, required=True, help=f"what to write: {endings}")
    add_computing(parser)
    parser.set_defaults(action=_render)


def _add_watch(parser: Parser) -> None:
    """Add --watch and what belongs to it."""
    group = parser.add_argument_group("watching a folder into which frames come")
    group.add_argument(
        "--watch", action="store_true", help="forecast at every time of the data's clock, as frames arrive, until it is stopped"
    )
    group.add_argument("--format", metavar="F", help="of the products: nc, tif, odim, npz, h5, or a film's (default: nc)")
    group.add_argument("--wait", metavar="S", type=rate, help="seconds to wait for a frame that does not come (default: half a step)")
    group.add_argument(
        "--deadline", metavar="S", type=rate, help="seconds a product may take from the start of its cycle (default: half a step)"
    )
    group.add_argument(
        "--fallback",
        metavar="BASELINE",
        nargs="+",
        help="what stands in where PREDICTOR fails or is late, one after another; none: nothing (default: extrapolation persistence)",
    )
    group.add_argument("--cycles", metavar="N", type=whole_number, help="end after so many (default: never)")
    group.add_argument(
        "--clock",
        choices=("wall", "data"),
        help="what tells the time: the machine, or the frames themselves, which goes through a folder of old ones (default: wall)",
    )


_WATCH = ("format", "wait", "deadline", "fallback", "cycles", "clock")
_ENSEMBLE = ("tile", "also", "members", "perturb", "seed", "exceed")


def _watch(arguments: argparse.Namespace) -> int:
    from stpredict.watching import FALLBACK, watch

    refused = [f"--{name}" for name in _ENSEMBLE if getattr(arguments, name) not in (None, [])]
    if refused:
        raise UserError(f"--watch makes one forecast a cycle, no ensemble: leave {', '.join(refused)} out")
    if len(arguments.inputs) != 1:
        raise UserError(f"--watch takes one folder into which frames come, not {len(arguments.inputs)} inputs")
    fallback = FALLBACK if arguments.fallback is None else () if arguments.fallback == ["none"] else tuple(arguments.fallback)
    form = arguments.format or "nc"
    done = watch(
        arguments.predictor,
        arguments.inputs[0],
        Path(arguments.out),
        horizon=arguments.horizon,
        card=arguments.card,
        fill_gaps=arguments.fill_gaps,
        ending=".odim.h5" if form == "odim" else f".{form.removeprefix('.')}",
        institution=arguments.institution,
        fallback=fallback,
        deadline=arguments.deadline,
        wait=arguments.wait,
        cycles=arguments.cycles,
        replay=arguments.clock == "data",
        allow=arguments.allow_code,
        device=arguments.device,
    )
    print(arguments.out)
    return done.exit_code


def _forecast(arguments: argparse.Namespace) -> int:
    if arguments.watch:
        return _watch(arguments)
    useless = [f"--{name}" for name in _WATCH if getattr(arguments, name) is not None]
    if useless:
        raise UserError(f"{', '.join(useless)} belong(s) to --watch: add it, or leave them out")
    try:
        out = new_file(arguments.out)
    except argparse.ArgumentTypeError as error:
        arguments.parser.error(f"argument --out: {error}")

    from stpredict.devices import choose_device
    from stpredict.nowcast import forecast_files
    from stpredict.nowcast_members import Ensemble, Perturbation
    from stpredict.predictor import load_predictor

    if arguments.seed is not None and arguments.members is None:
        raise UserError("--seed is of what the members of an ensemble draw: say how many (--members N), or leave it out")
    perturb = None if arguments.perturb is None else Perturbation.parse(arguments.perturb)
    device = choose_device(arguments.device)
    loaded = [load_predictor(name, allow=arguments.allow_code, device=device) for name in (arguments.predictor, *arguments.also)]
    predictor, *also = in_tiles(loaded, arguments.tile)
    nowcast = forecast_files(
        predictor,
        arguments.inputs,
        out,
        also=also,
        horizon=arguments.horizon,
        card=arguments.card,
        fill_gaps=arguments.fill_gaps,
        ensemble=Ensemble(arguments.members, perturb, arguments.seed or 0),
        exceed=arguments.exceed,
        institution=arguments.institution,
    )
    print(f"observed: {nowcast.used()}", file=sys.stderr)
    print(out)
    return 0


def _render(arguments: argparse.Namespace) -> int:
    ranked = arguments.worst or arguments.best
    useless = [f"--{name}" for name in ("by", "limit") if getattr(arguments, name) is not None]
    if useless and not ranked:
        raise UserError(f"{', '.join(useless)} belong(s) to --worst N or --best N: add one of them, or leave it out")

    from stpredict.fitting import check_fit, unlike_training
    from stpredict.forecasts import SavedForecasts
    from stpredict.metrics import create_scores
    from stpredict.render.film import check_settings
    from stpredict.showing import render_clips

    look = {name: getattr(arguments, name) for name in ("frames_per_second", "colours", "theme", "hold")}
    check_settings(arguments.out, **look)
    if arguments.score is not None:
        create_scores([arguments.score])
    predictors = load_predictors(arguments)
    data = load_clips(arguments, predictors)
    for predictor in predictors:
        check_fit(predictor.name, predictor, data)
    clips = _ranked(arguments, predictors, data) if ranked else arguments.clips or [0]
    render_clips(predictors, data, clips, arguments.out, error=arguments.error, score=arguments.score, scale=arguments.scale, **look)
    for predictor in predictors:
        if isinstance(predictor, SavedForecasts):
            for warning in predictor.warnings:
                print(f"stpredict: {warning}", file=sys.stderr)
        for warning in unlike_training(predictor.name, predictor, data):
            print(f"stpredict: {warning}", file=sys.stderr)
    print(arguments.out)
    return 0


def _ranked(arguments: argparse.Namespace, predictors: Sequence[Any], data: ClipSet) -> list[int]:
    """Return the clips that the first predictor does worst, or best, that one first, and say on stderr which they are.

    They are among those that all saved forecasts have.
    """
    from stpredict.evaluation import evaluate
    from stpredict.forecasts import SavedForecasts

    asked = [predictors[0], *(one for one in predictors[1:] if isinstance(one, SavedForecasts))]
    by = [arguments.by or "mse"]
    scores = evaluate(asked, data, scores=by, baselines=False, limit=arguments.limit, device=arguments.device, progress=True)
    judged, by_score = next(iter(scores.per_clip.items()))
    ((name, values),) = by_score.items()
    better = scores.better.get(name)
    if better is None:
        raise UserError(f"The score '{name}' does not say which direction is better: rank clips by another")
    lower_first = (better == "lower") == (arguments.best is not None)
    pairs = [(float(value), clip) for value, clip in zip(values, scores.indices, strict=True) if math.isfinite(value)]
    if not pairs:
        raise UserError(f"No clip has a finite {name} of '{judged}': rank clips by another score")
    pairs.sort(key=lambda pair: pair[0] if lower_first else -pair[0])
    chosen = pairs[: arguments.best or arguments.worst]
    listed = ", ".join(f"{clip} ({value:.4g})" for value, clip in chosen)
    print(f"{'best' if arguments.best else 'worst'} clips by {name} of {judged}: {listed}", file=sys.stderr)
    return [clip for _, clip in chosen]
