"""``stpredict gradients``."""

from __future__ import annotations

import argparse
import json
import math
from typing import TYPE_CHECKING

from stpredict.cli.options import (
    Commands,
    add_card,
    add_clips,
    add_command,
    add_computing,
    add_predictors,
    load_clips,
    load_predictors,
    new_file,
    whole_number,
)

if TYPE_CHECKING:
    from stpredict.gradients import GradientThroughTime


def add_commands(commands: Commands) -> None:
    """Add the commands of this module."""
    parser = add_command(
        commands,
        "gradients",
        "draw how far back in time the gradient of a forecast reaches",
        "stpredict gradients runs/predrnnpp-1 runs/convlstm-1 --data moving_digits --out gradients.png",
    )
    add_predictors(parser, several=True)
    add_card(parser)
    add_clips(parser)
    parser.add_argument("--clips", metavar="N", type=whole_number, default=32, help="the mean of the first N clips (default: 32)")
    parser.add_argument("--batch-size", metavar="N", type=whole_number, default=8, help="clips at a time (default: 8)")
    parser.add_argument("--teacher-forced", action="store_true", help="feed true frames to the end, so that only states carry the gradient")
    parser.add_argument("--layers", action="store_true", help="a line for each layer (default: one for all cells of a predictor)")
    parser.add_argument("--relative", action="store_true", help="draw each line as a share of its first value, at lag 0")
    parser.add_argument("--out", metavar="FILE.png", type=new_file, required=True, help="write the picture")
    parser.add_argument("--json", metavar="FILE.json", type=new_file, help="write the numbers")
    add_computing(parser)
    parser.set_defaults(action=_gradients)


def _gradients(arguments: argparse.Namespace) -> int:
    from stpredict.files import write_text
    from stpredict.gradients import gradient_of_predictor
    from stpredict.render import save_gradients
    from stpredict.render.curves import png_path

    png_path(arguments.out)
    predictors = load_predictors(arguments)
    clips = load_clips(arguments, predictors)
    names = [predictor.name for predictor in predictors]
    unique = [source if names.count(name) > 1 else name for name, source in zip(names, arguments.predictors, strict=True)]
    measured = {
        name: gradient_of_predictor(
            predictor, clips, arguments.clips, teacher_forced=arguments.teacher_forced, batch_size=arguments.batch_size
        )
        for name, predictor in zip(unique, predictors, strict=True)
    }
    count = next(iter(measured.values())).clips
    feeding = "teacher-forced" if arguments.teacher_forced else "fed its own forecast"
    window = f"{clips.context} + {clips.horizon} frames"
    if arguments.json is not None:
        facts = {"card": clips.card, "split": clips.split, "clips": count, "context": clips.context, "horizon": clips.horizon}
        numbers = {name: {"hidden": _plain(one.hidden), "layers": _by_layer(one)} for name, one in measured.items()}
        told = {"data": facts, "teacher_forced": arguments.teacher_forced, "gradients": numbers}
        write_text(arguments.json, json.dumps(told, indent=2, allow_nan=False) + "\n")
    lines = {(name, ""): one.hidden for name, one in measured.items()}
    if arguments.layers:
        lines = {(name, layer): norms for name, one in measured.items() for layer, norms in one.layers.items()}
    title = f"Gradient through time: {clips.card} {clips.split}, {count} clips, {window}, {feeding}"
    print(save_gradients(lines, arguments.out, title, clips.horizon, relative=arguments.relative))
    return 0


def _by_layer(gradient: GradientThroughTime) -> dict[str, list[float | None]]:
    return {layer: _plain(norms) for layer, norms in gradient.layers.items()}


def _plain(norms: list[float]) -> list[float | None]:
    return [norm if math.isfinite(norm) else None for norm in norms]
