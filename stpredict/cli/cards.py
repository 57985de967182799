"""``stpredict data``: what the cards are, and whether one's files are as it says."""

from __future__ import annotations

import argparse

from stpredict.cli.options import Commands, add_card, add_command, index, new_file, whole_number


def add_commands(commands: Commands) -> None:
    """Add the commands of this module."""
    group = add_command(commands, "data", "list, explain, check, prepare and show data sets", "stpredict data check knmi --root ~/knmi")
    actions = group.add_group()

    parser = add_command(actions, "list", "list the shipped cards", "stpredict data list")
    parser.set_defaults(action=_list)

    parser = add_command(actions, "show", "say what a card describes", "stpredict data show moving_mnist")
    parser.add_argument("card", metavar="CARD", help="the name of a shipped card, or a YAML file")
    parser.set_defaults(action=_show)

    parser = add_command(
        actions, "check", "read everything; count frames, clips and gaps, name each bad file", "stpredict data check knmi --root ~/knmi"
    )
    add_card(parser, positional=True)
    parser.set_defaults(action=_check)

    parser = add_command(
        actions,
        "prepare",
        "make one file of an archive, from which clips are read fast; it goes on where it was cut off",
        "stpredict data prepare knmi --root ~/knmi --out knmi.h5",
    )
    add_card(parser, positional=True)
    parser.add_argument("--out", metavar="FILE", type=new_file, required=True, help="what to write, .h5; then --root FILE reads it")
    parser.add_argument(
        "--crop",
        metavar=("TOP", "LEFT", "HEIGHT", "WIDTH"),
        type=index,
        nargs=4,
        help="the part of each frame to keep (default: the card's, else all); clips can then be cut from that part alone",
    )
    parser.add_argument("--workers", metavar="N", type=whole_number, help="processes that read (default: one a core)")
    parser.add_argument(
        "--compression", choices=("gzip", "none"), default="gzip", help="none: several times faster to read, and larger (default: gzip)"
    )
    parser.add_argument("--again", action="store_true", help="make it anew if the archive or the card's settings have changed")
    parser.set_defaults(action=_prepare)

    parser = add_command(actions, "preview", "show a few clips", "stpredict data preview moving_digits --clips 4 --out preview.mp4")
    add_card(parser, positional=True)
    parser.add_argument("--split", metavar="NAME", default="train", help="which split of the data (default: train)")
    parser.add_argument("--clips", metavar="N", type=whole_number, default=4, help="how many (default: 4)")
    parser.add_argument("--out", metavar="FILE", type=new_file, required=True, help="what to write: .mp4, .gif, .webp or .png")
    parser.set_defaults(action=_preview)


def _list(arguments: argparse.Namespace) -> int:
    from stpredict.data.checking import list_cards

    print("\n".join(list_cards()))
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from stpredict.data.checking import describe

    print(describe(arguments.card))
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from stpredict.data.checking import check_data

    report = check_data(arguments.card, arguments.root)
    print(report)
    return 0 if report.ok else 2


def _prepare(arguments: argparse.Namespace) -> int:
    import os

    from stpredict.data import override
    from stpredict.data.card import read_card
    from stpredict.data.storing import prepare_archive

    workers = arguments.workers or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    prepared = prepare_archive(
        override(read_card(arguments.card), crop=arguments.crop),
        arguments.root,
        arguments.out,
        workers=workers,
        compression=arguments.compression,
        again=arguments.again,
        progress=True,
    )
    print(prepared)
    return 0


def _preview(arguments: argparse.Namespace) -> int:
    from stpredict.data import load_data
    from stpredict.showing import preview_clips

    preview_clips(load_data(arguments.card, arguments.root, arguments.split), arguments.clips, arguments.out)
    print(arguments.out)
    return 0
