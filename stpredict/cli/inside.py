"""``stpredict inside``."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import TYPE_CHECKING

from stpredict.cli.options import (
    Commands,
    add_card,
    add_clips,
    add_command,
    add_computing,
    add_predictors,
    index,
    load_clips,
    new_file,
    rate,
    whole_number,
)
from stpredict.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from stpredict.data.clips import ClipSet
    from stpredict.inside import Inside, Maps, Part
    from stpredict.render import Panel

_MEANS = {"states": "mean absolute value", "gates": "mean opening", "recall": "steps back, on average"}


def add_commands(commands: Commands) -> None:
    """Add the commands of this module."""
    parser = add_command(
        commands,
        "inside",
        "show what goes on inside a recurrent predictor along a clip",
        "stpredict inside runs/e3d_lstm-1 --data moving_digits --clip 3 --show recall --out recall.png",
    )
    add_predictors(parser, several=False)
    add_card(parser)
    add_clips(parser)
    parser.add_argument("--clip", metavar="I", type=index, default=0, help="which clip of the split, from 0 (default: 0)")
    parser.add_argument(
        "--show",
        choices=("states", "gates", "recall"),
        required=True,
        help="h, c and m of each layer; how far its gates open; or which past memories the eidetic recall of E3D-LSTM looks at",
    )
    parser.add_argument(
        "--layer", metavar="N", nargs="+", action="extend", default=[], help="these layers alone, by number or name: 0, cells.0, ghu"
    )
    parser.add_argument("--scale", metavar="N", type=whole_number, help="enlarge each pixel N times (default: as fits)")
    parser.add_argument("--theme", choices=("dark", "light"), help="colour of the paper (default: a film dark, a .png light)")
    parser.add_argument("--frames-per-second", metavar="X", type=rate, default=5.0, help="of the film (default: 5)")
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=new_file,
        required=True,
        help="maps beside the frames: .mp4, .webm, .gif, .webp or .png; of recall the .png is a table of steps and memories",
    )
    parser.add_argument("--curves", metavar="FILE.png", type=new_file, help="draw the means of the maps over time")
    parser.add_argument("--json", metavar="FILE.json", type=new_file, help="write the numbers")
    add_computing(parser)
    parser.set_defaults(action=_inside)


def _inside(arguments: argparse.Namespace) -> int:
    from stpredict.devices import choose_device
    from stpredict.files import write_text
    from stpredict.inside import inside_of_predictor, means
    from stpredict.predictor import load_predictor
    from stpredict.render.curves import png_path
    from stpredict.render.film import check_settings
    from stpredict.render.inside import save_inside_curves
    from stpredict.render.recall import save_recall
    from stpredict.showing import show_panels

    if arguments.curves is not None:
        png_path(arguments.curves)
    as_table = arguments.show == "recall" and arguments.out.suffix.lower() == ".png"
    useless = [f"--{name}" for name in ("scale", "theme") if getattr(arguments, name) is not None] if as_table else []
    if useless:
        raise UserError(f"{', '.join(useless)} belong(s) to maps, and the .png of recall is a table: leave it out, or write a film")
    check_settings(arguments.out, colours="auto", frames_per_second=arguments.frames_per_second, hold=0.0, theme=arguments.theme)
    predictor = load_predictor(arguments.predictor, allow=arguments.allow_code, device=choose_device(arguments.device))
    clips = load_clips(arguments, [predictor])
    part: Part = arguments.show
    inside = inside_of_predictor(predictor, clips, arguments.clip)
    maps = inside.maps(part, arguments.layer, f"the predictor '{predictor.name}'")
    title = f"{part.capitalize()} of {predictor.name}: {clips.card} {clips.split}, clip {arguments.clip}"
    table = {layer: inside.recall[layer] for layer in maps} if part == "recall" else {}
    if as_table:
        save_recall(table, arguments.out, title, inside.context)
    else:
        times = clips[arguments.clip].times
        show_panels(
            _panels(inside, maps, part, clips, arguments.out.suffix.lower() == ".png"),
            clips.spec,
            arguments.out,
            context=inside.context - inside.offset,
            times=None if times is None else times[inside.offset :],
            grid=clips.grid(arguments.clip),
            scale=arguments.scale,
            theme=arguments.theme,
            frames_per_second=arguments.frames_per_second,
        )
    if arguments.curves is not None:
        save_inside_curves(means(maps), arguments.curves, title, inside.context, label=_MEANS[part])
    if arguments.json is not None:
        window = {"clip": arguments.clip, "context": clips.context, "horizon": clips.horizon}
        told = {
            "predictor": predictor.name,
            "network": predictor.network_name,
            "data": {"card": clips.card, "split": clips.split, **window},
            "offset": inside.offset,
            "show": part,
            "means": {layer: {name: _plain(film) for name, film in named.items()} for layer, named in means(maps).items()},
            **({"shares": {layer: [_plain(row) for row in rows.tolist()] for layer, rows in table.items()}} if table else {}),
        }
        write_text(arguments.json, json.dumps(told, indent=2, allow_nan=False) + "\n")
    print(arguments.out)
    return 0


def _panels(inside: Inside, maps: Maps, part: Part, clips: ClipSet, strip: bool) -> list[Panel]:
    """Return the true and the predicted frame beside the maps, the mean of each map under it: in a film a row for each layer."""
    from stpredict.inside import enlarged
    from stpredict.render import Panel
    from stpredict.render.inside import map_panel

    spec = clips.spec
    value_range = (spec.transform.low, spec.transform.high)
    frames = [Panel("true", inside.true[inside.offset :]), Panel("predicted", inside.predicted)]
    panels = frames if strip else []
    for layer, named in maps.items():
        row = [] if strip else [replace(panel, row=layer) for panel in frames]
        if part == "recall":
            row.append(Panel("looked at, by share", inside.looked_at(layer, spec.transform.low), row=layer))
        for name, film in named.items():
            whole = enlarged(film, inside.padded, spec.height, spec.width)
            title = f"{layer} {name}" if strip else name
            row.append(map_panel(title, whole, value_range, bounded=part == "gates", row="" if strip else layer, notes=_notes(film)))
        panels += row
    return panels


def _notes(film: NDArray[np.float64]) -> tuple[str, ...]:
    return tuple("" if mean != mean else f"mean {mean:.3g}" for mean in film.mean(axis=(1, 2)).tolist())


def _plain(values: list[float]) -> list[float | None]:
    return [None if value != value else value for value in values]
