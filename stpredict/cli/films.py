"""``stpredict forecast`` and ``stpredict render``."""

from __future__ import annotations

import argparse
from pathlib import Path

from stpredict.cli.options import (
    Commands,
    add_card,
    add_clips,
    add_command,
    add_device,
    add_predictors,
    index,
    load_clips,
    load_predictors,
    new_file,
    rate,
    whole_number,
)


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
    parser.add_argument("--out", metavar="FILE", type=new_file, required=True, help="what to write: .npz, .h5, .nc or .mp4")
    add_device(parser)
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
    parser.add_argument("--clip", metavar="I", type=index, default=0, help="which clip of the split, from 0 (default: 0)")
    parser.add_argument("--error", action=argparse.BooleanOptionalAction, default=True, help="show the errors too (default: yes)")
    parser.add_argument("--scale", metavar="N", type=whole_number, help="enlarge each pixel N times (default: as fits)")
    parser.add_argument("--frames-per-second", metavar="X", type=rate, default=5.0, help="of the film (default: 5)")
    parser.add_argument("--out", metavar="FILE", type=new_file, required=True, help="what to write: .mp4, .gif, .webp or .png")
    add_device(parser)
    parser.set_defaults(action=_render)


def _forecast(arguments: argparse.Namespace) -> int:
    from stpredict.devices import choose_device
    from stpredict.nowcast import forecast_files
    from stpredict.predictor import load_predictor

    predictor = load_predictor(arguments.predictor, allow=arguments.allow_code, device=choose_device(arguments.device))
    forecast_files(predictor, arguments.inputs, arguments.out, horizon=arguments.horizon, card=arguments.card)
    print(arguments.out)
    return 0


def _render(arguments: argparse.Namespace) -> int:
    from stpredict.showing import render_clip

    predictors = load_predictors(arguments)
    render_clip(
        predictors,
        load_clips(arguments, predictors),
        arguments.clip,
        arguments.out,
        error=arguments.error,
        scale=arguments.scale,
        frames_per_second=arguments.frames_per_second,
    )
    print(arguments.out)
    return 0
